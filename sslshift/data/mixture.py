"""Mixtures: the sources that a run sees, the number of different images of each source, and the stages of the budget."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

# Ways to draw the N images of a subset, see `sslshift.data.subset`.
SUBSETS = ("random", "proportional", "balanced")

# A linear change of shares consists of this many stretches of constant shares, 0.4% of the stage each. Within a stretch a share
# differs from the line by at most 0.2% of its change.
RAMP_STEPS = 256


@dataclasses.dataclass(frozen=True)
class Component:
    """Part of one source in a stage.

    Args:
      source: name of the source, such as its URI.
      size: number of images in the source.
      unique: N, the number of different images that may be seen: the first N of the source's seeded order.
      share: part of the stage's samples, in (0, 1]; the shares of a stage sum to 1.
      end_share: the share at the end of the stage, to which `share` changes linearly; None: the share is constant. One of the
        two may be 0.
      subset: way to draw the N images: "random"; "proportional", where every prefix of the order keeps the classes' proportions
        to within one image; or "balanced", with the same number of images of each class until a class is exhausted. The last
        two need labels.
    """

    source: str
    size: int
    unique: int
    share: float = 1.0
    end_share: float | None = None
    subset: str = "random"

    def __post_init__(self):
        if not 1 <= self.unique <= self.size:
            raise ValueError(
                f"{self.source}: expected 1 to {self.size:,} unique samples, since the source has {self.size:,} images, "
                f"got {self.unique:,}."
            )
        if self.end_share is None:
            if not 0 < self.share <= 1:
                raise ValueError(f"{self.source}: expected a share above 0 and at most 1, got {self.share}.")
        elif min(self.ends) < 0 or not 0 < max(self.ends) <= 1:
            raise ValueError(
                f"{self.source}: expected a changing share between 0 and 1 that is above 0 at one end, "
                f"got a share from {self.share} to {self.end_share}."
            )
        if self.subset not in SUBSETS:
            raise ValueError(f"{self.source}: expected one of {', '.join(SUBSETS)} as the subset, got {self.subset!r}.")

    @property
    def ends(self) -> tuple[float, float]:
        """Shares at the start and at the end of the stage."""
        return self.share, self.share if self.end_share is None else self.end_share

    @property
    def mean_share(self) -> float:
        """The component's share of the stage's samples, averaged over a ramp."""
        return sum(self.ends) / 2


class Segment(NamedTuple):
    """Stretch of a stage with constant shares.

    Attributes:
      counts: samples of each component in the stretch.
      before: samples of each component in the stage's earlier stretches.
    """

    counts: tuple[int, ...]
    before: tuple[int, ...]

    @property
    def after(self) -> tuple[int, ...]:
        """Samples of each component up to the end of the stretch."""
        return tuple(map(sum, zip(self.counts, self.before, strict=True)))


@dataclasses.dataclass(frozen=True)
class Stage:
    """Stretch of the budget: its components, and its share of the whole budget."""

    components: tuple[Component, ...]
    share: float = 1.0

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"Expected a stage's share of the budget above 0 and at most 1, got {self.share}.")
        start, end = self._ends
        if self.ramped:
            _check_sum(start, "components at the start of a stage")
            _check_sum(end, "components at the end of a stage")
        else:
            _check_sum(start, "components of a stage")
        names = [component.source for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected each source once in a stage, got {', '.join(names)}.")

    @property
    def _ends(self) -> tuple[list[float], list[float]]:
        return [component.ends[0] for component in self.components], [component.ends[1] for component in self.components]

    @property
    def ramped(self) -> bool:
        """True if any share changes within the stage."""
        return any(start != end for start, end in (component.ends for component in self.components))

    def segments(self, samples: int) -> list[Segment]:
        """Returns the stage's `samples` as stretches of constant shares: a single stretch, or the steps of a ramp."""
        start, end = self._ends
        totals = staircase(samples, start, end) if self.ramped and samples else [apportion(samples, start)]
        return [
            Segment(tuple(now - then for now, then in zip(after, earlier, strict=True)), tuple(earlier))
            for earlier, after in itertools.pairwise([[0] * len(start), *totals])
        ]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Stages in the order of training.

    Args:
      stages: one or more stages; their shares of the budget sum to 1.
      caps: (source, share) pairs: the largest part of the whole budget that a source may take, because of its licence or for
        privacy. Shares obey the cap exactly. Samples are whole, so a source may exceed it by less than one sample per stage.
    """

    stages: tuple[Stage, ...]
    caps: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        _check_sum([stage.share for stage in self.stages], "stages of a mixture")
        # Another size or way to draw would make another order, in which the smaller subset is not a prefix.
        first: dict[str, Component] = {}
        for component in self._components():
            other = first.setdefault(component.source, component)
            if (component.size, component.subset) != (other.size, other.subset):
                raise ValueError(
                    f"{component.source}: expected the same size and subset in every stage, so that the subsets of one source "
                    f"are nested; got {other.size:,} images, {other.subset}, in one stage and {component.size:,} images, "
                    f"{component.subset}, in another stage."
                )
        for source, cap in self.caps:
            self._check_cap(source, cap)

    def _check_cap(self, source: str, cap: float) -> None:
        if not 0 < cap <= 1:
            raise ValueError(f"{source}: expected a cap that is a share of the budget above 0 and at most 1, got {cap}.")
        # The tolerance is for shares that the caller computed in floating point.
        if self.share_of(source) > cap + 1e-9:
            raise ValueError(over_cap(source, self.share_of(source), cap))

    def _components(self) -> Iterator[Component]:
        return (component for stage in self.stages for component in stage.components)

    def share_of(self, source: str) -> float:
        """Returns the source's part of the whole budget over all stages; 0 for a source that is in no stage."""
        return sum(
            stage.share * component.mean_share
            for stage in self.stages
            for component in stage.components
            if component.source == source
        )

    @property
    def largest(self) -> dict[str, int]:
        """N of each source over all stages; subsets of one source are nested, so the largest counts."""
        largest: dict[str, int] = {}
        for component in self._components():
            largest[component.source] = max(component.unique, largest.get(component.source, 0))
        return largest

    @property
    def unique(self) -> int:
        """N over all stages and sources."""
        return sum(self.largest.values())

    def stage_samples(self, samples: int) -> list[int]:
        """Returns the samples of each stage under a budget of `samples`."""
        return apportion(samples, [stage.share for stage in self.stages])


def single(source: str, size: int, unique: int) -> Mixture:
    """Returns the mixture of a single source."""
    return Mixture((Stage((Component(source, size, unique),)),))


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Returns whole numbers that sum to `total` and differ from `total * share` by less than 1 (largest remainders first)."""
    exact = [total * share for share in _exact(shares)]
    counts = [int(value) for value in exact]
    # Ties go to the first, so that equal shares always get the same counts.
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def staircase(total: int, start: Sequence[float], end: Sequence[float], steps: int = RAMP_STEPS) -> list[list[int]]:
    """Returns the samples of each component up to the end of each step of a ramp, within 1 of the exact integral of its share.

    This is a scheduling problem. A component's k-th sample may not occur before the step in which its integral exceeds k - 1,
    and must have occurred by the step in which the integral reaches k. Earliest deadline first solves such a problem whenever a
    solution exists, and here one always exists.

    Args:
      total: samples of the stage.
      start: shares at the start of the stage.
      end: shares at the end of the stage.
      steps: largest number of steps; no step is empty, so there are fewer steps if the stage has fewer samples.

    Returns:
      For each step, the samples of each component so far. They never decrease, and they sum to the samples of the stage so far.

    References:
      Tijdeman, `The Chairman Assignment Problem <https://doi.org/10.1016/0012-365X(80)90269-1>`_, 1980
    """
    steps = min(steps, total)
    positions = [total * step // steps for step in range(1, steps + 1)]
    # Exact integrals of the shares, as fractions: rounding could miss a deadline by one sample.
    due = [
        [position * (a + (e - a) * position / (2 * total)) for position in positions]
        for a, e in zip(_exact(start), _exact(end), strict=True)
    ]
    reached = [[int(value) for value in row] for row in due]
    had = [0] * len(due)
    result = []
    for step, position in enumerate(positions):
        had = [max(before, row[step]) for before, row in zip(had, reached, strict=True)]
        released = [i for i, row in enumerate(due) if row[step] > had[i]]
        # Earliest deadline first; among equal deadlines, the component that is furthest behind.
        released.sort(key=lambda i: (bisect.bisect_right(reached[i], had[i]), had[i] - due[i][step]))
        for i in released[: position - sum(had)]:
            had[i] += 1
        result.append(list(had))
    return result


def over_cap(source: str, share: float, cap: float) -> str:
    """Returns the error for a source that takes a larger part of the budget than its cap."""
    return (
        f"{source}: it would take {100 * float(share):.4g}% of the budget, {100 * float(share - cap):.2g} points more than its "
        f"cap of {100 * float(cap):.4g}%; lower its shares or raise the cap."
    )


def _exact(shares: Sequence[float]) -> list[Fraction]:
    """Returns fractions that sum to 1; floats are read as decimals, so that 0.1 is exactly one tenth."""
    exact = [Fraction(str(share)) for share in shares]
    return [share / sum(exact) for share in exact]


def _check_sum(shares: list[float], what: str) -> None:
    if not shares:
        raise ValueError(f"Expected one or more {what}, got none.")
    # A person may write 0.333333 for 1/3, so the sum may differ from 1 by a little.
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"Expected shares of the {what} that sum to 1, got {shares}, which sum to {sum(shares):g}.")
