"""What an experiment's `main` runs."""

import os
import sys
from pathlib import Path

from rich.console import Console

from sslshift.study.build import describe_training
from sslshift.study.declare import Study
from sslshift.study.opened import Opened, open_study
from sslshift.study.progress import Progress
from sslshift.study.report import print_table, write_results
from sslshift.study.runner import run_study


def run(study: Study) -> None:
    """Runs a study to its end and shows what it found; goes on where an earlier call was stopped."""
    console = _console()
    progress = Progress(console)
    results = run_study(_open(study, progress), progress)
    written = write_results(results)
    print_table(results, console)
    for path in written:
        progress.note(f"wrote {Path(path)}")


def _console() -> Console:
    # A terminal's width is taken as it is; in a file the table must not be folded to 80 columns.
    return Console(width=None if sys.stdout.isatty() else 140)


def _open(study: Study, progress: Progress) -> Opened:
    if Path(study.out).exists() and not Path(study.out).is_dir():
        raise ValueError(f"--out={study.out} is a file; name a folder, new or of an earlier call.")
    opened = open_study(study)
    budget, steps = opened.budget, opened.budget.steps(study.batch_size)
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
    for source in opened.sources.values():
        if opened.withheld.get(source.name):
            progress.note(f"{source.name}: images of the held-out test split are left out; {len(source):,} remain")
        if source.refused:
            path, reason = source.refused[0]
            progress.note(f"{source.name}: {len(source.refused)} files refused, not counted in N, e.g. {path} ({reason})")
    return opened
