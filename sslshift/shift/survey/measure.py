"""Measures of several sources against one target at equal numbers of images.

Each source gets its shift index, raw distances beside it, coverage and diversity, and for the page a profile over the layers
of the encoder, which is kept for later calls.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sslshift.array_cache import array_digest
from sslshift.data.decode import Canvas
from sslshift.models import PretrainedEncoder
from sslshift.shift.distances import distance_of
from sslshift.shift.diversity import effective_rank, vendi_score
from sslshift.shift.index import DEFAULT_DISTANCE, LEAST, SEPARATION, ShiftIndex, ShiftScale, halves_of
from sslshift.shift.layers import LayerProfile, LayerRanges, VisualDna, layer_profile
from sslshift.shift.mixtures import LayerMixture
from sslshift.shift.neighbourhoods import Coverage, coverage_of, expected_coverage
from sslshift.shift.survey.inputs import Encoded, Extractor, ImageSet, MixtureAbout, NoiseFeatures
from sslshift.transfer.extraction import no_images
from sslshift.transfer.features import NetworkEncoder

NEIGHBOURS = 5
# Number of draws for a raw distance, which has no interval and therefore needs fewer draws than the index.
_FEW = 4
# Images of each set in a profile: they cost two more passes through the encoder, and histograms need fewer than distances do.
IMAGES = 500
# Four groups have three splits into halves; more groups would take more memory and disk space.
_GROUPS = 4
_BATCH = 100


class RawDistance(NamedTuple):
    """A raw distance beside the index; all numbers are nan if it could not be measured.

    Attributes:
      value: distance from the source to the target.
      floor: distance between two halves of the target.
      index: the shift index by this distance; nan if there is none.
      why: reason why it could not be measured, or an empty text.
    """

    value: float
    floor: float
    index: float
    why: str = ""


class Measured(NamedTuple):
    """One source against the target; numbers that could not be computed are nan, and `notes` give the reason.

    Attributes:
      index: shift index on the scale that all sources share.
      raw: raw distances by name.
      coverage: share of the target near the source, and of the source near the target.
      vendi: Vendi score, the effective number of different images.
      rank: effective rank of the features.
      notes: sentences about what could not be measured.
    """

    index: ShiftIndex
    raw: dict[str, RawDistance]
    coverage: Coverage
    vendi: float
    rank: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of_result(cls, result: dict[str, Any]) -> "Measured":
        """Returns the numbers in a `result.json`, which holds the values of `_asdict`."""
        *numbers, draws = result["index"]
        raw = {name: RawDistance(*each) for name, each in result["raw"].items()}
        index = ShiftIndex(*numbers, tuple(draws))
        return cls(index, raw, Coverage(*result["coverage"]), result["vendi"], result["rank"], tuple(result["notes"]))


# As `Store.remembered`, with a name in place of the folder.
Remember = Callable[[str, dict[str, Any], Callable[[], dict[str, Any]]], dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """Several sources against one target.

    Attributes:
      distance: name of the distance behind the index, one of `DISTANCES`.
      sample_size: images on each side of every distance, the same for all sources.
      target_images: number of images of the target.
      measured: sources by name, the nearest first.
      failed: reason why each other source could not be measured, by name.
      vendi, rank: scores of the target, on the same number of images as the scores of the sources.
      far_end: name of the far end of the scale.
      noise: index of noise with the target's pixel values, on a scale with another far end.
    """

    distance: str
    sample_size: int
    target_images: int
    measured: dict[str, Measured]
    failed: dict[str, str]
    vendi: float
    rank: float
    far_end: str = SEPARATION
    noise: ShiftIndex | None = None

    @property
    def images(self) -> int:
        """Returns the number of images of each source that its numbers are computed from."""
        return 2 * self.sample_size

    @property
    def coverage_expected(self) -> float:
        """Returns the coverage of the target by an equal number of further target images, which no source can exceed."""
        return expected_coverage(self.target_images, self.images, neighbours=NEIGHBOURS)


def least_images(distance: str) -> int:
    """Returns the fewest images that target and source each need for an index by this distance: two halves of its least."""
    return 2 * max(LEAST, distance_of(distance).least)


def common_images(needed: Sequence[int], sources: Sequence[int], distance: str) -> int:
    """Returns how many images of every set are compared: an even number that the smallest set with enough images has.

    Example:
      >>> common_images([900], [2000, 301, 7], "kernel")
      300

    Args:
      needed: numbers of images of the target and of noise.
      sources: number of images of each source; sources with too few images for an index do not count.
      distance: name of the distance behind the index.
    """
    least = least_images(distance)
    return min([*needed, *(count for count in sources if count >= least)]) // 2 * 2


def measure(
    target: np.ndarray,
    noise: np.ndarray,
    sources: Mapping[str, np.ndarray],
    *,
    key: jax.Array,
    distance: str = DEFAULT_DISTANCE,
    distances: Sequence[str] = (),
    repeats: int = 40,
    far_end: str = SEPARATION,
    on_source: Callable[[str], None] = lambda name: None,
    remember: Remember = lambda name, record, compute: compute(),
) -> Survey:
    """Measures sources against a target, all at the sample size that the smallest of them allows.

    Every distance, coverage and diversity score depends on the number of images. A source with too few for any index fails.

    Example:
      >>> import jax, numpy as np
      >>> x = np.random.default_rng(0).normal(size=(6, 100, 8)) + 3
      >>> found = measure(x[0], x[1] * 4, {"far": x[2] + 1, "near": x[3], "tiny": x[4][:5]}, key=jax.random.key(0))
      >>> list(found.measured), list(found.failed), found.sample_size
      (['near', 'far'], ['tiny'], 50)

    Args:
      target: features `[m, dim]`, in random order.
      noise: features `[k, dim]` of noise like the target.
      sources: features `[n, dim]` of each source by name, in random order: of larger sources the first rows are used.
      key: PRNG key of all draws.
      distance: name of the distance behind the index.
      distances: names of the raw distances beside it.
      repeats: draws behind the index.
      far_end: name of the far end of the scale, see `ShiftScale`.
      on_source: called with each source's name before it is measured.
      remember: keeps the numbers of sources for later calls.

    Raises:
      ValueError: there is no such distance, or no source can be measured; the message gives the reason for the first source.
    """
    least = _required_images(target, distance)
    scale = ShiftScale(target, noise, key, distance, repeats, far_end)
    size = common_images([len(target), len(noise)], [len(each) for each in sources.values()], distance) // 2
    raw = functools.cache(lambda: {name: _Raw(scale, size, name) for name in distances})
    sets = [array_digest(each) for each in (target, noise, jax.random.key_data(key))]
    record = {"version": 1, "by": [distance, far_end, repeats, *distances], "size": size, "sets": sets}
    measured = {}
    failed = {}
    for name, features in sources.items():
        on_source(name)
        try:
            _require_enough(features, least, distance)
            compute = functools.partial(_measured, scale, size, features, raw)
            measured[name] = Measured.of_result(remember(name, record | {"features": array_digest(features)}, compute))
        except ValueError as error:
            failed[name] = str(error)
    _require_any(measured, failed)
    vendi, rank, _ = _diversity(target[: 2 * size])
    of_noise = scale.index(noise, sample_size=size) if far_end == SEPARATION and measured else None
    measured = dict(sorted(measured.items(), key=lambda item: item[1].index.value))
    return Survey(distance, size, len(target), measured, failed, vendi, rank, far_end, of_noise)


def _require_enough(features: np.ndarray, least: int, distance: str) -> None:
    if len(features) < least:
        have = f"{len(features):,} image{'' if len(features) == 1 else 's'} that can be read"
        raise ValueError(f"it has {have}; an index by {distance} needs at least {least:,}")


def _require_any(measured: Mapping[str, Measured], failed: Mapping[str, str]) -> None:
    """Raises ValueError with the first reason if no source could be measured."""
    if not measured and failed:
        name, why = next(iter(failed.items()))
        raise ValueError(why if why[0].isupper() else f"{name}: {why}.")


def _required_images(target: np.ndarray, distance: str) -> int:
    """Returns `least_images`; raises ValueError for a target with fewer images."""
    least = least_images(distance)
    if len(target) < least:
        raise ValueError(
            f"The target has {len(target):,} images that can be read; a shift index by {distance} needs at least {least:,} of "
            "target and source each."
        )
    return least


class _Raw:
    """A raw distance of sources from a target, the mean over a few draws of halves; and the index by it, if there is one."""

    def __init__(self, scale: ShiftScale, size: int, name: str):
        self._target = scale.target
        self._key = scale.key
        self._size = size
        self._distance = distance_of(name).on(scale.key, scale.target, scale.noise)
        self._scale = None if distance_of(name).no_index else dataclasses.replace(scale, distance=name, repeats=_FEW)
        self._halves = halves_of(scale.key, 0, len(scale.target), size, _FEW)

    @functools.cached_property
    def _floor(self) -> float:
        # The two halves of a pair of draws have one distance from each other.
        pairs = zip(self._halves[::2], self._halves[1::2], strict=True)
        return float(np.mean([self._distance(self._target[x], self._target[y]) for x, y in pairs]))

    def of_source(self, features: np.ndarray) -> RawDistance:
        """Returns the distance of a source.

        Raises:
          ValueError: this distance cannot be measured for these features.
        """
        halves = zip(halves_of(self._key, 1, len(features), self._size, _FEW), self._halves, strict=True)
        value = float(np.mean([self._distance(features[x], self._target[y]) for x, y in halves]))
        index = self._scale.index(features, sample_size=self._size).value if self._scale else math.nan
        return RawDistance(value, self._floor, index)


def _measured(scale: ShiftScale, size: int, features: np.ndarray, others: Callable[[], Mapping[str, _Raw]]) -> dict[str, Any]:
    """Returns the numbers of one source as `Measured.of_result` takes them."""
    index = scale.index(features, sample_size=size)
    features = features[: 2 * size]
    raw = {}
    for name, other in others().items():
        try:
            raw[name] = other.of_source(features)
        except ValueError as error:
            raw[name] = RawDistance(math.nan, math.nan, math.nan, str(error))
    if scale.distance in raw:
        # This index has more draws.
        raw[scale.distance] = raw[scale.distance]._replace(index=index.value)
    vendi, rank, notes = _diversity(features)
    notes += tuple(f"no {distance_of(name).title} distance: {each.why}" for name, each in raw.items() if each.why)
    coverage = coverage_of(scale.target, features, neighbours=NEIGHBOURS)
    return Measured(index, raw, coverage, vendi, rank, notes)._asdict()


def _diversity(features: np.ndarray) -> tuple[float, float, tuple[str, ...]]:
    try:
        vendi = vendi_score(features)
        notes = ()
    except ValueError as error:
        vendi = math.nan
        notes = (f"no Vendi score: {error}",)
    return vendi, effective_rank(features), notes


class LayerProfiles(NamedTuple):
    """Profiles against the target over the layers of an encoder.

    Attributes:
      sources: profile of each source and mixture by name.
      noise: profile of noise.
      why: reason why there are no profiles, or an empty text.
    """

    sources: dict[str, LayerProfile]
    noise: LayerProfile | None
    why: str = ""


def layer_profiles(
    work: Extractor, names: Collection[str], sets: Mapping[str, Encoded], target: Encoded, noise: NoiseFeatures
) -> LayerProfiles:
    """Returns profiles over the layers of a survey's encoder.

    Args:
      work: the encoder, its canvas and the folder of results.
      names: sources and mixtures that have a profile.
      sets: all sources and mixtures by name; those of `names`, and the components of mixtures, are read.
      target: the target.
      noise: noise like the target.
    """
    if not isinstance(work.encode, NetworkEncoder):
        return LayerProfiles({}, None, f"{work.named.title.capitalize()} have no layers.")
    mixtures = {name: sets[name].about.shares for name in names if isinstance(sets[name].about, MixtureAbout)}
    needed = {*names, *itertools.chain(*mixtures.values())}.difference(mixtures)
    sources = {name: each.images for name, each in sets.items() if name in needed}
    with work.counting("images in all layers") as on_images:
        try:
            looked_at = target.images, sources, mixtures, noise.images
            return profiles(work.encode.pretrained, work.canvas, *looked_at, work.out / "dna", on_images)
        except ValueError as error:
            # The rest of the survey does not depend on the layers.
            return LayerProfiles({}, None, f"There is no profile over layers: {error}")


def profiles(
    encoder: PretrainedEncoder,
    canvas: Canvas,
    target: ImageSet,
    sources: Mapping[str, ImageSet],
    mixtures: Mapping[str, Mapping[str, float]],
    noise: ImageSet,
    folder: Path,
    on_images: Callable[[int, int], None] = no_images,
) -> LayerProfiles:
    """Returns the profiles of each source and mixture against the target, and of noise, on at most 500 images each.

    The ranges of the neurons are learned once, on all sets of the first call, and kept in `folder` with the histograms of every
    set. A new target or source is compared with those of earlier calls without reading their images.

    Raises:
      ValueError: a set has too few images.
    """
    # Each pair of an encoder and a size of images has ranges of its own.
    folder = folder / f"{encoder.with_features('pooled').fingerprint[:16]}-{'x'.join(map(str, canvas))}"
    parts = [target, noise, *sources.values()]
    seen = itertools.count(1)
    # Every image passes the encoder twice: once for the ranges, once for the counts.
    total = 2 * sum(len(part.indices[:IMAGES]) for part in parts)

    def batches(part: ImageSet) -> Iterator[np.ndarray]:
        for start in range(0, len(part.indices[:IMAGES]), _BATCH):
            indices = part.indices[:IMAGES][start : start + _BATCH]
            yield part.source.read(indices, canvas)
            on_images(min(next(seen) * _BATCH, total), total)

    ranges = _kept(LayerRanges, folder / "ranges.npz")
    if ranges is None:
        ranges = LayerRanges.of(encoder, (images for part in parts for images in batches(part)), batch_size=_BATCH)
        folder.mkdir(parents=True, exist_ok=True)
        ranges.save(folder / "ranges.npz")
    of_target, of_noise, *others = [_dna(encoder, part, batches, ranges, folder) for part in parts]
    by_name: dict[str, VisualDna | LayerMixture] = dict(zip(sources, others, strict=True))
    for name, shares in mixtures.items():
        by_name[name] = LayerMixture([by_name[each] for each in shares], list(shares.values()))
    against = {name: layer_profile(dna, of_target) for name, dna in by_name.items()}
    return LayerProfiles(against, layer_profile(of_noise, of_target))


def _dna(
    encoder: PretrainedEncoder,
    part: ImageSet,
    batches: Callable[[ImageSet], Iterator[np.ndarray]],
    ranges: LayerRanges,
    folder: Path,
) -> VisualDna:
    chosen = f"{part.source.fingerprint} {part.indices[:IMAGES].tolist()}"
    # The name of a file identifies its images: a source that has changed gets another file.
    file = folder / f"{hashlib.sha256(chosen.encode()).hexdigest()[:32]}.npz"
    kept = _kept(VisualDna, file)
    # Histograms over other ranges, made before the file of ranges was lost, cannot be compared.
    if kept is None or not kept.ranges.equals(ranges):
        kept = VisualDna.of(encoder, batches(part), ranges, groups=_GROUPS, batch_size=_BATCH)
        kept.save(file)
    return kept


def _kept(kind, file: Path):
    """Returns the content of a file; None if the file is absent or damaged."""
    try:
        return kind.load(file) if file.exists() else None
    except ValueError:
        return None
