"""What a study's runs say of each other: gains over the untrained encoder, pairs of sources, with intervals and verdicts."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from sslshift.study.judged import Judged
from sslshift.study.opened import Run
from sslshift.study.results import Results
from sslshift.study.sampled import UNTRAINED, Kind, sampled
from sslshift.transfer.inference import Estimate, holm

LEVEL = 0.95
NOTHING = "no significant difference"
ONE_SEED = "one seed, not tested"


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
    numbers = sampled(results, task, "linear")
    found = {}
    for learner in learners(results):
        mine = of_learner(results, learner)
        floor = Kind(learner, UNTRAINED, None)
        differences = [numbers.difference(kind, floor) for kind in mine]
        found |= dict(zip(mine, judged_together(differences, [numbers.alone([kind]) for kind in mine]), strict=True))
    return found


def largest(results: Results, learner: tuple[str, str]) -> list[Kind]:
    """Each candidate with as many unique samples as the study has of it."""
    return [list(ladder)[-1] for _, ladder in itertools.groupby(of_learner(results, learner), key=lambda kind: kind.source)]


def of_learner(results: Results, learner: tuple[str, str]) -> list[Kind]:
    """Its kinds, the nearest source first, then by unique samples."""
    return [kind for kind in kinds(results) if kind.learner == learner]


@functools.lru_cache(maxsize=32)
def pairs(results: Results, task: str, learner: tuple[str, str]) -> dict[tuple[Kind, Kind], Difference | None]:
    """Every candidate against every other, each at its most unique samples; the better one of the means first."""
    numbers = sampled(results, task, "linear")
    candidates = largest(results, learner)
    estimates = {}
    for a, b in itertools.combinations(candidates, 2):
        found = numbers.difference(a, b)
        if found is not None and found.value < 0:
            a, b, found = b, a, numbers.difference(b, a)
        estimates[a, b] = found
    alone = [numbers.alone(pair) for pair in estimates]
    return dict(zip(estimates, judged_together(list(estimates.values()), alone), strict=True))


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
    numbers = sampled(results, task, "linear")
    candidates = largest(results, learner)
    mixed = {candidate.name for candidate in results.opened.candidates if candidate.text}
    candidates = sorted(candidates, key=lambda kind: shift_order(results.task_shifts[task][kind.source]))
    reference = next((kind for kind in candidates if kind.source not in mixed), candidates[0])
    others = [kind for kind in candidates if kind != reference]
    found = judged_together(
        [numbers.difference(kind, reference) for kind in others], [numbers.alone([kind, reference]) for kind in others]
    )
    return reference, {kind: each for kind, each in zip(others, found, strict=True) if each is not None}
