"""Several sources against one target at equal numbers of images: the index, raw distances, coverage and diversity of each."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sslshift.shift.distances import distance_of
from sslshift.shift.diversity import effective_rank, vendi_score
from sslshift.shift.index import DEFAULT_DISTANCE, LEAST, ShiftIndex, ShiftScale
from sslshift.shift.neighbourhoods import Coverage, coverage_of

NEIGHBOURS = 5
# Draws behind a raw distance, which has no interval.
_FEW = 4


class RawDistance(NamedTuple):
    """A distance beside the index: of the source, between halves of the target, and the index by it; nan where `why` says."""

    value: float
    floor: float
    index: float
    why: str = ""


class Measured(NamedTuple):
    """One source against the target; numbers that could not be had are nan, and `notes` say why.

    Attributes:
      index: on the scale that all sources share.
      raw: other distances by name.
      coverage: shares of the target near the source, and of the source near the target.
      vendi: Vendi score, the effective number of different images.
      rank: effective rank of the features.
      notes: what could not be measured and why.
    """

    index: ShiftIndex
    raw: dict[str, RawDistance]
    coverage: Coverage
    vendi: float
    rank: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """What was found of several sources.

    Attributes:
      distance: behind the index, a name of `DISTANCES`.
      sample_size: images on each side of every distance, the same for all sources.
      target_images: of the target.
      measured: by name, the nearest first.
      failed: why the others could not be measured, by name.
      vendi, rank: of the target, of as many images as of the sources.
    """

    distance: str
    sample_size: int
    target_images: int
    measured: dict[str, Measured]
    failed: dict[str, str]
    vendi: float
    rank: float

    @property
    def images(self) -> int:
        """Of each source behind each of its numbers."""
        return 2 * self.sample_size

    @property
    def coverage_expected(self) -> float:
        """Of the target, by as many more images of the target itself: no source can be expected to cover more."""
        n = self.target_images
        m = self.images
        return 1 - math.prod((n - 1 - i) / (n - 1 + m - i) for i in range(NEIGHBOURS))


def least_images(distance: str) -> int:
    """Of target and source each, for an index by this distance: two halves, each of as many as it needs."""
    return 2 * max(LEAST, distance_of(distance).least)


def common_images(needed: Sequence[int], sources: Sequence[int], distance: str) -> int:
    """Images of every set that are compared, an even number: as many as the smallest has that has enough.

    Example:
      >>> common_images([900], [2000, 301, 7], "kernel")
      300

    Args:
      needed: images of the target and of noise.
      sources: images of each source; too few for an index do not count.
      distance: behind the index.
    """
    least = least_images(distance)
    return min([*needed, *(count for count in sources if count >= least)]) // 2 * 2


def survey(
    target: np.ndarray,
    noise: np.ndarray,
    sources: Mapping[str, np.ndarray],
    *,
    key: jax.Array,
    distance: str = DEFAULT_DISTANCE,
    distances: Sequence[str] = (),
    repeats: int = 20,
    on_source: Callable[[str], None] = lambda name: None,
) -> Survey:
    """Measures sources against a target, all at the size that the smallest of them allows.

    Sizes are equal since every distance, coverage and diversity depends on the number of images. A source too small for any
    distance does not count, it fails.

    Example:
      >>> import jax, numpy as np
      >>> x = np.random.default_rng(0).normal(size=(6, 100, 8)) + 3
      >>> found = survey(x[0], x[1] * 4, {"far": x[2] + 1, "near": x[3], "tiny": x[4][:5]}, key=jax.random.key(0))
      >>> list(found.measured), list(found.failed), found.sample_size
      (['near', 'far'], ['tiny'], 50)

    Args:
      target: features `[m, dim]`, in random order.
      noise: features `[k, dim]` of noise like the target.
      sources: features `[n, dim]` of each source by name, in random order: of the larger ones the first are taken.
      key: PRNG key of all draws.
      distance: the one behind the index.
      distances: the raw ones beside it.
      repeats: draws behind the index.
      on_source: called with each source's name before it is measured.

    Raises:
      ValueError: no such distance, or none of the sources can be measured: then why the first cannot.
    """
    least = least_images(distance)
    if len(target) < least:
        raise ValueError(
            f"The target has {len(target):,} images that can be read; a shift index by {distance} needs at least {least:,} of "
            "target and source each."
        )
    scales = {name: ShiftScale(target, noise, key, name, _FEW) for name in distances if name != distance}
    scale = ShiftScale(target, noise, key, distance, repeats)
    size = common_images([len(target), len(noise)], [len(each) for each in sources.values()], distance) // 2
    measured = {}
    failed = {}
    for name, features in sources.items():
        on_source(name)
        if len(features) < least:
            have = f"{len(features):,} image{'' if len(features) == 1 else 's'} that can be read"
            failed[name] = f"it has {have}; an index by {distance} needs at least {least:,}"
            continue
        try:
            index = scale.index(features, sample_size=size)
        except ValueError as error:
            failed[name] = str(error)
        else:
            measured[name] = _measured(index, features[: 2 * size], target, scales, distance if distance in distances else "")
    if not measured and failed:
        name, why = next(iter(failed.items()))
        raise ValueError(why if why[0].isupper() else f"{name}: {why}.")
    in_order = sorted(measured, key=lambda name: measured[name].index.value)
    own = _diversity(target[: 2 * size])
    return Survey(distance, size, len(target), {name: measured[name] for name in in_order}, failed, *own[:2])


def _measured(
    index: ShiftIndex, features: np.ndarray, target: np.ndarray, scales: Mapping[str, ShiftScale], also: str
) -> Measured:
    raw = {also: RawDistance(index.distance, index.floor, index.value)} if also else {}
    for name, scale in scales.items():
        try:
            by_it = scale.index(features, sample_size=index.sample_size)
            raw[name] = RawDistance(by_it.distance, by_it.floor, by_it.value)
        except ValueError as error:
            raw[name] = RawDistance(math.nan, math.nan, math.nan, str(error))
    vendi, rank, notes = _diversity(features)
    notes += tuple(f"no {distance_of(name).title} distance: {each.why}" for name, each in raw.items() if each.why)
    return Measured(index, raw, coverage_of(target, features, neighbours=NEIGHBOURS), vendi, rank, notes)


def _diversity(features: np.ndarray) -> tuple[float, float, tuple[str, ...]]:
    try:
        vendi = vendi_score(features)
        notes = ()
    except ValueError as error:
        vendi = math.nan
        notes = (f"no Vendi score: {error}",)
    return vendi, effective_rank(features), notes
