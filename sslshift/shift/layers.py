"""VisualDNA over all layers: every block's activations as histograms, kept so that images are read only once."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jax.sharding import Mesh

from sslshift.models import PretrainedEncoder
from sslshift.shift._features import require_one_encoder
from sslshift.shift._storage import Stored
from sslshift.shift.histograms import Histograms, Ranges
from sslshift.shift.layer_counts import layer_counts, layer_extremes
from sslshift.shift.layer_profile import layer_profile, require_same_layers


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRanges(Stored):
    """The least and the greatest activation of each neuron of every layer, learned once on a reference pool and then kept.

    `save(path)` and `LayerRanges.load(path)` keep them in a file.

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
        """Fingerprint of the encoder."""
        return next(iter(self.layers.values())).encoder

    @classmethod
    def of(
        cls, encoder: PretrainedEncoder, batches: Iterable[np.ndarray], *, batch_size: int = 128, mesh: Mesh | None = None
    ) -> "LayerRanges":
        """Of all images of a pool that stands for what will be compared; values beyond it will count in the end bins.

        Args:
          encoder: with its weights; which features it gives does not matter.
          batches: uint8 images `[n, height, width, channels]`, any number at a time, all of one size.
          batch_size: images on all devices at a time.
          mesh: of the devices; None: all.

        Raises:
          ValueError: there are no images, they are of another shape than the encoder takes, or activations are not finite.
        """
        extremes = layer_extremes(encoder, batches, batch_size=batch_size, mesh=mesh)
        name = fingerprint(encoder)
        return cls({layer: Ranges(*(np.float64(each) for each in both), name) for layer, both in extremes.items()})

    def merge(self, other: "LayerRanges") -> "LayerRanges":
        """Of both pools together."""
        require_same_layers(self.layers, other.layers)
        return LayerRanges({name: each.merge(other.layers[name]) for name, each in self.layers.items()})


@dataclasses.dataclass(frozen=True, eq=False)
class VisualDna(Stored):
    """The activations of one set of images in all layers of an encoder, as histograms that stream, merge and stay.

    Images are dealt by turns into groups, so that distances between disjoint halves of a set, which show what is chance, come
    from what is stored. `save(path)` and `VisualDna.load(path)` keep it in a file: a new downstream set is compared with old
    sources without touching their images. Bring all to one size of image: activations depend on it.

    Example:
      >>> import jax, numpy as np
      >>> from sslshift.models import PatchMLP, PretrainedEncoder
      >>> from sslshift.shift import LayerRanges, layer_means, layer_profile
      >>> module, images = PatchMLP(width=4), np.random.default_rng(0).integers(0, 255, (96, 8, 8, 3), np.uint8)
      >>> variables = module.init(jax.random.key(0), images[:1] / 255.0, train=False)
      >>> encoder = PretrainedEncoder(module, variables, (8, 8, 3))
      >>> ranges = LayerRanges.of(encoder, [images])
      >>> new, old = (VisualDna.of(encoder, [each], ranges) for each in (images[:48], images[48:] // 4))
      >>> level = layer_profile(new, old).layers["map"]
      >>> bool(layer_means(new, old)["map"] > 3 * level.floor > 0)
      True

    Attributes:
      counts: of each layer int64 `[groups, neurons, bins]`.
      images: int64 `[groups]`, how many images are in each group.
      ranges: of the neurons, which the bins divide evenly.
    """

    counts: dict[str, np.ndarray]
    images: np.ndarray
    ranges: LayerRanges

    def __post_init__(self):
        require_same_layers(self.counts, self.ranges.layers)
        shapes = {(counts.shape[0], counts.shape[-1]) if counts.ndim == 3 else None for counts in self.counts.values()}
        if len(shapes) > 1 or None in shapes or np.shape(self.images) != next(iter(self.counts.values())).shape[:1]:
            raise ValueError(
                "Counts of all layers are [groups, neurons, bins] of as many groups and bins, with images [groups]."
            )

    @classmethod
    def of(
        cls,
        encoder: PretrainedEncoder,
        batches: Iterable[np.ndarray],
        ranges: LayerRanges,
        *,
        bins: int = 1000,
        groups: int = 8,
        batch_size: int = 128,
        mesh: Mesh | None = None,
    ) -> "VisualDna":
        """Of all images, however they are cut into batches: image i counts in group i modulo groups.

        Activations are placed in bins on the devices, in float32: one within rounding of an edge may count in the bin beside.

        Args:
          encoder: with its weights, the one that the ranges are of.
          batches: uint8 images `[n, height, width, channels]`, any number at a time, all of one size.
          ranges: of its layers.
          bins: of each neuron.
          groups: that images are dealt into; memory grows with them.
          batch_size: images on all devices at a time.
          mesh: of the devices; None: all.

        Raises:
          ValueError: the ranges are of another encoder, there are no images, they are of another shape than the encoder takes,
            or activations are not finite.
        """
        if fingerprint(encoder) != ranges.encoder:
            raise ValueError(
                f"Ranges of another encoder cannot be used: they are of {ranges.encoder!r}, not of {fingerprint(encoder)!r}."
            )
        if bins < 1 or groups < 1:
            raise ValueError(f"At least one bin and one group are needed, not {bins} and {groups}.")
        settings = {"bins": bins, "groups": groups, "batch_size": batch_size, "mesh": mesh}
        counts, number = layer_counts(encoder, batches, ranges.layers, **settings)
        return cls(counts, np.bincount(np.arange(number) % groups, minlength=groups), ranges)

    def merge(self, other: "VisualDna") -> "VisualDna":
        """Of both sets together, group by group."""
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
                f"Activations in {groups} groups and {bins} bins do not go together with those in {other_groups} groups and "
                f"{other_bins} bins."
            )

    @property
    def groups(self) -> int:
        return len(self.images)

    @property
    def count(self) -> int:
        """Images counted."""
        return int(self.images.sum())

    def over(self, groups: Sequence[int] | None = None) -> dict[str, Histograms]:
        """Histograms of each layer, over the images of some groups; None: of all.

        Raises:
          ValueError: there are no images in these groups.
        """
        chosen = list(range(self.groups) if groups is None else groups)
        if not self.images[chosen].any():
            raise ValueError(f"The {self.count} images leave groups empty that are to be compared, of {self.groups} in all.")
        # Summed one by one: a selection of several groups would be copied first.
        return {
            name: Histograms(sum((each[group] for group in chosen[1:]), each[chosen[0]]), self.ranges.layers[name])
            for name, each in self.counts.items()
        }

    def floor(self) -> float:
        """The distance between two disjoint halves of the images, about `count // 2` each, averaged over neurons and splits.

        It is what chance gives at that size; see `layer_profile` for that of each layer, beside a distance at the same size.
        """
        return layer_profile(self, self).overall.floor


def fingerprint(encoder: PretrainedEncoder) -> str:
    """Of what activations depend on: not of which features the encoder gives."""
    return encoder.with_features("pooled").fingerprint
