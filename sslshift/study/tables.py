"""What programs read beside the results table: one line for each run or floor, task and evaluation."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from sslshift.study.judged import Judged
from sslshift.study.opened import Run
from sslshift.study.results import Results

SCORES = (
    "kind",
    "source",
    "unique",
    "method",
    "encoder",
    "seed",
    "draw",
    "task",
    "metric",
    "test_images",
    "evaluation",
    "value",
    "low",
    "high",
    "validation",
    "chosen",
)


def scores_csv(results: Results) -> str:
    """One line per run or floor, task and evaluation: the metric on the test split with its 95% interval over test images."""
    return _csv(SCORES, _score_lines(results))


def _csv(columns: tuple[str, ...], lines: Iterator[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _score_lines(results: Results) -> Iterator[dict[str, Any]]:
    runs = [(_place(run, judged), judged) for run, judged in results.runs]
    for place, judged in [*runs, *_floors(results)]:
        for task, scores in judged.scores.items():
            for name in judged.evaluations(task):
                yield place | {
                    "task": task,
                    "metric": scores["metric"],
                    "test_images": scores["test_images"],
                    "evaluation": name,
                    "value": scores[name],
                    "low": scores[f"{name}_low"],
                    "high": scores[f"{name}_high"],
                    "validation": scores[f"{name}_validation"],
                    "chosen": json.dumps(scores["chosen"][name]),
                }


def _place(run: Run, judged: Judged) -> dict[str, Any]:
    return {
        "kind": "run",
        "source": run.source,
        "unique": judged.trained["unique_read"],
        "method": run.method,
        "encoder": run.encoder,
        "seed": run.seed,
        "draw": run.draw,
    }


def _floors(results: Results) -> Iterator[tuple[dict[str, Any], Judged]]:
    for (method, encoder, seed), judged in results.floors.items():
        yield {"kind": "floor", "source": "untrained encoder", "method": method, "encoder": encoder, "seed": seed}, judged
    yield {"kind": "floor", "source": "raw pixels"}, results.pixels
