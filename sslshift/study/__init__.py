"""Studies: declared as data, run by one runner, shown as a table, a CSV file, a figure and a page.

`declare.Study` is the declaration, `flags` makes it a command line, `runner` trains and judges every run into folders that
remember, `summary` turns runs into rows with intervals, `report` and `figure` show them.
"""

import os
import sys
from pathlib import Path

from rich.console import Console

from sslshift.study.declare import Study
from sslshift.study.flags import run_experiment

__all__ = ["Study", "run", "run_experiment"]


def run(study: Study) -> None:
    """Runs a study to its end and shows what it found; goes on where an earlier call was stopped."""
    from sslshift.data.sources import PartialSource
    from sslshift.study.progress import Progress
    from sslshift.study.report import print_table, write_results
    from sslshift.study.runner import open_study, run_study

    # A terminal's width is taken as it is; in a file the table must not be folded to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    progress = Progress(console)
    if Path(study.out).exists() and not Path(study.out).is_dir():
        raise ValueError(f"--out={study.out} is a file; name a folder, new or of an earlier call.")
    opened = open_study(study)
    budget, steps = opened.budget, opened.budget.steps(study.batch_size)
    progress.note(
        f"{len(opened.runs)} runs of {budget.samples:,} samples ({steps:,} steps of {study.batch_size}), "
        f"{study.method} on {study.encoder} of {opened.parameters / 1e6:.2g} M parameters, results in {study.out}{os.sep}"
    )
    for source in opened.sources.values():
        if isinstance(source, PartialSource):
            progress.note(f"{source.name}: images of the held-out test split are left out; {len(source):,} remain")
        if source.refused:
            path, reason = source.refused[0]
            progress.note(f"{source.name}: {len(source.refused)} files refused, not counted in N, e.g. {path} ({reason})")
    results = run_study(opened, progress)
    written = write_results(results)
    print_table(results, console)
    for path in written:
        progress.note(f"wrote {Path(path)}")
