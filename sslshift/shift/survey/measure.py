"""Measures of several sources against one target at equal numbers of images, and sentences about the results.

Each source gets its shift index, raw distances beside it, coverage and diversity. The sentences claim only what the intervals
allow.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sslshift.shift.distances import distance_of
from sslshift.shift.diversity import effective_rank, vendi_score
from sslshift.shift.index import DEFAULT_DISTANCE, LEAST, IndexDifference, ShiftIndex, ShiftScale, halves_of, index_difference
from sslshift.shift.neighbourhoods import Coverage, coverage_of
from sslshift.transfer.inference import holm

# A survey has one encoder, unlike a study, which trains several to see how much the index depends on them.
ONE_ENCODER = (
    "These distances are as this encoder sees them: their intervals do not cover the choice of encoder, and another may see "
    "other differences."
)
NEIGHBOURS = 5
# Number of draws for a raw distance, which has no interval and therefore needs fewer draws than the index.
_FEW = 4
# Raw distances have no interval, and some are nearly equal for all distant sources: a difference below 5% does not count.
_CLEARLY = 0.95
# Largest distance of the ends of an interval from a part in words, and from 1 for "about as far as noise".
_ABOUT = 0.05
_ABOUT_NOISE = 0.2
# "a little away" ends here, and "indistinguishable" says how far away a source may be from here on.
_LITTLE = 0.1
# A sentence lists this many names, and gives the number of the others.
_NAMED = 6
# Parts of the way to noise in words; a sentence uses one if it is near the whole interval.
_WAYS = {
    0.1: "a tenth of the way",
    1 / 7: "a seventh of the way",
    0.2: "a fifth of the way",
    0.25: "a quarter of the way",
    1 / 3: "a third of the way",
    0.4: "two fifths of the way",
    0.5: "half the way",
    0.6: "three fifths of the way",
    2 / 3: "two thirds of the way",
    0.75: "three quarters of the way",
    0.9: "nine tenths of the way",
}


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
        """Returns the number of images of each source that its numbers are computed from."""
        return 2 * self.sample_size

    @property
    def coverage_expected(self) -> float:
        """Returns the coverage of the target by an equal number of further target images, which no source can exceed."""
        # An image is not covered if all of its k nearest neighbours in both sets belong to its own set.
        n = self.target_images
        m = self.images
        return 1 - math.prod((n - 1 - i) / (n - 1 + m - i) for i in range(NEIGHBOURS))


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
    on_source: Callable[[str], None] = lambda name: None,
) -> Survey:
    """Measures sources against a target, all at the sample size that the smallest of them allows.

    Sizes are equal since every distance, coverage and diversity score depends on the number of images. A source with too few
    images for any index fails, and does not reduce the size of the others.

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
      on_source: called with each source's name before it is measured.

    Raises:
      ValueError: there is no such distance, or no source can be measured; the message gives the reason for the first source.
    """
    least = _required_images(target, distance)
    scale = ShiftScale(target, noise, key, distance, repeats)
    # A distance of few images is larger than one of many: sources are compared at one size only.
    size = common_images([len(target), len(noise)], [len(each) for each in sources.values()], distance) // 2
    raw = {name: _Raw(target, noise, key, size, name) for name in distances}
    measured = {}
    failed = {}
    for name, features in sources.items():
        on_source(name)
        if len(features) < least:
            failed[name] = _too_few(len(features), distance)
            continue
        try:
            index = scale.index(features, sample_size=size)
        except ValueError as error:
            failed[name] = str(error)
        else:
            measured[name] = _measured(index, features[: 2 * size], target, raw, distance)
    _require_any(measured, failed)
    # The order of the index, which tables, charts and sentences share.
    in_order = sorted(measured, key=lambda name: measured[name].index.value)
    # Diversity grows with the number of images: target and sources are measured on the same number of images.
    own = _diversity(target[: 2 * size])
    return Survey(distance, size, len(target), {name: measured[name] for name in in_order}, failed, *own[:2])


def _too_few(images: int, distance: str) -> str:
    have = f"{images:,} image{'' if images == 1 else 's'} that can be read"
    return f"it has {have}; an index by {distance} needs at least {least_images(distance):,}"


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

    def __init__(self, target: np.ndarray, noise: np.ndarray, key: jax.Array, size: int, name: str):
        self._target = target
        self._key = key
        self._size = size
        self._distance = distance_of(name).on(key, target, noise)
        self._scale = None if distance_of(name).no_index else ShiftScale(target, noise, key, name, _FEW)
        self._halves = halves_of(key, 0, len(target), size, _FEW)

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


def _measured(
    index: ShiftIndex, features: np.ndarray, target: np.ndarray, others: Mapping[str, _Raw], distance: str
) -> Measured:
    raw = {}
    for name, other in others.items():
        try:
            raw[name] = other.of_source(features)
        except ValueError as error:
            raw[name] = RawDistance(math.nan, math.nan, math.nan, str(error))
    if distance in raw:
        # This index has more draws.
        raw[distance] = raw[distance]._replace(index=index.value)
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


def digits(index: ShiftIndex) -> list[str]:
    """Returns value, low and high as text with as many digits as the width of the interval justifies.

    Example:
      >>> digits(ShiftIndex(0.0004, -0.0011, 0.002, 0, 0, 1, 100, 20)), digits(ShiftIndex(0.514, 0.2, 0.8, 0, 0, 1, 100, 20))
      (['0.000', '-0.001', '0.002'], ['0.51', '0.20', '0.80'])
    """
    width = index.high - index.low
    places = 2 if width >= 0.02 else 3 if width >= 0.002 else 4
    # A value that rounds to 0 gets no minus sign.
    return [f"{0.0 if round(each, places) == 0 else each:.{places}f}" for each in index[:3]]


def source_sentence(name: str, index: ShiftIndex) -> str:
    """Returns a sentence about one source, which is true of every value in the interval."""
    value, low, high = digits(index)
    interval = f"({value}, 95% interval {low} to {high})"
    # The conditions are ordered from near to far; each assumes that all earlier ones are false.
    if index.high < 0:
        return f"{name} is nearer to the target than halves of the target are to each other {interval}: look for copies."
    if index.low <= 0:
        if index.high <= _LITTLE:
            return f"{name} is indistinguishable from another sample of the target {interval}."
        return (
            f"These images do not distinguish {name} from another sample of the target; it may be up to {high} away {interval}."
        )
    if index.low > 1:
        return f"{name} is farther from the target than noise {interval}."
    if index.high >= 1:
        if 1 - index.low <= _ABOUT_NOISE >= index.high - 1:
            return f"{name} is about as far from the target as noise {interval}."
        more = "; more images would narrow this down" if index.high - index.low > 0.3 else ""
        return f"{name} is at least {low} of the way from the target to noise, and may be as far as noise {interval}{more}."
    if index.high <= _LITTLE:
        return f"{name} is a little away from the target, at most {high} of the way to noise {interval}."
    part = min(_WAYS, key=lambda each: abs(each - index.value))
    if max(index.high - part, part - index.low) <= _ABOUT:
        return f"{name} is about {_WAYS[part]} to noise from the target {interval}."
    more = "; more images would narrow this down" if index.high - index.low > 0.3 else ""
    return f"{name} is between {low} and {high} of the way from the target to noise{more}."


def _in_order(survey: Survey) -> dict[tuple[str, str], IndexDifference]:
    """Returns the difference of every pair of sources, the nearer one first, whose order is shown.

    P-values are adjusted for all pairs by Holm's method: of six equal sources, some pair would seem to differ in a third of
    all surveys otherwise.
    """
    pairs = list(itertools.combinations(survey.measured, 2))
    found = [index_difference(survey.measured[far].index, survey.measured[near].index) for near, far in pairs]
    adjusted = holm([each.p_value for each in found])
    return {pair: each for pair, each, p_value in zip(pairs, found, adjusted, strict=True) if p_value < 0.05}


def ranking(survey: Survey) -> list[str]:
    """Returns which sources are nearest, and which neighbours in the order differ; nothing for a single source."""
    names = list(survey.measured)
    if len(names) < 2:
        return []
    shown = _in_order(survey)
    # Sources without a significant difference from the nearest one share its rank.
    first = [names[0], *(name for name in names[1:] if (names[0], name) not in shown)]
    sentences = [
        f"{names[0]} is the nearest."
        if len(first) == 1
        else f"{listed(first)} are the nearest; these images do not show which of them is nearer than the others."
    ]
    for near, far in itertools.pairwise(names):
        if (near, far) in shown:
            difference = shown[near, far]
            interval = f"{difference.low:.2g} to {difference.high:.2g}"
            sentences.append(f"{far} is farther than {near} by {difference.value:.2g} (95% interval {interval}).")
        elif far not in first:
            sentences.append(f"These images do not show whether {near} or {far} is nearer.")
    return sentences


def second_opinions(survey: Survey) -> list[str]:
    """Returns which raw distances contradict an order that the index shows; nothing without raw distances or without order."""
    shown = _in_order(survey)
    others = [name for name in next(iter(survey.measured.values())).raw if name != survey.distance]
    turned = {}
    for name in others:
        values = {source: found.raw[name].value for source, found in survey.measured.items()}
        # Only orders that the index shows can be contradicted.
        turned[name] = [f"{far} before {near}" for near, far in shown if values[far] < _CLEARLY * values[near]]
    sentences = [
        f"By the {distance_of(name).title} distance the order differs: {', '.join(pairs)}."
        for name, pairs in turned.items()
        if pairs
    ]
    if shown and others and not sentences:
        sentences.append("The other distances agree with this order to within 5%.")
    return sentences


def reading(survey: Survey) -> list[str]:
    """Returns all sentences about a survey: first the order, then each source."""
    alone = [source_sentence(name, found.index) for name, found in survey.measured.items()]
    return [*ranking(survey), *second_opinions(survey), *alone, ONE_ENCODER]


def listed(names: Sequence[str]) -> str:
    """Returns a list of a few names, or of the first names and the number of the others.

    Example:
      >>> listed(["a", "b", "c"]), listed([*"abcdefgh"])
      ('a, b and c', 'a, b, c, d, e, f and 2 more')
    """
    *others, last = names if len(names) <= _NAMED + 1 else [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    return f"{', '.join(others)} and {last}" if others else last
