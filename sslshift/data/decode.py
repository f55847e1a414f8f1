"""Decoding of an image file's bytes to a uint8 array on the run's canvas.

Files may be hostile, so every failure becomes one exception, `BrokenImageError`.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from sslshift.data.deep import read_samples
from sslshift.data.formats import describe_unknown, open_image, reduce_large, require_shape
from sslshift.data.metadata import Bare, BrokenImageError, strip_metadata
from sslshift.data.ranges import WHOLE, Levels, PixelRange

# Largest size of a file in bytes. A file is held in memory as a whole, and no photograph is larger.
LARGEST_FILE = 1 << 28


class UnknownRangeError(BrokenImageError):
    """Raised for an image of more than 8 bits whose values of black and white are not known."""


class Canvas(NamedTuple):
    """The one image shape of a run, to which the images of every source are brought."""

    height: int
    width: int
    channels: int


def read_file(path: Path) -> bytes:
    """Returns the bytes of an image file.

    Raises:
      BrokenImageError: the file cannot be read, is empty, is too large, or is not a regular file (reading a pipe might never
        end).
    """
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise BrokenImageError("it is not a regular file")
        require_size(info.st_size)
        return path.read_bytes()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error


def require_size(size: int) -> None:
    """Raises BrokenImageError if a file of this many bytes is empty or larger than any image."""
    if size == 0:
        raise BrokenImageError("the file is empty")
    if size > LARGEST_FILE:
        raise BrokenImageError(f"the file has {size / 2**20:,.0f} MiB; expected at most {LARGEST_FILE >> 20} MiB")


def decode(content: bytes, pixel_range: PixelRange | None = WHOLE, max_pixels: int | None = None) -> np.ndarray:
    """Decodes an image file to uint8 `[height, width, channels]`, with 1 channel if it is grey and 3 otherwise.

    Reads JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, AVIF and JPEG 2000. The image is turned by the orientation in its EXIF data, if
    they can be read. Transparent pixels become white, CMYK and palettes become RGB, and the first of several frames is used.
    Metadata that are broken or large are ignored. JPEG files of more than 100 million pixels are decoded at half their sides or
    less, see `formats`. HEIC and HEIF need the extra `heic`; their colours of 10 bits become 8.

    Args:
      content: the file's bytes.
      pixel_range: the values of images of more than 8 bits that become 0 and 255. By default they are 0 and 65535, and 0 and 1
        for floating-point images; a source decides them once for all of its files. None: such images are refused, unless they
        state the value of white themselves.
      max_pixels: largest number of pixels of the image; None: 100 million, and 400 million in a JPEG file.

    Raises:
      BrokenImageError: the file is truncated, is not an image, has extremely different sides or too many pixels; or it has more
        than 8 bits and values outside of the pixel range, unless a user stated the range.
    """
    return from_image(decode_image(content, pixel_range, max_pixels).image)


def decode_onto(
    canvas: Canvas, content: bytes, pixel_range: PixelRange | None = WHOLE, max_pixels: int | None = None
) -> np.ndarray:
    """Returns an image file on a canvas, equal to `fit(decode(content), canvas)` in fewer steps. Raises like `decode`."""
    return _fitted(decode_image(content, pixel_range, max_pixels).image, canvas)


class Decoded(NamedTuple):
    """An image in mode L or RGB, the size of the stored image, and its range of values if it has more than 8 bits."""

    image: Image.Image
    width: int
    height: int
    levels: Levels | None


def decode_image(content: bytes, pixel_range: PixelRange | None = WHOLE, max_pixels: int | None = None) -> Decoded:
    """Decodes like `decode`, but returns a Pillow image together with its stored size and values. Raises like `decode`."""
    with _opened(content, max_pixels) as (image, bare):
        width, height = image.size
        reduce_large(image)
        samples = read_samples(image, bare.content)
        if samples is None:
            # This comes before `load`, which empties the list of tiles with the number of bits.
            _scale_transparency(image)
            image.load()
            return Decoded(_turned(_as_gray_or_colour(image), image, bare), width, height, None)
        if pixel_range is None and samples.top is None:
            raise UnknownRangeError("it has more than 8 bits, and its values of black and white are not stated")
        eight_bits = to_image(samples.within(pixel_range or WHOLE))
        return Decoded(_turned(eight_bits, image, bare), width, height, samples.levels(pixel_range))


def check(content: bytes, stated: PixelRange | None = None, max_pixels: int | None = None) -> Levels | None:
    """Returns the range of values of an image of more than 8 bits, and None for any other image.

    Args:
      content: the file's bytes.
      stated: the pixel range that the user gave, if any: values outside of it are counted.
      max_pixels: see `decode`.

    Raises:
      BrokenImageError: `decode` would raise it for a reason other than the pixel range.
    """
    with _opened(content, max_pixels) as (image, bare):
        samples = read_samples(image, bare.content)
        if samples is not None:
            return samples.levels(stated)
        # A JPEG is decoded at an eighth of its size, which is enough to detect truncation. Images for training are not read in
        # this way, since it averages other pixels than `fit`: an image of 539 pixels, decoded at twice the final 32 pixels,
        # differs by 57 of 255 levels at its border from the same image in another format (by 41 at four times the 32 pixels).
        image.draft(None, (1, 1))
        image.load()
        return None


@contextlib.contextmanager
def _opened(content: bytes, max_pixels: int | None) -> Iterator[tuple[ImageFile.ImageFile, Bare]]:
    """Opens an image file without its metadata; every error here or in the block becomes a `BrokenImageError`."""
    try:
        require_size(len(content))
        bare = strip_metadata(content)
        with open_image(bare.content) as image:
            require_shape(image, max_pixels)
            yield image, bare
    except BrokenImageError:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImageError(describe_unknown(content)) from error
    except Exception as error:  # On hostile input Pillow's decoders raise almost any exception.
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


# Transpositions by EXIF's number. EXIF counts angles clockwise, and Pillow counts them anticlockwise.
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
    """Returns the image turned by the orientation that its file states."""
    # Pillow converts the boxes of an AVIF file with its orientation to EXIF data.
    orientation = original.getexif().get(ExifTags.Base.Orientation) if original.format == "AVIF" else bare.orientation
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Scales the transparent grey of a PNG of 2 or 4 bits to 8 bits; Pillow scales only the pixels."""
    # 255 divided by the largest value of 2 bits and of 4 bits.
    scale = {"L;2": 85, "L;4": 17}.get(image.tile[0].args) if image.format == "PNG" and image.tile else None
    if scale and "transparency" in image.info:
        image.info["transparency"] *= scale


def _as_gray_or_colour(image: Image.Image) -> Image.Image:
    # These modes hold grey only, possibly with transparency; all other modes hold colour.
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        # Converting to RGB alone would show the colours that transparency hides.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def to_image(image: np.ndarray) -> Image.Image:
    """Returns the Pillow image of uint8 `[height, width, 1 or 3]`."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def from_image(image: Image.Image) -> np.ndarray:
    """Returns uint8 `[height, width, 1 or 3]` of a Pillow image in mode L or RGB."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def fit(image: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Returns uint8 `[height, width, 1 or 3]` scaled to cover the canvas, cropped at the centre, with the canvas's channels."""
    # Most images have the right shape already, and need no conversion by Pillow.
    return image if image.shape == canvas else _fitted(to_image(image), canvas)


def _fitted(image: Image.Image, canvas: Canvas) -> np.ndarray:
    if image.size != (canvas.width, canvas.height):
        image = ImageOps.fit(image, (canvas.width, canvas.height), Image.Resampling.BICUBIC)
    # Pillow's grey is Rec. 601 luma, as in the "grayscale" augmentation of the methods' papers.
    mode = "L" if canvas.channels == 1 else "RGB"
    return from_image(image if image.mode == mode else image.convert(mode))
