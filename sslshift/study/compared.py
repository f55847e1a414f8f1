"""What a study's numbers say of each other: gains over the untrained encoder, pairs of sources, trends, all with intervals."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sslshift.study.judged import Judged
from sslshift.study.opened import Run
from sslshift.study.results import Results
from sslshift.study.sampled import UNTRAINED, Kind, sampled
from sslshift.study.statistics import Trend, change_by_shift, fitted, holm, slopes
from sslshift.transfer.resampling import Estimate

LEVEL = 0.95
NOTHING, ONE_SEED = "no difference shown", "one seed, nothing shown"


class Difference(NamedTuple):
    """One of a table's differences.

    Attributes:
      mean: the difference.
      half: half the width of its own 95% interval; nan for a single seed.
      p_value: that belongs to the interval.
      adjusted: the p-value by Holm's method among all comparisons of the table.
      verdict: `better` or `worse` by the adjusted p-value, that it holds of the pair alone, or that nothing is shown.
    """

    mean: float
    half: float
    p_value: float
    adjusted: float
    verdict: str

    @property
    def points(self) -> str:
        """In percentage points, as text."""
        return f"{self.mean * 100:+.1f} points" + ("" if math.isnan(self.half) else f" ± {self.half * 100:.1f}")


def judged_together(estimates: Sequence[Estimate | None], alone: Sequence[bool]) -> list[Difference | None]:
    """Differences of one table, with verdicts that hold for all of them together.

    Example:
      >>> sure, unsure = Estimate(0.1, 0.05, 0.15, 0.01), Estimate(0.1, 0.01, 0.19, 0.03)
      >>> [each.verdict for each in judged_together([sure, unsure, unsure], [False] * 3)]
      ['better', 'better, but not after correction', 'better, but not after correction']

    Args:
      estimates: None for what could not be compared, which stays None and does not count.
      alone: whether one is of a single seed: the test images' interval says nothing of what other seeds would give.
    """
    adjusted = holm([math.nan if each is None or one else each.p_value for each, one in zip(estimates, alone, strict=True)])
    found = []
    for each, one, p_value in zip(estimates, alone, adjusted.tolist(), strict=True):
        if each is None:
            found.append(None)
        elif one:
            found.append(Difference(each.value, math.nan, math.nan, math.nan, ONE_SEED))
        else:
            half = (each.high - each.low) / 2
            found.append(Difference(each.value, half, each.p_value, p_value, _verdict(each, p_value)))
    return found


def _verdict(found: Estimate, adjusted: float) -> str:
    side = "better" if found.value > 0 else "worse"
    if adjusted < 1 - LEVEL:
        return side
    # Beside an interval that leaves out 0 a bare "no difference" would puzzle.
    return f"{side}, but not after correction" if found.p_value < 1 - LEVEL else NOTHING


def learners(results: Results) -> list[tuple[str, str]]:
    """Method and encoder of each that has a finished run, in the order in which they are named."""
    known = {(run.method, run.encoder) for run, _ in results.runs}
    return [learner.key for learner in results.opened.learners if learner.key in known]


@functools.lru_cache(maxsize=8)
def planned_kinds(results: Results) -> tuple[Kind, ...]:
    """All kinds of the grid: by learner, then the nearest source first, then by unique samples."""
    order = [learner.key for learner in results.opened.learners]
    found = {kind_of(run) for run in results.opened.runs}
    return tuple(
        sorted(found, key=lambda kind: (order.index(kind.learner), shift_order(results.shifts[kind.source]), kind[1:]))
    )


@functools.lru_cache(maxsize=8)
def kinds(results: Results) -> tuple[Kind, ...]:
    """Those with a finished run, in the same order."""
    finished = {kind_of(run) for run, _ in results.runs}
    return tuple(kind for kind in planned_kinds(results) if kind in finished)


def kind_of(run: Run) -> Kind:
    return Kind((run.method, run.encoder), run.source, run.unique)


def shift_order(shift: dict) -> float:
    """Sort key of a shift: near sources first, those without an index last."""
    return math.inf if math.isnan(shift["value"]) else shift["value"]


@functools.lru_cache(maxsize=32)
def gains(results: Results, task: str) -> dict[Kind, Difference | None]:
    """What the linear probe gains over that of the same seeds' untrained encoders, corrected for the kinds of each learner."""
    numbers, found = sampled(results, task, "linear"), {}
    for learner in learners(results):
        mine, floor = _of(results, learner), Kind(learner, UNTRAINED, None)
        differences = [numbers.difference(kind, floor) for kind in mine]
        found |= dict(zip(mine, judged_together(differences, [numbers.alone([kind]) for kind in mine]), strict=True))
    return found


def largest(results: Results, learner: tuple[str, str]) -> list[Kind]:
    """Each candidate with as many unique samples as the study has of it."""
    return [list(ladder)[-1] for _, ladder in itertools.groupby(_of(results, learner), key=lambda kind: kind.source)]


def _of(results: Results, learner: tuple[str, str]) -> list[Kind]:
    return [kind for kind in kinds(results) if kind.learner == learner]


@functools.lru_cache(maxsize=32)
def pairs(results: Results, task: str, learner: tuple[str, str]) -> dict[tuple[Kind, Kind], Difference | None]:
    """Every candidate against every other, each at its most unique samples; the better one of the means first."""
    numbers, candidates = sampled(results, task, "linear"), largest(results, learner)
    estimates = {}
    for a, b in itertools.combinations(candidates, 2):
        found = numbers.difference(a, b)
        if found is not None and found.value < 0:
            a, b, found = b, a, numbers.difference(b, a)
        estimates[a, b] = found
    alone = [numbers.alone(pair) for pair in estimates]
    return dict(zip(estimates, judged_together(list(estimates.values()), alone), strict=True))


@dataclasses.dataclass(frozen=True)
class SourceTrend:
    """The trend of one source's ladder.

    Attributes:
      source: its name.
      shift: its index.
      levels: its kinds that share seeds, by unique samples.
      trend: of accuracy in log10 D.
      adjusted: its p-value: of the nearest source, which the study asks about first, as it is; of the others by Holm's method.
    """

    source: str
    shift: float
    levels: tuple[Kind, ...]
    trend: Trend
    adjusted: float


@functools.lru_cache(maxsize=32)
def trends(results: Results, task: str, learner: tuple[str, str]) -> tuple[SourceTrend, ...]:
    """Of every source with at least two numbers of unique samples, near ones first."""
    numbers, found = sampled(results, task, "linear"), []
    for source, levels in _ladders(results, learner).items():
        grid = numbers.grid(levels)
        if grid is None:
            # Of an unfinished study: its rungs have no seed in common yet.
            continue
        x = [math.log10(diversity(results, kind)) for kind in levels]
        one = fitted(slopes(x, grid.values), slopes(x, grid.boots, axis=1), numbers.images)
        if numbers.alone(levels):
            one = one._replace(p_value=math.nan)
        found.append(SourceTrend(source, results.task_shifts[task][source]["value"], tuple(levels), one, math.nan))
    found.sort(key=lambda each: shift_order({"value": each.shift}))
    p_values = [each.trend.p_value for each in found]
    adjusted = [*p_values[:1], *holm(p_values[1:]).tolist()]
    return tuple(dataclasses.replace(each, adjusted=p_value) for each, p_value in zip(found, adjusted, strict=True))


def _ladders(results: Results, learner: tuple[str, str]) -> dict[str, list[Kind]]:
    ladders = {name: list(each) for name, each in itertools.groupby(_of(results, learner), key=lambda kind: kind.source)}
    return {name: each for name, each in ladders.items() if len(each) > 1}


def trend_change(results: Results, task: str, learner: tuple[str, str], *, scatter: bool = True) -> Trend | str:
    """How the trend changes for each unit of the shift index, over sources with an index and the seeds that all share.

    Args:
      results: of the study, finished or not.
      task: its name.
      learner: names of method and encoder.
      scatter: whether the interval counts how sources scatter, so that it holds for others too.

    Returns:
      The change; or, in a sentence, why it cannot be told.
    """
    numbers = sampled(results, task, "linear")
    usable = [each for each in trends(results, task, learner) if not math.isnan(each.shift)]
    shift = [each.shift for each in usable]
    grid = numbers.grid([kind for each in usable for kind in each.levels]) if usable else None
    if usable and grid is None:
        return "No seed is finished for all sources with several numbers of unique samples."
    values, boots, start = [], [], 0
    for each in usable:
        rungs = slice(start, start + len(each.levels))
        x = [math.log10(diversity(results, kind)) for kind in each.levels]
        values.append(slopes(x, grid.values[rungs]))
        boots.append(slopes(x, grid.boots[:, rungs], axis=1))
        start = rungs.stop
    try:
        boots = np.stack(boots, axis=1) if boots else np.empty(0)
        change = change_by_shift(shift, np.array(values), boots, numbers.images, scatter=scatter)
        return change._replace(p_value=math.nan) if grid.values[0].size < 2 else change
    except ValueError as error:
        return str(error)


def runs_of(results: Results, source: str, unique: int) -> list[tuple[Run, Judged]]:
    """Finished runs of a candidate, of whatever learner."""
    return [(run, judged) for run, judged in results.runs if (run.source, run.unique) == (source, unique)]


def diversity(results: Results, kind: Kind) -> float:
    """D of what could be read."""
    return results.opened.budget.diversity(read(results, kind))


def read(results: Results, kind: Kind) -> int:
    """N of what could be read, the mean over runs."""
    counts = [judged.trained["unique_read"] for _, judged in runs_of(results, kind.source, kind.unique)]
    return round(sum(counts) / len(counts))


@functools.lru_cache(maxsize=32)
def against(results: Results, task: str, learner: tuple[str, str]) -> tuple[Kind, dict[Kind, Difference]]:
    """Every candidate against the source nearest to the task (of mixtures alone: the nearest), each at its most samples.

    Returns:
      The one that they are compared with, and the differences of the others that share a seed with it.
    """
    numbers, candidates = sampled(results, task, "linear"), largest(results, learner)
    mixed = {candidate.name for candidate in results.opened.candidates if candidate.text}
    candidates = sorted(candidates, key=lambda kind: shift_order(results.task_shifts[task][kind.source]))
    reference = next((kind for kind in candidates if kind.source not in mixed), candidates[0])
    others = [kind for kind in candidates if kind != reference]
    found = judged_together(
        [numbers.difference(kind, reference) for kind in others], [numbers.alone([kind, reference]) for kind in others]
    )
    return reference, {kind: each for kind, each in zip(others, found, strict=True) if each is not None}
