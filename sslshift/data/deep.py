"""Images of more than 8 bits: reads their full values, and reduces them to 8 bits within a pixel range.

Pillow keeps 16 bits of grey images only. For other images it unpacks the more significant byte of each value, which the name of
a raw mode selects. With another raw mode, Pillow unpacks the less significant byte. The two bytes together are the value.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import ImageFile

from sslshift.data.formats import open_image
from sslshift.data.metadata import BrokenImageError, png_chunks
from sslshift.data.ranges import Levels, PixelRange

_SAMPLE_FORMAT = 339
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_PLANAR = 284
_WIDE = (";16B", ";16L", ";16N")
# libtiff returns values in the machine's byte order, but Pillow would unpack them in the file's byte order.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_SIGNED = BrokenImageError("its colours are signed numbers, whose value of black is not known; write unsigned numbers")


class Samples(NamedTuple):
    """Pixel values of a file.

    Attributes:
      values: `[height, width, 1 or 3]`, integers of up to 32 bits or float32.
      alpha: opacity, float32 `[height, width]` in [0, 1]; None if all pixels are opaque.
      top: the value of white if the file states it, with 0 as black; a range that the user states has priority.
      white_is_low: True if the smallest value is white.
      bits: number of significant bits that the file states, or 0.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    top: float | None = None
    white_is_low: bool = False
    bits: int = 0

    @property
    def _visible(self) -> np.ndarray:
        # The values of transparent pixels are not visible, and must not decide the range.
        return self.values if self.alpha is None else self.values[self.alpha > 0]

    def levels(self, stated: PixelRange | None) -> Levels | None:
        """Returns the range of values, which decides a pixel range; None if the file states its own range or is transparent."""
        values = self._visible
        if (self.top and not stated) or not values.size:
            return None
        floating = values.dtype.kind == "f"
        outside = 0
        if stated:
            each = values.reshape(-1, values.shape[-1])
            outside = int(((each < stated.low) | (each > stated.high)).any(1).sum())
        low = float(values.min())
        high = float(values.max())
        pixels = values.size // values.shape[-1]
        return Levels(floating, 1, pixels, low, high, "", "", self.bits, int(outside > 0), outside)

    def within(self, chosen: PixelRange) -> np.ndarray:
        """Returns the image in 8 bits, uint8 `[height, width, 1 or 3]`, drawn on white where it is transparent.

        Raises:
          BrokenImageError: no range was stated, and values are outside of the source's range, or of [0, 1] if floating-point.
        """
        low, high = chosen[:2]
        if not chosen.stated:
            low, high = (0, 1) if self.values.dtype.kind == "f" else (low, self.top or high)
            _require_within(self._visible, low, high)
        image = _to_bytes(self.values, low, high)
        image = 255 - image if self.white_is_low else image
        if self.alpha is None:
            return image
        alpha = self.alpha[..., None]
        return (image * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)


def _require_within(values: np.ndarray, low: float, high: float) -> None:
    least, most = (values.min(), values.max()) if values.size else (low, high)
    if least < low or most > high:
        kind = "floating-point" if values.dtype.kind == "f" else "integer"
        raise BrokenImageError(
            f"its {kind} values from {least:g} to {most:g} are outside of {low:g}..{high:g}; state the range of black and white"
        )


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if values.dtype == np.uint16:
        # A table of all values is faster than arithmetic on every pixel.
        return _to_bytes(np.arange(65536)[:, None], low, high)[values, 0]
    image = np.empty(values.shape, np.uint8)
    # Computed a few rows at a time: integers of 32 bits need float64, which takes eight times the memory of the result.
    for start in range(0, len(values), 256):
        rows = values[start : start + 256].astype(np.float64)
        image[start : start + 256] = np.clip((rows - low) * (255.0 / (high - low)) + 0.5, 0, 255)
    return image


def read_samples(image: ImageFile.ImageFile, content: bytes) -> Samples | None:
    """Returns the pixels of an image of more than 8 bits or of signed values; None for any other image, which is not loaded.

    Args:
      image: an image that is opened and not yet loaded.
      content: the bytes that it was opened from.

    Raises:
      BrokenImageError: values are not finite, colours are signed, or Pillow cannot read all of their bits.
    """
    reader = _reader(image, content)
    if reader is None:
        return None
    samples = reader(image, content)
    if samples.values.dtype.kind == "f" and not np.isfinite(samples.values).all():
        raise BrokenImageError("it holds values that are not finite")
    return samples


def _reader(image: ImageFile.ImageFile, content: bytes) -> Callable[[ImageFile.ImageFile, bytes], Samples] | None:
    if image.format == "PPM":
        coder = image.tile[0].codec_name
        if image.mode == "I" or (image.mode == "RGB" and coder == "ppm" and image.tile[0].args[-1] > 255):
            return _read_plain_portable if coder == "ppm_plain" else _read_portable
        return _read_gray if image.mode == "F" else None
    if image.format == "JPEG2000":
        deep = max(_jpeg2000_depths(content), default=0) > 8
        if deep and image.mode != "I;16":
            # Pillow would round them to 8 bits, and would turn white into 0.
            raise BrokenImageError("its colours have more than 8 bits, which is not supported for JPEG 2000; write PNG or TIFF")
        return _read_jpeg2000 if deep else None
    if image.mode.startswith("I") or image.mode == "F":
        return _read_gray
    if image.format == "TIFF" and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 2:
        return _read_signed_bytes
    wide = image.format == "TIFF" and set(image.tag_v2.get(_BITS_PER_SAMPLE, ())) == {16}
    return _read_wide if (wide or _raw_mode(image).endswith(_WIDE)) and image.mode != "CMYK" else None


def _raw_mode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else ""
    args = args if isinstance(args, str) else (args or ("",))[0]
    return args if isinstance(args, str) else ""


def _loaded(image: ImageFile.ImageFile, raw_mode: Callable[[str], str]) -> np.ndarray:
    """Returns the pixels, loaded with another raw mode for every tile."""

    def replaced(args):
        return raw_mode(args) if isinstance(args, str) else (raw_mode(args[0]), *args[1:])

    image.tile = [tile._replace(args=replaced(tile.args)) for tile in image.tile]
    image.load()
    return np.asarray(image)


def _read_gray(image: ImageFile.ImageFile, content: bytes) -> Samples:
    tiff = image.format == "TIFF"
    by_libtiff = tiff and image.tile[0].codec_name == "libtiff"
    raw_mode = _raw_mode(image)
    values = _loaded(image, lambda name: _NATIVE.get(name, name) if by_libtiff else name)
    if raw_mode == "I;32N" and tiff:
        # Pillow has no unsigned numbers of 32 bits.
        values = values.view(np.uint32)
    # Arrays of modes such as I;16B are in another byte order.
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    top = 4095 if raw_mode == "I;12" else None
    white_is_low = tiff and image.tag_v2.get(_PHOTOMETRIC) == 0
    return Samples(values[..., None], _keyed(image, values[..., None]), top, white_is_low, _significant_bits(image, content))


def _read_signed_bytes(image: ImageFile.ImageFile, content: bytes) -> Samples:
    if image.mode != "L":
        raise _SIGNED
    image.load()
    return Samples(np.asarray(image).view(np.int8)[..., None])


def _read_wide(image: ImageFile.ImageFile, content: bytes) -> Samples:
    """Reads colour or transparency of 16 bits: first the more significant bytes, then the less significant ones."""
    raw_mode = _raw_mode(image)
    tiff = image.format == "TIFF"
    if raw_mode == "LA;16B":
        # The four bytes of each pixel are unpacked as if they were four channels.
        channels = _loaded(image, lambda name: "RGBA")
        high = channels[..., [0, 2]]
        low = channels[..., [1, 3]]
    else:
        native = tiff and image.tile[0].codec_name == "libtiff"
        if native and image.tag_v2.get(_PLANAR) == 2:
            raise BrokenImageError(
                "its 16-bit channels are compressed separately, which cannot be read in full; interleave them"
            )
        little = sys.byteorder == "little" if native else tiff and image.tag_v2.prefix == b"II"
        # Pillow loads an image only once, so that the second byte of each value needs a second image.
        again = open_image(content)
        high, low = (
            _loaded(each, lambda name, order=order: f"{name.partition(';')[0].replace('a', 'A')};16{order}")
            for each, order in ((image, "LB"[not little]), (again, "BL"[not little]))
        )
    values = high.astype(np.uint16)
    values <<= 8
    values |= low
    bits = _significant_bits(image, content)
    if values.shape[-1] in (1, 3):
        return Samples(values, _keyed(image, values), bits=bits)
    colours = values[..., :-1]
    alpha = values[..., -1].astype(np.float32) / 65535
    if raw_mode.startswith("RGBa"):
        # The file holds colours multiplied by their opacity.
        colours = np.minimum(colours / np.maximum(alpha, 1 / 65535)[..., None] + 0.5, 65535).astype(np.uint16)
    return Samples(colours, None if (alpha == 1).all() else alpha, bits=bits)


def _keyed(image: ImageFile.ImageFile, values: np.ndarray) -> np.ndarray | None:
    """Returns the opacity of an image in which one colour is transparent, and None for any other image."""
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return None
    return (values != np.asarray(key)).any(-1).astype(np.float32)


def _significant_bits(image: ImageFile.ImageFile, content: bytes) -> int:
    """Returns the number of significant bits of each colour that a PNG states, or 0."""
    if image.format != "PNG":
        return 0
    stated = next((chunk.data for chunk in png_chunks(content) if chunk.kind == b"sBIT"), b"")
    # If there are two or four entries, the last entry is the opacity.
    colours = stated[: 1 if len(stated) in (1, 2) else 3]
    return max(colours) if colours and 1 <= max(colours) <= 16 else 0


def _read_portable(image: ImageFile.ImageFile, content: bytes) -> Samples:
    """Reads PGM and PPM, whose header states the value of white.

    The value 65535 is ignored, since programs write it when they do not know the value of white.
    """
    args = image.tile[0].args
    offset = image.tile[0].offset
    shape = (image.height, image.width, 3 if image.mode == "RGB" else 1)
    if len(content) - offset < 2 * np.prod(shape):
        raise BrokenImageError("the file is cut short")
    values = np.frombuffer(content, ">u2", int(np.prod(shape)), offset).reshape(shape).astype(np.uint16)
    return Samples(values, top=args[-1] if isinstance(args, tuple) and args[-1] != 65535 else None)


def _read_plain_portable(image: ImageFile.ImageFile, content: bytes) -> Samples:
    """Reads PGM as text, whose numbers Pillow scales to 16 bits by the value of white that the header states."""
    top = image.tile[0].args[-1]
    image.load()
    values = np.rint(np.asarray(image, np.float64)[..., None] * (top / 65535)).astype(np.uint16)
    return Samples(values, top=top if top != 65535 else None)


def _read_jpeg2000(image: ImageFile.ImageFile, content: bytes) -> Samples:
    """Reads grey of 9 to 16 bits, which Pillow shifts to 16.

    A depth below 16 states the value of white. A depth of 16 does not, since programs write it by default.
    """
    (depth,) = _jpeg2000_depths(content)[:1]
    image.load()
    values = np.asarray(image).astype(np.uint16)[..., None] >> (16 - depth)
    return Samples(values, top=(1 << depth) - 1 if depth < 16 else None)


def _jpeg2000_depths(content: bytes) -> list[int]:
    """Returns the number of bits of each component of a JPEG 2000 image.

    Raises:
      BrokenImageError: the components are signed.
    """
    # The marker of sizes follows the marker of the start; 36 bytes of sizes precede the counts and depths.
    start = content.find(b"\xff\x4f\xff\x51")
    count = int.from_bytes(content[start + 40 : start + 42])
    depths = content[start + 42 : start + 42 + 3 * count : 3]
    if any(depth & 0x80 for depth in depths):
        raise _SIGNED
    # The format stores each number of bits less one.
    return [depth + 1 for depth in depths]
