"""Whether two pictures are one: what a perceptual hash leaves open, decided on their pixels.

Pictures of one kind share their outlines and shading; one picture shares its detail. So thumbnails are compared in a band of
frequencies, by the difference of two Gaussian blurs, and the measure is the correlation of that band: 1 for the same picture
whatever its brightness and contrast, less the more it was compressed or cropped.

Detail is of brightness alone, and a correlation does not know how strong it is, so a red, a gray and a black heart are one to
it. Therefore brightness, contrast and colours must agree too (`colour_differences`). Colours are compared place by place, so
that a small coloured thing on a white or transparent background counts as much as a large one. A gray copy of a colourful
picture is another picture; one of a picture that is nearly gray is the same.

By `python -m tools.bench --what=curation`, of 60 icons on white, five shapes in twelve colours (`tools.bench_curation`), with
hashes within 7 bits and a correlation of at least 0.996: all 60 are different at 28, 64 and 256 pixels, where detail alone held
the twelve colours of every shape for one picture. Changed copies that are found, and pairs of different icons that are not told
apart, of 60 (among pictures whose contrast was raised, gray and dark gray ones meet):

| change | found at 28, 64, 256 pixels | wrong pairs |
|---|---|---|
| enlarged by a half, reduced to three quarters or half | 100%, 100%, 100% | 0, 0, 0 |
| 12 gray levels brighter | 100%, 100%, 100% | 2, 2, 4 |
| contrast times 1.1 | 100%, 100%, 100% | 5, 4, 3 |
| JPEG of quality 75 | 38%, 100%, 100% | 0, 0, 0 |
| JPEG of quality 50 | 20%, 100%, 98% | 1, 0, 0 |
| red 5% up and blue 5% down | 100%, 100%, 100% | 0, 0, 0 |
| red 10% up and blue 10% down | 0%, 0%, 0% | 0, 0, 0 |

At 28 pixels it is the detail, and the hash, that JPEG changes. Of pieces of photographs, 90 pixels wide, colours cost nothing
of what is found by detail, but half of those with 10% of white balance, and a tenth of those with 1.2 times the saturation.
Things narrower than a tenth of the picture are told apart by strong colours alone: a gray and a brown dot are one. Pictures
without detail of brightness, as red things on a green ground of the same luma, are never near, and are duplicates where their
pixels are the same.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from sslshift.data.perceptual_hash import SIDE, drawing

# Standard deviations of the blurs, in pixels of the 32 of a thumbnail. Finer detail does not survive compression, and coarser
# is the outline that pictures of one kind share.
FINE = 1.5
COARSE = 3.0
# Of 256 numbers, kept of every second pixel in both directions.
DETAILS = (SIDE // 2) ** 2
# How two copies of one picture may differ, in gray levels: in mean brightness; in the contrast of detail by a factor and
# levels; in chroma by levels and a fourth of what is around the place, where compression at small sizes blurs colours.
BRIGHTNESS = 40
CONTRAST = 1.2
CONTRAST_LEVELS = 3
CHROMA = 10
CHROMA_AROUND = 4
# Pairs of which colours are compared at a time, which fit into a core's cache.
_BLOCK = 1024
# A reframed picture has this part of its sides more or less: a pixel of 28.
FRAME = 1 / 28
# Pixels a side of reduced pictures: halves of 28 and 32, and what lies between these and the whole.
REDUCED = (14, 16, 20)


class Colours(NamedTuple):
    """What is compared of pictures besides the correlation of their detail.

    Attributes:
      brightness: mean gray level, float `[n]`.
      contrast: the largest deviation of their detail in gray levels, float `[n]`.
      chroma: blue and red less luma, int8 `[n, 2, 16, 16]`, at every second pixel of thumbnails; of gray pictures zeros.
    """

    brightness: np.ndarray
    contrast: np.ndarray
    chroma: np.ndarray


def details(gray: np.ndarray) -> np.ndarray:
    """Returns the band of detail of thumbnails `[n, 32, 32]` as unit vectors, float32 `[n, 256]`: products are correlations.

    A picture without detail gets zeros, which are like nothing.
    """
    return details_and_contrast(gray)[0]


def details_and_contrast(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns `details`, and the largest deviation of each before it became a unit vector, float32 `[n]`."""
    fine = _blur(FINE)
    coarse = _blur(COARSE)
    band = (fine @ gray @ fine.T - coarse @ gray @ coarse.T).reshape(len(gray), DETAILS)
    band -= band.mean(1, keepdims=True)
    norm = np.linalg.norm(band, axis=1, keepdims=True)
    # In gray levels: below, what is left is rounding.
    unit = np.where(norm > 0.1 * SIDE, band / np.maximum(norm, 1e-9), 0).astype(np.float32)
    return unit, np.maximum(band.max(1), -band.min(1))


def blurred_chroma(chroma: np.ndarray) -> np.ndarray:
    """Returns the chroma of thumbnails, `[n, 2, 32, 32]`, as `Colours` holds it."""
    fine = _blur(FINE)
    return np.clip(np.rint(fine @ chroma @ fine.T), -127, 127).astype(np.int8)


def colour_differences(a: Colours, b: Colours, *, chroma: bool = True) -> np.ndarray:
    """Returns by how much more pictures differ in colour than copies of one do, row by row.

    Edges may be elsewhere by a pixel or blurred: at each place the chroma of either picture must lie between the least and the
    greatest that the other has around this place, with the tolerance above. The place that differs most counts.

    Args:
      a: of pictures.
      b: of the pictures that they are compared with.
      chroma: False where only brightness and contrast count, for encoders that take gray images.

    Returns:
      Float64 `[n]`: 0 for copies, else the difference as a part of 255 levels.
    """
    brightness = np.abs(a.brightness.astype(float) - b.brightness)
    low, high = (side(a.contrast.astype(float), b.contrast) for side in (np.minimum, np.maximum))
    difference = np.where(brightness > BRIGHTNESS, brightness, 0)
    difference = np.maximum(difference, np.where(high > CONTRAST * low + CONTRAST_LEVELS, high - low, 0))
    if chroma:
        difference = np.maximum(difference, _chroma_differences(a.chroma, b.chroma))
    return difference / 255


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


def unlikeness(
    a: np.ndarray,
    b: np.ndarray,
    limit: float,
    colours: Callable[[np.ndarray], tuple[Colours, Colours]],
    *,
    chroma: bool = True,
) -> np.ndarray:
    """Returns 1 - correlation of two arrays of `details` row by row, or the difference of the colours where that is larger.

    Args:
      a: details `[n, 256]`.
      b: details `[n, 256]`.
      limit: of the distance. Beyond it colours are not asked for, since they would change nothing.
      colours: returns both sides' colours of the rows that it is given.
      chroma: as of `colour_differences`.
    """
    distance = np.maximum(1 - correlations(a, b), 0).astype(float)
    near = np.flatnonzero(distance <= limit)
    for start in range(0, len(near), _BLOCK):
        rows = near[start : start + _BLOCK]
        distance[rows] = np.maximum(distance[rows], colour_differences(*colours(rows), chroma=chroma))
    return distance


def _chroma_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns how far chroma `[n, 2, 16, 16]` lies outside of the other's around, where most; 0 where it is tolerated."""
    if not a.any() and not b.any():
        return np.zeros(len(a))
    # With the pictures last, neighbours are rows of long arrays, which is seven times as fast.
    a, b = (np.ascontiguousarray(np.moveaxis(side, 0, -1)).astype(np.int16) for side in (a, b))
    (low_a, high_a), (low_b, high_b) = ([_around(side, extreme) for extreme in (np.minimum, np.maximum)] for side in (a, b))
    outside = functools.reduce(np.maximum, (low_b - a, a - high_b, low_a - b, b - high_a))
    spread = np.maximum(high_a - low_a, high_b - low_b)
    outside *= outside > spread // CHROMA_AROUND + CHROMA
    return outside.reshape(-1, outside.shape[-1]).max(0, initial=0).astype(float)


def _around(chroma: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Returns the least or the greatest of each place of chroma `[2, 16, 16, n]` and its eight neighbours."""
    rows = chroma.copy()
    extreme(rows[:, 1:], chroma[:, :-1], out=rows[:, 1:])
    extreme(rows[:, :-1], chroma[:, 1:], out=rows[:, :-1])
    result = rows.copy()
    extreme(result[:, :, 1:], rows[:, :, :-1], out=result[:, :, 1:])
    extreme(result[:, :, :-1], rows[:, :, 1:], out=result[:, :, :-1])
    return result


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
