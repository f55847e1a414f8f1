"""Results of a study, and the folder, record, name and card of each of its runs."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from sslshift.reporting.environment import versions
from sslshift.storage import slug
from sslshift.study.leaks import SourceLeaks
from sslshift.study.opened import Opened, Run
from sslshift.study.shifts import MeasuredShift, TaskShifts, name_of_features
from sslshift.transfer.scores import EvaluatedEncoder


class Trained(NamedTuple):
    """Result of the training of a run.

    Attributes:
      loss_first, loss_last: mean loss over the first and the last twentieth of the steps.
      broken: images that could not be read and were replaced.
      unique_read: N without the broken images.
      seconds: wall-clock time of the training; None if an earlier version did not keep it.
    """

    loss_first: float
    loss_last: float
    broken: int
    unique_read: int
    seconds: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that is trained and evaluated."""

    run: Run
    trained: Trained
    evaluated: EvaluatedEncoder


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """All results of a study, which may be unfinished.

    Attributes:
      opened: the study.
      runs: finished runs in the order of the grid.
      untrained: scores of untrained encoders by method, encoder and seed, for all finished runs.
      pixels: scores of raw pixels.
      task_shifts: shifts by task and candidate.
      leaks: test images in sources, by source.
      failed: runs that raised an error, each with one sentence about the error.
      missing: runs that are neither finished nor failed.
    """

    opened: Opened
    runs: tuple[FinishedRun, ...]
    untrained: dict[tuple[str, str, int], EvaluatedEncoder]
    pixels: EvaluatedEncoder
    task_shifts: TaskShifts
    leaks: dict[str, SourceLeaks]
    failed: tuple[tuple[Run, str], ...] = ()
    missing: tuple[Run, ...] = ()

    @property
    def shifts(self) -> dict[str, MeasuredShift]:
        """Shifts to the first task, by candidate."""
        return self.task_shifts[self.opened.task.name]

    @property
    def encoders(self) -> list[EvaluatedEncoder]:
        """Every encoder that was evaluated, baselines first."""
        return [self.pixels, *self.untrained.values(), *(each.evaluated for each in self.runs)]


def run_folder(opened: Opened, run: Run) -> Path:
    """Returns the folder of a run."""
    # The name distinguishes a run from the other runs of the study; the record has all other settings.
    name = f"{slug(run.source)}-{run.method}-{run.encoder}-n{run.unique}-d{run.draw}-s{run.seed}"
    return opened.design.out / "runs" / name


def run_record(opened: Opened, run: Run) -> dict[str, Any]:
    """Returns everything that a run's training depends on."""
    candidate = opened.candidate(run)
    sources = {uri: opened.sources[uri] for uri in candidate.mixture.largest}
    return opened.learner(run).record | {
        "run": dataclasses.asdict(run),
        "mixture": dataclasses.asdict(candidate.mixture),
        "sources": {uri: {"fingerprint": each.fingerprint, "licence": each.licence} for uri, each in sources.items()},
    }


def describe_run(opened: Opened, run: Run) -> str:
    """Returns a short description that distinguishes a run from the other runs of its study."""
    learner = f"{opened.learner(run)}: " if len(opened.learners) > 1 else ""
    return f"{learner}{run.source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.design.draws else "")


def encoder_card(opened: Opened, run: Run, shift: MeasuredShift, trained: dict[str, Any]) -> dict[str, Any]:
    """Returns the card in the file of a run's encoder: the training, the data with their licences, and the shift."""
    candidate = opened.candidate(run)
    sources = {
        uri: {
            "licence": source.licence,
            "cost_per_image": source.cost_per_image,
            "unique": candidate.mixture.largest[uri],
            "images": len(source),
            "fingerprint": source.fingerprint,
        }
        for uri, source in opened.sources.items()
        if uri in candidate.mixture.largest
    }
    budget = opened.design.budget
    settings = opened.design.shift
    learner = opened.learner(run)
    record = learner.record
    unique = trained["unique_read"]
    measured = {"by": settings.distance, "features": name_of_features(settings)} if settings.images else {}
    return {
        "method": {"name": record["method"], "options": record["method_options"]},
        "encoder": {"name": record["encoder"], "parameters": learner.parameters, "dtype": record["dtype"]},
        "optimiser": record["optimiser"],
        "views": record["views"],
        "mixture": candidate.text or candidate.name,
        "budget": budget.samples,
        "batch_size": record["batch_size"],
        "unique": unique,
        "diversity": budget.diversity(unique),
        "epochs": budget.epochs(unique),
        "seed": run.seed,
        "draw": run.draw,
        "sources": sources,
        "shift": {"to": opened.task.name, **_finite(measured | shift.as_result())},
        "training": _finite(trained),
        "versions": versions(),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values without those that are nan, which JSON cannot represent."""
    return {name: value for name, value in values.items() if value == value}
