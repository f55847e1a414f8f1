"""What programs read: one line per run and floor, and one per run, task and evaluation."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from sslshift.study.judged import Judged
from sslshift.study.opened import Run
from sslshift.study.runner import Results

RESULTS = (
    "kind",
    "source",
    "unique",
    "diversity",
    "epochs",
    "budget",
    "batch_size",
    "method",
    "encoder",
    "seed",
    "draw",
    "broken",
    "cost",
    "shift_index",
    "shift_low",
    "shift_high",
    "knn",
    "linear",
    "linear_gain_over_untrained",
    "knn_validation",
    "knn_neighbours",
    "knn_temperature",
    "linear_validation",
    "linear_strength",
    "effective_rank",
    "loss_first",
    "loss_last",
    "licence",
)
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


def results_csv(results: Results) -> str:
    """One line per run and floor, scores of the first task; metrics in [0, 1]."""
    return _csv(RESULTS, _result_lines(results))


def scores_csv(results: Results) -> str:
    """One line per run or floor, task and evaluation: the metric on the test split with its 95% interval over test images."""
    return _csv(SCORES, _score_lines(results))


def _csv(columns: tuple[str, ...], lines: Iterator[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _result_lines(results: Results) -> Iterator[dict[str, Any]]:
    study, budget, task = results.opened.study, results.opened.budget, results.opened.task.name
    shared = {"budget": budget.samples, "batch_size": study.batch_size}
    for run, judged in results.runs:
        shift, candidate = results.shifts[run.source], results.opened.candidate(run)
        facts, read, scores = results.opened.facts(candidate), judged.trained["unique_read"], judged.scores[task]
        own = {
            "kind": "run",
            "source": run.source,
            "unique": read,
            "method": run.method,
            "encoder": run.encoder,
            "seed": run.seed,
            "draw": run.draw,
            "cost": round(results.opened.cost(candidate), 6),
            "diversity": round(budget.diversity(read), 6),
            "epochs": round(budget.epochs(read), 6),
            "shift_index": shift["value"],
            "shift_low": shift["low"],
            "shift_high": shift["high"],
            "linear_gain_over_untrained": round(scores["linear"] - results.untrained_of(run).scores[task]["linear"], 6),
            "licence": "; ".join(dict.fromkeys(fact["licence"] for fact in facts.values())),
        }
        yield shared | scores | judged.trained | own
    for floor, judged in _floors(results):
        # Raw pixels know neither encoder nor seed.
        yield judged.scores[task] | floor


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
