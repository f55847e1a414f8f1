"""What an experiment's `main` runs: one study, or a study of each of several methods."""

import csv
import dataclasses
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sslshift.study.build import build_training, describe_training
from sslshift.study.declare import Study, parse_sources
from sslshift.study.opened import Opened, open_study
from sslshift.study.progress import Progress
from sslshift.study.records import write_atomically
from sslshift.study.report import percent, print_table, write_results
from sslshift.study.runner import Results, run_study
from sslshift.study.summary import rows
from sslshift.training.loop import traced_step


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


def _require_folder(out: str) -> None:
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out={out} is a file; name a folder, new or of an earlier call.")


def _open(study: Study, progress: Progress) -> Opened:
    _require_folder(study.out)
    opened = open_study(study)
    budget, steps = opened.budget, opened.budget.steps(study.batch_size)
    progress.note(
        f"{len(opened.runs)} runs of {budget.samples:,} samples ({steps:,} steps of {study.batch_size}), "
        f"{study.method} on {study.encoder} of {opened.parameters / 1e6:.2g} M parameters, results in {study.out}{os.sep}"
    )
    progress.note(describe_training(study))
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


METHODS_HEAD = (
    "method",
    "encoder",
    "loss, first -> last",
    "effective rank",
    "untrained",
    "kNN %",
    "linear %",
    "gain over untrained",
)


def run_methods(study: Study, defaults: Study, own: Mapping[str, Mapping[str, Any]]) -> None:
    """Runs a study once per method and shows what each found, in `OUT/methods.md`, `OUT/methods.csv` and on the terminal.

    Args:
      study: names the methods in `method`, separated by ','; each gets a folder below `out`.
      defaults: the study before flags changed it.
      own: fields of the study that differ for a method. A flag given by hand wins.
    """
    _require_folder(study.out)
    names = [name.strip() for name in study.method.split(",")]
    if study.mixture or len(parse_sources(study.sources)) > 1 or len(parse_sources(study.sources)[0][1]) > 1:
        raise ValueError("--sources: methods are compared on one source with one number of unique samples.")
    studies = []
    for name in names:
        # A flag given by hand differs from the default.
        mine = {key: value for key, value in own.get(name, {}).items() if getattr(study, key) == getattr(defaults, key)}
        studies.append(dataclasses.replace(study, **mine | {"method": name, "out": str(Path(study.out) / name)}))
    # A mistake in the last study shows before the first is run.
    for one in studies:
        build_training(one)
    canvas = open_study(studies[0]).canvas
    for one in studies[1:]:
        traced_step(build_training(one), canvas, one.batch_size)
    console, lines = _console(), []
    for one in studies:
        # Its own, since the time left is estimated from runs of the same method.
        progress = Progress(console)
        results = run_study(_open(one, progress), progress)
        write_results(results)
        lines.append(_line(results))
        _write_lines(lines, Path(study.out))
    table = Table(*METHODS_HEAD)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    progress.note(f"wrote {Path(study.out) / 'methods.md'}")


def _write_lines(lines: Sequence[Sequence[str]], out: Path) -> None:
    """What is known so far, as Markdown and CSV."""
    rule = ["---"] * len(METHODS_HEAD)
    write_atomically(out / "methods.md", "".join(f"| {' | '.join(line)} |\n" for line in (METHODS_HEAD, rule, *lines)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([METHODS_HEAD, *lines])
    write_atomically(out / "methods.csv", text.getvalue())


def _line(results: Results) -> tuple[str, ...]:
    def mean(name, values):
        return sum(value[name] for value in values) / len(values)

    study, task = results.opened.study, results.opened.task.name
    trained = [judged.trained for _, judged in results.runs]
    ranks = [[judged.scores[task] for judged in each] for each in ([judged for _, judged in results.runs], results.untrained)]
    # Methods are compared on one source and one number of unique samples: the first line is theirs.
    row = rows(results)[0]
    gain, knn = row.gains[task], row.scores[task].get("knn")
    return (
        study.method,
        study.encoder,
        f"{mean('loss_first', trained):.3g} -> {mean('loss_last', trained):.3g}",
        *(f"{mean('effective_rank', scores):.1f}" for scores in ranks),
        percent(knn) if knn else "",
        percent(row.scores[task]["linear"]),
        f"{gain.points}: {gain.verdict}",
    )
