"""VisualDNA over all layers of an encoder: activations as histograms, kept so that images are read only once.

`VisualDna` is the sketch of one set of images over `LayerRanges`. `layer_profile` compares two sketches layer by layer, beside
the floor that chance alone gives at that number of images.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh

from sslshift.models import PretrainedEncoder
from sslshift.shift._base import Stored, require_one_encoder
from sslshift.shift.distances.visual_dna import HistogramMixture, Histograms, Ranges, visual_dna_distances
from sslshift.transfer.activations import Limits, layer_counts, layer_extremes


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRanges(Stored):
    """The least and the greatest activation of each neuron of every layer, learned once on a reference pool and then kept.

    `save(path)` and `LayerRanges.load(path)` keep the ranges in a file.

    Attributes:
      layers: `Ranges` of each layer by its name, from the first to the last, all of one encoder.
    """

    layers: dict[str, Ranges]

    def __post_init__(self):
        if not self.layers:
            raise ValueError("Ranges of layers need at least one layer.")
        for each in self.layers.values():
            require_one_encoder(self.encoder, each.encoder)

    @property
    def encoder(self) -> str:
        """Returns the fingerprint of the encoder."""
        return next(iter(self.layers.values())).encoder

    @classmethod
    def of(
        cls, encoder: PretrainedEncoder, batches: Iterable[np.ndarray], *, batch_size: int = 128, mesh: Mesh | None = None
    ) -> "LayerRanges":
        """Returns the ranges over all images of a reference pool; values beyond these ranges will count in the end bins.

        Args:
          encoder: the encoder with its weights; the kind of its features does not matter.
          batches: uint8 images `[n, height, width, channels]`, any number at a time, all of one size.
          batch_size: number of images on all devices at a time.
          mesh: mesh of the devices; None: all devices.

        Raises:
          ValueError: there are no images, they are of another shape than the encoder takes, or activations are not finite.
        """
        extremes = layer_extremes(encoder, batches, batch_size=batch_size, mesh=mesh)
        name = fingerprint(encoder)
        return cls({layer: Ranges(*(np.float64(each) for each in both), name) for layer, both in extremes.items()})

    def merge(self, other: "LayerRanges") -> "LayerRanges":
        """Returns the ranges of both pools together."""
        require_same_layers(self.layers, other.layers)
        return LayerRanges({name: each.merge(other.layers[name]) for name, each in self.layers.items()})

    def equals(self, other: "LayerRanges") -> bool:
        """Returns whether both have the same layers with the same ranges."""
        return list(self.layers) == list(other.layers) and all(
            np.array_equal(each.minimum, other.layers[name].minimum)
            and np.array_equal(each.maximum, other.layers[name].maximum)
            for name, each in self.layers.items()
        )


@dataclasses.dataclass(frozen=True, eq=False)
class VisualDna(Stored):
    """Activations of one set of images in all layers of an encoder, as histograms that stream, merge and can be kept.

    Images are distributed to groups in turn, so that distances between disjoint halves of a set, which measure chance, can be
    computed from the sketch. `save(path)` and `VisualDna.load(path)` keep it in a file: a new downstream set is compared with
    old sources without reading their images. Use one size of image for all sets: activations depend on it.

    Example:
      >>> import jax, numpy as np
      >>> from sslshift.models import PatchMLP, PretrainedEncoder
      >>> from sslshift.shift.layers import LayerRanges, layer_means, layer_profile
      >>> module, images = PatchMLP(width=4), np.random.default_rng(0).integers(0, 255, (96, 8, 8, 3), np.uint8)
      >>> variables = module.init(jax.random.key(0), images[:1] / 255.0, train=False)
      >>> encoder = PretrainedEncoder(module, variables, (8, 8, 3))
      >>> ranges = LayerRanges.of(encoder, [images])
      >>> new, old = (VisualDna.of(encoder, [each], ranges) for each in (images[:48], images[48:] // 4))
      >>> level = layer_profile(new, old).layers["map"]
      >>> bool(layer_means(new, old)["map"] > 3 * level.floor > 0)
      True

    Attributes:
      counts: counts of each layer, int64 `[groups, neurons, bins]`.
      images: number of images in each group, int64 `[groups]`.
      ranges: ranges of the neurons, which the bins divide evenly.
    """

    counts: dict[str, np.ndarray]
    images: np.ndarray
    ranges: LayerRanges

    def __post_init__(self):
        require_same_layers(self.counts, self.ranges.layers)
        shapes = {(counts.shape[0], counts.shape[-1]) if counts.ndim == 3 else None for counts in self.counts.values()}
        if len(shapes) > 1 or None in shapes or np.shape(self.images) != next(iter(self.counts.values())).shape[:1]:
            raise ValueError(
                "Expected counts [groups, neurons, bins] with the same groups and bins in all layers, and images [groups]."
            )

    @classmethod
    def of(
        cls,
        encoder: PretrainedEncoder,
        batches: Iterable[np.ndarray],
        ranges: LayerRanges,
        *,
        # The number of bins of the published VisualDNA, whose distance scales with it.
        bins: int = 1000,
        groups: int = 8,
        batch_size: int = 128,
        mesh: Mesh | None = None,
    ) -> "VisualDna":
        """Returns the histograms of all images, however they are cut into batches: image i counts in group i modulo groups.

        Activations are placed in bins on the devices, in float32: one within rounding of an edge may count in the bin next to
        it.

        Args:
          encoder: the encoder of the ranges, with its weights.
          batches: uint8 images `[n, height, width, channels]`, any number at a time, all of one size.
          ranges: ranges of its layers.
          bins: number of bins of each neuron.
          groups: number of groups of images; memory grows with it.
          batch_size: number of images on all devices at a time.
          mesh: mesh of the devices; None: all devices.

        Raises:
          ValueError: the ranges are of another encoder, there are no images, they are of another shape than the encoder takes,
            or activations are not finite.
        """
        if fingerprint(encoder) != ranges.encoder:
            raise ValueError(f"Expected ranges of the encoder {fingerprint(encoder)!r}, got ranges of {ranges.encoder!r}.")
        if bins < 1 or groups < 1:
            raise ValueError(f"Expected at least one bin and one group, got {bins} and {groups}.")
        settings = {"bins": bins, "groups": groups, "batch_size": batch_size, "mesh": mesh}
        # The devices need only the numbers; the ranges with the name of their encoder stay on the host.
        limits = {name: Limits(each.minimum, each.maximum) for name, each in ranges.layers.items()}
        counts, number = layer_counts(encoder, batches, limits, **settings)
        # The groups' sizes follow from the number of images, since images are dealt out in turn.
        return cls(counts, np.bincount(np.arange(number) % groups, minlength=groups), ranges)

    def merge(self, other: "VisualDna") -> "VisualDna":
        """Returns the histograms of both sets together, group by group."""
        self.require_mergeable(other)
        counts = {name: each + other.counts[name] for name, each in self.counts.items()}
        return VisualDna(counts, self.images + other.images, self.ranges)

    def require_mergeable(self, other: "VisualDna") -> None:
        """Raises ValueError unless encoder, layers, ranges, bins and groups are the same."""
        require_same_layers(self.counts, other.counts)
        for name, each in self.ranges.layers.items():
            each.require_same(other.ranges.layers[name])
        (groups, _, bins), (other_groups, _, other_bins) = (next(iter(each.counts.values())).shape for each in (self, other))
        if (groups, bins) != (other_groups, other_bins):
            raise ValueError(
                f"Activations in {groups} groups and {bins} bins cannot be combined with those in {other_groups} groups and "
                f"{other_bins} bins."
            )

    @property
    def groups(self) -> int:
        """Returns the number of groups."""
        return len(self.images)

    @property
    def count(self) -> int:
        """Returns the number of images counted."""
        return int(self.images.sum())

    def over(self, groups: Sequence[int] | None = None) -> dict[str, Histograms]:
        """Returns the histograms of each layer over the images of some groups; None: of all groups.

        Raises:
          ValueError: there are no images in these groups.
        """
        chosen = list(range(self.groups) if groups is None else groups)
        if not self.images[chosen].any():
            raise ValueError(f"Expected an image in each compared group, got {self.count} images in {self.groups} groups.")
        # Indexing several groups at once would copy them before the sum.
        return {
            name: Histograms(sum((each[group] for group in chosen[1:]), each[chosen[0]]), self.ranges.layers[name])
            for name, each in self.counts.items()
        }

    def floor(self) -> float:
        """Returns the distance between two disjoint halves of the images, `count // 2` each, averaged over neurons and splits.

        This is the distance that chance gives at that size. `layer_profile` returns the floor of each layer, beside a distance
        at the same size.
        """
        return layer_profile(self, self).overall.floor


def fingerprint(encoder: PretrainedEncoder) -> str:
    """Returns the fingerprint of what activations depend on, without the kind of features that the encoder returns."""
    # Encoders that differ only in the features they return have the same activations.
    return encoder.with_features("pooled").fingerprint


# Splits into halves that are compared; more splits of the same groups would add little.
_SPLITS = 10

LayerHistograms = dict[str, Histograms | HistogramMixture]


class Layers(Protocol):
    """Activations of one set of images in groups: a `VisualDna`, or a `LayerMixture`."""

    @property
    def groups(self) -> int: ...

    @property
    def count(self) -> int: ...

    def over(self, groups: Sequence[int] | None = None) -> LayerHistograms: ...


def layer_distances(x: Layers, y: Layers) -> dict[str, np.ndarray]:
    """Returns the VisualDNA distance of each neuron of each layer, in bins, float64 `[neurons]`, over all images of both sets.

    Raises:
      ValueError: encoders, layers, ranges or bins differ.
    """
    return _distances(x.over(), y.over())


def layer_means(x: Layers, y: Layers) -> dict[str, float]:
    """Returns the VisualDNA distance of each layer, in bins, averaged over its neurons."""
    return {name: float(distances.mean()) for name, distances in layer_distances(x, y).items()}


def visual_dna_distance_of_layers(x: Layers, y: Layers) -> float:
    """Returns the VisualDNA distance, in bins, averaged over all neurons of all layers.

    References:
      Ramtoula et al., `Visual DNA: Representing and Comparing Images using Distributions of Neuron Activations
      <https://arxiv.org/abs/2304.10036>`_, 2023
    """
    return float(np.concatenate(list(layer_distances(x, y).values())).mean())


class Level(NamedTuple):
    """Distance at half of the images of each side, in bins, averaged over neurons.

    Attributes:
      distance: between halves of one side and halves of the other, averaged over the splits.
      spread: standard deviation of these distances over the splits. It is not a confidence interval, since halves share images.
      floor: distance by chance between halves of these sizes if both sides were of one distribution.
    """

    distance: float
    spread: float
    floor: float


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """Distance and floor at equal sample sizes, layer by layer.

    Attributes:
      layers: level of each layer, from the first to the last.
      overall: level over all neurons of all layers.
      images: number of images in a half of one side and of the other.
    """

    layers: dict[str, Level]
    overall: Level
    images: tuple[int, int]


def half_splits(groups: int) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Returns at most 10 ways, in a fixed order, to split groups into two equal halves; group 0 is in the first half.

    Example:
      >>> half_splits(4)
      (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))

    Raises:
      ValueError: the groups are not an even number.
    """
    if groups < 2 or groups % 2:
        raise ValueError(f"Halves need an even number of groups, not {groups}.")
    # With group 0 always in the first half, no split is listed a second time with its halves exchanged.
    ways = [(0, *others) for others in itertools.combinations(range(1, groups), groups // 2 - 1)]
    number = min(_SPLITS, len(ways))
    # Evenly spaced in the list of all splits, since neighbours in it differ by one group only.
    chosen = [ways[place * len(ways) // number] for place in range(number)]
    return tuple((half, tuple(group for group in range(groups) if group not in half)) for half in chosen)


def layer_profile(x: Layers, y: Layers) -> LayerProfile:
    """Returns distance, spread and floor of every layer and overall, at half the images of each side, from the sketches alone.

    A VisualDNA distance is above 0 even between samples of one distribution, in proportion to the root of 1/n + 1/m. Here
    distance and floor have the same sizes. The floor is the root mean square of the distances between halves of x and between
    halves of y, which follows this law where the sides differ in size.

    Raises:
      ValueError: encoders, layers, ranges, bins or groups differ, the groups are not an even number, or a side has too few
        images to fill them.
    """
    if x.groups != y.groups:
        raise ValueError(f"Sets in {x.groups} and in {y.groups} groups cannot be profiled together.")
    splits = half_splits(x.groups)
    apart = []
    floors = []
    for halves in splits:
        (x_one, x_two), (y_one, y_two) = ([side.over(half) for half in halves] for side in (x, y))
        # Both pairs of halves: all images count in every split.
        apart += [_averages(x_one, y_one), _averages(x_two, y_two)]
        own = _averages(x_one, x_two)
        # A set compared with itself has one floor, which need not be computed twice.
        floors.append([own, own if x is y else _averages(y_one, y_two)])
    values = np.array(apart)
    floors = np.array(floors)
    # The floor of x is proportional to the root of 4/n, and the floor of y to the root of 4/m. Their root mean square is
    # proportional to the root of 2/n + 2/m, as is the floor of n/2 against m/2 images.
    floor = np.sqrt(np.square(floors.mean(axis=0)).mean(axis=0))
    rows = np.stack([values.mean(axis=0), values.std(axis=0), floor], axis=1).tolist()
    levels = [Level(*row) for row in rows]
    return LayerProfile(dict(zip(x_one, levels[:-1], strict=True)), levels[-1], (x.count // 2, y.count // 2))


def _averages(x: LayerHistograms, y: LayerHistograms) -> list[float]:
    """Returns the mean distance of every layer, and of all neurons."""
    distances = list(_distances(x, y).values())
    return [each.mean() for each in distances] + [np.concatenate(distances).mean()]


def _distances(x: LayerHistograms, y: LayerHistograms) -> dict[str, np.ndarray]:
    require_same_layers(x, y)
    return {name: visual_dna_distances(x[name], y[name]) for name in x}


def require_same_layers(x: dict, y: dict) -> None:
    """Raises ValueError unless both have the same layers in the same order."""
    if list(x) != list(y):
        raise ValueError(f"Activations of different layers cannot be compared: {', '.join(x)} and {', '.join(y)}.")
