"""The stored form of an image: the image encoded again at a small size, its digest, its perceptual hash and its sizes."""

import dataclasses
import hashlib
import io
from typing import Any, NamedTuple

from PIL import Image

from sslshift.data.decode import BrokenImageError, UnknownRangeError, decode_image, from_image
from sslshift.data.perceptual_hash import perceptual_hash
from sslshift.data.ranges import Levels, PixelRange
from sslshift.data.sources.base import Refused
from sslshift.data.sources.manifest import ImageDescription

ENCODINGS = ("jpeg", "png", "webp")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The encoding of stored images. They keep only their pixels: EXIF positions and appended files are removed.

    Args:
      size: largest length of the shorter side in pixels; smaller images keep their size.
      format: "jpeg", "png" (lossless, several times as large) or "webp".
      quality: quality of JPEG and WebP, 1 to 100.
    """

    size: int = 256
    format: str = "jpeg"
    quality: int = 95

    def __post_init__(self):
        # Methods need at least a few pixels; a smaller size is a mistake such as a missing digit.
        if self.size < 8:
            raise ValueError(f"Expected a shorter side of at least 8 pixels, got {self.size}.")
        if self.format not in ENCODINGS:
            raise ValueError(f"Expected one of {', '.join(ENCODINGS)} as the encoding, got {self.format!r}.")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"Expected a quality between 1 and 100, got {self.quality}.")


class StoredImage(NamedTuple):
    """An image in its stored form.

    Attributes:
      content: the encoded image, which becomes a record.
      description: facts about the image in addition to its pixels.
      digest: SHA-256 of the original file, in hexadecimal digits.
      perceptual_hash: hash of the stored pixels.
      original_width, original_height: pixels of the original file.
      width, height: pixels of the stored image.
      levels: range of values of an image of more than 8 bits, else None.
    """

    content: bytes
    description: ImageDescription
    digest: str
    perceptual_hash: int
    original_width: int
    original_height: int
    width: int
    height: int
    levels: Levels | None = None

    def row(self, shard: str) -> dict[str, Any]:
        """Returns the row of the manifest; `shards.finish` adds its label and record number when all shards are known."""
        names = "digest", "perceptual_hash", "original_width", "original_height", "width", "height"
        about = {name: getattr(self, name) for name in names}
        return self.description.columns() | about | {"shard": shard, "bytes": len(self.content)}


def store(
    content: bytes,
    description: ImageDescription,
    encoding: Encoding,
    pixel_range: PixelRange | None = None,
    max_pixels: int | None = None,
) -> StoredImage | Refused:
    """Returns an image file in its stored form.

    Args:
      content: the bytes of the file.
      description: facts about the image in addition to its pixels.
      encoding: the encoding of the stored image.
      pixel_range: the values of images of more than 8 bits that become 0 and 255.
      max_pixels: largest number of pixels of an image, see `decode`.

    Raises:
      UnknownRangeError: the image has more than 8 bits, and there is no pixel range.
    """
    try:
        picture, width, height, levels = decode_image(content, pixel_range, max_pixels)
    except UnknownRangeError:
        # It is also a BrokenImageError, but this image can be stored when the range is known.
        raise
    except BrokenImageError as error:
        return Refused(description.origin, str(error))
    scale = encoding.size / min(picture.size)
    if scale < 1:
        shape = tuple(max(1, round(side * scale)) for side in picture.size)
        # The image is resized in one step: a coarser first step (Pillow's `reducing_gap`) is faster, but differs by up to 29 of
        # 255.
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
    # The image is encoded again even if it keeps its size: the original may hold a position, a name or appended data.
    stored = io.BytesIO()
    picture.save(stored, encoding.format, **_options(encoding))
    return StoredImage(
        content=stored.getvalue(),
        description=description,
        digest=hashlib.sha256(content).hexdigest(),
        perceptual_hash=int(perceptual_hash(from_image(picture))),
        original_width=width,
        original_height=height,
        width=picture.width,
        height=picture.height,
        levels=levels and levels.of(description.origin),
    )


def _options(encoding: Encoding) -> dict[str, Any]:
    if encoding.format == "png":
        return {}
    if encoding.format == "webp":
        return {"quality": encoding.quality}
    # Colours are stored at full resolution: at small sizes, the loss from halving it is visible.
    return {"quality": encoding.quality, "subsampling": 0}
