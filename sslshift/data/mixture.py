"""Mixtures: which sources a run sees, how many different images of each, and in which stage of the budget."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

# How the N images of a subset are drawn, see `sslshift.data.subset`.
SUBSETS = ("random", "proportional", "balanced")

# A linear change of shares is realised as this many stretches of constant shares, 0.4% of the stage each.
RAMP_STEPS = 256


@dataclasses.dataclass(frozen=True)
class Component:
    """One source's part in a stage.

    Args:
      source: name of the source, as the mixture's reader knows it (its URI, for instance).
      size: number of images in the source.
      unique: N, the number of different images that may be seen: the first N of the source's seeded order.
      share: part of the stage's samples, in (0, 1]; the shares of a stage sum to 1.
      end_share: the share that `share` moves to in a straight line over the stage; None: it stays. One of the two may be 0.
      subset: how the N are drawn: "random"; "proportional", every prefix of the order keeping the classes' proportions to
        within one image; or "balanced", as many of each class as the class has. The latter two need the source's labels.
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
                f"{self.source}: {self.unique:,} unique samples asked for, but the source has {self.size:,} images; "
                f"ask for 1 to {self.size:,}."
            )
        if self.end_share is None:
            if not 0 < self.share <= 1:
                raise ValueError(f"{self.source}: a share lies above 0 and is at most 1, not {self.share}.")
        elif min(self.ends) < 0 or not 0 < max(self.ends) <= 1:
            raise ValueError(
                f"{self.source}: a share that changes lies between 0 and 1 and is above 0 at one end, "
                f"but it goes from {self.share} to {self.end_share}."
            )
        if self.subset not in SUBSETS:
            raise ValueError(f"{self.source}: a subset is {', '.join(SUBSETS)}, not {self.subset!r}.")

    @property
    def ends(self) -> tuple[float, float]:
        """Shares at the start and at the end of the stage."""
        return self.share, self.share if self.end_share is None else self.end_share

    @property
    def mean_share(self) -> float:
        """Part of the stage's samples, whether the share changes or not."""
        return sum(self.ends) / 2


class Segment(NamedTuple):
    """A stretch of a stage with constant shares.

    Attributes:
      counts: samples of each component in the stretch.
      before: samples of each component in the stage's stretches before.
    """

    counts: tuple[int, ...]
    before: tuple[int, ...]

    @property
    def after(self) -> tuple[int, ...]:
        """Samples of each component up to the end of the stretch."""
        return tuple(map(sum, zip(self.counts, self.before, strict=True)))


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of the budget: its components, and the share of the whole budget that it takes."""

    components: tuple[Component, ...]
    share: float = 1.0

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"A stage's share of the budget lies above 0 and is at most 1, not {self.share}.")
        start, end = self._ends
        if self.ramped:
            _check_sum(start, "components at the start of a stage")
            _check_sum(end, "components at the end of a stage")
        else:
            _check_sum(start, "components of a stage")
        names = [component.source for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"A stage names each source once, but got: {', '.join(names)}.")

    @property
    def _ends(self) -> tuple[list[float], list[float]]:
        return [component.ends[0] for component in self.components], [component.ends[1] for component in self.components]

    @property
    def ramped(self) -> bool:
        """Whether any share changes within the stage."""
        return any(start != end for start, end in (component.ends for component in self.components))

    def segments(self, samples: int) -> list[Segment]:
        """The stage's `samples` as stretches of constant shares: one, or the steps of a ramp."""
        start, end = self._ends
        totals = staircase(samples, start, end) if self.ramped and samples else [apportion(samples, start)]
        return [
            Segment(tuple(now - then for now, then in zip(after, earlier, strict=True)), tuple(earlier))
            for earlier, after in itertools.pairwise([[0] * len(start), *totals])
        ]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Stages in the order in which they are trained on.

    Args:
      stages: at least one; their shares of the budget sum to 1.
      caps: (source, share) pairs: the most of the whole budget that a source may take, for its licence's or privacy's sake.
        Shares obey it exactly; samples are whole, so that a source may pass it by less than one sample a stage.
    """

    stages: tuple[Stage, ...]
    caps: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        _check_sum([stage.share for stage in self.stages], "stages of a mixture")
        first: dict[str, Component] = {}
        for component in self._components():
            other = first.setdefault(component.source, component)
            if (component.size, component.subset) != (other.size, other.subset):
                raise ValueError(
                    f"{component.source}: the subsets of one source are nested only if its size and the way they are drawn "
                    f"are the same in every stage, but it has {other.size:,} images, {other.subset}, in one and "
                    f"{component.size:,}, {component.subset}, in another."
                )
        for source, cap in self.caps:
            self._check_cap(source, cap)

    def _check_cap(self, source: str, cap: float) -> None:
        if not 0 < cap <= 1:
            raise ValueError(f"{source}: a cap is a share of the budget above 0 and at most 1, not {cap}.")
        if self.share_of(source) > cap + 1e-9:
            raise ValueError(over_cap(source, self.share_of(source), cap))

    def _components(self) -> Iterator[Component]:
        return (component for stage in self.stages for component in stage.components)

    def share_of(self, source: str) -> float:
        """The source's part of the whole budget, over all stages; 0 for a source that no stage names."""
        return sum(
            stage.share * component.mean_share
            for stage in self.stages
            for component in stage.components
            if component.source == source
        )

    @property
    def largest(self) -> dict[str, int]:
        """N of each source over all stages: subsets of one source are nested, so the largest one counts."""
        largest: dict[str, int] = {}
        for component in self._components():
            largest[component.source] = max(component.unique, largest.get(component.source, 0))
        return largest

    @property
    def unique(self) -> int:
        """N over all stages and sources."""
        return sum(self.largest.values())

    def stage_samples(self, samples: int) -> list[int]:
        """Samples of each stage under a budget of `samples`."""
        return apportion(samples, [stage.share for stage in self.stages])


def single(source: str, size: int, unique: int) -> Mixture:
    """The mixture that holds one source alone."""
    return Mixture((Stage((Component(source, size, unique),)),))


def by_count(*stages: Sequence[tuple[Component, int]], caps: tuple[tuple[str, float], ...] = ()) -> Mixture:
    """The mixture whose components see these numbers of samples, exactly, under a budget of all of them together.

    Args:
      *stages: (component, samples) pairs of each stage; the components' own shares do not matter.
      caps: as for `Mixture`.

    Example:
      >>> near, web = Component("near", 2000, 2000), Component("web", 10**6, 50_000)
      >>> mixture = by_count([(near, 30_000)], [(near, 10_000), (web, 60_000)])
      >>> [stage.share for stage in mixture.stages]
      [0.3, 0.7]
    """
    if min((count for stage in stages for _, count in stage), default=0) < 1:
        raise ValueError("A component sees at least one sample, and a mixture has at least one component.")
    sums = [sum(count for _, count in stage) for stage in stages]
    return Mixture(
        tuple(
            Stage(
                tuple(dataclasses.replace(component, share=count / total, end_share=None) for component, count in stage),
                total / sum(sums),
            )
            for stage, total in zip(stages, sums, strict=True)
        ),
        caps,
    )


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total`, each within one of `total * share` (largest remainders first)."""
    exact = [total * share for share in _exact(shares)]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def staircase(total: int, start: Sequence[float], end: Sequence[float], steps: int = RAMP_STEPS) -> list[list[int]]:
    """Samples that each component has had at the end of each step of a ramp: within one of the exact integral of its share.

    That is a scheduling problem. A component's k-th sample may not come before the step in which its integral passes k - 1
    and must have come by the step in which it reaches k; taking the earliest deadlines first solves it whenever it can be
    solved, and it always can.

    Args:
      total: samples of the stage.
      start: shares at its start.
      end: shares at its end.
      steps: most steps; no step is empty, so there are fewer if the stage has fewer samples.

    Returns:
      For each step the samples of each component so far: each never falls, and together they are the samples so far.

    References:
      Tijdeman, `The Chairman Assignment Problem <https://doi.org/10.1016/0012-365X(80)90269-1>`_, 1980
    """
    steps = min(steps, total)
    positions = [total * step // steps for step in range(1, steps + 1)]
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
        released.sort(key=lambda i: (bisect.bisect_right(reached[i], had[i]), had[i] - due[i][step]))
        for i in released[: position - sum(had)]:
            had[i] += 1
        result.append(list(had))
    return result


def over_cap(source: str, share: float, cap: float) -> str:
    """The sentence for a source that takes more of the budget than it may."""
    return (
        f"{source}: it would take {100 * float(share):.4g}% of the budget, {100 * float(share - cap):.2g} points more than its "
        f"cap of {100 * float(cap):.4g}%; lower its shares or raise the cap."
    )


def _exact(shares: Sequence[float]) -> list[Fraction]:
    """Fractions that sum to 1, floats read as decimals: 0.1 means one tenth, so that ten of them leave no remainder."""
    exact = [Fraction(str(share)) for share in shares]
    return [share / sum(exact) for share in exact]


def _check_sum(shares: list[float], what: str) -> None:
    if not shares:
        raise ValueError(f"The {what} are missing: give at least one.")
    # 1/3 three times, or 0.333 three times rounded by a person, are both meant to be everything.
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"The shares of the {what} sum to {sum(shares):g}, not to 1: {shares}.")
