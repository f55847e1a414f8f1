"""From an image file as it was found to the record that is stored, and its row of the manifest."""

import dataclasses
import hashlib
import io
from typing import Any

from PIL import Image

from sslshift.data.decode import BrokenImageError, UnknownRangeError, decode_image, from_image
from sslshift.data.perceptual_hash import perceptual_hash
from sslshift.data.ranges import PixelRange
from sslshift.data.records.shards import StoredImage
from sslshift.data.sources.base import Refused

ENCODINGS = ("jpeg", "png", "webp")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How images are stored: re-encoded, so that nothing but their pixels is kept (no EXIF places, no appended files).

    Args:
      size: pixels of the shorter side, at most; smaller images keep their size.
      format: "jpeg", "png" (no loss, several times as large) or "webp".
      quality: of JPEG and WebP, 1 to 100.
    """

    size: int = 256
    format: str = "jpeg"
    quality: int = 95

    def __post_init__(self):
        if self.size < 8:
            raise ValueError(f"Images are stored with a shorter side of at least 8 pixels, not {self.size}.")
        if self.format not in ENCODINGS:
            raise ValueError(f"Images are stored as {', '.join(ENCODINGS)}, not {self.format!r}.")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"A quality lies between 1 and 100, not at {self.quality}.")


def store(
    content: bytes, row: dict[str, Any], encoding: Encoding, pixel_range: PixelRange | None = None
) -> StoredImage | Refused:
    """Returns the record of an image file.

    Args:
      content: the file's bytes.
      row: what else is known of it, `origin` at least.
      encoding: how it is stored.
      pixel_range: the values of images of more than 8 bits that become 0 and 255.

    Raises:
      UnknownRangeError: it has more than 8 bits, and there is no pixel range.
    """
    try:
        picture, width, height, levels = decode_image(content, pixel_range)
    except UnknownRangeError:
        raise
    except BrokenImageError as error:
        return Refused(row["origin"], str(error))
    scale = encoding.size / min(picture.size)
    if scale < 1:
        shape = tuple(max(1, round(side * scale)) for side in picture.size)
        # In one step: a coarser one before it (Pillow's `reducing_gap`) is quicker, and differs by up to 29 of 255.
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
    stored = io.BytesIO()
    picture.save(stored, encoding.format, **_options(encoding))
    about = {
        "digest": hashlib.sha256(content).hexdigest(),
        "perceptual_hash": int(perceptual_hash(from_image(picture))),
        "original_width": width,
        "original_height": height,
        "width": picture.width,
        "height": picture.height,
    }
    return StoredImage(stored.getvalue(), row | about, levels and levels.of(row["origin"]))


def _options(encoding: Encoding) -> dict[str, Any]:
    # Colours at full resolution: at small sizes halved ones are visible.
    return {"jpeg": {"quality": encoding.quality, "subsampling": 0}, "png": {}, "webp": {"quality": encoding.quality}}[
        encoding.format
    ]
