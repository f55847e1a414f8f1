"""From runs to rows: what a line of the study's tables holds."""

import dataclasses
import functools

from sslshift.study.compared import Difference, gains, kind_of, planned_kinds, read
from sslshift.study.results import Results
from sslshift.study.sampled import PIXELS, UNTRAINED, Kind, sampled
from sslshift.transfer.inference import Estimate


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: runs that differ by seed and draw alone, or a floor.

    Attributes:
      kind: of the runs, or the floor.
      unique, diversity, epochs: N, D, E, of what could be read (the mean over runs, rounded); None for a floor.
      shift: the source's shift index as (value, low, high); None for a floor.
      scores: the metric on the test split by task and evaluation, over seeds, draws and test images; of finished runs.
      gains: what the linear probe gains over that of the same seeds' untrained encoders, by task; empty for a floor.
      finished, planned: runs; 0 for a floor.
    """

    kind: Kind
    unique: int | None
    diversity: float | None
    epochs: float | None
    shift: tuple[float, float, float] | None
    scores: dict[str, dict[str, Estimate]]
    gains: dict[str, Difference | None]
    finished: int = 0
    planned: int = 0


@functools.lru_cache(maxsize=4)
def rows(results: Results) -> tuple[Row, ...]:
    """The table's lines: by method and encoder, sources in the order of their shift, then unique samples; floors last."""
    return *(_row(results, kind) for kind in planned_kinds(results)), *(_floor(results, kind) for kind in floors(results))


def floors(results: Results) -> list[Kind]:
    """Untrained encoders as far as they are known, and raw pixels."""
    known = {(method, encoder) for method, encoder, _ in results.floors}
    named = [learner.key for learner in results.opened.learners if learner.key in known]
    return [*(Kind(learner, UNTRAINED, None) for learner in named), Kind(None, PIXELS, None)]


def _row(results: Results, kind: Kind) -> Row:
    budget = results.opened.budget
    shift = results.shifts[kind.source]
    finished = sum(kind_of(run) == kind for run, _ in results.runs)
    unique = read(results, kind) if finished else kind.unique
    return Row(
        kind,
        unique,
        budget.diversity(unique),
        budget.epochs(unique),
        (shift["value"], shift["low"], shift["high"]),
        _scores(results, kind),
        {task.name: gains(results, task.name).get(kind) for task in results.opened.tasks},
        finished,
        sum(kind_of(run) == kind for run in results.opened.runs),
    )


def _floor(results: Results, kind: Kind) -> Row:
    return Row(kind, None, None, None, None, _scores(results, kind), {})


def _scores(results: Results, kind: Kind) -> dict[str, dict[str, Estimate]]:
    found: dict[str, dict[str, Estimate]] = {}
    for task in results.opened.tasks:
        scores = {name: sampled(results, task.name, name).score(kind) for name in evaluations(results, task.name)}
        found[task.name] = {name: each for name, each in scores.items() if each}
    return found


def evaluations(results: Results, task: str) -> list[str]:
    """What encoders are judged by on a task; raw pixels may lack some."""
    everyone = [judged for _, judged in results.runs] + list(results.floors.values()) + [results.pixels]
    return list(dict.fromkeys(name for judged in everyone for name in judged.evaluations(task)))
