"""Sample plan: the pure function (mixture, budget, seed, step) -> the samples of that step's global batch.

No sample needs the samples before it, and memory does not grow with N, except for class-wise subsets, which hold N numbers.
Each step is computed independently, so a resumed run, a second host or another reading worker sees the same stream.

A position becomes a sample as follows. Its stage is looked up, and in the stage its segment, which is a stretch of constant
shares (a stage whose shares do not change is one segment). The segment's components are interleaved evenly, so that every batch
holds their shares to within a few samples. A component's k-th sample in the stage is element k mod N of epoch k div N, and each
epoch has its own order. In each stage every unique sample is therefore seen floor or ceil of its fair number of times.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sslshift.budget import Budget
from sslshift.data.mixture import RAMP_STEPS, Component, Mixture, Segment
from sslshift.data.permutation import Order, permute_each
from sslshift.data.subset import checked_labels, class_order

# First number of a key, which separates orders for different purposes, so that no subset's draw equals an epoch's order.
_SUBSET = 1
_EPOCH = 2


class Rows(NamedTuple):
    """Samples of a stretch of positions, in order.

    Attributes:
      source: index into `SamplePlan.sources`, int32 `[n]`.
      index: index of the image in that source, int64 `[n]`.
    """

    source: np.ndarray
    index: np.ndarray


class Seen(NamedTuple):
    """Counts of an audit for one component of one stage.

    Attributes:
      stage: number of the stage, from 0.
      source: name of the source.
      samples: samples seen.
      unique: different images seen.
      fewest: smallest number of times that one of these images was seen.
      most: largest number of times that one of these images was seen.
    """

    stage: int
    source: str
    samples: int
    unique: int
    fewest: int
    most: int


class _Part(NamedTuple):
    """Component at its place in the mixture: stage, number within the stage, samples in the stage."""

    stage: int
    number: int
    component: Component
    samples: int


class _Stretch(NamedTuple):
    """Segment at its place in the budget; `first` is the number of its first component among all parts."""

    start: int
    stop: int
    first: int
    segment: Segment


class _Tables(NamedTuple):
    """Values that `rows` looks up for each part: its source, its N, the orders of its epochs, and the order of its source."""

    source: np.ndarray
    unique: np.ndarray
    epochs: tuple[Order, ...]
    sources: tuple[Order, ...]


@dataclasses.dataclass(frozen=True)
class SamplePlan:
    """Assignment of an image to every position of the budget.

    Args:
      mixture: sources, unique samples and shares, in stages.
      budget: C. The last batch is smaller if the batch size does not divide it.
      batch_size: global batch size.
      seed: seed of the order in which samples are seen.
      subset_seed: seed of the draw of the N unique samples of each source; the subset of 1,000 is part of the subset of 10,000.
      labels: labels by source name, int `[size]`, for the sources whose subset is proportional or balanced.

    Raises:
      ValueError: the budget is smaller than a batch, a component's part of it is smaller than its unique samples, or labels
        are missing.
    """

    mixture: Mixture
    budget: Budget
    batch_size: int
    seed: int
    subset_seed: int
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        self.budget.steps(self.batch_size)
        for part in self._parts:
            # Otherwise some of the N would never be seen, and D and E of the run would be wrong.
            if part.samples < part.component.unique:
                remedy = f", or ask for at most {part.samples:,}" if part.samples else ""
                raise ValueError(
                    f"{part.component.source}: {part.component.unique:,} unique samples do not fit into its {part.samples:,} "
                    f"samples of the budget (D would be above 1); raise the budget or its share{remedy}."
                )
        # Computed here, so that missing labels raise at once and a reading worker receives the orders with the plan.
        _ = self._class_orders

    @functools.cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, to which `Rows.source` is an index."""
        return tuple(dict.fromkeys(part.component.source for part in self._parts))

    @functools.cached_property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """Samples of each component, by stage."""
        return tuple(
            tuple(part.samples for part in self._parts if part.stage == stage) for stage in range(len(self.mixture.stages))
        )

    @functools.cached_property
    def _parts(self) -> tuple[_Part, ...]:
        parts = []
        for number, (stage, segments) in enumerate(zip(self.mixture.stages, self._segments, strict=True)):
            pairs = zip(stage.components, segments[-1].after, strict=True)
            parts += [_Part(number, i, *pair) for i, pair in enumerate(pairs)]
        return tuple(parts)

    @functools.cached_property
    def _segments(self) -> list[list[Segment]]:
        totals = self.mixture.stage_samples(self.budget.samples)
        return [stage.segments(total) for stage, total in zip(self.mixture.stages, totals, strict=True)]

    @functools.cached_property
    def _stretches(self) -> list[_Stretch]:
        stretches = []
        start = 0
        first = 0
        for segments, stage in zip(self._segments, self.mixture.stages, strict=True):
            for segment in segments:
                stretches.append(_Stretch(start, start + sum(segment.counts), first, segment))
                start = stretches[-1].stop
            first += len(stage.components)
        return stretches

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [stretch.start for stretch in self._stretches]

    @functools.cached_property
    def _tables(self) -> _Tables:
        components = [part.component for part in self._parts]
        return _Tables(
            np.array([self.sources.index(component.source) for component in components], np.int32),
            np.array([component.unique for component in components], np.int64),
            tuple(Order(part.component.unique, (_EPOCH, self.seed, part.stage, part.number)) for part in self._parts),
            # The source's name is not part of the key, so that a folder keeps its subset when it is moved.
            tuple(Order(component.size, (_SUBSET, self.subset_seed)) for component in components),
        )

    @functools.cached_property
    def _class_orders(self) -> dict[str, np.ndarray]:
        """First N images of the order of each source whose subset respects classes; N is the source's largest N."""
        orders = {}
        for component in (part.component for part in self._parts if part.component.subset != "random"):
            if component.source not in orders:
                labels = checked_labels(component, self.labels.get(component.source))
                unique = self.mixture.largest[component.source]
                orders[component.source] = class_order(labels, unique, component.subset, self.subset_seed)
        return orders

    def batch(self, step: int) -> Rows:
        """Returns the global batch of a step, `[batch_size]` rows; the last batch may have fewer."""
        start = step * self.batch_size
        return self.rows(start, min(start + self.batch_size, self.budget.samples))

    def rows(self, start: int, stop: int) -> Rows:
        """Returns the rows of positions `start` to `stop` of the budget.

        Raises:
          IndexError: the positions are not within the budget.
        """
        part, member = self._members(start, stop)
        return Rows(self._tables.source[part], self._images(part, member))

    def substitutes(self, position: int) -> Iterator[int]:
        """Yields the indices of the images that replace the image at a position, in this order, if it cannot be read.

        They are the other N - 1 images of the component's subset, each once: first the images after the unreadable image in the
        subset's order, then the images from the beginning. An image thus has the same substitutes at all its positions.

        Raises:
          IndexError: the position is not within the budget.
        """
        part, member = self._members(position, position + 1)
        return self._others(part, int(member[0]), int(self._tables.unique[part[0]]))

    def _others(self, part: np.ndarray, member: int, unique: int) -> Iterator[int]:
        # The first substitute is nearly always readable, so the first block has one index and later blocks have more.
        start = 1
        size = 1
        while start < unique:
            following = (member + np.arange(start, min(start + size, unique))) % unique
            yield from self._images(np.repeat(part, len(following)), following).tolist()
            start = start + size
            size = min(2 * size, 1 << 12)

    def _members(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the part of each position, and the image's number in the order of its subset, `[0, N)`."""
        if not 0 <= start < stop <= self.budget.samples:
            raise IndexError(
                f"Expected positions within the budget of {self.budget.samples:,} samples, got {start:,} to {stop:,}."
            )
        parts = []
        ranks = []
        while start < stop:
            stretch = self._stretches[bisect.bisect_right(self._starts, start) - 1]
            end = min(stop, stretch.stop)
            # The rank within the segment, plus the component's samples in earlier segments, is the rank within the stage.
            which, rank = interleave(stretch.segment.counts, start - stretch.start, end - stretch.start)
            ranks.append(rank + np.array(stretch.segment.before)[which])
            parts.append(which + stretch.first)
            start = end
        part = np.concatenate(parts)
        epoch, place = np.divmod(np.concatenate(ranks), self._tables.unique[part])
        return part, permute_each(place, part, self._tables.epochs, epoch)

    def _images(self, part: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Returns the index in its source of each part's image with this number in the order of the subset."""
        # Without class-wise subsets, which most plans lack, one call serves all parts.
        if not self._class_orders:
            return permute_each(member, part, self._tables.sources)
        index = np.empty_like(member)
        by_class = np.isin(part, [i for i, own in enumerate(self._parts) if own.component.subset != "random"])
        index[~by_class] = permute_each(member[~by_class], part[~by_class], self._tables.sources)
        for i in np.unique(part[by_class]):
            index[part == i] = self._class_orders[self._parts[i].component.source][member[part == i]]
        return index

    def images(self) -> dict[str, np.ndarray]:
        """Returns the indices of the images that a run sees, int64 `[n]`, ascending, by the name of their source."""
        seen: dict[str, list[np.ndarray]] = {name: [] for name in self.sources}
        for i, part in enumerate(self._parts):
            unique = part.component.unique
            seen[part.component.source].append(self._images(np.full(unique, i), np.arange(unique)))
        return {name: np.unique(np.concatenate(indices)) for name, indices in seen.items()}

    def audit(
        self, start: int = 0, stop: int | None = None, on_progress: Callable[[int], object] = lambda samples: None
    ) -> list[Seen]:
        """Counts, from the rows alone, how often each image is seen in each stage.

        The count takes about 0.2 microseconds per sample, and about 50 bytes per different image.

        Args:
          start: first position to count.
          stop: position after the last; None: the end of the budget.
          on_progress: called with the number of samples counted since the last call.

        Returns:
          Counts for each stage and source that occurs, in the order of stages and of `sources`.
        """
        stop = self.budget.samples if stop is None else stop
        ends = list(itertools.accumulate(map(sum, self.counts)))
        result = []
        for stage, (first, end) in enumerate(itertools.pairwise([0, *ends])):
            # Counted per stage, since fair numbers apply to a stage, and so that memory holds the counts of one stage only.
            tallies = [_Tally() for _ in self.sources]
            for rows in self._blocks(max(start, first), min(stop, end)):
                for source in np.unique(rows.source).tolist():
                    tallies[source].add(rows.index[rows.source == source])
                on_progress(len(rows.index))
            for name, tally in zip(self.sources, tallies, strict=True):
                times = tally.times()
                if times.size:
                    result.append(Seen(stage, name, int(times.sum()), times.size, int(times.min()), int(times.max())))
        return result

    def agrees(self, seen: Seen, start: int = 0, stop: int | None = None) -> bool:
        """Returns True if the counts of positions `start` to `stop` agree with the mixture.

        For a whole stage, all planned samples and all N unique samples must occur, and each unique sample must be seen floor or
        ceil of its fair number of times. For a part of a stage, the samples must be in proportion, within the tolerance of the
        interleaving and of a ramp's steps, and each image must be seen at most once more or less often than floor or ceil.
        """
        stop = self.budget.samples if stop is None else stop
        stage = self.mixture.stages[seen.stage]
        component = next((one for one in stage.components if one.source == seen.source), None)
        if component is None:
            return False
        fewest = seen.samples // component.unique
        most = -(-seen.samples // component.unique)
        offset = sum(map(sum, self.counts[: seen.stage]))
        length = sum(self.counts[seen.stage])
        first = max(start - offset, 0)
        last = min(stop - offset, length)
        if (first, last) == (0, length):
            planned = self.counts[seen.stage][stage.components.index(component)]
            return seen[2:] == (planned, component.unique, fewest, most)
        share, end_share = component.ends
        # Integral of the share, which changes linearly, over this part of the stage.
        due = (last - first) * (share + (end_share - share) * (first + last) / (2 * length))
        # Nested floors deviate by at most one per component, and a step of a ramp by half of the share's change within it.
        slack = len(stage.components) + 2 + (last - first) * abs(end_share - share) / (2 * RAMP_STEPS)
        # A part may cover the end of one epoch and the start of the next. Two epochs less one sample hold a whole epoch.
        complete = seen.unique == component.unique or seen.samples < 2 * component.unique - 1
        bounded = seen.unique <= component.unique and seen.most <= most + 1
        return abs(seen.samples - due) <= slack and complete and bounded and seen.fewest >= fewest - 1

    def _blocks(self, start: int, stop: int, size: int = 1 << 18) -> Iterator[Rows]:
        for block in range(start, stop, size):
            yield self.rows(block, min(block + size, stop))


class _Tally:
    """Counts the occurrences of each number.

    Numbers are collected until their count is twice the count of different numbers. Each number is then sorted at most a few
    times, and memory grows with the different numbers only, not with all added numbers.
    """

    def __init__(self):
        self._different = np.empty(0, np.int64)
        self._times = np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> None:
        self._pending.append(numbers)
        if sum(map(len, self._pending)) > max(1 << 20, 2 * len(self._different)):
            self._merge()

    def times(self) -> np.ndarray:
        """Returns the number of occurrences of each different number."""
        self._merge()
        return self._times

    def _merge(self) -> None:
        if self._pending:
            numbers, times = np.unique(np.concatenate(self._pending), return_counts=True)
            self._pending = []
            self._different, inverse = np.unique(np.concatenate([self._different, numbers]), return_inverse=True)
            # With weights, bincount returns floating-point numbers.
            self._times = np.bincount(inverse, np.concatenate([self._times, times])).astype(np.int64)


def interleave(counts: tuple[int, ...] | list[int], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the component, and the rank within it, of positions `start` to `stop` of an even interleaving.

    Among the p positions that the first j + 1 of J components hold so far, the first j components together hold
    floor(p * F_j / F_{j+1}), where F is the running sum of `counts`. The counts are exact at the end and even before it.

    Args:
      counts: samples of each component; they sum to the stretch's length.
      start: first position.
      stop: position after the last.

    Returns:
      int64 arrays `[stop - start]`: the component's number, and the number of its samples before this one.
    """
    rank = np.arange(start, stop, dtype=np.int64)
    which = np.zeros_like(rank)
    undecided = np.arange(len(rank))
    # From the last component down, each component either takes a position or leaves it to the components before it.
    for j in range(len(counts) - 1, 0, -1):
        if not undecided.size:
            break
        before = sum(counts[:j])
        total = sum(counts[: j + 1])
        held = _floor_share(rank[undecided], before, total)
        mine = _floor_share(rank[undecided] + 1, before, total) == held
        which[undecided[mine]] = j
        rank[undecided] = np.where(mine, rank[undecided] - held, held)
        undecided = undecided[~mine]
    return which, rank


def _floor_share(position: np.ndarray, part: int, total: int) -> np.ndarray:
    """Returns floor(position * part / total) of a short increasing stretch; exact even if the product exceeds 2^63."""
    # Only the product for the first element needs arbitrary precision.
    first = int(position[0])
    quotient, remainder = divmod(first * part, total)
    return quotient + (remainder + (position - first) * part) // total
