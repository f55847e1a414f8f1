"""VisualDNA distances over all layers of an encoder, and how they compare with what chance alone gives at that size."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sslshift.shift.histograms import HistogramMixture, Histograms
from sslshift.shift.visual_dna import visual_dna_distances

# Halves that are compared; more of the same groups would add little.
_SPLITS = 10

LayerHistograms = dict[str, Histograms | HistogramMixture]


class Layers(Protocol):
    """The activations of one set of images, dealt into groups: `VisualDna`, or a `LayerMixture`."""

    @property
    def groups(self) -> int: ...

    @property
    def count(self) -> int: ...

    def over(self, groups: Sequence[int] | None = None) -> LayerHistograms: ...


def layer_distances(x: Layers, y: Layers) -> dict[str, np.ndarray]:
    """The VisualDNA distance of each neuron of each layer, in bins, float64 `[neurons]`, over all images of both.

    Raises:
      ValueError: encoders, layers, ranges or bins differ.
    """
    return _distances(x.over(), y.over())


def layer_means(x: Layers, y: Layers) -> dict[str, float]:
    """The VisualDNA distance of each layer, in bins, averaged over its neurons."""
    return {name: float(distances.mean()) for name, distances in layer_distances(x, y).items()}


def visual_dna_distance_of_layers(x: Layers, y: Layers) -> float:
    """The VisualDNA distance, in bins, averaged over all neurons of all layers.

    References:
      Ramtoula et al., `Visual DNA: Representing and Comparing Images using Distributions of Neuron Activations
      <https://arxiv.org/abs/2304.10036>`_, 2023
    """
    return float(np.concatenate(list(layer_distances(x, y).values())).mean())


class Level(NamedTuple):
    """A distance at half of the images of each side, in bins, averaged over neurons.

    Attributes:
      distance: between halves of the one side and of the other, averaged over the splits.
      spread: the standard deviation of these distances over the splits. Halves share images: it is no confidence interval.
      floor: what halves of these sizes would be apart by chance if both were of one distribution.
    """

    distance: float
    spread: float
    floor: float


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """Distance and floor at equal sample sizes, layer by layer.

    Attributes:
      layers: the level of each layer, from the first to the last.
      overall: over all neurons of all layers.
      images: in a half of the one side and of the other.
    """

    layers: dict[str, Level]
    overall: Level
    images: tuple[int, int]


def half_splits(groups: int) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """At most 10 ways, in a fixed order, to deal groups into two equal halves; the first half is the one with group 0.

    Example:
      >>> half_splits(4)
      (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))

    Raises:
      ValueError: the groups are not an even number.
    """
    if groups < 2 or groups % 2:
        raise ValueError(f"Halves need an even number of groups, not {groups}.")
    ways = [(0, *others) for others in itertools.combinations(range(1, groups), groups // 2 - 1)]
    number = min(_SPLITS, len(ways))
    # Evenly spaced in the list of all: neighbours differ by one group only.
    chosen = [ways[place * len(ways) // number] for place in range(number)]
    return tuple((half, tuple(group for group in range(groups) if group not in half)) for half in chosen)


def layer_profile(x: Layers, y: Layers) -> LayerProfile:
    """Distance, spread and floor of every layer and overall, at half the images of each side, all from what is stored.

    A VisualDNA distance is above 0 even between samples of one distribution, by about the root of 1/n + 1/m. Here distance and
    floor are taken at the same sizes. The floor is the root of the mean square of that between halves of x and that between
    halves of y, which gives just this law where the sides differ in size.

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
        apart += [_averages(x_one, y_one), _averages(x_two, y_two)]
        own = _averages(x_one, x_two)
        floors.append([own, own if x is y else _averages(y_one, y_two)])
    values = np.array(apart)
    floors = np.array(floors)
    floor = np.sqrt(np.square(floors.mean(axis=0)).mean(axis=0))
    rows = np.stack([values.mean(axis=0), values.std(axis=0), floor], axis=1).tolist()
    levels = [Level(*row) for row in rows]
    return LayerProfile(dict(zip(x_one, levels[:-1], strict=True)), levels[-1], (x.count // 2, y.count // 2))


def _averages(x: LayerHistograms, y: LayerHistograms) -> list[float]:
    """Of every layer, and of all neurons."""
    distances = list(_distances(x, y).values())
    return [each.mean() for each in distances] + [np.concatenate(distances).mean()]


def _distances(x: LayerHistograms, y: LayerHistograms) -> dict[str, np.ndarray]:
    require_same_layers(x, y)
    return {name: visual_dna_distances(x[name], y[name]) for name in x}


def require_same_layers(x: dict, y: dict) -> None:
    if list(x) != list(y):
        raise ValueError(f"Activations of different layers cannot be compared: {', '.join(x)} and {', '.join(y)}.")
