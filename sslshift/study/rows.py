"""Rows of the results table: one for each run or baseline and task."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sslshift.study.evaluate import baseline_record
from sslshift.study.ledger import LedgerRow, fingerprint
from sslshift.study.opened import Opened
from sslshift.study.results import FinishedRun, run_record
from sslshift.study.shifts import DRAWN, TaskShifts
from sslshift.transfer.scores import EvaluatedEncoder
from sslshift.transfer.tasks import Task


def run_rows(opened: Opened, finished: FinishedRun, untrained: EvaluatedEncoder, task_shifts: TaskShifts) -> list[LedgerRow]:
    """Returns one row for each task of a finished run.

    Args:
      opened: the study.
      finished: the run with its scores.
      untrained: scores of the same encoder untrained.
      task_shifts: by task and candidate.
    """
    budget = opened.design.budget
    run = finished.run
    trained = finished.trained
    candidate = opened.candidate(run)
    licences = dict.fromkeys(opened.sources[uri].licence for uri in candidate.mixture.largest)
    own = {
        "kind": "run",
        **dataclasses.asdict(run),
        "unique": trained.unique_read,
        "diversity": round(budget.diversity(trained.unique_read), 6),
        "epochs": round(budget.epochs(trained.unique_read), 6),
        "budget": budget.samples,
        "batch_size": opened.design.batch_size,
        "cost": round(opened.cost(candidate), 6),
        "licence": "; ".join(licences),
        "broken": trained.broken,
        "loss_first": trained.loss_first,
        "loss_last": trained.loss_last,
    }
    depends = {"run": run_record(opened, run), "shift": _shift_record(opened)} | baseline_record(opened.learner(run))
    rows = []
    for task in opened.tasks:
        index = task_shifts[task.name][run.source].index
        gain = finished.evaluated.scores[task.name].linear - untrained.scores[task.name].linear
        row = own | {
            "shift_index": index.value,
            "shift_low": index.low,
            "shift_high": index.high,
            "linear_gain_over_untrained": round(gain, 6),
        }
        rows.append(row | _task_cells(opened, task, finished.evaluated, depends))
    return rows


def baseline_rows(opened: Opened, evaluated: EvaluatedEncoder, name: str, start: Mapping[str, Any]) -> list[LedgerRow]:
    """Returns one row for each task of a baseline.

    Args:
      opened: the study.
      evaluated: its scores.
      name: of the baseline.
      start: method, encoder and seed of an untrained encoder with the rest of its record; empty for raw pixels.
    """
    # The kind is the one that tables of earlier versions hold.
    own = {"kind": "floor", "source": name} | {key: start[key] for key in ("method", "encoder", "seed") if key in start}
    return [own | _task_cells(opened, task, evaluated, {"floor": name, "start": start}) for task in opened.tasks]


def _task_cells(opened: Opened, task: Task, evaluated: EvaluatedEncoder, depends: Mapping[str, Any]) -> LedgerRow:
    """Returns the scores on a task, and the fingerprint of everything that they depend on."""
    evaluations = {name: dataclasses.asdict(evaluation) for name, evaluation in opened.design.evaluations.items()}
    everything = {**depends, "task": task.facts, "evaluations": evaluations, "features": opened.design.features}
    cells = evaluated.scores[task.name].columns()
    plain = {name: json.dumps(value) if isinstance(value, list | tuple | dict) else value for name, value in cells.items()}
    return {"task": task.name} | plain | {"fingerprint": fingerprint(everything)}


def _shift_record(opened: Opened) -> dict[str, Any]:
    """Returns everything that a shift index depends on beside its source and task.

    The reference encoder is trained on all sources of the study, so that another source changes every index.
    """
    settings = opened.design.shift
    drawn = {"drawn": DRAWN} if settings.images else {}
    return drawn | {
        "by": settings.distance,
        "features": settings.encoder,
        "images": settings.images,
        "reference": opened.reference.record,
        "sources": {uri: source.fingerprint for uri, source in opened.sources.items()},
    }
