"""Perceptual hash of an image: 64 bits, few of which change when the picture is stored again, resized or brightened.

The whole picture is converted to grey, resized to 32 x 32 pixels, and transformed by a discrete cosine transform. Each of the
8 x 8 lowest frequencies that is above their median becomes a 1. Resizing and transform are linear, so both are matrix products,
and many images of one size are hashed at once: an image of 28 x 28 grey pixels takes 4 microseconds, and an image of 256 x 256
colour pixels takes 0.2 milliseconds (one core).

The number of different bits measures how different two pictures are. For 120 crops of photographs, 256 pixels wide, each of
these changes alters at most 7 bits, and usually none: JPEG of quality 50, half the size, 12 grey levels brighter, or one pixel
cut off at a side. The median over pairs of different crops is 31 bits. Pictures of the same composition have similar hashes:
for half of 20,000 clothes of 28 x 28 pixels there is another image within 8 bits. For such pictures the hash finds candidates
and `likeness` decides.

References:
  Zauner, `Implementation and Benchmarking of Perceptual Image Hash Functions
  <https://www.phash.org/docs/pubs/thesis_zauner.pdf>`_, 2010; bits and their order as in `ImageHash
  <https://github.com/JohannesBuchner/imagehash>`_, whose `phash` differs by its rounding
"""

import functools

import numpy as np
from PIL import Image

from sslshift.data.decode import from_image, to_image

# Imported sources store hashes together with this number. Raise it when a bit of any image's hash changes.
VERSION = 1
SIDE = 32
FREQUENCIES = 8
# Hash of flat images; no other image has this hash, see `perceptual_hashes`.
FLAT = np.uint64(0)
# Standard deviation in grey levels, over the low frequencies, below which an image is flat.
FLAT_CONTRAST = 0.5
# A frequency counts as above the median only if it exceeds it by this much (in grey levels of an orthonormal transform). In
# drawings and stripes most frequencies are zero, and rounding would decide otherwise.
TIE = 1.0
# Larger images are first averaged down to this shorter side, in uint8: float products of the whole image would cost more.
LARGE = 256
# Weights of Rec. 601, as in JPEG: luma, and the two chroma components (blue less luma, and red less luma).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Returns grey thumbnails, float32 `[n, 32, 32]`, 0 to 255, of images of one size, uint8 `[n, height, width, 1 or 3]`.

    The whole picture is resized to the square, for any proportions.
    """
    return colour_thumbnails(images)[0]


def colour_thumbnails(images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns `thumbnails` and their chroma, float32 `[n, 2, 32, 32]` from -128 to 128, or None if the images are grey."""
    factor = min(images.shape[1:3]) // LARGE
    if factor > 1:
        images = np.stack([from_image(to_image(image).reduce(factor)) for image in images])
    count, height, width, channels = images.shape
    rows = drawing(height) @ images.reshape(count, height, width * channels).astype(np.float32)
    across = drawing(width).T
    if channels == 1:
        return rows @ across, None
    rows = rows.reshape(count, SIDE, width, channels)
    return (rows @ _LUMA) @ across, np.stack([rows @ component for component in _CHROMA], 1) @ across


def hash_thumbnails(gray: np.ndarray) -> np.ndarray:
    """Returns perceptual hashes, uint64 `[n]`, of thumbnails `[n, 32, 32]`."""
    cosines = _cosines()
    frequencies = (cosines @ gray @ cosines.T).reshape(len(gray), FREQUENCIES**2)
    above = frequencies > np.median(frequencies, axis=1, keepdims=True) + TIE
    hashes = np.packbits(above, axis=1).view(">u8")[:, 0].astype(np.uint64)
    # By Parseval's theorem this norm is the contrast. The first frequency is the mean, which is not part of it.
    contrast = np.linalg.norm(frequencies[:, 1:], axis=1) / SIDE
    return np.where(contrast < FLAT_CONTRAST, FLAT, hashes)


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """Returns perceptual hashes, uint64 `[n]`, of images of one size, uint8 `[n, height, width, 1 or 3]`.

    The bits of a flat image (one colour, or so little contrast that rounding decides) carry no information. A flat image gets
    the hash `FLAT`, which every comparison of hashes excludes: flat images are duplicates if their pixels are equal, and are
    never near-duplicates.
    """
    return hash_thumbnails(thumbnails(images))


def perceptual_hash(image: np.ndarray) -> np.uint64:
    """Returns the perceptual hash of one image, uint8 `[height, width, 1 or 3]`; see `perceptual_hashes`.

    Example:
      >>> y, x = np.indices((60, 80)) / 60
      >>> image = (128 + 60 * np.sin(5 * x * y + 3 * y) + 40 * x).astype(np.uint8)[..., None]
      >>> int(np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(image[::2, ::2] // 2 + 50)))
      2
      >>> bool(perceptual_hash(image * 0) == FLAT)
      True
    """
    return perceptual_hashes(image[None])[0]


@functools.lru_cache(maxsize=1024)
def drawing(size: int) -> np.ndarray:
    """Returns the matrix `[32, size]` with which Pillow resizes a line of pixels; its columns are the resized unit vectors."""
    unit = Image.fromarray(np.eye(size, dtype=np.float32))
    return np.asarray(unit.resize((size, SIDE), Image.Resampling.LANCZOS))


@functools.lru_cache
def _cosines() -> np.ndarray:
    """Returns the lowest frequencies of an orthonormal cosine transform, `[8, 32]`."""
    # Imported here, since commands that hash nothing need not wait for it.
    from scipy.fft import dct

    return dct(np.eye(SIDE), axis=0, norm="ortho")[:FREQUENCIES].astype(np.float32)
