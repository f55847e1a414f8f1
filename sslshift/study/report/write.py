"""Files of a study's report, and its summary on a terminal."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from sslshift import storage
from sslshift.clock import Timing
from sslshift.reporting import csv_text, print_table
from sslshift.reporting.ledger import CSV
from sslshift.study.analysis import Analysis
from sslshift.study.cost import timing_table
from sslshift.study.evaluate import INITIAL, PIXELS, UNTRAINED
from sslshift.study.report.decision import decision
from sslshift.study.report.page import caption, page
from sslshift.study.report.sentences import answer, findings
from sslshift.study.report.tables import all_tables, main_table, task_table
from sslshift.study.results import Results
from sslshift.transfer.scores import EvaluatedEncoder

SCORES = "scores.csv"
# File with the names of what the results table names by URI, for commands that plan from the table.
NAMES = "names.json"


def write_report(analysis: Analysis, command: str = "", timings: Sequence[Timing] = ()) -> list[Path]:
    """Writes `scores.csv`, `report.html`, and all tables and figures into the folders `tables` and `figures`.

    The results table, `results.csv`, is written while the study runs; the page offers it for download as well.

    Args:
      analysis: analysis of the study's results, finished or not.
      command: command line that repeats the study; if empty, the page shows the call from Python.
      timings: seconds by part of each call of the study, the latest call last; if empty, the report has no such table.

    Returns:
      Paths of the main files and of the two folders.
    """
    # Imported here with matplotlib, so that a command does not wait for it at its start.
    from sslshift.study.report.figures import draw_all

    out = analysis.opened.design.out
    storage.write(out / SCORES, scores_csv(analysis.results))
    # The page contains both files, so that it can be sent without them.
    files = {name: (out / name).read_text(encoding="utf-8") for name in (CSV, SCORES) if (out / name).exists()}
    storage.write_json(out / NAMES, names_record(analysis.results))
    (out / "tables").mkdir(parents=True, exist_ok=True)
    spent = timing_table(timings)
    for table in [*all_tables(analysis), *([spent] if spent.lines else [])]:
        for ending, text in {"md": table.markdown, "tex": table.latex, "csv": table.csv}.items():
            storage.write(out / "tables" / f"{table.name}.{ending}", text)
    figures = draw_all(analysis, out / "figures")
    storage.write(out / "report.html", page(analysis, figures, files, spent, command))
    return [out / name for name in (CSV, SCORES, "tables", "figures", "report.html")]


def names_record(results: Results) -> dict[str, Any]:
    """Returns the names of single sources by their names in the results table, and the mixtures as the table names them."""
    candidates = results.opened.candidates
    return {
        "sources": {results.uris.get(each.name, each.name): each.name for each in candidates if not each.text},
        "mixtures": list(dict.fromkeys(results.uris.get(each.name, each.name) for each in candidates if each.text)),
    }


def print_report(analysis: Analysis, console: Console) -> None:
    """Prints the main table, the table of tasks if there are several, the answer and the other findings."""
    table = main_table(analysis)
    # The verdicts are dropped, because a terminal is narrow and the sentences repeat them.
    kept = [column for column, name in enumerate(table.head) if name != "verdict"]
    narrow = dataclasses.replace(
        table, head=[table.head[i] for i in kept], lines=[[line[i] for i in kept] for line in table.lines]
    )
    print_table(narrow, console, caption(analysis))
    tasks = task_table(analysis)
    if tasks.lines:
        print_table(tasks, console, f"{tasks.title}. {tasks.note}")
    for sentence in [*decision(analysis), *answer(analysis), *(f"- {each}" for each in findings(analysis))]:
        console.print(sentence, highlight=False, soft_wrap=not console.is_terminal, markup=False)


class ScoreRow(NamedTuple):
    """Row of `scores.csv`: one evaluation of one run or baseline on one task.

    The fields are columns that programs read, so new ones come at the end. Columns with the same meaning have the same name in
    `results.csv`; `low` and `high` are the ends of the 95% interval over test images.
    """

    kind: str = ""
    source: str = ""
    # Baselines lack these fields; raw pixels also lack method and seed.
    unique: int | None = None
    method: str | None = None
    encoder: str | None = None
    seed: int | None = None
    draw: int | None = None
    task: str = ""
    metric: str = ""
    test_images: int = 0
    evaluation: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    validation: float = math.nan
    chosen: str = ""


def scores_csv(results: Results) -> str:
    """Returns CSV with one row for each run or baseline, task and evaluation, for programs."""
    rows: list[ScoreRow] = []
    for each in results.runs:
        # N is the number of images that could be read, as in the tables; it may be less than the requested number.
        source = results.uris.get(each.run.source, each.run.source)
        place = dataclasses.asdict(each.run) | {"kind": "run", "source": source, "unique": each.trained.unique_read}
        rows += _score_rows(partial(ScoreRow, **place), each.evaluated)
    for (method, encoder), evaluated in results.initial.items():
        rows += _score_rows(partial(ScoreRow, kind="floor", source=INITIAL, method=method, encoder=encoder), evaluated)
    for (method, encoder, seed), evaluated in results.untrained.items():
        row = partial(ScoreRow, kind="floor", source=UNTRAINED, method=method, encoder=encoder, seed=seed)
        rows += _score_rows(row, evaluated)
    rows += _score_rows(partial(ScoreRow, kind="floor", source=PIXELS), results.pixels)
    return csv_text(ScoreRow._fields, rows)


def _score_rows(row: Callable[..., ScoreRow], evaluated: EvaluatedEncoder) -> Iterator[ScoreRow]:
    for task, scores in evaluated.scores.items():
        for name, score in scores.evaluations.items():
            yield row(
                task=task,
                metric=scores.metric,
                test_images=scores.test_images,
                evaluation=name,
                value=score.value,
                low=score.low,
                high=score.high,
                validation=score.validation,
                chosen=json.dumps(score.chosen),
            )
