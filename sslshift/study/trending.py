"""What diversity does for each source of a study, and how that changes with the shift: the paper's two findings."""

import dataclasses
import functools
import itertools
import math

import numpy as np

from sslshift.study.compared import diversity, of_learner, shift_order
from sslshift.study.results import Results
from sslshift.study.sampled import Kind, sampled
from sslshift.transfer.inference import FEWEST_SOURCES, Bootstrapped, Trend, change_by_shift, holm, mean_trend, slopes


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
    numbers = sampled(results, task, "linear")
    found = []
    for source, levels in _ladders(results, learner).items():
        grid = numbers.grid(levels)
        if grid is None:
            # Of an unfinished study: its rungs have no seed in common yet.
            continue
        x = [math.log10(diversity(results, kind)) for kind in levels]
        one = mean_trend(Bootstrapped(slopes(x, grid.values), slopes(x, grid.boots, axis=1)), numbers.images)
        if numbers.alone(levels):
            one = one._replace(p_value=math.nan)
        found.append(SourceTrend(source, results.task_shifts[task][source]["value"], tuple(levels), one, math.nan))
    found.sort(key=lambda each: shift_order({"value": each.shift}))
    p_values = [each.trend.p_value for each in found]
    adjusted = [*p_values[:1], *holm(p_values[1:]).tolist()]
    return tuple(dataclasses.replace(each, adjusted=p_value) for each, p_value in zip(found, adjusted, strict=True))


def _ladders(results: Results, learner: tuple[str, str]) -> dict[str, list[Kind]]:
    ladders = {name: list(each) for name, each in itertools.groupby(of_learner(results, learner), key=lambda kind: kind.source)}
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
    if len(usable) < FEWEST_SOURCES:
        return (
            f"At least {FEWEST_SOURCES} sources with a shift index and several numbers of unique samples are needed, and there "
            f"{'is' if len(usable) == 1 else 'are'} {len(usable) or 'none'}."
        )
    shift = [each.shift for each in usable]
    grid = numbers.grid([kind for each in usable for kind in each.levels])
    if grid is None:
        return "No seed is finished for all sources with several numbers of unique samples."
    values = []
    boots = []
    start = 0
    for each in usable:
        rungs = slice(start, start + len(each.levels))
        x = [math.log10(diversity(results, kind)) for kind in each.levels]
        values.append(slopes(x, grid.values[rungs]))
        boots.append(slopes(x, grid.boots[:, rungs], axis=1))
        start = rungs.stop
    try:
        ladders = Bootstrapped(np.array(values), np.stack(boots, axis=1))
        change = change_by_shift(shift, ladders, numbers.images, scatter=scatter)
        return change._replace(p_value=math.nan) if len(grid.values[0]) < 2 else change
    except ValueError as error:
        return str(error)
