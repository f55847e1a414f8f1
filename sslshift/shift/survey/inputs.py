"""Opening of a survey's sources, scaling to one canvas and encoding; planned mixtures use the features of these sources."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sslshift.data.curation.cosine import near_pairs_by_features
from sslshift.data.curation.duplicates import MIN_COSINE
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.mixture_resolve import plain_shares
from sslshift.data.mixture_text import parse_mixture
from sslshift.data.noise import NoiseSource
from sslshift.data.permutation import permute
from sslshift.data.source_text import NamedUri
from sslshift.data.sources import PartialSource, Source, cached, open_source
from sslshift.data.sources.base import printable
from sslshift.shift.mixtures import blend, blend_counts
from sslshift.transfer.encoders import NamedEncoder
from sslshift.transfer.extraction import Extracted, extract
from sslshift.transfer.features import Encoder
from sslshift.transfer.leaks import LeakFinder, OnCanvas

# The largest side for an encoder without a size of its own, and the number of images that are looked at for their size.
_SIDE = 64
_LOOKED_AT = 24
# Thresholds of near-duplicates for a trained encoder. Two numbers show how much depends on the threshold.
COSINES = (0.99, MIN_COSINE)
# Images of a source on the canvas that are kept in memory, since layer profiles and the page read them again.
_KEPT_BYTES = 1 << 26
# Stream of the seeded order of a source; 1 to 7 are those of the sample plan, the subsets and the splits.
_DRAW = 8

# Shows progress: takes a description, and yields a function of the numbers of images done and wanted.
Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class ImageLook(NamedTuple):
    """Shorter and longer sides of some images of a source, and how many of these images are in colour."""

    sides: tuple[tuple[int, int], ...]
    colour: int

    @property
    def text(self) -> str:
        low = min(self.sides)
        high = max(self.sides)
        count = len(self.sides)
        size = f"{low[0]} x {low[1]}" + (f" to {high[0]} x {high[1]}" if low != high else "")
        kind = "colour" if self.colour == count else "grey" if not self.colour else f"{self.colour} of {count} in colour"
        return f"{size}, {kind}"


@dataclasses.dataclass(frozen=True, eq=False)
class SourceImages:
    """An open source, and the images of it that a survey uses, in a seeded order."""

    declared: NamedUri
    source: Source
    indices: np.ndarray
    look: ImageLook


@dataclasses.dataclass(frozen=True)
class SourceAbout:
    """Facts about a source and its images, for tables and files.

    Attributes:
      uri: its URI.
      images: size of the source.
      looked_at: number of images that were drawn.
      used: number of drawn images that can be read.
      unique: number of used images without exact copies on the canvas.
      unlike: number of used images without near-duplicates at each threshold of the cosine; None for an untrained encoder.
      licence, cost_per_image: as the source declares them.
      looks: sizes and colours of some images, in words.
      broken: images that cannot be read, with the reason.
      refused: files that are not readable images, with the reason.
      notes: remarks from reading the source.
      pixel_range: range of the pixel values that the source declares.
      fingerprint: hash of the source.
      copies: number of used images that are copies of images of the target; None for the target itself.
      near_copies: number of these copies that are not exact: stored again, resized or brightened.
      example: a copy and its image of the target; empty if there is none that is not exact.
    """

    uri: str
    images: int
    looked_at: int
    used: int
    unique: int
    unlike: dict[str, int] | None
    licence: str
    cost_per_image: float
    looks: str
    broken: list[str]
    refused: list[str]
    notes: list[str]
    pixel_range: Any
    fingerprint: str
    copies: int | None
    near_copies: int = 0
    example: str = ""
    kind: str = "source"

    @property
    def record(self) -> dict[str, Any]:
        """Returns the facts for a JSON file; optional ones that are None are absent."""
        optional = {name for name in ("unlike", "copies") if getattr(self, name) is None}
        named = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {"kind": self.kind} | {name: value for name, value in named.items() if name not in optional and name != "kind"}


@dataclasses.dataclass(frozen=True)
class MixtureAbout:
    """Facts about a planned mixture, for tables and files.

    Attributes:
      uri: its shares as text.
      used: number of images that represent it.
      licence: licences of its components.
      cost_per_image: mean cost by the shares.
      shares: share of each source.
      counts: images of each source among the used ones.
    """

    uri: str
    used: int
    licence: str
    cost_per_image: float
    shares: dict[str, float]
    counts: dict[str, int]
    kind: str = "mixture"

    @property
    def record(self) -> dict[str, Any]:
        """Returns the facts for a JSON file."""
        named = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {"kind": self.kind} | {name: value for name, value in named.items() if name != "kind"}


class ImageSet(NamedTuple):
    """Readable images of a source, by their indices."""

    source: Source
    indices: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Features of a source, or of a planned mixture of sources.

    Attributes:
      name: name in tables.
      features: float32 `[n, dim]` of the images that can be read, in a random order.
      about: facts for tables and files.
      images: images of the features; None for a mixture.
      digests: hashes of the images' pixels on the canvas, uint8 `[n, 16]`; None for a mixture.
    """

    name: str
    features: np.ndarray
    about: SourceAbout | MixtureAbout
    images: ImageSet | None = None
    digests: np.ndarray | None = None


class NoiseFeatures(NamedTuple):
    """Features of noise with the pixel values of the target, and its images."""

    features: np.ndarray
    images: ImageSet


class PlannedMixture(NamedTuple):
    """A mixture of declared sources by share."""

    name: str
    shares: dict[str, float]


def parse_mixtures(texts: Sequence[str], sources: Sequence[NamedUri]) -> list[PlannedMixture]:
    """Reads mixtures of declared sources, in the form of `sslshift.data.mixture_text`; without a name, the text is the name.

    Example:
      >>> parse_mixtures(["more = 70%*near + 0.3*web"], [NamedUri("near", "folder:near"), NamedUri("web", "folder:web")])
      [PlannedMixture(name='more', shares={'near': 0.7, 'web': 0.3})]

    Raises:
      ValueError: a text has another form, names a source that is not declared, or the name of a mixture is taken.
    """
    known = {source.name: source.uri for source in sources}
    found = []
    for text in texts:
        try:
            declaration = parse_mixture(text, known=known)
            found.append(PlannedMixture(declaration.name or text.strip(), plain_shares(declaration)))
        except ValueError as error:
            raise ValueError(f"--mixture={text}: {error}") from error
    taken = [*known, *(each.name for each in found)]
    twice = next((each.name for each in found if taken.count(each.name) > 1), None)
    if twice:
        raise ValueError(f"--mixture: {twice} is already the name of a source or of another mixture; choose another name.")
    return found


def open_images(declared: NamedUri, count: int, seed: int) -> SourceImages:
    """Opens a source and draws at most `count` of its images.

    Raises:
      ValueError: the source cannot be opened, or none of the images that are looked at can be read.
    """
    source = open_source(declared.uri)
    # The images are drawn at random, since files in a folder are often ordered by class or by camera.
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
    # Shorter and longer sides are compared, so that rotated pictures count as equal in size.
    sides = tuple((min(shape[:2]), max(shape[:2])) for shape in shapes)
    return SourceImages(declared, source, indices, ImageLook(sides, sum(shape[2] == 3 for shape in shapes)))


def choose_canvas(named: NamedEncoder, target: ImageLook, image_size: int) -> Canvas:
    """Returns the canvas of all images: the size that the encoder takes, or else a size near that of the target's images."""
    if named.canvas:
        height, width, channels = named.canvas
        return Canvas(image_size or height, image_size or width, channels)
    side = image_size or min(_SIDE, int(np.median([short for short, _ in target.sides])))
    if not image_size:
        # A ViT takes only multiples of its patch.
        side = max(named.multiple, side // named.multiple * named.multiple)
    return Canvas(side, side, 3 if target.colour else 1)


class _Copies(NamedTuple):
    """Copies of the target's images in a source, see `SourceAbout`."""

    count: int | None
    near: int = 0
    example: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """Encodes all images of a survey, and keeps their features for later calls.

    Attributes:
      named: the encoder and its description.
      encode: the encoder on this canvas.
      canvas: size that all images are brought to.
      out: folder of results; features are kept below it.
      seed: seed of the noise.
      counting: shows progress.
    """

    named: NamedEncoder
    encode: Encoder
    canvas: Canvas
    out: Path
    seed: int
    counting: Counting

    def encoded(self, images: SourceImages, finder: LeakFinder | None = None) -> Encoded:
        """Returns the features of a source's images and the facts about it.

        Args:
          images: images of the source.
          finder: search for copies of the target's images; None: these are the images of the target.

        Raises:
          ValueError: no image can be read, or features are not finite.
        """
        source = images.source
        name = images.declared.name
        # Cached, since the noise, the layers and the page read some of these images again.
        reader = cached(source, self.canvas, _KEPT_BYTES)
        with self.counting(f"images of {name}") as on_images:
            try:
                found = self._extracted(reader, images.indices, on_images)
            except ValueError as error:
                # Readers know the source by its name in tables, which takes the place of the URI.
                raise ValueError(f"{name}: {str(error).removeprefix(f'{source.name}: ')}") from error
        kept = images.indices[found.kept]
        copies = _Copies(None) if finder is None else self._copies(reader, kept, finder)
        about = SourceAbout(
            uri=printable(images.declared.uri),
            images=len(source),
            looked_at=len(images.indices),
            used=len(found.features),
            unique=len(np.unique(found.digests, axis=0)),
            # Features of an untrained encoder do not show which images are near-duplicates.
            unlike=_unlike(found.features) if self.named.trained else None,
            licence=source.licence,
            cost_per_image=source.cost_per_image,
            looks=images.look.text,
            broken=[f"{source.origin(index)}: {why}" for index, why in found.broken],
            refused=[f"{path} ({why})" for path, why in source.refused],
            notes=list(source.notes),
            pixel_range=source.pixel_range,
            fingerprint=source.fingerprint,
            copies=copies.count,
            near_copies=copies.near,
            example=copies.example,
        )
        return Encoded(name, found.features, about, ImageSet(reader, kept), found.digests)

    def finder(self, target: Encoded) -> LeakFinder:
        """Returns a search for copies of the target's images, as the encoder sees them."""
        source, indices = target.images
        test = OnCanvas(PartialSource(source, indices), self.canvas)
        return LeakFinder(test, np.arange(len(test)), colour=self.canvas.channels > 1, note=lambda _: None)

    def _copies(self, source: Source, indices: np.ndarray, finder: LeakFinder) -> "_Copies":
        own = OnCanvas(PartialSource(source, indices), self.canvas)
        if finder.why_not(own):
            return _Copies(0)
        leaks = finder.leaks(own)
        count = len(np.unique(leaks.pairs.first))
        near = next(zip(leaks.near.first.tolist(), leaks.near.second.tolist(), strict=True), None)
        example = f"{own.origin(near[0])} and {finder.test.origin(near[1])}" if near else ""
        return _Copies(count, count - len(np.unique(leaks.same.first)), example)

    def noise(self, target: Encoded) -> NoiseFeatures:
        """Returns the features of noise images; their number equals that of the target's images."""
        source = NoiseSource(target.images.source, target.images.indices, self.canvas, self.seed)
        indices = np.arange(len(source))
        with self.counting("noise") as on_images:
            found = self._extracted(source, indices, on_images)
        return NoiseFeatures(found.features, ImageSet(source, indices))

    def _extracted(self, source: Source, indices: np.ndarray, on_images: Callable[[int, int], None]) -> Extracted:
        cache = self.out / "features"
        found = extract(self.encode, source, indices, self.canvas, cache=cache, on_images=on_images)
        # Distances are computed in float64 on the host.
        return found._replace(features=jax.device_get(found.features))


def _unlike(features: np.ndarray) -> dict[str, int]:
    """Returns the number of images that remain at each threshold; a group of n near-duplicates has n - 1 pairs."""
    return {f"{each:g}": len(features) - near_pairs_by_features(features, each).count for each in COSINES}


def mix(planned: PlannedMixture, sources: Mapping[str, Encoded], count: int) -> Encoded:
    """Returns a planned mixture: the first features of each component, in exact proportion; no image is read again.

    Args:
      planned: the mixture.
      sources: the sources by name.
      count: images of the mixture. It is the number at which all sources are compared: of a larger mixture the comparison
        would draw a part, whose proportions would hold by chance only.

    Raises:
      ValueError: a component could not be measured, or has too few images for its share.
    """
    missing = next((name for name in planned.shares if name not in sources), None)
    if missing:
        raise ValueError(f"its component {missing} cannot be measured")
    have = {name: len(sources[name].features) for name in planned.shares}
    # With fewer images than asked for, the sample size would differ from that of the sources.
    counts = blend_counts(have, planned.shares, count)
    if sum(counts.values()) < count:
        name = min(have, key=lambda name: have[name] / planned.shares[name])
        part = math.ceil(count * planned.shares[name])
        raise ValueError(f"its share of {name} is {part:,} of {count:,} images, and {have[name]:,} can be read")
    about = MixtureAbout(
        uri=" + ".join(f"{share:g}*{name}" for name, share in planned.shares.items()),
        used=count,
        licence=", ".join(dict.fromkeys(sources[name].about.licence for name in counts)),
        cost_per_image=sum(share * sources[name].about.cost_per_image for name, share in planned.shares.items()),
        shares=planned.shares,
        counts=counts,
    )
    features = blend({name: sources[name].features for name in counts}, planned.shares, count)
    return Encoded(planned.name, features, about)
