"""What is installed: light imports without the extra `study`, the packages of the wheel, and the command `sslshift`."""

import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sslshift.__main__ import commands
from sslshift.extras import STUDY

ROOT = Path(__file__).parent.parent
SENTENCE = r"sslshift[\w. ]* needs the extra `study` \(there is no module [\w.]+\): pip install 'sslshift\[study\]'"
# Finds every module but those of the extra, as an environment without it does.
HIDE = f"""
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {STUDY!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
"""


def run(code, *arguments, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_losses_models_and_methods_need_nothing_of_the_extra():
    done = run(
        HIDE
        + """
import jax, jax.numpy as jnp
from sslshift import losses
from sslshift.methods import METHODS
from sslshift.models import ENCODERS

print(float(losses.nt_xent(jnp.eye(4), jnp.eye(4), temperature=0.2)))
for name, recipe in METHODS.items():
    method = recipe.build(ENCODERS["vit_nano4"])
    jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8))
assert not {name.partition(".")[0] for name in sys.modules} & {"grain", "PIL", "pyarrow", "safetensors", "matplotlib", "orbax"}
"""
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


@pytest.mark.parametrize(
    "code",
    [
        "from sslshift.data import open_source",
        "from sslshift.data.sources import Source",
        "import sslshift; sslshift.load_encoder",
        "from sslshift.models import save_encoder",
        "import sslshift.training",
        "import sslshift.transfer",
        "import sslshift.shift",
        "import sslshift.study",
        "import sslshift.decision",
        "import experiments.quickstart",
    ],
)
def test_what_needs_the_extra_says_so_in_one_sentence(code):
    last = run(HIDE + code).stderr.strip().splitlines()[-1]
    assert re.fullmatch(rf"sslshift\.extras\.MissingExtraError: {SENTENCE}", last), last


def test_a_command_says_in_one_sentence_that_it_needs_the_extra():
    done = run(HIDE + "sys.argv = ['sslshift', 'quickstart']; from sslshift.__main__ import main; main()")
    assert done.returncode == 1
    assert re.fullmatch(f"Error: {SENTENCE}", done.stderr.strip()), done.stderr
    assert done.stderr.startswith("Error: sslshift quickstart needs")


def test_every_module_of_the_extra_belongs_to_a_requirement_of_it():
    requirements = (ROOT / "pyproject.toml").read_text().partition("\nstudy = [")[2].partition("]\n")[0].replace("-", "_")
    distributions = importlib.metadata.packages_distributions()
    for module in STUDY:
        assert any(name.replace("-", "_").lower() in requirements for name in distributions[module]), module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files in the wheel, which is built from a copy: building leaves files in the tree."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("wheel")
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    if not tracked[0]:
        pytest.skip("Not a checkout.")
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / name).write_bytes((ROOT / name).read_bytes())
    code = "import sys, setuptools.build_meta as build; print(build.build_wheel(sys.argv[1]))"
    done = run(code, str(folder), cwd=folder / "copy")
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_has_one_package_and_all_of_its_files(wheel):
    names = set(wheel.namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"sslshift"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sslshift").rglob("*.py")}
    modules |= {
        f"sslshift/{path.relative_to(ROOT)}" for folder in ("tools", "experiments") for path in (ROOT / folder).glob("*.py")
    }
    assert modules <= names
    data = {"html", "css", "js", "png", "npy", "json"}
    files = {path for path in (ROOT / "sslshift").rglob("*") if path.suffix[1:] in data}
    assert {str(path.relative_to(ROOT)) for path in files} <= names
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "sslshift = sslshift.__main__:main" in wheel.read(entry).decode()


def test_an_unpacked_wheel_runs_its_commands_from_any_folder(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "sslshift"]
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    listing = subprocess.run(command, **options)
    assert listing.returncode == 0, listing.stderr
    # An experiment imports others of its folder.
    for name in ("signals", "shift"):
        assert re.search(rf"^  {name} +[A-Z]", listing.stdout, re.MULTILINE)
        shown = subprocess.run([*command, name, "--help"], **options)
        assert "--out" in shown.stdout, shown.stderr


def test_help_that_is_read_in_part_ends_without_a_word():
    help_ = f"{sys.executable} -m experiments.quickstart --help | head -n 1"
    done = subprocess.run(help_, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Diversity and distance")
    assert done.stderr == ""


def test_commands_import_each_other_relatively():
    """An installed package has them as `sslshift.tools` and `sslshift.experiments`."""
    files = [path for folder in ("tools", "experiments") for path in (ROOT / folder).glob("*.py")]
    absolute = [
        path.name for path in files if re.search(r"^\s*(from|import) (tools|experiments)\b", path.read_text(), re.MULTILINE)
    ]
    assert absolute == []


def test_every_tool_and_experiment_is_a_subcommand_with_a_line_of_its_own():
    known = commands()
    assert {"quickstart", "signals", "shift", "evaluate", "import_images", "bench"} <= set(known)
    # Parts of commands are none.
    assert not {"large", "bench_shift", "bench_decoding"} & set(known)
    assert all(command.about for command in known.values())
    names = [module.name for folder in ("tools", "experiments") for module in pkgutil.iter_modules([str(ROOT / folder)])]
    assert len(names) == len(set(names))


def test_an_unknown_subcommand_gets_the_nearest_name():
    done = run("import sys; sys.argv = ['sslshift', 'quikstart']; from sslshift.__main__ import main; main()")
    assert done.returncode == 2
    assert done.stderr == "Expected the name of a tool or experiment, got 'quikstart'. Did you mean quickstart?\n"
