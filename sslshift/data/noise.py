"""Noise with the pixel values of a target's images, as a source, so that its images are encoded and cached like others."""

import functools

import jax
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.sources import Source

# Number of pixels that represent the target's pixels: enough for their distribution, in 3 MB.
_POOL = 1 << 20
# Number of target images that are read at a time.
_AT_ONCE = 256


class NoiseSource(Source):
    """Images of unstructured noise, in the same number as the target's images.

    Every pixel is drawn independently from a pool of the target's pixels, which holds the same number of pixels of each image.
    All channels of a pixel are drawn together, so that the noise has the target's colours; `noise_like`, for arrays, draws each
    channel separately. Image i is a function of the target, the canvas, the seed and i. Memory holds only the pool, which is
    drawn when an image is first read.

    Args:
      target: source of the target's images.
      indices: indices of the target's images to use, all of them readable.
      canvas: canvas of the target's images and of the noise.
      seed: seed of the draw.
    """

    def __init__(self, target: Source, indices: np.ndarray, canvas: Canvas, seed: int):
        indices = np.asarray(indices, np.int64)
        # The chosen images are part of the fingerprint, since the noise is drawn from their pixels.
        chosen = ",".join(map(str, indices.tolist()))
        super().__init__(
            f"noise like {target.name}",
            licence="CC0-1.0 (generated)",
            fingerprint=f"noise 1 like {target.fingerprint}, {tuple(canvas)}, seed {seed}, images {chosen}",
        )
        self.generator = self.fingerprint
        self._target = target
        self._indices = indices
        self._canvas = canvas
        self._seed = seed

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        if canvas not in (None, self._canvas):
            raise ValueError(f"{self.name}: expected the canvas {self._canvas}, got {canvas}.")
        # The second number keeps the random numbers of the images apart from those of the pool.
        random = np.random.default_rng([self._seed, 1, index])
        return self._pool[random.integers(0, len(self._pool), self._canvas[:2])]

    @functools.cached_property
    def _pool(self) -> np.ndarray:
        """Pixels of the target, uint8 `[pixels, channels]`."""
        each = min(self._canvas.height * self._canvas.width, -(-_POOL // len(self._indices)))
        random = np.random.default_rng([self._seed, 0])
        parts = []
        for start in range(0, len(self._indices), _AT_ONCE):
            images = self._target.read(self._indices[start : start + _AT_ONCE], self._canvas)
            pixels = images.reshape(len(images), -1, images.shape[-1])
            places = random.integers(0, pixels.shape[1], (len(pixels), each))
            parts.append(np.take_along_axis(pixels, places[..., None], axis=1).reshape(-1, images.shape[-1]))
        return np.concatenate(parts)


def noise_like(images: np.ndarray, *, key: jax.Array) -> np.ndarray:
    """Returns unstructured noise: every pixel is drawn independently from the values of its channel in `images`.

    Example:
      >>> import jax, numpy as np
      >>> images = np.repeat(np.array([[7, 200], [9, 250]], np.uint8), 32, axis=0).reshape(1, 8, 8, 2)
      >>> noise = noise_like(images, key=jax.random.key(0))
      >>> [np.unique(noise[..., channel]).tolist() for channel in range(2)]
      [[7, 9], [200, 250]]

    Args:
      images: uint8 `[n, height, width, channels]`.
      key: PRNG key.

    Returns:
      uint8 of the same shape, with the same distribution of values in each channel.

    Raises:
      ValueError: the array has another shape or is empty.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not images.size:
        raise ValueError(f"Expected images [n, height, width, channels], got an array of shape {images.shape}.")
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    flat = images.reshape(-1, images.shape[-1])
    picked = random.integers(0, len(flat), images.shape[:-1])
    return np.stack([flat[:, channel][picked] for channel in range(images.shape[-1])], axis=-1)
