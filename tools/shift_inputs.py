"""The images that `tools.shift` looks at, on one canvas, as features; planned mixtures are made of these."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.curation.cosine import near_pairs_by_features
from sslshift.data.curation.duplicates import MIN_COSINE
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.permutation import permute
from sslshift.data.sources import Source, cached, open_source
from sslshift.data.sources.base import printable
from sslshift.shift.mixtures import blend, blend_counts
from sslshift.transfer.encoders import NamedEncoder
from sslshift.transfer.features import Encoder, extract
from tools.shift_declared import Declared, Planned

# Side that an encoder without a size of its own sees at most; images looked at for their size.
_SIDE = 64
_LOOKED_AT = 24
# Of two images that are nearly one, for a trained encoder; one number alone would look surer than it is.
COSINES = (0.99, MIN_COSINE)
# Of a source, images on the canvas that are kept in memory for a second look.
_KEPT_BYTES = 1 << 26
# What the seeded order of a source is for; 1 to 7 are the sample plan's, the subsets' and the splits'.
_DRAW = 8


class Look(NamedTuple):
    """Shapes of some images of a source: shorter and longer sides, and how many are colour."""

    sides: tuple[tuple[int, int], ...]
    colour: int

    @property
    def text(self) -> str:
        (low, high), count = (min(self.sides), max(self.sides)), len(self.sides)
        size = f"{low[0]} x {low[1]}" + (f" to {high[0]} x {high[1]}" if low != high else "")
        kind = "colour" if self.colour == count else "grey" if not self.colour else f"{self.colour} of {count} in colour"
        return f"{size}, {kind}"


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of a source that are looked at, in a seeded order."""

    declared: Declared
    source: Source
    indices: np.ndarray
    look: Look


def open_images(declared: Declared, count: int, seed: int) -> Images:
    """Opens a source and draws at most `count` of its images.

    Raises:
      ValueError: it cannot be opened, or none of the images looked at can be read.
    """
    source = open_source(declared.uri)
    indices = permute(np.arange(min(count, len(source))), len(source), _DRAW, seed)
    shapes = []
    why = ""
    for index in indices[:_LOOKED_AT].tolist():
        try:
            shapes.append(source.image(index).shape)
        except BrokenImageError as error:
            why = str(error)
    if not shapes:
        raise ValueError(f"{declared.name}: none of the {min(_LOOKED_AT, len(indices))} images looked at can be read: {why}.")
    sides = tuple((min(shape[:2]), max(shape[:2])) for shape in shapes)
    return Images(declared, source, indices, Look(sides, sum(shape[2] == 3 for shape in shapes)))


def choose_canvas(named: NamedEncoder, target: Look, image_size: int) -> Canvas:
    """What all images are brought to: what the encoder takes, or else near to what the target's images are."""
    if named.canvas:
        height, width, channels = named.canvas
        return Canvas(image_size or height, image_size or width, channels)
    side = image_size or min(_SIDE, int(np.median([short for short, _ in target.sides])))
    if not image_size:
        side = max(named.multiple, side // named.multiple * named.multiple)
    return Canvas(side, side, 3 if target.colour else 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """A source, or a planned mixture of sources, as its features.

    Attributes:
      name: what tables call it.
      features: float32 `[n, dim]` of the images that can be read, in a random order.
      about: size, licence, cost and so on, for tables and files.
      images: of a source; None: a mixture.
      kept: indices of the features' images in the source.
      digests: of their pixels on the canvas, uint8 `[n, 16]`.
      reader: the source, its images on the canvas kept in memory if they fit.
    """

    name: str
    features: np.ndarray
    about: dict
    images: Images | None = None
    kept: np.ndarray | None = None
    digests: np.ndarray | None = None
    reader: Source | None = None


def encode_images(
    images: Images,
    encode: Encoder,
    canvas: Canvas,
    cache: Path,
    *,
    by_features: bool,
    target: Encoded | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """Features of a source's images, and what is known of it.

    Args:
      images: of the source.
      encode: the encoder.
      canvas: that images are brought to.
      cache: folder of features.
      by_features: whether near-duplicates are told by features, which an untrained encoder's do not.
      target: whose exact copies are counted; None: this is the target.
      on_images: called with the numbers of images done and wanted.

    Raises:
      ValueError: no image can be read, or features are not finite.
    """
    source = images.source
    name = images.declared.name
    reader = cached(images.source, canvas, _KEPT_BYTES)
    try:
        found = extract(encode, reader, images.indices, canvas, cache=cache, on_images=on_images)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix(f'{source.name}: ')}") from error
    about = {
        "kind": "source",
        "uri": printable(images.declared.uri),
        "images": len(source),
        "looked_at": len(images.indices),
        "used": len(found.features),
        "unique": len(np.unique(found.digests, axis=0)),
        **({"unlike": _unlike(found.features)} if by_features else {}),
        "licence": source.licence,
        "cost_per_image": source.cost_per_image,
        "looks": images.look.text,
        "broken": [f"{source.origin(index)}: {why}" for index, why in found.broken],
        "refused": [f"{path} ({why})" for path, why in source.refused],
        "notes": list(source.notes),
        "pixel_range": source.pixel_range,
        "fingerprint": source.fingerprint,
    }
    if target is not None:
        of_target = {digest.tobytes() for digest in target.digests}
        about["copies"] = sum(digest.tobytes() in of_target for digest in found.digests)
    return Encoded(name, found.features, about, images, images.indices[found.kept], found.digests, reader)


def _unlike(features: np.ndarray) -> dict[str, int]:
    """Images that are left at each threshold of the cosine. Pairs link groups, each by one less than it has images."""
    return {f"{each:g}": len(features) - near_pairs_by_features(features, each).count for each in COSINES}


def mix(planned: Planned, parts: Mapping[str, Encoded], count: int) -> Encoded:
    """A planned mixture: of each component's features the first ones, in exact proportion; no image is read again.

    Args:
      planned: the mixture.
      parts: the sources by name.
      count: images of the mixture: as many as all else is compared at, so that no draw of a part of them is out of proportion.

    Raises:
      ValueError: a component could not be read, or has too few images for its share.
    """
    missing = next((name for name in planned.shares if name not in parts), None)
    if missing:
        raise ValueError(f"its component {missing} cannot be measured")
    have = {name: len(parts[name].features) for name in planned.shares}
    counts = blend_counts(have, planned.shares, count)
    if sum(counts.values()) < count:
        name = min(have, key=lambda name: have[name] / planned.shares[name])
        part = math.ceil(count * planned.shares[name])
        raise ValueError(f"its share of {name} is {part:,} of {count:,} images, and {have[name]:,} can be read")
    about = {
        "kind": "mixture",
        "uri": " + ".join(f"{share:g}*{name}" for name, share in planned.shares.items()),
        "used": count,
        "licence": ", ".join(dict.fromkeys(parts[name].about["licence"] for name in counts)),
        "cost_per_image": sum(share * parts[name].about["cost_per_image"] for name, share in planned.shares.items()),
        "shares": planned.shares,
        "counts": counts,
    }
    features = blend({name: parts[name].features for name in counts}, planned.shares, count)
    return Encoded(planned.name, features, about)
