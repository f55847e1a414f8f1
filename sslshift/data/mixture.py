"""Mixtures: which sources a run sees, how many different images of each, and in which stage of the budget."""

import dataclasses
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class Component:
    """One source's part in a stage.

    Args:
      source: name of the source, as the mixture's reader knows it (its URI, for instance).
      size: number of images in the source.
      unique: N, the number of different images that may be seen: the first N of the source's seeded order.
      share: part of the stage's samples, in (0, 1]; the shares of a stage sum to 1.
    """

    source: str
    size: int
    unique: int
    share: float = 1.0

    def __post_init__(self):
        if not 1 <= self.unique <= self.size:
            raise ValueError(
                f"{self.source}: {self.unique:,} unique samples asked for, but the source has {self.size:,} images; "
                f"ask for 1 to {self.size:,}."
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"{self.source}: a share lies above 0 and is at most 1, not {self.share}.")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of the budget: its components, and the share of the whole budget that it takes."""

    components: tuple[Component, ...]
    share: float = 1.0

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"A stage's share of the budget lies above 0 and is at most 1, not {self.share}.")
        _check_sum([component.share for component in self.components], "components of a stage")
        names = [component.source for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"A stage names each source once, but got: {', '.join(names)}.")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Stages in the order in which they are trained on."""

    stages: tuple[Stage, ...]

    def __post_init__(self):
        _check_sum([stage.share for stage in self.stages], "stages of a mixture")

    @property
    def unique(self) -> int:
        """N over all stages. Subsets of one source are nested, so the largest one counts."""
        largest: dict[str, int] = {}
        for component in (component for stage in self.stages for component in stage.components):
            largest[component.source] = max(component.unique, largest.get(component.source, 0))
        return sum(largest.values())


def single(source: str, size: int, unique: int) -> Mixture:
    """The mixture that holds one source alone."""
    return Mixture((Stage((Component(source, size, unique),)),))


def apportion(total: int, shares: list[float]) -> list[int]:
    """Whole numbers that sum to `total`, each within one of `total * share` (largest remainders first)."""
    # Decimal reading of the float: 0.1 means one tenth, so that ten shares of 0.1 leave no remainder to give away.
    exact = [Fraction(str(share)) for share in shares]
    exact = [total * share / sum(exact) for share in exact]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _check_sum(shares: list[float], what: str) -> None:
    if not shares:
        raise ValueError(f"The {what} are missing: give at least one.")
    # 1/3 three times, or 0.333 three times rounded by a person, are both meant to be everything.
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"The shares of the {what} sum to {sum(shares):g}, not to 1: {shares}.")
