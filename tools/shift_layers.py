"""Where in an encoder sources differ from the target: VisualDNA profiles over its layers, kept for later calls."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.sources import Source
from sslshift.models import PretrainedEncoder
from sslshift.shift.layers import LayerProfile, LayerRanges, VisualDna, layer_profile
from sslshift.shift.mixtures import LayerMixture
from sslshift.transfer.features import no_images

# Of each set: its images cost two more passes through the encoder, and histograms know enough from fewer.
IMAGES = 500
_GROUPS = 4
_BATCH = 100


class Part(NamedTuple):
    """Readable images of a source."""

    source: Source
    indices: np.ndarray


def profiles(
    encoder: PretrainedEncoder,
    canvas: Canvas,
    target: Part,
    sources: Mapping[str, Part],
    mixtures: Mapping[str, Mapping[str, float]],
    noise: Part,
    folder: Path,
    on_images: Callable[[int, int], None] = no_images,
) -> tuple[dict[str, LayerProfile], LayerProfile]:
    """The profile of each source and mixture against the target, and that of noise, of at most 500 images each.

    The ranges of the neurons are learned once, on all that the first call names, and kept in `folder` with the histograms of
    every set: a new target or source is compared with those of before without reading their images.

    Raises:
      ValueError: a set has too few images.
    """
    folder = folder / f"{encoder.with_features('pooled').fingerprint[:16]}-{'x'.join(map(str, canvas))}"
    parts = [target, noise, *sources.values()]
    seen = itertools.count(1)
    total = 2 * sum(len(part.indices[:IMAGES]) for part in parts)

    def batches(part: Part) -> Iterator[np.ndarray]:
        for start in range(0, len(part.indices[:IMAGES]), _BATCH):
            indices = part.indices[:IMAGES][start : start + _BATCH]
            yield part.source.read(indices, canvas)
            on_images(min(next(seen) * _BATCH, total), total)

    ranges = _ranges(encoder, lambda: (images for part in parts for images in batches(part)), folder / "ranges.npz")
    found = [_dna(encoder, part, batches, ranges, folder) for part in parts]
    of_target, of_noise, *others = found
    by_name: dict[str, VisualDna | LayerMixture] = dict(zip(sources, others, strict=True))
    for name, shares in mixtures.items():
        by_name[name] = LayerMixture([by_name[each] for each in shares], list(shares.values()))
    against = {name: layer_profile(dna, of_target) for name, dna in by_name.items()}
    return against, layer_profile(of_noise, of_target)


def _ranges(encoder: PretrainedEncoder, images: Callable[[], Iterator[np.ndarray]], file: Path) -> LayerRanges:
    kept = _kept(LayerRanges, file)
    if kept is None:
        kept = LayerRanges.of(encoder, images(), batch_size=_BATCH)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept.save(file)
    return kept


def _dna(
    encoder: PretrainedEncoder,
    part: Part,
    batches: Callable[[Part], Iterator[np.ndarray]],
    ranges: LayerRanges,
    folder: Path,
) -> VisualDna:
    chosen = f"{part.source.fingerprint} {part.indices[:IMAGES].tolist()}"
    file = folder / f"{hashlib.sha256(chosen.encode()).hexdigest()[:32]}.npz"
    kept = _kept(VisualDna, file)
    # Ranges that were learned anew make older histograms useless.
    if kept is None or not _same(kept.ranges, ranges):
        kept = VisualDna.of(encoder, batches(part), ranges, groups=_GROUPS, batch_size=_BATCH)
        kept.save(file)
    return kept


def _kept(kind, file: Path):
    """What a file holds; None if there is none, or it is damaged."""
    try:
        return kind.load(file) if file.exists() else None
    except ValueError:
        return None


def _same(x: LayerRanges, y: LayerRanges) -> bool:
    return list(x.layers) == list(y.layers) and all(
        np.array_equal(each.minimum, y.layers[name].minimum) and np.array_equal(each.maximum, y.layers[name].maximum)
        for name, each in x.layers.items()
    )
