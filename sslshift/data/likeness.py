"""Likeness of pictures: decides by their pixels whether two pictures with near perceptual hashes are the same picture.

Pictures of one kind share their outlines and shading, but only copies of one picture share their detail. Thumbnails are
therefore compared in a band of frequencies, the difference of two Gaussian blurs. The measure is the correlation of that band:
1 for the same picture at any brightness and contrast, and lower the more a copy was compressed or cropped.

Detail measures brightness alone, and its correlation does not depend on its strength, so that a red, a grey and a black heart
have the same detail. Brightness, contrast and colours must therefore agree too (`colour_differences`). Colours are compared
place by place, so that a small coloured object on a white or transparent background counts like a large object. A grey copy of
a colourful picture is a different picture; a grey copy of a nearly grey picture is the same picture.

`python -m tools.bench --what=curation` measures this on 60 icons on white, five shapes in twelve colours
(`tools.bench_pictures`), with hashes within 7 bits and a correlation of at least 0.996. All 60 icons are found to be different
at 28, 64 and 256 pixels; by detail alone, the twelve colours of every shape would count as one picture. The table has the share
of changed copies that are found, and the number of pairs of different icons (of 60) that count as one picture. With raised
contrast, grey and dark grey become equal.

| change | found at 28, 64, 256 pixels | wrong pairs |
|---|---|---|
| enlarged by a half, reduced to three quarters or half | 100%, 100%, 100% | 0, 0, 0 |
| 12 grey levels brighter | 100%, 100%, 100% | 2, 2, 4 |
| contrast times 1.1 | 100%, 100%, 100% | 5, 4, 3 |
| JPEG of quality 75 | 38%, 100%, 100% | 0, 0, 0 |
| JPEG of quality 50 | 20%, 100%, 98% | 1, 0, 0 |
| red 5% up and blue 5% down | 100%, 100%, 100% | 0, 0, 0 |
| red 10% up and blue 10% down | 0%, 0%, 0% | 0, 0, 0 |

At 28 pixels JPEG changes the detail and the hash. On pieces of photographs, 90 pixels wide, the comparison of colours rejects
half of the copies with a white balance changed by 10%, a tenth of the copies with 1.2 times the saturation, and no other copy
that detail finds. Objects narrower than a tenth of the picture are distinguished by strong colours only: pictures of a grey dot
and of a brown dot count as one. Pictures without detail of brightness, such as red objects on a green background of the same
luma, are never near-duplicates, and are duplicates only if their pixels are equal.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from sslshift.data.perceptual_hash import SIDE, drawing

# Standard deviations of the blurs, in pixels of a thumbnail. Finer detail does not survive compression, and coarser structure
# is the outline that pictures of one kind share.
FINE = 1.5
COARSE = 3.0
# Number of values of a picture's detail: every second pixel in both directions, since the band holds no finer frequencies.
DETAILS = (SIDE // 2) ** 2
# Every seventh value of a detail begins in another column each row, and decides most pairs in a seventh of the time.
_SKETCHED = slice(None, None, 7)
# Rounding of details in float16, and of products in float32.
_ROUNDING = 1e-3
# Tolerances between two copies of one picture. Brightness: a number of grey levels. Contrast of detail: a factor, and a number
# of grey levels. Chroma: a number of levels, and a fourth of its range around a place, since compression blurs colours.
BRIGHTNESS = 40
CONTRAST = 1.2
CONTRAST_LEVELS = 3
CHROMA = 10
CHROMA_AROUND = 4
# Number of pairs whose colours are compared at a time: they fit into a core's cache.
_BLOCK = 1024
# Part of a side that a reframed picture gains or loses: one pixel of 28.
FRAME = 1 / 28
# Sides of reduced pictures in pixels: halves of 28 and 32, and one size between these and the whole.
REDUCED = (14, 16, 20)
# Number of variants of a picture: 16 cropped or whole, 15 extended, and the reduced ones.
VARIANTS = 31 + len(REDUCED)


class Colours(NamedTuple):
    """Colours of pictures, which are compared in addition to the correlation of their detail.

    Attributes:
      brightness: mean grey level, float `[n]`.
      contrast: largest deviation of the detail in grey levels, float `[n]`.
      chroma: blue less luma and red less luma, int8 `[n, 2, 16, 16]`, at every second pixel of thumbnails; 0 for grey pictures.
    """

    brightness: np.ndarray
    contrast: np.ndarray
    chroma: np.ndarray


def details_and_contrast(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the detail of thumbnails `[n, 32, 32]`, float32 `[n, 256]`, and its contrast in grey levels, float32 `[n]`.

    Details are unit vectors, so that products are correlations; the contrast is their largest deviation before normalisation. A
    picture without detail gets zeros, whose correlation with everything is 0.
    """
    fine = _blur(FINE)
    coarse = _blur(COARSE)
    band = (fine @ gray @ fine.T - coarse @ gray @ coarse.T).reshape(len(gray), DETAILS)
    band -= band.mean(1, keepdims=True)
    norm = np.linalg.norm(band, axis=1, keepdims=True)
    # A band this weak holds only rounding errors, and its direction would be arbitrary.
    unit = np.where(norm > 0.1 * SIDE, band / np.maximum(norm, 1e-9), 0).astype(np.float32)
    return unit, np.maximum(band.max(1), -band.min(1))


def blurred_chroma(chroma: np.ndarray) -> np.ndarray:
    """Returns the chroma of thumbnails, `[n, 2, 32, 32]`, in the form of `Colours`."""
    fine = _blur(FINE)
    return np.clip(np.rint(fine @ chroma @ fine.T), -127, 127).astype(np.int8)


def colour_differences(a: Colours, b: Colours, *, chroma: bool = True) -> np.ndarray:
    """Returns, row by row, the difference in colour that exceeds the tolerance between copies of one picture.

    Edges may be shifted by a pixel or blurred. At each place the chroma of either picture must therefore be in the range of the
    other picture's values around this place, with the tolerance above. The largest difference counts.

    Args:
      a: colours of pictures.
      b: colours of the pictures to compare them with.
      chroma: False to compare brightness and contrast only, for encoders that take grey images.

    Returns:
      Float64 `[n]`: 0 for copies, otherwise the difference as a part of 255 levels.
    """
    brightness = np.abs(a.brightness.astype(float) - b.brightness)
    low, high = (side(a.contrast.astype(float), b.contrast) for side in (np.minimum, np.maximum))
    difference = np.where(brightness > BRIGHTNESS, brightness, 0)
    difference = np.maximum(difference, np.where(high > CONTRAST * low + CONTRAST_LEVELS, high - low, 0))
    if chroma:
        difference = np.maximum(difference, _chroma_differences(a.chroma, b.chroma))
    return difference / 255


def variants(gray: np.ndarray) -> np.ndarray:
    """Returns the thumbnails `[n, 34, 32, 32]` that pictures with thumbnails `[n, 32, 32]` would have if cut or reduced.

    The first variant is the picture itself. In the next variants, one pixel of 28 is removed or added on some sides (an added
    pixel repeats the edge). The last variants are reduced to 20, 16 or 14 pixels a side.
    """
    drawings = _drawings()
    rows = np.stack([down @ gray for down, _ in drawings], 1)
    return rows @ np.stack([across.T for _, across in drawings])


def sketches(details: np.ndarray) -> np.ndarray:
    """Returns some values of details `[n, 256]` and the length of the others, float32 `[n, 38]`; see `may_correlate`."""
    some = details[:, _SKETCHED].astype(np.float32)
    rest = np.square(details, dtype=np.float32).sum(1) - np.square(some).sum(1)
    return np.concatenate([some, np.sqrt(np.maximum(rest, 0))[:, None]], 1)


def may_correlate(a: np.ndarray, b: np.ndarray, least: float) -> np.ndarray:
    """Returns, row by row, False if the details behind two arrays of sketches correlate by less than `least`, bool `[n]`."""
    # By the inequality of Cauchy and Schwarz the other values add at most the product of their lengths.
    return correlations(a, b) >= least - _ROUNDING


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the correlations, row by row, of two arrays of details."""
    return np.einsum("nd,nd->n", a, b)


def unlikeness(
    a: np.ndarray,
    b: np.ndarray,
    limit: float,
    colours: Callable[[np.ndarray], tuple[Colours, Colours]],
    *,
    chroma: bool = True,
) -> np.ndarray:
    """Returns, row by row, 1 - correlation of two arrays of details, or the difference of the colours if that is larger.

    Args:
      a: details `[n, 256]`.
      b: details `[n, 256]`.
      limit: limit of the distance. Beyond it colours are not compared, since they would not change the decision.
      colours: returns both sides' colours for the given rows.
      chroma: see `colour_differences`.
    """
    distance = np.maximum(1 - correlations(a, b), 0).astype(float)
    near = np.flatnonzero(distance <= limit)
    for start in range(0, len(near), _BLOCK):
        rows = near[start : start + _BLOCK]
        distance[rows] = np.maximum(distance[rows], colour_differences(*colours(rows), chroma=chroma))
    return distance


def _chroma_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns how far chroma `[n, 2, 16, 16]` exceeds the other picture's range around the same place; 0 if tolerated."""
    if not a.any() and not b.any():
        return np.zeros(len(a))
    # The pictures become the last axis, so that neighbours are rows of long arrays, which is seven times as fast.
    a, b = (np.ascontiguousarray(np.moveaxis(side, 0, -1)).astype(np.int16) for side in (a, b))
    (low_a, high_a), (low_b, high_b) = ([_around(side, extreme) for extreme in (np.minimum, np.maximum)] for side in (a, b))
    outside = functools.reduce(np.maximum, (low_b - a, a - high_b, low_a - b, b - high_a))
    spread = np.maximum(high_a - low_a, high_b - low_b)
    outside *= outside > spread // CHROMA_AROUND + CHROMA
    return outside.reshape(-1, outside.shape[-1]).max(0, initial=0).astype(float)


def _around(chroma: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Returns the smallest or greatest value of each place of chroma `[2, 16, 16, n]` and its eight neighbours."""
    rows = chroma.copy()
    extreme(rows[:, 1:], chroma[:, :-1], out=rows[:, 1:])
    extreme(rows[:, :-1], chroma[:, 1:], out=rows[:, :-1])
    result = rows.copy()
    extreme(result[:, :, 1:], rows[:, :, :-1], out=result[:, :, 1:])
    extreme(result[:, :, :-1], rows[:, :, 1:], out=result[:, :, :-1])
    return result


@functools.lru_cache
def _blur(sigma: float) -> np.ndarray:
    # Imported here, since commands that compare no pictures need not wait for it.
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(np.eye(SIDE, dtype=np.float32), sigma, axis=0, mode="nearest")[1::2]


@functools.lru_cache
def _drawings() -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns row and column matrices `[32, 32]` of a picture's 34 variants: 16 cropped or whole, 15 extended, 3 reduced."""
    edge = FRAME * SIDE
    ends = list(itertools.product((0, edge), repeat=2))
    less, more = ([stretch(sign * start, SIDE - sign * end) for start, end in ends] for sign in (1, -1))
    framed = [*itertools.product(less, repeat=2), *itertools.islice(itertools.product(more, repeat=2), 1, None)]
    return framed + [(drawing(side) @ _reduction(side),) * 2 for side in REDUCED]


def stretch(start: float, end: float) -> np.ndarray:
    """Returns the matrix that resizes the stretch from `start` to `end` of a line of 32 pixels to 32 pixels."""
    line = Image.fromarray(np.pad(np.eye(SIDE, dtype=np.float32), ((SIDE, SIDE), (0, 0)), mode="edge"))
    box = (0, SIDE + start, SIDE, SIDE + end)
    return np.asarray(line.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _reduction(side: int) -> np.ndarray:
    """Returns the matrix `[side, 32]` that reduces a line of 32 pixels."""
    return np.asarray(Image.fromarray(np.eye(SIDE, dtype=np.float32)).resize((SIDE, side), Image.Resampling.BICUBIC))
