"""Commands of a study: every field of `Study` is a flag of an experiment, which can run, estimate or report its study."""

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Protocol

from absl import flags
from rich.console import Console

from sslshift import cluster
from sslshift.clock import REPORTING, Clock, Timing
from sslshift.command import command_line, define_cluster_flags
from sslshift.data.sources.refusals import list_refused, refused_sentence
from sslshift.models.opening import how_it_was_read
from sslshift.reporting.numbers import listed
from sslshift.shards import StudyShard, occupied, parse_shard, reporting
from sslshift.stopping import Stop
from sslshift.storage import ERROR_LOG, LockedError, NotStoredError
from sslshift.study.analysis import Analysis
from sslshift.study.cost import keep_timing, read_timings, show_cost, slow_note
from sslshift.study.declare import Study, without_given
from sslshift.study.design import parse_study
from sslshift.study.learners import options_given
from sslshift.study.ledger import complete_table
from sslshift.study.opened import Opened, Run, open_study, range_notes, require_same_images
from sslshift.study.progress import Progress
from sslshift.study.report import print_report, write_report
from sslshift.study.results import Results, describe_run, run_folder
from sslshift.study.runner import DISK_FULL, read_results, run_study

# Without this line, --help of an experiment would not list its flags, which this module defines.
flags.disclaim_key_flags()

# Defaults that depend on another flag. If the user sets the first flag to another value, the declared defaults of the others
# belong to other data, or to another optimiser, and are not used.
_COMPANIONS = {
    "sources": ("mixture",),
    "downstream": ("downstream_test", "task"),
    "optimiser": ("learning_rate", "weight_decay", "warmup"),
    "init": ("encoder", "optimiser", "learning_rate", "weight_decay", "warmup"),
}

_DEFINE = {
    bool: flags.DEFINE_boolean,
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    tuple[str, ...]: flags.DEFINE_multi_string,
}


class RunFunction(Protocol):
    """A function that an experiment runs on its study, such as `run`."""

    def __call__(self, study: Study, *, command: str = "", clock: Clock | None = None, stop: Stop | None = None) -> None: ...


def run(study: Study, *, command: str = "", clock: Clock | None = None, stop: Stop | None = None) -> None:
    """Runs a study to its end and shows its results; continues where an earlier call stopped.

    `timing.json` in its folder keeps the seconds of each call by part.

    Args:
      study: the declaration.
      command: command line that repeats the study, for the report; if empty, the report shows this call.
      clock: running clock of the command; None: a clock that starts now.
      stop: request to stop; training then saves a checkpoint, and StoppedError is raised.

    Raises:
      RuntimeError: some runs failed (raised after all others are done and reported), or another process uses the folder.
      ValueError: the declaration is wrong, or the folder holds another study.
    """
    with contextlib.nullcontext(clock) if clock else Clock().running() as clock:
        progress = Progress(console(), clock, stop)
        opened = open_same(study, progress)
        describe_study(opened, progress)
        if slow := slow_note(opened):
            progress.note(slow)
        run_opened(opened, progress, command)


def run_opened(opened: Opened, progress: Progress, command: str = "", since: Timing | None = None) -> Results:
    """Runs an opened study to its end and shows its results, see `run`.

    Args:
      opened: the study.
      progress: shows progress, and has the clock of the command.
      command: command line that repeats the study, for the report.
      since: timing of the command when other work of its own ended; None: all of its seconds belong to the study.

    Raises:
      RuntimeError: some runs failed, or another process uses the folder.
    """
    out = opened.design.out
    # The lock is taken after the study is opened: opening may take minutes and writes nothing.
    with _disk_errors(out), occupied(out, opened.design.shard), keep_timing(out, progress.clock, since) as keep:
        results = run_study(opened, progress)
        # A process of several reads what others wrote only where all agree on it; a report reads whatever is there.
        if results.runs and cluster.is_first():
            with progress.clock.part(REPORTING):
                _report(results, progress, command, keep())
            _note_missing(results, progress)
    # Raised after the report, so that a failed run does not hide the results of the others.
    failed = [each for each in results.failed if each[0] in opened.own]
    if failed:
        raise RuntimeError(_failures(opened, failed))
    return results


def dry_run(study: Study, *, clock: Clock | None = None) -> None:
    """Prints the cost of a study; trains nothing and writes nothing."""
    progress = Progress(console(), clock)
    opened = open_same(study, progress)
    describe_study(opened, progress)
    try:
        analysis = Analysis(read_results(opened))
        measured = analysis.task.learners[analysis.learners[0]].measured_table
    except NotStoredError:
        measured = None
    show_cost(opened, progress.console, measured)


def report_only(study: Study, *, command: str = "", clock: Clock | None = None) -> None:
    """Reports the results in a study's folder, finished or not; trains and evaluates nothing.

    Raises:
      NotStoredError: no run is finished.
    """
    progress = Progress(console(), clock)
    opened = open_same(study, progress)
    describe_study(opened, progress)
    report_opened(opened, progress, command)


def run_experiment(
    defaults: Study,
    run: RunFunction = run,
    scales: Mapping[str, Study] | None = None,
    *,
    dry_run: Callable[..., None] = dry_run,
    report_only: Callable[..., None] = report_only,
    spec: ModuleSpec | None = None,
) -> None:
    """Runs an experiment's `main`: its study, overridden by flags. The traceback of an error is kept in OUT/error.log.

    Args:
      defaults: the study of `--scale=small`.
      run: function that runs the study.
      scales: studies of the same question at other scales, by the values of `--scale`.
      dry_run, report_only: functions of these flags; the arguments are those of the functions of this module.
      spec: `__spec__` of the experiment's module, for the command in the report; None if the module is a script.
    """
    scales = {"small": defaults} | dict(scales or {})
    for field in dataclasses.fields(defaults):
        _DEFINE[field.type](field.name, getattr(defaults, field.name), field.metadata["help"])
    flags.DEFINE_enum("scale", "small", list(scales), "Scale of the experiment; --help shows the defaults of 'small'.")
    flags.DEFINE_boolean("dry_run", False, "Print the cost of the study in runs, samples, FLOPs, hours and money, and stop.")
    define_cluster_flags()
    flags.DEFINE_boolean("report_only", False, "Report the results in --out and the missing and failed runs, and stop.")

    def folder() -> str:
        # A dry run writes nothing, not even the traceback of its error.
        if flags.FLAGS.dry_run:
            return ""
        out = flags.FLAGS.out if flags.FLAGS["out"].present else scales[flags.FLAGS.scale].out
        # Shards that fail at the same time must not write one file. A text that is no shard must not name a folder.
        with contextlib.suppress(ValueError):
            shard = parse_shard(flags.FLAGS.shard)
            return os.path.join(out, "shards", f"{shard.number}-of-{shard.count}") if shard else out
        return out

    stop = Stop()
    with command_line(folder, stop=stop) as clock:
        study, notes = _overridden(scales[flags.FLAGS.scale])
        for note in notes if cluster.is_first() else ():
            print(note)
        # `__spec__` is None after `python FILE`; the command then names the file.
        program = f"python -m {spec.name}" if spec else f"python {shlex.quote(sys.argv[0])}"
        if flags.FLAGS.dry_run:
            dry_run(study, clock=clock)
        elif flags.FLAGS.report_only:
            report_only(study, command=_command(program, study), clock=clock)
        else:
            run(study, command=_command(program, study), clock=clock, stop=stop)


def _command(program: str, study: Study) -> str:
    """Returns the command line with every flag, so that it stays valid if an experiment's defaults change."""
    parts = [program]
    for name, value in dataclasses.asdict(study).items():
        # The report shows the runs of all shards.
        if name == "shard":
            continue
        values = value if isinstance(value, tuple) else (value,)
        parts += [shlex.quote(f"--{name}={each}") for each in values]
    return " \\\n  ".join(parts)


def _overridden(declared: Study) -> tuple[Study, list[str]]:
    """Returns the declared study, overridden by flags, and notes on defaults that are unused or belong to other data.

    Raises:
      ValueError: a test split was given without the images that it belongs to.
    """
    given = _given(declared)
    if given.get("downstream_test") and "downstream" not in given:
        raise ValueError(
            f"--downstream_test={given['downstream_test']} was given without --downstream: a test split belongs to the images "
            f"that encoders learn the task from. Give both; the default is --downstream={declared.downstream!r}."
        )
    # Applied before the flags, so that a value that the user sets is always used.
    unused = _unused(declared, given)
    defaults = {field.name: field.default for field in dataclasses.fields(Study)}
    study = dataclasses.replace(declared, **{name: defaults[name] for name in unused} | given)
    if study.init and "encoder" not in given:
        study = dataclasses.replace(study, encoder="")
    if "for_method" not in given:
        # A flag of the user takes precedence over the experiment's setting for one method.
        own = {*given, *unused, *(options_given(study) if "method_options" in given else ())}
        study = dataclasses.replace(study, for_method=without_given(study.for_method, own))
    changed = {name: of for name, of in unused.items() if getattr(declared, name) != defaults[name]}
    return study, [*_unused_notes(declared, changed), *_kept_notes(study, given)]


def _given(declared: Study) -> dict[str, Any]:
    """Returns the fields of a study that the user set; an empty value of a flag that may be repeated means none."""
    names = [field.name for field in dataclasses.fields(declared)]
    given = {name: flags.FLAGS[name] for name in names if flags.FLAGS[name].present}
    return {
        name: tuple(filter(None, each.value)) if isinstance(each.value, list) else each.value for name, each in given.items()
    }


def _unused(declared: Study, given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields whose declared values depend on another field that the user changed, each with that field."""
    changed = [name for name in _COMPANIONS if name in given and given[name] != getattr(declared, name)]
    return {companion: name for name in changed for companion in _COMPANIONS[name] if companion not in given}


def _unused_notes(declared: Study, unused: Mapping[str, str]) -> list[str]:
    continued = [name for name, of in unused.items() if of == "init"]
    notes = []
    if continued:
        notes.append(
            f"--init: this experiment's own {listed([f'--{name}' for name in continued])} are for training from random weights "
            "and are not used; the recipe of the method for this encoder applies, or the flags that you give."
        )
    for name, of in unused.items():
        if name in continued:
            continue
        values = getattr(declared, name)
        first = values[0] if isinstance(values, tuple) else values
        text = f"{first} and {len(values) - 1} more" if isinstance(values, tuple) and len(values) > 1 else first
        notes.append(
            f"--{name}: this experiment's default ({text}) belongs to its own --{of} and is not used; give --{name} to set it."
        )
    return notes


def _kept_notes(study: Study, given: Mapping[str, Any]) -> list[str]:
    """Returns notes if the user set only the sources or only the downstream images; the experiment's default is then kept."""
    notes = []
    if "downstream" in given and "sources" not in given:
        notes.append(f"--sources was not given: encoders are pretrained on this experiment's own sources, {study.sources}")
    if "sources" in given and "downstream" not in given:
        notes.append(f"--downstream was not given: encoders are evaluated on this experiment's own task, {study.downstream}")
    return notes


def report_opened(opened: Opened, progress: Progress, command: str = "") -> None:
    """Reports the results in the folder of an opened study, see `report_only`."""
    if not cluster.is_first():
        return
    with progress.clock.part(REPORTING):
        results = read_results(opened)
        complete_table(results)
        _report(results, progress, command, read_timings(opened.design.out))
    failed = [run for run, _ in results.failed]
    if failed:
        progress.note(f"{len(failed)} of {len(opened.runs)} runs failed: {_some(opened, failed)}")
    _note_missing(results, progress)


def _report(results: Results, progress: Progress, command: str, timings: Sequence[Timing]) -> None:
    analysis = Analysis(results.named)
    try:
        # The process that finishes the last run waits for its turn, so that the last report has all runs.
        with reporting(results.opened.design.out, wait=not results.missing):
            written = write_report(analysis, command, timings)
    except LockedError as error:
        progress.note(f"{error.holder} writes the report at this moment; --report_only writes it later.")
        written = []
    list_refused(results.opened.design.out, {uri: source.refused for uri, source in results.opened.sources.items()})
    print_report(analysis, progress.console)
    for path in written:
        progress.note(f"wrote {path}")


def _note_missing(results: Results, progress: Progress) -> None:
    opened = results.opened
    if not results.missing:
        return
    of = ""
    if opened.design.shard:
        shards = sorted({opened.shard_of[run] for run in results.missing})
        of = f" (of --shard={', '.join(str(StudyShard(each, opened.design.shard.count)) for each in shards)})"
    progress.note(f"{len(results.missing)} of {len(opened.runs)} runs not there yet{of}: {_some(opened, results.missing)}")


def _failures(opened: Opened, failed: Sequence[tuple[Run, str]]) -> str:
    run, reason = failed[0]
    rest = [each for each, _ in failed[1:]]
    others = f" Also failed: {_some(opened, rest)}." if rest else ""
    return (
        f"{len(failed)} of {len(opened.runs)} runs failed, the first was {describe_run(opened, run)}: "
        f"{reason.rstrip('.')}. {run_folder(opened, run) / ERROR_LOG} has the details.{others} The same command tries "
        "them again and repeats nothing else."
    )


def _some(opened: Opened, runs: Sequence[Run], shown: int = 5) -> str:
    names = [describe_run(opened, run) for run in runs]
    return "; ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def console() -> Console:
    """Returns the console of a command that runs studies; it prints in the first process alone."""
    # In a file, the table must not be wrapped at 80 columns, the default for an unknown terminal.
    return Console(emoji=False, width=None if sys.stdout.isatty() else 180, quiet=not cluster.is_first())


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Adds the folder to the system's error for a full disk, which names no file."""
    try:
        yield
    except OSError as error:
        # An error that names its file is more precise than this one.
        if error.errno not in DISK_FULL or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(out)) from error


def open_same(study: Study, progress: Progress) -> Opened:
    """Opens a study, and checks that all processes see the same images."""
    if Path(study.out).exists() and not Path(study.out).is_dir():
        raise ValueError(f"--out={study.out} is a file; name a new folder or the folder of an earlier call.")
    with progress.clock.part("opening"):
        opened = open_study(parse_study(study))
    require_same_images(opened)
    return opened


def describe_study(opened: Opened, progress: Progress) -> None:
    """Prints the size of an opened study, and the notes of its sources and tasks."""
    design = opened.design
    study = design.declared
    learners = ", ".join(f"{learner} of {learner.parameters / 1e6:.2g} M parameters" for learner in opened.learners)
    of = f"{len(opened.own)} (--shard={design.shard}) of " if design.shard else ""
    progress.note(
        f"{of}{len(opened.runs)} runs of {design.budget.samples:,} samples ({design.steps:,} steps of {design.batch_size}), "
        f"{learners}, results in {study.out}{os.sep}"
    )
    for learner in opened.learners:
        name = f"{learner}: " if len(opened.learners) > 1 else ""
        progress.note(f"{name}{learner.settings}")
    first = opened.learners[0].settings
    if first.initial:
        about = how_it_was_read(first.initial)
        progress.note(f"pretraining continues from --init={study.init}, a {first.encoder}{f'. {about}' if about else ''}")
    for uri, name in opened.names.items():
        progress.note(f"source {name} = {uri}: {len(opened.sources[uri]):,} images")
    for task in opened.tasks:
        for note in task.notes:
            progress.note(f"{task.name}: {note}")
    for candidate in opened.candidates:
        if candidate.text:
            progress.note(f"mixture {candidate.text}: N = {candidate.unique:,} (python -m tools.plan_samples shows it in full)")
    for note in range_notes(opened):
        progress.note(note)
    for source in opened.sources.values():
        if opened.withheld.get(source.name):
            progress.note(
                f"{source.name}: images that equal one of the held-out test split, as the encoders see them, are excluded; "
                f"{len(source):,} remain"
            )
        for note in source.notes:
            progress.note(f"{source.name}: {note}")
        if source.refused:
            progress.note(refused_sentence(source.name, source.refused))
