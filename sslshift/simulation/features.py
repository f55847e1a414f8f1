"""Worlds of image features with a known shift, and the coverage of the shift index in them.

A world draws features of the target, of noise, and of sources at several places: the same distribution as the target, near,
in the middle, and far. The true index of a place is that of very many images. `index_coverage` draws samples of few images
again and again, and counts how often the interval contains the true index.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.noise import NoiseSource
from sslshift.data.permutation import permute
from sslshift.data.sources import open_source
from sslshift.shift import ShiftScale
from sslshift.transfer.encoders import encoder_named
from sslshift.transfer.extraction import extract

# Share of the way from the target's distribution to the farthest source, by place.
PLACES = {"same": 0.0, "near": 0.1, "middle": 0.4, "far": 1.0}
_DIMENSIONS = 24
# Images of each set for the true index: six times the most of any sample. With one draw of them, an interval of 2,000 images
# that covers 95% would seem to cover 93%; with eight draws it seems to cover 94.7%.
_MANY = 12_000
_DRAWS = 8
# Images of each set that `index_measurements` draws.
SIZES = (200, 500, 2000)

Sampler = Callable[[np.random.Generator, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureWorld:
    """Distributions of features with a known shift.

    Attributes:
      target: function that draws features `[n, dim]` of the target from a generator.
      noise: function that draws features of noise.
      source: function that draws features of a source at a share of the way to the farthest one.
    """

    target: Sampler
    noise: Sampler
    source: Callable[[np.random.Generator, int, float], np.ndarray]


class IndexCoverage(NamedTuple):
    """IndexCoverage of the interval of an index over simulated samples.

    Attributes:
      truth: the index of very many images.
      covered: share of the intervals that contain it.
      error: Monte-Carlo standard error of that share.
      above_0: share of the intervals that lie above 0.
      bias: mean of the index over the samples less the truth.
      width: median width of the intervals.
    """

    truth: float
    covered: float
    error: float
    above_0: float
    bias: float
    width: float


def gaussian() -> FeatureWorld:
    """Returns correlated normal features; sources differ in mean and spread."""
    random = np.random.default_rng(1)
    turn = np.linalg.qr(random.normal(size=(_DIMENSIONS, _DIMENSIONS)))[0]
    scales = np.arange(1, _DIMENSIONS + 1) ** -0.5
    away, stretch, far = random.normal(size=(3, _DIMENSIONS))

    def source(random, count, way):
        spread = scales * np.exp(0.3 * way * stretch)
        return random.normal(size=(count, _DIMENSIONS)) * spread @ turn + 0.35 * way * away

    def noise(random, count):
        return random.normal(size=(count, _DIMENSIONS)) * 0.3 * scales @ turn + 0.5 * far

    return FeatureWorld(functools.partial(source, way=0.0), noise, source)


def clusters() -> FeatureWorld:
    """Returns features around ten centres; a source has a share of images around other centres."""
    random = np.random.default_rng(2)
    own = random.normal(size=(10, _DIMENSIONS))
    others = np.concatenate([0.4 * own[:3] + 0.6 * random.normal(size=(3, _DIMENSIONS))])
    far = 1.2 * random.normal(size=_DIMENSIONS)

    def source(random, count, way):
        elsewhere = random.random(count) < way
        places = random.integers(len(own), size=count)
        centres = np.where(elsewhere[:, None], others[places % len(others)], own[places])
        return centres + 0.6 * random.normal(size=(count, _DIMENSIONS))

    def noise(random, count):
        return far + 0.2 * random.normal(size=(count, _DIMENSIONS))

    return FeatureWorld(functools.partial(source, way=0.0), noise, source)


def heavy_tailed() -> FeatureWorld:
    """Returns features at least 0 with heavy tails, many of them 0, as behind a ReLU."""
    random = np.random.default_rng(3)
    mixing = random.normal(size=(8, _DIMENSIONS)) / math.sqrt(8)
    away, far = random.normal(size=(2, _DIMENSIONS))

    def source(random, count, way):
        hidden = random.normal(size=(count, 8)) @ mixing + 0.4 * random.normal(size=(count, _DIMENSIONS)) + 0.5 * way * away
        # One factor for all features of an image, as with contrast.
        return np.maximum(0.0, hidden) * np.exp(0.4 * random.normal(size=(count, 1)))

    def noise(random, count):
        return np.maximum(0.0, 2 * far + 0.2 * random.normal(size=(count, _DIMENSIONS)))

    return FeatureWorld(functools.partial(source, way=0.0), noise, source)


def bundled(encoder: str = "untrained:patch_mlp") -> FeatureWorld:
    """Returns features of bundled images: the target is clothes, and a source has a share of digits.

    Images are drawn with replacement, so that the bundled images are the whole distribution.

    Args:
      encoder: name of the encoder, see `encoder_named`.
    """
    canvas = Canvas(28, 28, 1)
    encode = encoder_named(encoder).build(canvas)
    clothes, digits = (open_source(f"bundled:{name}") for name in ("fashion_mnist", "mnist"))
    chosen = permute(np.arange(min(20_000, len(clothes))), len(clothes), 0)
    sources = ((clothes, chosen), (digits, np.arange(len(digits))))
    near, other = (np.asarray(extract(encode, each, rows, canvas).features, np.float64) for each, rows in sources)
    static = NoiseSource(clothes, chosen[:4000], canvas, 0)
    noise = np.asarray(extract(encode, static, np.arange(len(static)), canvas).features, np.float64)

    def drawn(random, count, features):
        return features[random.integers(len(features), size=count)]

    def source(random, count, way):
        elsewhere = (random.random(count) < way)[:, None]
        return np.where(elsewhere, drawn(random, count, other), drawn(random, count, near))

    return FeatureWorld(functools.partial(source, way=0.0), functools.partial(drawn, features=noise), source)


WORLDS: Mapping[str, Callable[[], FeatureWorld]] = {
    "gaussian": gaussian,
    "clusters": clusters,
    "heavy_tailed": heavy_tailed,
    "bundled": bundled,
}


def true_indices(world: FeatureWorld, distance: str, *, images: int = _MANY, draws: int = _DRAWS) -> dict[str, float]:
    """Returns the index of each place, as the mean over draws of very many images; 0 for the target's own distribution."""
    found: dict[str, list[float]] = {place: [] for place, way in PLACES.items() if way}
    for draw in range(draws):
        random = np.random.default_rng([9, draw])
        key = jax.random.key(draw)
        scale = ShiftScale(world.target(random, images), world.noise(random, images), key, distance, repeats=20)
        for place, values in found.items():
            values.append(scale.index(world.source(random, images, PLACES[place]), sample_size=images // 2).value)
    return {"same": 0.0} | {place: float(np.mean(values)) for place, values in found.items()}


def index_coverage(
    world: FeatureWorld,
    distance: str,
    truths: Mapping[str, float],
    *,
    images: int,
    replicates: int,
    repeats: int = 40,
    seed: int = 0,
) -> dict[str, IndexCoverage]:
    """Returns the coverage of the index by a distance at each place.

    Args:
      world: the distributions.
      distance: name of the distance.
      truths: result of `true_indices`.
      images: number of images of target, noise and source each; every distance has half of them on each side.
      replicates: number of samples.
      repeats: draws of the index.
      seed: random seed of the samples.
    """
    found: dict[str, list[tuple[float, float, float]]] = {place: [] for place in truths}
    for number in range(replicates):
        random = np.random.default_rng([seed, images, number])
        key = jax.random.key(number)
        scale = ShiftScale(world.target(random, images), world.noise(random, images), key, distance, repeats)
        for place in truths:
            found[place].append(scale.index(world.source(random, images, PLACES[place]))[:3])
    return {place: _coverage(np.array(found[place]), truth) for place, truth in truths.items()}


def _coverage(found: Sequence[Sequence[float]], truth: float) -> IndexCoverage:
    value, low, high = np.transpose(found)
    covered = float(np.mean((low <= truth) & (truth <= high)))
    error = math.sqrt(covered * (1 - covered) / len(value))
    above_0 = float(np.mean(low > 0))
    return IndexCoverage(truth, covered, error, above_0, float(value.mean() - truth), float(np.median(high - low)))


def index_measurements(distance: str, replicates: int) -> Iterator[tuple[dict[str, Any], IndexCoverage]]:
    """Yields the coverage of the index by a distance, by world, number of images and place, with these as a dict.

    Args:
      distance: name of the distance.
      replicates: number of samples of each number of images.
    """
    for name, make in WORLDS.items():
        world = make()
        truths = true_indices(world, distance)
        for images in SIZES:
            found = index_coverage(world, distance, truths, images=images, replicates=replicates)
            for place, coverage in found.items():
                yield {"world": name, "distance": distance, "images": images, "place": place}, coverage
