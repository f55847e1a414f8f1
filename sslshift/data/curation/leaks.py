"""Leaks: test images that are also among the images that an encoder is pretrained on.

What `find_leaks` finds with its defaults, by `python -m tools.bench --what=curation`: to the bundled training images (20,000
clothes, 4,000 digits, 28 x 28 gray) 1,000 images of the test split were added, changed, and looked for.

| change | clothes | digits |
|---|---|---|
| none | 100% | 100% |
| enlarged by a half | 100% | 100% |
| 12 gray levels brighter | 100% | 100% |
| contrast times 1.1 | 100% | 100% |
| JPEG of quality 75 | 100% | 100% |
| JPEG of quality 50 | 97.8% | 100% |
| reduced to three quarters | 100% | 100% |
| reduced to half | 100% | 100% |
| a pixel cut off at two sides | 99.9% | 100% |
| a pixel cut off at all four | 99.6% | 100% |

No other image is accused in any of these runs. Without anything added, 4 of the 5,000 clothes of the test split are found and
none of the 1,000 digits; hashes within 4 bits alone would accuse 919 and 229. The digits, and false alarms on both sets, were
looked at when the limits were chosen. Changes that lose something are found less often when it is the test image that has them
and not the training image: some of the clothes with sides cut, none of those at half their size.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from sslshift.data.curation.blocks import chunks
from sslshift.data.curation.duplicates import MAX_DISTANCE, MIN_CORRELATION, require_correlation
from sslshift.data.curation.hamming import HashIndex
from sslshift.data.curation.identities import CHROMA, Identities, looks
from sslshift.data.curation.likeness import Colours, details_and_contrast, unlikeness, variants
from sslshift.data.curation.linking import Matches, Pairs
from sslshift.data.curation.pairs import exact_pairs_between
from sslshift.data.curation.perceptual_hash import SIDE, hash_thumbnails
from sslshift.data.curation.threads import watched
from sslshift.data.sources import Source

SAME = "same pixels"
NEAR = "near"
# Test images of which all variants are compared at a time.
_STEP = 256


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What a search for leaks found.

    Attributes:
      pairs: `first` are indices of the pretraining source, `second` of the test source, `distance` is 1 - correlation of their
        detail. Every image concerned, of either source, is in at least one pair.
      how: of each pair, "same pixels" or "near". Only of the first may it be said that the image is in both.
      missed: the nearest pairs that were not near enough, for a person to judge the limit.
    """

    pairs: Pairs
    how: tuple[str, ...]
    missed: Pairs

    @property
    def count(self) -> int:
        """How many test images are concerned."""
        return len(self.test_indices)

    @property
    def test_indices(self) -> np.ndarray:
        """The test images concerned, int64: an evaluation may leave them out."""
        return np.unique(self.pairs.second)

    @property
    def source_indices(self) -> np.ndarray:
        """The pretraining images concerned, int64: pretraining should leave them out."""
        return np.unique(self.pairs.first)


def find_leaks(
    source: Source,
    test_source: Source,
    test_indices: np.ndarray | None = None,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    colour: bool = True,
) -> Leaks:
    """Finds the test images that a pretraining source holds: the same pixels, or the same picture stored otherwise.

    Perceptual hashes find candidates, also of the test image as it would be with a pixel of 28 more or less on any side or
    reduced to 20 pixels or less (`likeness.variants`); the correlation of their detail decides, and their colours. A gray copy
    of a colourful test image is another image. Figures stand above.

    Args:
      source: what is pretrained on, or a `PartialSource` of it; read once, or only its candidates if it has stored hashes.
      test_source: what holds the test split; read once. 4 kB per test image are held.
      test_indices: of the test split; None: all.
      max_distance: bits in which the hashes of candidates may differ.
      min_correlation: of the detail of the same picture, at most 1. Where images are as different as photographs are, 0.98 is
        strict enough and finds more of what was heavily changed.
      colour: whether images that differ in colour alone are different. False for encoders that take gray images, to which they
        are one.

    Raises:
      ValueError: an argument is out of its range.
      BrokenImageError: an image cannot be read.
    """
    require_correlation(min_correlation)
    asked = np.arange(len(test_source)) if test_indices is None else np.unique(test_indices)
    own = Identities(source)
    index = HashIndex(own.hashes)
    tests = _read(test_source, asked)
    same = _same_pixels(own, tests)
    limit = 1 - min_correlation
    matches = Matches((len(own), len(asked)), limit)
    matches.add(*same)
    for start in watched(range(0, len(asked), _STEP), "comparing with the test images", long=len(asked) > 5000):
        _compare(own, index, tests, start, max_distance, limit, colour, matches)
    found, missed = matches.found()
    # Pixels stored again may have another hash than the one that was stored with them, and are compared here at last.
    equal = [a == tests.digests[j] for a, j in zip(own.pixels(found.first), found.second.tolist(), strict=True)]
    how = tuple(SAME if each else NEAR for each in equal)
    pairs, missed = (each._replace(second=asked[each.second]) for each in (found, missed))
    return Leaks(pairs, how, missed)


class _Tests(NamedTuple):
    """Thumbnails `[n, 32, 32]` of test images, their chroma, and digests of their pixels."""

    gray: np.ndarray
    chroma: np.ndarray
    digests: list[bytes]


def _read(source: Source, indices: np.ndarray) -> _Tests:
    gray = np.empty((len(indices), SIDE, SIDE), np.float32)
    digests = []
    chroma = np.zeros((len(indices), *CHROMA), np.int8)
    for _, block, colours, pixels in looks(source, indices, shown=True):
        chosen = slice(len(digests), len(digests) + len(block))
        gray[chosen] = block
        if colours is not None:
            chroma[chosen] = colours
        digests += pixels
    return _Tests(gray, chroma, digests)


def _same_pixels(own: Identities, tests: _Tests) -> Pairs:
    """Pairs of (source, test) images of equal pixels. Those have equal hashes, so only such source images are looked at."""
    places = np.flatnonzero(np.isin(own.hashes, hash_thumbnails(tests.gray)))
    pairs = exact_pairs_between(own.pixels(places), tests.digests)
    return pairs._replace(first=places[pairs.first])


def _compare(
    own: Identities,
    index: HashIndex,
    tests: _Tests,
    start: int,
    max_distance: int,
    limit: float,
    colour: bool,
    matches: Matches,
) -> None:
    """Adds the matches of some test images, the first of which is image `start` of the split."""
    gray = tests.gray[start : start + _STEP]
    # All images as they are, then all in their next variant: most that match do so at once, and are done.
    pictures = variants(gray).swapaxes(0, 1).reshape(-1, SIDE, SIDE)
    detail, contrast = details_and_contrast(pictures)
    brightness = gray.mean((1, 2))

    def wanted(rows: np.ndarray, columns: np.ndarray, bits: np.ndarray) -> np.ndarray:
        return matches.open(columns, start + rows[:, None] % len(gray))

    for picture, first, _ in chunks(index.near(hash_thumbnails(pictures), max_distance, wanted)):
        chosen = matches.open(first, start + picture % len(gray))
        picture = picture[chosen]
        first = first[chosen]
        place = picture % len(gray)

        def colours(rows: np.ndarray, picture=picture, first=first, place=place) -> tuple[Colours, Colours]:
            chroma = tests.chroma[start + place[rows]]
            return own.colours(first[rows]), Colours(brightness[place[rows]], contrast[picture[rows]], chroma)

        distance = unlikeness(own.details(first), detail[picture], limit, colours, chroma=colour)
        matches.add(first, start + place, distance)
