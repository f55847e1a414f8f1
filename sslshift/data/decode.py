"""From an image file's bytes to a uint8 array on the run's canvas. Files are hostile: every failure is one exception."""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps


class Canvas(NamedTuple):
    """The one image shape of a run: what every source's images are brought to."""

    height: int
    width: int
    channels: int


class BrokenImageError(ValueError):
    """A file that is not a usable image; the message says why."""


def decode(content: bytes, draft: int | None = None) -> np.ndarray:
    """Decodes an image file to uint8 `[height, width, channels]`, 1 channel if it is gray and 3 otherwise.

    Args:
      content: the file's bytes.
      draft: a JPEG may be decoded at a reduced size of which both sides are at least this many pixels.

    Raises:
      BrokenImageError: truncated, not an image, or so large that it is a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if draft:
                    image.draft(None, (draft, draft))
                return _to_array(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise almost anything on hostile input.
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


def _to_array(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        # By the type's range, not the image's: equal grays stay equal across files. Floating images lie in [0, 1].
        return _to_bytes(np.asarray(image, np.float64), 1.0 if image.mode == "F" else 65535.0)[..., None]
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _to_bytes(values: np.ndarray, top: float) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("the image holds values that are not finite")
    return np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)


def fit(image: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Brings uint8 `[height, width, 1 or 3]` to the canvas: scaled to cover it, cropped at the centre, channels converted."""
    if image.shape == canvas:
        return image
    if image.shape[:2] != canvas[:2]:
        gray = image.shape[2] == 1
        picture = Image.fromarray(image[..., 0] if gray else image)
        picture = ImageOps.fit(picture, (canvas.width, canvas.height), Image.Resampling.BICUBIC)
        image = np.asarray(picture).reshape(canvas.height, canvas.width, image.shape[2])
    if image.shape[2] == canvas.channels:
        return image
    if canvas.channels == 3:
        return np.repeat(image, 3, axis=2)
    # Rec. 601 luma, the weights of every "grayscale" in this field.
    return (image @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(np.uint8)[..., None]
