"""From an image file's bytes to a uint8 array on the run's canvas. Files are hostile: every failure is one exception."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from sslshift.data.broken import BrokenImageError, UnknownRangeError
from sslshift.data.deep import read_samples
from sslshift.data.metadata import Bare, strip_metadata
from sslshift.data.ranges import WHOLE, Levels, PixelRange
from sslshift.data.unknown import describe_unknown

# Formats that Pillow decodes by itself; others, such as EPS, would be handed to programs of the system.
Image.init()
FORMATS = tuple(
    name for name in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000") if name in Image.OPEN
)
# Names of files that are meant as images, also of formats that are not decoded: they are refused, not overlooked.
_OTHERS = (".arw", ".cr2", ".cr3", ".dcm", ".dicom", ".dng", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".nef", ".psd", ".svg")
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


def decode(content: bytes, pixel_range: PixelRange | None = WHOLE) -> np.ndarray:
    """Decodes an image file to uint8 `[height, width, channels]`, 1 channel if it is gray and 3 otherwise.

    JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, AVIF, JPEG 2000; turned as EXIF says, where that can be read; transparency on white;
    CMYK and palettes to RGB; of several frames the first. Metadata that are broken, or large, do not matter.

    Args:
      content: the file's bytes.
      pixel_range: the values of images of more than 8 bits that become 0 and 255. By default they are 0 and 65535, and 0 and 1
        for floating-point images; a source decides them once for all of its files. None: such images are refused, unless they
        state the value of white themselves.

    Raises:
      BrokenImageError: truncated, not an image, a sliver, or so large that it is a decompression bomb; or of more than 8 bits
        and not within the pixel range, unless that was stated by a user.
    """
    return from_image(decode_image(content, pixel_range).image)


def decode_onto(canvas: Canvas, content: bytes, pixel_range: PixelRange | None = WHOLE) -> np.ndarray:
    """Returns an image file on a canvas: what `fit` makes of `decode`, in fewer steps. Raises like `decode`."""
    return _fitted(decode_image(content, pixel_range).image, canvas)


class Decoded(NamedTuple):
    """An image in mode L or RGB, its size as it is stored, and its values if it has more than 8 bits."""

    image: Image.Image
    width: int
    height: int
    levels: Levels | None


def decode_image(content: bytes, pixel_range: PixelRange | None = WHOLE) -> Decoded:
    """Returns what `decode` decodes, as a Pillow image, and what is known of it. Raises like `decode`."""
    with _opened(content) as (image, bare):
        width, height = image.size
        samples = read_samples(image, bare.content)
        if samples is None:
            _scale_transparency(image)
            image.load()
            return Decoded(_turned(_as_gray_or_colour(image), image, bare), width, height, None)
        if pixel_range is None and samples.top is None:
            raise UnknownRangeError("it has more than 8 bits, and which of its values are black and white was not said")
        eight_bits = to_image(samples.within(pixel_range or WHOLE))
        return Decoded(_turned(eight_bits, image, bare), width, height, samples.levels(pixel_range))


def check(content: bytes, stated: PixelRange | None = None) -> Levels | None:
    """Returns the values of an image of more than 8 bits, None of any other.

    Args:
      content: the file's bytes.
      stated: the pixel range that the user gave, if any: it is counted what lies outside of it.

    Raises:
      BrokenImageError: where `decode` would, but for the pixel range.
    """
    with _opened(content) as (image, bare):
        samples = read_samples(image, bare.content)
        if samples is not None:
            return samples.levels(stated)
        # A JPEG at an eighth: truncation shows as well. That is a way to check it, never to read it: other pixels are averaged
        # than by `fit`, and an image would differ from the same one in another format (by 57 of 255 at the border of 539 pixels
        # brought to 32 with twice the resolution, by 41 with four times).
        image.draft(None, (1, 1))
        image.load()
        return None


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[tuple[ImageFile.ImageFile, Bare]]:
    """Opens an image file without its metadata; whatever goes wrong with it, then or later, is one exception."""
    try:
        require_size(len(content))
        bare = strip_metadata(content)
        with Image.open(io.BytesIO(bare.content), formats=FORMATS) as image:
            _require_shape(*image.size)
            yield image, bare
    except BrokenImageError:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImageError(describe_unknown(content)) from error
    except Exception as error:  # Pillow's decoders raise almost anything on hostile input.
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


def _require_shape(width: int, height: int) -> None:
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise BrokenImageError(f"decompression bomb: {width:,} x {height:,} pixels")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise BrokenImageError(f"a sliver: {width:,} x {height:,} pixels")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned(image: Image.Image, original: ImageFile.ImageFile, bare: Bare) -> Image.Image:
    """Returns the image turned as its file says."""
    # Pillow writes EXIF itself for how the boxes of an AVIF file say that it is turned.
    orientation = original.getexif().get(ExifTags.Base.Orientation) if original.format == "AVIF" else bare.orientation
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Pillow scales gray of 2 and 4 bits to 8, but not the gray that is transparent in a PNG."""
    scale = {"L;2": 85, "L;4": 17}.get(image.tile[0].args) if image.format == "PNG" and image.tile else None
    if scale and "transparency" in image.info:
        image.info["transparency"] *= scale


def _as_gray_or_colour(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


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
