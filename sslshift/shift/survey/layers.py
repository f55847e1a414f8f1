"""VisualDNA profiles of sources over the layers of the encoder, kept for later calls."""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import Canvas
from sslshift.models import PretrainedEncoder
from sslshift.shift.layers import LayerProfile, LayerRanges, VisualDna, layer_profile
from sslshift.shift.mixtures import LayerMixture
from sslshift.shift.survey.inputs import Encoded, Extractor, ImageSet, MixtureAbout, NoiseFeatures
from sslshift.transfer.extraction import no_images
from sslshift.transfer.features import NetworkEncoder

# Images of each set: they cost two more passes through the encoder, and histograms need fewer images than distances do.
IMAGES = 500
# Four groups have three splits into halves; more groups would take more memory and disk space.
_GROUPS = 4
_BATCH = 100


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
            return profiles(
                work.encode.pretrained,
                work.canvas,
                target.images,
                sources,
                mixtures,
                noise.images,
                work.out / "dna",
                on_images,
            )
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
    # Activations depend on the encoder and on the size of images: each pair has ranges of its own.
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

    ranges = _ranges(encoder, lambda: (images for part in parts for images in batches(part)), folder / "ranges.npz")
    of_target, of_noise, *others = [_dna(encoder, part, batches, ranges, folder) for part in parts]
    by_name: dict[str, VisualDna | LayerMixture] = dict(zip(sources, others, strict=True))
    for name, shares in mixtures.items():
        by_name[name] = LayerMixture([by_name[each] for each in shares], list(shares.values()))
    against = {name: layer_profile(dna, of_target) for name, dna in by_name.items()}
    return LayerProfiles(against, layer_profile(of_noise, of_target))


def _ranges(encoder: PretrainedEncoder, images: Callable[[], Iterator[np.ndarray]], file: Path) -> LayerRanges:
    kept = _kept(LayerRanges, file)
    if kept is None:
        kept = LayerRanges.of(encoder, images(), batch_size=_BATCH)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept.save(file)
    return kept


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
    if kept is None or not _same(kept.ranges, ranges):
        kept = VisualDna.of(encoder, batches(part), ranges, groups=_GROUPS, batch_size=_BATCH)
        kept.save(file)
    return kept


def _kept(kind, file: Path):
    """Returns the content of a file; None if the file is absent or damaged."""
    try:
        return kind.load(file) if file.exists() else None
    except ValueError:
        return None


def _same(x: LayerRanges, y: LayerRanges) -> bool:
    return list(x.layers) == list(y.layers) and all(
        np.array_equal(each.minimum, y.layers[name].minimum) and np.array_equal(each.maximum, y.layers[name].maximum)
        for name, each in x.layers.items()
    )
