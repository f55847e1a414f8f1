"""Corruptions of images in five severities, which test whether a distance responds, and images without their structure."""

from collections.abc import Callable

import jax
import numpy as np
from scipy import ndimage

SEVERITIES = (1, 2, 3, 4, 5)
# By severity: standard deviation of the blur as a share of the side, of the noise as a share of 255, and remaining contrast.
_BLUR = (0.015, 0.03, 0.045, 0.07, 0.1)
_NOISE = (0.05, 0.1, 0.18, 0.28, 0.4)
_CONTRAST = (0.75, 0.55, 0.38, 0.24, 0.12)


def blur(images: np.ndarray, severity: int, key: jax.Array) -> np.ndarray:
    """Returns images blurred by a Gaussian, which removes fine structure and keeps mean values."""
    del key
    # The blur is relative to the side, so that a severity looks alike at every size. It does not mix images or channels.
    sides = np.array(images.shape[1:3]) * _BLUR[severity - 1]
    return _pixels(ndimage.gaussian_filter(images.astype(np.float32), (0, *sides, 0), mode="nearest"))


def noise(images: np.ndarray, severity: int, key: jax.Array) -> np.ndarray:
    """Returns images with Gaussian noise, independent in every pixel and channel."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    drawn = random.normal(0, 255 * _NOISE[severity - 1], images.shape).astype(np.float32)
    return _pixels(images + drawn)


def contrast(images: np.ndarray, severity: int, key: jax.Array) -> np.ndarray:
    """Returns images whose pixels are drawn towards the image's mean."""
    del key
    means = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return _pixels(means + (images - means) * _CONTRAST[severity - 1])


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, jax.Array], np.ndarray]] = {
    "blur": blur,
    "noise": noise,
    "contrast": contrast,
}


def corrupted(images: np.ndarray, kind: str, severity: int, *, key: jax.Array) -> np.ndarray:
    """Returns corrupted images.

    Args:
      images: uint8 `[n, height, width, channels]`.
      kind: a name of `CORRUPTIONS`.
      severity: from 1 to 5; 0 leaves the images unchanged.
      key: PRNG key of the noise.

    Returns:
      uint8 of the same shape.

    Raises:
      ValueError: the kind or the severity does not exist.

    References:
      Hendrycks & Dietterich, `Benchmarking Neural Network Robustness to Common Corruptions <https://arxiv.org/abs/1903.12261>`_,
      2019 (the idea of severities; the values here are different, and in proportion to the side)
    """
    if kind not in CORRUPTIONS or severity not in (0, *SEVERITIES):
        raise ValueError(
            f"Expected one of {', '.join(CORRUPTIONS)} and a severity from 0 to {SEVERITIES[-1]}, got {kind}, {severity}."
        )
    return CORRUPTIONS[kind](images, severity, key) if severity else images


def destroyed(images: np.ndarray, *, key: jax.Array) -> dict[str, np.ndarray]:
    """Returns images without their structure, by the way in which it was destroyed.

    `noise` draws every pixel from the pixels of all images, `pixels` shuffles the pixels of each image, `blocks_2` and
    `blocks_4` shuffle its 2 x 2 and 4 x 4 blocks, and `phases` keeps its amplitudes at each spatial frequency, but not their
    places.

    Args:
      images: uint8 `[n, height, width, channels]`, with sides that 4 divides.
      key: PRNG key.
    """
    count, height, width, channels = images.shape
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    pixels = images.reshape(-1, channels)
    found = {"noise": pixels[random.integers(len(pixels), size=images.shape[:3])]}
    for name, rows, columns in (("pixels", height, width), ("blocks_2", 2, 2), ("blocks_4", 4, 4)):
        parts = images.reshape(count, rows, height // rows, columns, width // columns, channels).swapaxes(2, 3)
        order = random.permuted(np.tile(np.arange(rows * columns), (count, 1)), axis=1)
        shuffled = parts.reshape(count, rows * columns, -1)[np.arange(count)[:, None], order]
        found[name] = shuffled.reshape(parts.shape).swapaxes(2, 3).reshape(images.shape)
    # The phases of real noise make the result real. All channels turn alike, so that edges keep their colours.
    turn = np.fft.fft2(random.normal(size=(count, height, width, 1)), axes=(1, 2))
    turn /= np.abs(turn)
    turn[:, 0, 0] = 1
    found["phases"] = _pixels(np.fft.ifft2(np.fft.fft2(images, axes=(1, 2)) * turn, axes=(1, 2)).real)
    return found


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
