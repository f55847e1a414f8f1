"""Rows of a study in its results table, see `sslshift.reporting.ledger`."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sslshift.reporting.ledger import LedgerRow, append, fingerprint, read_ledger, require_budget
from sslshift.shards import editing
from sslshift.shift.index import NOISE
from sslshift.study.evaluate import INITIAL, PIXELS, UNTRAINED, InitialScores, baseline_record, initial_record, untrained_record
from sslshift.study.opened import Opened, Run
from sslshift.study.results import FinishedRun, Results, further_untrained, run_record
from sslshift.study.shifts import DRAWN, NOT_MEASURED, TaskShifts
from sslshift.transfer.scores import EvaluatedEncoder
from sslshift.transfer.tasks import Task

# Columns that distinguish the runs of a study; a run has a row for each task.
_RUN = ("method", "encoder", "source", "unique", "seed", "draw")


class Ledger:
    """The results table of a running study; every new row is written to disk at once.

    Shards add their rows to one table. They keep the order in which one process writes the rows, whoever is first.

    Args:
      opened: the study.
      shared: whether other processes add rows to the table.

    Raises:
      LedgerError: the table was edited, or has another budget.
    """

    def __init__(self, opened: Opened, *, shared: bool):
        self._out = opened.design.out
        self._rows = read_ledger(self._out)
        self._shared = shared
        self._order = row_order(opened) if shared else {}
        require_budget(self._rows, opened.design.budget.samples, self._out)

    @property
    def runs(self) -> int:
        """The number of runs in the table."""
        return len(self._runs())

    @property
    def complete_seeds(self) -> int:
        """The number of training seeds in the table; 0 if not every kind of runs has all of them."""
        runs = self._runs()
        # The last two columns are seed and draw.
        replicates = {run[-2:] for run in runs}
        kinds = {run[:-2] for run in runs}
        return len({seed for seed, _ in replicates}) if len(runs) == len(replicates) * len(kinds) else 0

    def _runs(self) -> set[tuple]:
        return {tuple(map(row.get, _RUN)) for row in self._rows if row["kind"] == "run"}

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Adds rows, see `append`."""
        with editing(self._out):
            # Not read again if this process is the only one: a table may be long.
            there = read_ledger(self._out) if self._shared else self._rows
            self._rows = append(there, rows, self._out, self._order)


def run_rows(
    opened: Opened,
    finished: FinishedRun,
    untrained: EvaluatedEncoder,
    task_shifts: TaskShifts,
    initial: InitialScores,
) -> list[LedgerRow]:
    """Returns one row for each task of a finished run.

    Args:
      opened: the study.
      finished: the run with its scores.
      untrained: scores of the untrained encoder.
      task_shifts: shifts by task and candidate.
      initial: scores of the encoders that training continues from.
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
    depends = _depends(opened, run)
    rows = []
    for task in opened.tasks:
        index = task_shifts[task.name][run.source].index
        # Rounded, because the last bits of a difference may vary between equal runs.
        linear = finished.evaluated.scores[task.name].linear
        over = {"linear_gain_over_untrained": untrained} | (
            {"linear_gain_over_initial": initial[run.learner]} if initial else {}
        )
        gains = {name: round(linear - each.scores[task.name].linear, 6) for name, each in over.items()}
        row = own | {
            "shift_index": index.value,
            "shift_low": index.low,
            "shift_high": index.high,
            **gains,
        }
        rows.append(row | _task_cells(opened, task, finished.evaluated, depends))
    return rows


def baseline_rows(opened: Opened, evaluated: EvaluatedEncoder, name: str, start: Mapping[str, Any]) -> list[LedgerRow]:
    """Returns one row for each task of a baseline.

    Args:
      opened: the study.
      evaluated: scores of the baseline.
      name: name of the baseline.
      start: record of an untrained encoder, with method, encoder and seed; empty for raw pixels.
    """
    # Tables of earlier versions have this kind, so it is kept.
    own = {"kind": "floor", "source": name} | {key: start[key] for key in ("method", "encoder", "seed") if key in start}
    return [own | _task_cells(opened, task, evaluated, {"floor": name, "start": start}) for task in opened.tasks]


def initial_rows(opened: Opened, initial: InitialScores) -> list[LedgerRow]:
    """Returns the rows of the encoders that training continues from."""
    known = [(learner, initial[learner.key]) for learner in opened.learners if initial]
    return [row for learner, each in known for row in baseline_rows(opened, each, INITIAL, initial_record(learner))]


def _task_cells(opened: Opened, task: Task, evaluated: EvaluatedEncoder, depends: Mapping[str, Any]) -> LedgerRow:
    """Returns the scores on a task, and the fingerprint of everything that they depend on."""
    cells = evaluated.scores[task.name].columns()
    plain = {name: json.dumps(value) if isinstance(value, list | tuple | dict) else value for name, value in cells.items()}
    return {"task": task.name} | plain | {"fingerprint": _fingerprint(opened, task, depends)}


def _fingerprint(opened: Opened, task: Task, depends: Mapping[str, Any]) -> str:
    evaluations = {name: dataclasses.asdict(evaluation) for name, evaluation in opened.design.evaluations.items()}
    return fingerprint({**depends, "task": task.facts, "evaluations": evaluations, "features": opened.design.features})


def _depends(opened: Opened, run: Run) -> dict[str, Any]:
    """Returns everything that the rows of a run depend on, apart from the task and its evaluations."""
    return {"run": run_record(opened, run), "shift": _shift_record(opened)} | baseline_record(opened.learner(run))


def row_order(opened: Opened) -> dict[str, int]:
    """Returns the place of each row in the table of a study that one process runs without a failure, by fingerprint."""
    found = [{"floor": PIXELS, "start": {}}]
    found += [{"floor": INITIAL, "start": initial_record(each)} for each in opened.learners if each.training.initial]
    for run in opened.runs:
        found.append({"floor": UNTRAINED, "start": untrained_record(opened.learner(run), run.seed)})
        found.append(_depends(opened, run))
    for learner, seed in further_untrained(opened, [each.key for each in opened.learners]):
        found.append({"floor": UNTRAINED, "start": untrained_record(learner, seed)})
    rows = dict.fromkeys(_fingerprint(opened, task, depends) for depends in found for task in opened.tasks)
    return {each: place for place, each in enumerate(rows)}


def all_rows(results: Results) -> Iterator[LedgerRow]:
    """Yields the rows of all results of a study."""
    opened = results.opened
    yield from baseline_rows(opened, results.pixels, PIXELS, {})
    yield from initial_rows(opened, results.initial)
    for (method, encoder, seed), evaluated in results.untrained.items():
        learner = next(each for each in opened.learners if each.key == (method, encoder))
        yield from baseline_rows(opened, evaluated, UNTRAINED, untrained_record(learner, seed))
    for finished in results.runs:
        untrained = results.untrained[*finished.run.learner, finished.run.seed]
        yield from run_rows(opened, finished, untrained, results.task_shifts, results.initial)


def complete_table(results: Results) -> None:
    """Adds the rows of finished runs that a killed process did not write, if the table has rows of these settings.

    With other settings, such as fewer sources, a report only shows what is there.
    """
    opened = results.opened
    shifts = (shift for of_task in results.task_shifts.values() for shift in of_task.values())
    if any(shift.why == NOT_MEASURED for shift in shifts):
        return
    rows = list(all_rows(results))
    known = {row["fingerprint"] for row in read_ledger(opened.design.out)}
    lacking = [row for row in rows if row["fingerprint"] not in known]
    if lacking and any(row["kind"] == "run" and row["fingerprint"] in known for row in rows):
        Ledger(opened, shared=True).add(lacking)


def _shift_record(opened: Opened) -> dict[str, Any]:
    """Returns everything that a shift index depends on apart from its source and task.

    Reference encoders are trained on all sources of the study, so a further source changes every index.
    """
    settings = opened.design.shift
    drawn = {"drawn": DRAWN} if settings.images else {}
    # Indices of earlier versions have noise as their far end, and no such entry.
    far_end = {"far_end": settings.far_end} if settings.images and settings.far_end != NOISE else {}
    return (
        drawn
        | far_end
        | {
            "by": settings.distance,
            "features": settings.encoder,
            "images": settings.images,
            "reference": opened.reference.record | {"seeds": settings.seeds},
            "sources": {uri: source.fingerprint for uri, source in opened.sources.items()},
        }
    )
