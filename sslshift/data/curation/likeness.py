"""Whether two pictures are one: what a perceptual hash leaves open, decided on their pixels.

Pictures of one kind share their outlines and shading; one picture shares its detail. So thumbnails are compared in a band of
frequencies, by the difference of two Gaussian blurs, and the measure is the correlation of that band: 1 for the same picture
whatever its brightness and contrast, less the more it was compressed or cropped.
"""

import functools
import itertools

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from sslshift.data.curation.perceptual_hash import SIDE, drawing

# Standard deviations of the blurs, in pixels of the 32 of a thumbnail. Finer detail does not survive compression, and coarser
# is the outline that pictures of one kind share.
FINE, COARSE = 1.5, 3.0
# Of 256 numbers, kept of every second pixel in both directions.
DETAILS = (SIDE // 2) ** 2
# A reframed picture has this part of its sides more or less: a pixel of 28.
FRAME = 1 / 28
# Pixels a side of reduced pictures: halves of 28 and 32, and what lies between these and the whole.
REDUCED = (14, 16, 20)


def details(gray: np.ndarray) -> np.ndarray:
    """The band of detail of thumbnails `[n, 32, 32]` as unit vectors, float32 `[n, 256]`: their products are correlations.

    A picture without detail gets zeros, which are like nothing.
    """
    fine, coarse = _blur(FINE), _blur(COARSE)
    band = (fine @ gray @ fine.T - coarse @ gray @ coarse.T).reshape(len(gray), DETAILS)
    band -= band.mean(1, keepdims=True)
    norm = np.linalg.norm(band, axis=1, keepdims=True)
    # In gray levels: below, what is left is rounding.
    return np.where(norm > 0.1 * SIDE, band / np.maximum(norm, 1e-9), 0).astype(np.float32)


def variants(gray: np.ndarray) -> np.ndarray:
    """Thumbnails `[n, 32, 32]` as they would be of the picture cut or reduced: `[n, 34, 32, 32]`.

    The first is the picture itself, then with a pixel of 28 less, or more, on any of its sides (what is more is its edge,
    repeated), then as it is after it was stored with 20 pixels a side or less.
    """
    drawings = _drawings()
    rows = np.stack([down @ gray for down, _ in drawings], 1)
    return rows @ np.stack([across.T for _, across in drawings])


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row of two arrays of `details`."""
    return np.einsum("nd,nd->n", a, b)


@functools.lru_cache
def _blur(sigma: float) -> np.ndarray:
    return gaussian_filter1d(np.eye(SIDE, dtype=np.float32), sigma, axis=0, mode="nearest")[1::2]


@functools.lru_cache
def _drawings() -> list[tuple[np.ndarray, np.ndarray]]:
    """Matrices `[32, 32]` that make the variants' rows and columns: 16 with less on some sides, 15 with more, 3 reduced."""
    edge = FRAME * SIDE
    ends = list(itertools.product((0, edge), repeat=2))
    less, more = ([_stretch(sign * start, SIDE - sign * end) for start, end in ends] for sign in (1, -1))
    framed = [*itertools.product(less, repeat=2), *itertools.islice(itertools.product(more, repeat=2), 1, None)]
    return framed + [(drawing(side) @ _reduction(side),) * 2 for side in REDUCED]


def _stretch(start: float, end: float) -> np.ndarray:
    """The matrix that draws the stretch from `start` to `end` of a line of 32 pixels to 32 pixels."""
    line = Image.fromarray(np.pad(np.eye(SIDE, dtype=np.float32), ((SIDE, SIDE), (0, 0)), mode="edge"))
    box = (0, SIDE + start, SIDE, SIDE + end)
    return np.asarray(line.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _reduction(side: int) -> np.ndarray:
    """The matrix `[side, 32]` that reduces a line of 32 pixels."""
    return np.asarray(Image.fromarray(np.eye(SIDE, dtype=np.float32)).resize((SIDE, side), Image.Resampling.BICUBIC))
