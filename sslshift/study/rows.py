"""The rows that runs and floors get in the results table."""

import dataclasses
import json
from typing import Any

from sslshift.study.floors import floor_record
from sslshift.study.judged import Judged
from sslshift.study.ledger import Row, fingerprint
from sslshift.study.opened import Opened, Run
from sslshift.study.places import run_record
from sslshift.study.shifts import DRAWN
from sslshift.transfer.tasks import Task


def run_rows(opened: Opened, run: Run, judged: Judged, untrained: Judged, shifts: dict[str, dict[str, dict]]) -> list[Row]:
    """One row for each task of a finished run.

    Args:
      opened: the study.
      run: the run.
      judged: what tasks say of its encoder.
      untrained: and of the same encoder untrained.
      shifts: by task and candidate.
    """
    budget = opened.budget
    candidate = opened.candidate(run)
    read = judged.trained["unique_read"]
    licences = dict.fromkeys(fact["licence"] for fact in opened.facts(candidate).values())
    own = {
        "kind": "run",
        **dataclasses.asdict(run),
        "unique": read,
        "diversity": round(budget.diversity(read), 6),
        "epochs": round(budget.epochs(read), 6),
        "budget": budget.samples,
        "batch_size": opened.study.batch_size,
        "cost": round(opened.cost(candidate), 6),
        "licence": "; ".join(licences),
        **{name: judged.trained[name] for name in ("broken", "loss_first", "loss_last")},
    }
    asked = {"run": run_record(opened, run), "shift": _shift_record(opened)} | floor_record(opened.learner(run))
    rows = []
    for task in opened.tasks:
        shift = shifts[task.name][run.source]
        distance = {f"shift_{end}": shift[name] for end, name in (("index", "value"), ("low", "low"), ("high", "high"))}
        gain = judged.scores[task.name]["linear"] - untrained.scores[task.name]["linear"]
        row = own | distance | {"linear_gain_over_untrained": round(gain, 6)}
        rows.append(row | _of_task(opened, task, judged, asked))
    return rows


def floor_rows(opened: Opened, judged: Judged, name: str, start: dict[str, Any]) -> list[Row]:
    """One row for each task of a floor.

    Args:
      opened: the study.
      judged: what tasks say of it.
      name: of the floor.
      start: method, encoder and seed of an untrained encoder with the rest of its record; empty for raw pixels.
    """
    own = {"kind": "floor", "source": name} | {key: start[key] for key in ("method", "encoder", "seed") if key in start}
    return [own | _of_task(opened, task, judged, {"floor": name, "start": start}) for task in opened.tasks]


def _of_task(opened: Opened, task: Task, judged: Judged, asked: dict[str, Any]) -> Row:
    """What a task says, and the fingerprint of everything that it rests on."""
    scores = judged.scores[task.name]
    evaluations = {name: dataclasses.asdict(evaluation) for name, evaluation in opened.evaluations.items()}
    asked = asked | {"task": task.facts, "evaluations": evaluations, "features": opened.study.features}
    # Notes are for people, and choices stand beside their evaluation already.
    values = {name: value for name, value in scores.items() if name not in ("chosen", "notes", "unreadable")}
    plain = {name: json.dumps(value) if isinstance(value, list | tuple | dict) else value for name, value in values.items()}
    return {"task": task.name} | plain | {"fingerprint": fingerprint(asked)}


def _shift_record(opened: Opened) -> dict[str, Any]:
    """What a shift index rests on beside its source and task: the encoder that all sources of the study have shaped."""
    drawn = {"drawn": DRAWN} if opened.study.shift_images else {}
    return drawn | {
        "by": opened.study.shift_distance,
        "features": opened.study.shift_encoder,
        "images": opened.study.shift_images,
        "reference": opened.reference.record,
        "sources": {uri: source.fingerprint for uri, source in opened.sources.items()},
    }
