"""What an experiment's `main` does: run a study, say what it would take, or report what is there."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from sslshift.command import remedy
from sslshift.study.build import describe_training
from sslshift.study.declare import Study
from sslshift.study.estimate import show_estimate
from sslshift.study.locked import locked
from sslshift.study.opened import Opened, open_study
from sslshift.study.places import describe_run, run_folder
from sslshift.study.progress import Progress
from sslshift.study.records import ERROR_LOG
from sslshift.study.report import print_results, write_results
from sslshift.study.report.sentences import range_notes
from sslshift.study.results import Results
from sslshift.study.runner import DISK_FULL, read_results, run_study


def run(study: Study) -> None:
    """Runs a study to its end and shows what it found; goes on where an earlier call was stopped.

    Raises:
      RuntimeError: runs failed, after all others are done and reported; or another process works in the study's folder.
      ValueError: the declaration cannot be, or the folder holds something else.
    """
    console = _console()
    progress = Progress(console)
    opened = _open(study, progress)
    with _disk_told(study.out), locked(Path(study.out)):
        results = run_study(opened, progress)
        if results.runs:
            _report(results, console)
    if results.failed:
        raise RuntimeError(_failures(results))


@contextlib.contextmanager
def _disk_told(out: str) -> Iterator[None]:
    """The system's error of a full disk names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL or error.filename:
            raise
        raise OSError(f"{out} cannot be written to: {error.strerror}. {remedy(error)}") from error


def dry_run(study: Study) -> None:
    """Says what a study would take; trains nothing and writes nothing."""
    console = _console()
    show_estimate(_open(study, Progress(console)), console)


def report_only(study: Study) -> None:
    """Reports what a study's folder holds, finished or not; trains and judges nothing.

    Raises:
      NotThereError: no run is finished.
    """
    console = _console()
    progress = Progress(console)
    results = read_results(_open(study, progress))
    _report(results, console)
    for name, runs in (("failed", [run for run, _ in results.failed]), ("not there yet", results.missing)):
        if runs:
            progress.note(f"{len(runs)} of {len(results.opened.runs)} runs {name}: {_some(results.opened, runs)}")


def _report(results: Results, console: Console) -> None:
    written = write_results(results)
    print_results(results, console)
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)


def _failures(results: Results) -> str:
    run, reason = results.failed[0]
    rest = [each for each, _ in results.failed[1:]]
    others = f" Also failed: {_some(results.opened, rest)}." if rest else ""
    return (
        f"{len(results.failed)} of {len(results.opened.runs)} runs failed, the first was {describe_run(results.opened, run)}: "
        f"{reason.rstrip('.')}. {run_folder(results.opened, run) / ERROR_LOG} has the details.{others} The same command tries "
        "them again and repeats nothing else."
    )


def _some(opened: Opened, runs, shown: int = 5) -> str:
    names = [describe_run(opened, run) for run in runs]
    return "; ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _console() -> Console:
    # A terminal's width is taken as it is; in a file the table must not be folded to 80 columns.
    return Console(emoji=False, width=None if sys.stdout.isatty() else 180)


def _open(study: Study, progress: Progress) -> Opened:
    if Path(study.out).exists() and not Path(study.out).is_dir():
        raise ValueError(f"--out={study.out} is a file; name a folder, new or of an earlier call.")
    opened = open_study(study)
    budget = opened.budget
    steps = opened.budget.steps(study.batch_size)
    learners = ", ".join(f"{learner} of {learner.parameters / 1e6:.2g} M parameters" for learner in opened.learners)
    progress.note(
        f"{len(opened.runs)} runs of {budget.samples:,} samples ({steps:,} steps of {study.batch_size}), {learners}, "
        f"results in {study.out}{os.sep}"
    )
    for learner in opened.learners:
        name = f"{learner}: " if len(opened.learners) > 1 else ""
        progress.note(name + describe_training(learner.study))
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
                f"{source.name}: images that equal one of the held-out test split, as the encoders see them, are left out; "
                f"{len(source):,} remain"
            )
        for note in source.notes:
            progress.note(f"{source.name}: {note}")
        if source.refused:
            path, reason = source.refused[0]
            progress.note(f"{source.name}: {len(source.refused)} files refused, not counted in N, e.g. {path} ({reason})")
    return opened
