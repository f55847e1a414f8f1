"""Every command that the READMEs and the modules' headers name exists, and takes its flags; headers say what the tables say."""

import contextlib
import functools
import importlib
import re
import runpy
import shlex
from pathlib import Path

import absl.flags
import pytest

from experiments import near_then_external
from sslshift.command import define_flags
from sslshift.data.mixture_text import parse_mixture
from sslshift.data.sources import SCHEMES
from sslshift.decision import PilotStudy
from sslshift.study import cli
from sslshift.study.declare import Study
from sslshift.study.design import parse_sources
from sslshift.study.learners import parse_learners
from sslshift.transfer.declaration import parse_task

ROOT = Path(__file__).parent.parent
HEADERS = sorted(path for room in ("experiments", "tools") for path in (ROOT / room).glob("*.py"))
EXPERIMENTS = [path.stem for path in HEADERS if path.parent.name == "experiments" and path.stem not in ("__init__", "large")]
# Those whose question has no larger form in the paper.
NO_FULL_SCALE = ("quickstart", "methods", "pilots", "reference_encoder")
# Other flags are a mistake; so is another argument, but of the commands that take a name.
POSITIONAL = {"tools.fetch_encoder": 1, "tools.status": 1}


def documented():
    """(where, module, arguments) of every `python -m` of ours in text for people."""
    found = []
    for path in [ROOT / "README.md", ROOT / "experiments/README.md", ROOT / "tools/README.md", *HEADERS]:
        text = path.read_text()
        if path.suffix == ".py":
            text = text.split('"""')[1] if '"""' in text else ""
            text = text if path.read_text().startswith("r") else text.replace("\\\\", "\\")
        where = path.relative_to(ROOT).as_posix()
        values: dict[str, str] = {}
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            loop = re.match(r"\s*for (\w+) in (\S+)", line)
            if loop:
                values[loop[1]] = loop[2]
            command = re.search(r"(^\s+|`)python -m (?P<module>(experiments|tools)\.\w+)(?P<rest>.*)", line)
            if command and not command["module"].endswith(".NAME"):
                rest = command["rest"].partition("`")[0] if command[1] == "`" else command["rest"]
                for name, value in values.items():
                    rest = re.sub(rf"\$({name}\b|{{{name}[^}}]*}})", value, rest)
                words = shlex.split(rest, comments=True)
                if "--" in words:
                    # Another command, which this one starts.
                    place = words.index("--")
                    assert words[place + 1 : place + 3] == ["python", "-m"]
                    found.append((where, words[place + 3], tuple(words[place + 4 :])))
                    words = words[:place]
                found.append((where, command["module"], tuple(words)))
    return found


class SkippedError(Exception):
    """Raised in place of parsing a command line."""


@contextlib.contextmanager
def skipped(*_, **__):
    raise SkippedError
    yield


@pytest.fixture
def registry(monkeypatch):
    """Defines a module's flags among new ones, and returns these: modules of ours share names of flags."""

    @functools.cache
    def of(module: str) -> absl.flags.FlagValues:
        defined = absl.flags.FlagValues()
        with monkeypatch.context() as patched:
            for name in vars(absl.flags):
                if name.startswith("DEFINE_"):
                    patched.setattr(absl.flags, name, functools.partial(getattr(absl.flags, name), flag_values=defined))
            kinds = {kind: getattr(absl.flags, define.__name__) for kind, define in cli._DEFINE.items()}
            patched.setattr(cli, "_DEFINE", kinds)
            # The block of a command does not run: its flags are defined by then.
            patched.setattr(cli, "command_line", skipped)
            with contextlib.suppress(SkippedError):
                runpy.run_module(module, run_name="__main__" if module.startswith("experiments") else "documented")
        define_flags(defined)
        return defined

    return of


def test_every_documented_command_exists_and_takes_its_flags(registry):
    commands = documented()
    assert len(commands) > 60
    wrong = []
    for where, module, arguments in commands:
        arguments = [argument for argument in arguments if argument != "..."]
        if not (ROOT / f"{module.replace('.', '/')}.py").exists():
            wrong.append(f"{where}: there is no {module}")
            continue
        defined = registry(module)
        defined.unparse_flags()
        for name in defined:
            defined[name].unparse()
        try:
            # Tables name commands alone: what a command requires is not missing there.
            rest = defined(["command", *arguments]) if arguments else ["command"]
        except absl.flags.Error as error:
            wrong.append(f"{where}: {module} {' '.join(arguments)}: {error}")
            continue
        if len(rest) - 1 > POSITIONAL.get(module, 0):
            wrong.append(f"{where}: {module}: {rest[1:]} are no flags")
        if module.startswith("experiments") and arguments:
            # An experiment may compare mixtures alone.
            if defined.sources:
                parse_sources(defined.sources)
            for text in defined.mixture:
                parse_mixture(text, SCHEMES)
            for text in (defined.downstream, *defined.task):
                parse_task(text)
    assert not wrong, "\n".join(wrong)


def test_commands_are_found_in_all_kinds_of_text():
    commands = documented()
    assert ("tools/README.md", "tools.shift", ()) in commands
    assert {where for where, *_ in commands} >= {"README.md", "experiments/README.md", "tools/README.md", "tools/shift.py"}
    dtypes = [arguments for where, _, arguments in commands if where == "tools/README.md" and "--dtype=float32" in arguments]
    assert len(dtypes) == 3
    lists = [
        arguments
        for where, module, arguments in commands
        if where == "experiments/in_distribution.py" and module == "tools.list_images"
    ]
    assert lists == [("--layout=cifar100", "--input=/data/raw/cifar100")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_header_says_how_to_run_it_and_agrees_with_the_table_of_results(name):
    module = importlib.import_module(f"experiments.{name}")
    header = " ".join(module.__doc__.split())
    assert f"python -m experiments.{name}" in header
    assert "2403.13808" in header or "not in the paper" in header
    runs = int(re.search(r"(\d+) runs?\b", header)[1])
    (small,) = [
        value
        for key, value in vars(module).items()
        if key == name.upper() or (key, name) == ("CALIBRATION", "shift_calibration")
    ]
    assert runs == declared_runs(small)
    section = re.search(rf"\n## {name}: .*?(?=\n## |\Z)", (ROOT / "experiments/README.md").read_text(), re.DOTALL)[0]
    assert f"{runs} run" in section
    minutes = re.search(r"in (\d+) minutes", header)
    assert minutes is None or re.search(rf"\b{minutes[1]} minutes", section)


def declared_runs(study) -> int:
    sources = parse_sources(study.sources) if study.sources else ()
    if isinstance(study, PilotStudy):
        # Three numbers of unique images at each of two budgets.
        return len(sources) * 3 * 2 * study.seeds * len(parse_learners(study))
    candidates = sum(max(1, len(each.unique)) for each in sources) + len(study.mixture)
    return candidates * study.seeds * len(parse_learners(study))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in NO_FULL_SCALE])
def test_full_scale_is_one_flag_away(name, registry):
    assert "--scale=full" in importlib.import_module(f"experiments.{name}").__doc__
    assert "full" in registry(f"experiments.{name}")["scale"].parser.enum_values


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_scale_can_be_built_and_writes_into_a_folder_of_its_own(name):
    studies = {
        key: value for key, value in vars(importlib.import_module(f"experiments.{name}")).items() if is_declared(key, value)
    }
    for key, study in studies.items():
        assert parse_learners(study)
        assert study.labelled == 0 or not key.startswith("FULL")
    assert len({study.out for study in studies.values()}) == len(studies)


def is_declared(key: str, value) -> bool:
    return isinstance(value, Study) and key not in ("LARGE", "QUICKSTART", "SMALL")


@pytest.mark.parametrize(
    "study",
    [near_then_external.NEAR_THEN_EXTERNAL, near_then_external.GPU, near_then_external.FULL],
    ids=["small", "gpu", "full"],
)
def test_orders_are_compared_at_equal_numbers_and_at_equal_cost(study):
    def images_and_cost(text: str) -> tuple[int, float]:
        # Each source once, though it may stand in several stages.
        parts = {(float(cost), int(number)) for cost, number in re.findall(r"cost_per_image=([\d.]+)@(\d+)", text)}
        assert len(parts) == 2
        return sum(number for _, number in parts), sum(cost * number for cost, number in parts)

    (near, near_cost), (external, external_cost) = (
        (each.unique, float(each.uri.partition("cost_per_image=")[2])) for each in parse_sources(study.sources)
    )
    mixed = {text.partition(" = ")[0]: images_and_cost(text) for text in study.mixture}
    orders = ("mixed", "near_then_external", "external_then_near")
    assert set(mixed) == {f"{order}_{what}" for order in orders for what in ("equal_n", "equal_cost")}
    (number,) = {mixed[f"{order}_equal_n"][0] for order in orders}
    assert number in near
    assert number in external
    costs = [mixed[f"{order}_equal_cost"][1] for order in orders]
    assert max(costs) == pytest.approx(min(costs))
    for alone, cost in ((near, near_cost), (external, external_cost)):
        assert any(each * cost == pytest.approx(costs[0]) for each in alone)
