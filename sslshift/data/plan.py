"""The sample plan: the pure function (mixture, budget, seed, step) -> the samples of that step's global batch.

Nothing is iterated and nothing grows with N: any step is answered alone, so a resumed run, a second host or one more
reading worker sees the same stream by construction.

How a position becomes a sample: the stage is looked up; the stage's components are interleaved evenly, so that every
batch holds their shares to within a few samples; the component's k-th sample is element k mod N of epoch k div N, each epoch
in an order of its own. Hence every unique sample is seen floor or ceil of its fair number of times in each stage.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sslshift.budget import Budget
from sslshift.data.mixture import Component, Mixture, apportion
from sslshift.data.permutation import permute

# What a key is for, so that the subset's draw and the epochs' orders are never the same order.
_SUBSET, _EPOCH = 1, 2


class Rows(NamedTuple):
    """The samples of a stretch of positions, in order.

    Attributes:
      source: int32 `[n]`, an index into `SamplePlan.sources`.
      index: int64 `[n]`, the image's index in that source.
    """

    source: np.ndarray
    index: np.ndarray


class Seen(NamedTuple):
    """What an audit counted for one component of one stage."""

    stage: int
    source: str
    samples: int
    unique: int
    fewest: int
    most: int


@dataclasses.dataclass(frozen=True)
class SamplePlan:
    """Which image every position of the budget shows.

    Args:
      mixture: sources, unique samples and shares, in stages.
      budget: C. The last batch is short where the batch size does not divide it.
      batch_size: global batch size.
      seed: names the order in which samples are seen.
      subset_seed: names the draw of the N unique samples of each source; the subset of 1,000 lies inside that of 10,000.

    Raises:
      ValueError: the budget is smaller than a batch, or a component's part of it is smaller than its unique samples.
    """

    mixture: Mixture
    budget: Budget
    batch_size: int
    seed: int
    subset_seed: int

    def __post_init__(self):
        self.budget.steps(self.batch_size)
        for counts, stage in zip(self._counts, self.mixture.stages, strict=True):
            for count, component in zip(counts, stage.components, strict=True):
                if count < component.unique:
                    raise ValueError(
                        f"{component.source}: {component.unique:,} unique samples do not fit into its {count:,} samples of "
                        f"the budget (D would be above 1); raise the budget or its share, or ask for at most {count:,}."
                    )

    @functools.cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order that `Rows.source` counts them."""
        names = (component.source for stage in self.mixture.stages for component in stage.components)
        return tuple(dict.fromkeys(names))

    @functools.cached_property
    def _counts(self) -> list[list[int]]:
        """Samples of each component, by stage."""
        totals = apportion(self.budget.samples, [stage.share for stage in self.mixture.stages])
        stages = self.mixture.stages
        return [
            apportion(total, [component.share for component in stage.components])
            for total, stage in zip(totals, stages, strict=True)
        ]

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Position after the last of each stage."""
        return list(itertools.accumulate(sum(counts) for counts in self._counts))

    def batch(self, step: int) -> Rows:
        """The global batch of a step, `[batch_size]` rows (fewer in the last one, see the class)."""
        start = step * self.batch_size
        return self.rows(start, min(start + self.batch_size, self.budget.samples))

    def rows(self, start: int, stop: int) -> Rows:
        """The rows of positions `start` to `stop` of the budget.

        Raises:
          IndexError: the stretch is not within the budget.
        """
        if not 0 <= start < stop <= self.budget.samples:
            raise IndexError(f"Positions {start:,} to {stop:,} do not lie within the budget of {self.budget.samples:,}.")
        parts = []
        while start < stop:
            stage = bisect.bisect_right(self._ends, start)
            end = min(stop, self._ends[stage])
            offset = self._ends[stage] - sum(self._counts[stage])
            parts.append(self._stage_rows(stage, start - offset, end - offset))
            start = end
        return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _stage_rows(self, stage: int, start: int, stop: int) -> Rows:
        components = self.mixture.stages[stage].components
        which, rank = interleave(self._counts[stage], start, stop)
        source, index = np.empty(len(which), np.int32), np.empty(len(which), np.int64)
        for i, component in enumerate(components):
            chosen = which == i
            source[chosen] = self.sources.index(component.source)
            index[chosen] = self._component_index(stage, i, component, rank[chosen])
        return Rows(source, index)

    def _component_index(self, stage: int, i: int, component: Component, rank: np.ndarray) -> np.ndarray:
        epoch, position = np.divmod(rank, component.unique)
        member = permute(position, component.unique, _EPOCH, self.seed, stage, i, tweak=epoch)
        # The source's name stays out of the key: a folder that moves keeps its subset.
        return permute(member, component.size, _SUBSET, self.subset_seed)

    def audit(self) -> list[Seen]:
        """Recounts, from the rows alone, how often each image is seen in each stage; holds one number per image seen."""
        result = []
        for stage, (end, counts) in enumerate(zip(self._ends, self._counts, strict=True)):
            tallies: dict[int, dict[str, np.ndarray]] = {}
            for rows in self._blocks(end - sum(counts), end):
                for source in np.unique(rows.source).tolist():
                    seen, times = np.unique(rows.index[rows.source == source], return_counts=True)
                    tallies[source] = _add(tallies.get(source), seen, times)
            for source, tally in sorted(tallies.items()):
                times = tally["times"]
                name = self.sources[source]
                result.append(Seen(stage, name, int(times.sum()), len(times), int(times.min()), int(times.max())))
        return result

    def _blocks(self, start: int, stop: int, size: int = 1 << 20) -> Iterator[Rows]:
        for block in range(start, stop, size):
            yield self.rows(block, min(block + size, stop))


def interleave(counts: list[int], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Component and rank within the component of positions `start` to `stop` of an even interleaving.

    Among the first p positions the first j of J components together hold floor(p * F_j / F_{j+1}) of those that the first
    j + 1 hold, F being the running sum of `counts`: the counts are exact at the end and even on the way there.

    Args:
      counts: samples of each component; they sum to the stage's length.
      start: first position.
      stop: position after the last.

    Returns:
      int64 arrays `[stop - start]`: the component's number, and how many of its samples came before.
    """
    rank = np.arange(start, stop, dtype=np.int64)
    which = np.zeros_like(rank)
    undecided = np.arange(len(rank))
    for j in range(len(counts) - 1, 0, -1):
        if not undecided.size:
            break
        before, total = sum(counts[:j]), sum(counts[: j + 1])
        held = _floor_share(rank[undecided], before, total)
        mine = _floor_share(rank[undecided] + 1, before, total) == held
        which[undecided[mine]] = j
        rank[undecided] = np.where(mine, rank[undecided] - held, held)
        undecided = undecided[~mine]
    return which, rank


def _floor_share(position: np.ndarray, part: int, total: int) -> np.ndarray:
    """floor(position * part / total), exact although the product may pass 2^63: `position` is a short rising stretch."""
    first = int(position[0])
    quotient, remainder = divmod(first * part, total)
    return quotient + (remainder + (position - first) * part) // total


def _add(tally: dict[str, np.ndarray] | None, seen: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    if tally is not None:
        seen, inverse = np.unique(np.concatenate([tally["index"], seen]), return_inverse=True)
        times = np.bincount(inverse, np.concatenate([tally["times"], times])).astype(np.int64)
    return {"index": seen, "times": times}
