"""Reframed pictures: decides whether a picture is another one that was mirrored, or of which a window was cut out.

A window keeps at least four fifths of both sides, in the proportions of the picture. A grid of 55 windows is coarse: it finds
candidates, whose hashes differ in a few bits and whose details correlate a little. The window is then moved and resized in
ever smaller steps to the highest correlation, which decides together with the colours, as in `likeness`. tools/README.md has
the share of copies that are found, and the wrong pairs, by `python -m tools.bench
--what=curation --source=URI`.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from sslshift.data.likeness import Colours, blurred_chroma, colour_differences, correlations, details_and_contrast, stretch
from sslshift.data.perceptual_hash import SIDE

# Changes that are searched for.
CHANGES = ("mirrored", "cropped")
# Smallest window as a part of the picture's sides, and the step of the grid of windows.
_SMALLEST = 0.8
_STEP = 0.05
# Size above which a window is the whole picture, so that pictures are compared as strictly as any others.
WHOLE = 0.97
# Steps in which a window is moved and resized.
_FINER = (0.025, 0.0125, 0.00625, 0.003125)


class Crop(NamedTuple):
    """A window as parts of a picture's width and height: its left and upper edges, and its size."""

    left: float
    top: float
    size: float


class ColourThumbnail(NamedTuple):
    """Thumbnail of a picture, float `[32, 32]`, and its chroma, `[2, 32, 32]`."""

    gray: np.ndarray
    chroma: np.ndarray

    @property
    def mirrored(self) -> "ColourThumbnail":
        """The picture mirrored from left to right."""
        return ColourThumbnail(self.gray[:, ::-1], self.chroma[:, :, ::-1])


def windows() -> list[Crop]:
    """Returns the windows of the grid; the first is the whole picture."""
    steps = round((1 - _SMALLEST) / _STEP)
    return [
        Crop(left * _STEP, top * _STEP, 1 - cut * _STEP)
        for cut in range(steps + 1)
        for left, top in itertools.product(range(cut + 1), repeat=2)
    ]


def cut_out(gray: np.ndarray, chosen: list[Crop]) -> np.ndarray:
    """Returns the thumbnails `[..., windows, 32, 32]` of windows of thumbnails `[..., 32, 32]`."""
    rows = np.stack([_line(window.top, window.size) for window in chosen])
    columns = np.stack([_line(window.left, window.size) for window in chosen])
    return rows @ gray[..., None, :, :] @ columns.swapaxes(-1, -2)


def reframed_distance(whole: ColourThumbnail, part: ColourThumbnail, start: Crop, limit: float) -> tuple[float, Crop]:
    """Returns the distance of a picture and the most similar window of another one, and this window.

    The distance is 1 - correlation, or the difference of the colours if that is larger.

    Args:
      whole: the picture of which a window may have been cut out.
      part: the other picture.
      start: the window at which the search begins.
      limit: distance beyond which colours are not compared.
    """
    wanted, contrast = details_and_contrast(part.gray[None])
    best = start
    for step in _FINER:
        near = [Crop(*np.add(best, step * np.array(move))) for move in itertools.product((0, -1, 1), repeat=3)]
        near = [each for each in near if _inside(each)]
        best = near[int(np.argmax(details_and_contrast(cut_out(whole.gray, near))[0] @ wanted[0]))]
    gray = cut_out(whole.gray, [best])
    details, own_contrast = details_and_contrast(gray)
    distance = float(np.maximum(1 - correlations(details, wanted), 0)[0])
    if distance > limit:
        return distance, best
    own = Colours(gray.mean((1, 2)), own_contrast, blurred_chroma(cut_out(whole.chroma, [best]).swapaxes(0, 1)))
    other = Colours(part.gray[None].mean((1, 2)), contrast, blurred_chroma(part.chroma[None]))
    return max(distance, float(colour_differences(own, other)[0])), best


def _inside(window: Crop) -> bool:
    low = min(window.left, window.top)
    high = max(window.left, window.top) + window.size
    # The margins allow for rounding, and for crops whose sides are whole pixels.
    return low >= -1e-9 and high <= 1 + 1e-9 and window.size >= _SMALLEST - 0.01


@functools.lru_cache(maxsize=4096)
def _line(start: float, size: float) -> np.ndarray:
    return stretch(max(start, 0) * SIDE, min(start + size, 1) * SIDE)
