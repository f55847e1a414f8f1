"""From an image file's bytes to a uint8 array on the run's canvas. Files are hostile: every failure is one exception."""

import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Formats that Pillow decodes by itself; others, such as EPS, would be handed to programs of the system.
Image.init()
FORMATS = tuple(
    name for name in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000") if name in Image.OPEN
)
# Names of files that are meant as images, also of formats that are not decoded: they are refused, not overlooked.
_OTHERS = (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".psd", ".svg")
EXTENSIONS = frozenset(Image.registered_extensions()).union(_OTHERS)
# A file above this size is no photograph, and would be held in memory whole.
LARGEST_FILE = 1 << 28
# A side this many times the other leaves nothing to see after a crop to a canvas.
LARGEST_ASPECT = 64


class Canvas(NamedTuple):
    """The one image shape of a run: what every source's images are brought to."""

    height: int
    width: int
    channels: int


class BrokenImageError(ValueError):
    """A file that is not a usable image; the message says why."""


def read_file(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
      BrokenImageError: it cannot be read, is empty, too large, or no regular file (reading a pipe would never end).
    """
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise BrokenImageError("it is no regular file")
        require_size(info.st_size)
        return path.read_bytes()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error


def require_size(size: int) -> None:
    """Raises BrokenImageError where a file of so many bytes is no image worth reading."""
    if size == 0:
        raise BrokenImageError("the file is empty")
    if size > LARGEST_FILE:
        raise BrokenImageError(f"the file's {size / 2**20:,.0f} MiB are more than an image of {LARGEST_FILE >> 20} MiB at most")


def decode(content: bytes) -> np.ndarray:
    """Decodes an image file to uint8 `[height, width, channels]`, 1 channel if it is gray and 3 otherwise.

    JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, AVIF, JPEG 2000; turned as EXIF says; transparency on white; 16 bits to 8 by the
    type's range; CMYK and palettes to RGB; of several frames the first.

    Args:
      content: the file's bytes.

    Raises:
      BrokenImageError: truncated, not an image, a sliver, or so large that it is a decompression bomb.
    """
    return from_image(decode_image(content))


def decode_onto(canvas: Canvas, content: bytes) -> np.ndarray:
    """Returns an image file on a canvas: what `fit` makes of `decode`, in fewer steps. Raises like `decode`."""
    return _fitted(decode_image(content), canvas)


def check(content: bytes) -> None:
    """Raises BrokenImageError where `decode` would; JPEGs are decoded at an eighth, which shows truncation as well."""
    decode_image(content, _SMALLEST)


# Reduced decoding is the way to check a JPEG, never to read one: it averages other pixels than `fit` does, and an image would
# differ from the same one in another format (by 57 of 255 at the border of 539 pixels brought to 32 with twice the resolution,
# by 41 with four times). Only JPEG files could be decoded so.
_SMALLEST = (1, 1)


def decode_image(content: bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    """Returns what `decode` decodes, as a Pillow image in mode L or RGB; a JPEG reduced to about `draft` where it is given."""
    try:
        require_size(len(content))
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_shape(*image.size)
            if draft:
                image.draft(None, draft)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _as_gray_or_colour(image)
    except BrokenImageError:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImageError("no image of a known format, or cut short at its start") from error
    except Exception as error:  # Pillow's decoders raise almost anything on hostile input.
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


def _require_shape(width: int, height: int) -> None:
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise BrokenImageError(f"decompression bomb: {width:,} x {height:,} pixels")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise BrokenImageError(f"a sliver: {width:,} x {height:,} pixels")


def _as_gray_or_colour(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # By the type's range, not the image's: equal grays stay equal across files. Floating images lie in [0, 1].
        return Image.fromarray(_to_bytes(np.asarray(image, np.float64), 1.0 if image.mode == "F" else 65535.0))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _to_bytes(values: np.ndarray, top: float) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("the image holds values that are not finite")
    return np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)


def to_image(image: np.ndarray) -> Image.Image:
    """Pillow's form of uint8 `[height, width, 1 or 3]`."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def from_image(image: Image.Image) -> np.ndarray:
    """uint8 `[height, width, 1 or 3]` of a Pillow image in mode L or RGB."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def fit(image: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Brings uint8 `[height, width, 1 or 3]` to the canvas: scaled to cover it, cropped at the centre, channels converted."""
    return image if image.shape == canvas else _fitted(to_image(image), canvas)


def _fitted(image: Image.Image, canvas: Canvas) -> np.ndarray:
    if image.size != (canvas.width, canvas.height):
        image = ImageOps.fit(image, (canvas.width, canvas.height), Image.Resampling.BICUBIC)
    # Pillow's gray is Rec. 601 luma, that of every "grayscale" in this field.
    mode = "L" if canvas.channels == 1 else "RGB"
    return from_image(image if image.mode == mode else image.convert(mode))
