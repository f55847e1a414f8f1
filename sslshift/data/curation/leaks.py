"""Leaks: test images that are also among the images that an encoder is pretrained on.

The table has the share of leaks that `find_leaks` finds with its defaults, measured by `python -m tools.bench --what=curation`:
1,000 images of the test split were changed and added to the bundled training images (20,000 clothes, 4,000 digits, 28 x 28
pixels, grey).

| change | clothes | digits |
|---|---|---|
| none | 100% | 100% |
| enlarged by a half | 100% | 100% |
| 12 grey levels brighter | 100% | 100% |
| contrast times 1.1 | 100% | 100% |
| JPEG of quality 75 | 100% | 100% |
| JPEG of quality 50 | 97.8% | 100% |
| reduced to three quarters | 100% | 100% |
| reduced to half | 100% | 100% |
| a pixel cut off at two sides | 99.9% | 100% |
| a pixel cut off at all four sides | 99.6% | 100% |

No other image is reported in these runs. Without added images, 4 of the 5,000 clothes of the test split are reported, and none
of the 1,000 digits; hashes within 4 bits alone would report 919 clothes and 229 digits. The limits were chosen by the results
on the digits and by the false alarms on both sets. Changes that lose information are found less often if the test image was
changed instead of the training image: then only some of the clothes with cut sides are found, and none at half their size.
"""

import dataclasses
import functools
import hashlib
from typing import NamedTuple

import numpy as np

from sslshift.array_cache import ArrayCache
from sslshift.data.curation.duplicates import MAX_DISTANCE, MIN_CORRELATION, require_correlation
from sslshift.data.curation.hamming import HashIndex
from sslshift.data.curation.identities import CHROMA, Identities, kept_by_content, looks
from sslshift.data.curation.pairs import NONE, Matches, Pairs, chunks, exact_pairs_between
from sslshift.data.likeness import (
    DETAILS,
    VARIANTS,
    Colours,
    details_and_contrast,
    may_correlate,
    sketches,
    unlikeness,
    variants,
)
from sslshift.data.perceptual_hash import SIDE, hash_thumbnails
from sslshift.data.perceptual_hash import VERSION as HASH_VERSION
from sslshift.data.sources import Source
from sslshift.data.threads import watched

# Version of the search: results of earlier versions are computed again.
VERSION = 2
SAME = "same pixels"
NEAR = "near"
# Number of test images whose variants are compared in one step: 256 images have 8,704 variants, 36 MB of thumbnails.
_STEP = 256


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Result of a search for leaks.

    Attributes:
      pairs: `first` has indices of the pretraining source, `second` has indices of the test source; `distance` is 1 -
        correlation of their detail. Every leaked image of either source is in at least one pair.
      equal: bool `[m]`, True for pairs with equal pixels. Only these pairs prove that one image is in both sources; the other
        pairs are similar, and a person must decide about them.
      missed: the nearest pairs that were not near enough, so that a person can check the limit.
    """

    pairs: Pairs
    equal: np.ndarray
    missed: Pairs

    @property
    def how(self) -> tuple[str, ...]:
        """`SAME` or `NEAR` for each pair, as tables name them."""
        return tuple(SAME if equal else NEAR for equal in self.equal.tolist())

    @property
    def same(self) -> Pairs:
        """Pairs with equal pixels."""
        return self.pairs.chosen(self.equal)

    @property
    def near(self) -> Pairs:
        """Pairs that are similar without being equal."""
        return self.pairs.chosen(~self.equal)

    @property
    def count(self) -> int:
        """Number of leaked test images."""
        return len(self.test_indices)

    @property
    def test_indices(self) -> np.ndarray:
        """Indices of the leaked test images, int64, which an evaluation can exclude."""
        return np.unique(self.pairs.second)


def find_leaks(
    source: Source,
    test_source: Source,
    test_indices: np.ndarray | None = None,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    colour: bool = True,
) -> Leaks:
    """Finds the test images that a pretraining source holds, with the same pixels or as the same picture stored differently.

    Perceptual hashes find candidates for three forms of each test image: the image itself, the image with one pixel of 28 added
    or removed on any side, and the image reduced to 20 pixels or less (`likeness.variants`). The correlation of their detail
    decides, together with their colours. A grey copy of a colourful test image is a different image. The module's docstring has
    measurements.

    Args:
      source: the pretraining source, or a `PartialSource` of it. It is read once; if it has stored hashes, only its candidates
        are read.
      test_source: the source that holds the test split, which is read once. It takes 4 kB of memory per test image.
      test_indices: indices of the test split; None: all images.
      max_distance: bits in which the hashes of candidates may differ.
      min_correlation: minimum correlation of the detail, at most 1. For varied images such as photographs, 0.98 is strict
        enough and finds more images that were heavily changed.
      colour: True if images that differ in colour alone are different; False for encoders that take grey images, which cannot
        distinguish them.

    Raises:
      ValueError: an argument is out of its range.
      BrokenImageError: an image cannot be read.
    """
    return LeakSearch(
        test_source, test_indices, max_distance=max_distance, min_correlation=min_correlation, colour=colour
    ).among(source)


class LeakSearch:
    """Search for the same test images in several sources; see `find_leaks`. The test images are read and hashed once.

    Args:
      test_source, test_indices, max_distance, min_correlation, colour: as `find_leaks` takes them.
      missed: False if `Leaks.missed` is not needed and may be empty; pairs of different pictures are then rejected sooner.
      cache: cache of identities, and of the leaks of searches without `missed`; None: everything is searched anew.

    Raises:
      ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        test_source: Source,
        test_indices: np.ndarray | None = None,
        *,
        max_distance: int = MAX_DISTANCE,
        min_correlation: float = MIN_CORRELATION,
        colour: bool = True,
        missed: bool = True,
        cache: ArrayCache | None = None,
    ):
        require_correlation(min_correlation)
        self._source = test_source
        self._asked = np.arange(len(test_source)) if test_indices is None else np.unique(test_indices)
        self._max_distance = max_distance
        self._limit = 1 - min_correlation
        self._colour = colour
        self._missed = missed
        self._cache = cache
        # Hashes of all variants of `_STEP` test images, by the first of these images.
        self._hashes: dict[int, np.ndarray] = {}

    @functools.cached_property
    def _tests(self) -> "_Tests":
        return _read(self._source, self._asked)

    def among(self, source: Source) -> Leaks:
        """Returns the test images that a source holds.

        Raises:
          BrokenImageError: an image cannot be read.
        """
        if self._missed:
            return self._among(source)
        asked = hashlib.sha256(self._asked.astype(np.int64).tobytes()).hexdigest()
        key = [VERSION, HASH_VERSION, "leaks", asked, self._max_distance, self._limit, self._colour]

        def search() -> dict[str, np.ndarray]:
            leaks = self._among(source)
            return {**leaks.pairs._asdict(), "equal": leaks.equal}

        found = kept_by_content(self._cache, key, [source, self._source], search)
        return Leaks(Pairs(*(found[side] for side in Pairs._fields)), found["equal"], NONE)

    def _among(self, source: Source) -> Leaks:
        # The source is indexed and the test images, with all their variants, are the queries: the source is usually larger.
        own = Identities(source, self._cache)
        index = HashIndex(own.hashes)
        tests = self._tests
        matches = Matches((len(own), len(self._asked)), self._limit)
        # Equal pixels come first: a pair whose images both have a match is not compared again.
        matches.add(*_same_pixels(own, tests))
        for start in watched(range(0, len(self._asked), _STEP), "comparing with the test images", long=len(self._asked) > 5000):
            self._compare(own, index, start, matches)
        found, missed = matches.found()
        # A hash that was stored with an image can differ from the hash of the image as it is read now. `_same_pixels` misses
        # such images, so the pixels of all pairs are compared here.
        equal = [a == tests.digests[j] for a, j in zip(own.pixels(found.first), found.second.tolist(), strict=True)]
        pairs, missed = (each._replace(second=self._asked[each.second]) for each in (found, missed))
        return Leaks(pairs, np.array(equal, bool), missed)

    def _compare(self, own: Identities, index: HashIndex, start: int, matches: Matches) -> None:
        """Adds the matches of `_STEP` test images, beginning with image `start` of the split."""
        pictures = _Variants(self._tests.gray[start : start + _STEP])
        if start not in self._hashes:
            self._hashes[start] = hash_thumbnails(pictures.thumbnails)
        hashes = self._hashes[start]

        def wanted(rows: np.ndarray, columns: np.ndarray, bits: np.ndarray) -> np.ndarray:
            return matches.open(columns, start + rows[:, None] % pictures.count)

        for picture, first, _ in chunks(index.near(hashes, self._max_distance, wanted)):
            # Earlier chunks may have matched these images already.
            chosen = matches.open(first, start + picture % pictures.count)
            picture = picture[chosen]
            first = first[chosen]
            pictures.compute(picture)
            if not self._missed:
                near = may_correlate(own.sketches(first), pictures.sketches[picture], 1 - self._limit)
                picture = picture[near]
                first = first[near]
            place = picture % pictures.count

            # Defaults bind the arrays of this chunk, since the loop gives their names to those of the next one.
            def colours(rows: np.ndarray, picture=picture, first=first, place=place) -> tuple[Colours, Colours]:
                chroma = self._tests.chroma[start + place[rows]]
                own_colours = own.colours(first[rows])
                return own_colours, Colours(pictures.brightness[place[rows]], pictures.contrast[picture[rows]], chroma)

            distance = unlikeness(own.details(first), pictures.details[picture], self._limit, colours, chroma=self._colour)
            matches.add(first, start + place, distance)


def differently_labelled(source: Source, first: np.ndarray, other: Source, second: np.ndarray) -> np.ndarray:
    """Returns which pairs of images of two sources have different labels, bool `[m]`.

    Labels of two sources are compared by the names of their classes. A name that only one of the sources has is ignored, since
    one source may say "shoe" and the other "sneaker". Pairs with a missing label do not count as different.
    """
    own = source is other
    if not len(first) or source.labels is None or other.labels is None:
        return np.zeros(len(first), bool)
    if not own and (source.classes is None or other.classes is None):
        return np.zeros(len(first), bool)
    shared = set() if own else set(source.classes) & set(other.classes)
    alike = own or set(source.classes) == set(other.classes)

    def differ(i: int, j: int) -> bool:
        a = label_names(source, i)
        b = label_names(other, j)
        if a is None or b is None:
            return False
        a = set(a)
        b = set(b)
        return a != b if alike else bool(a & shared and b & shared) and a & shared != b & shared

    return np.array([differ(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True)], bool)


def label_names(source: Source, index: int) -> tuple[str, ...] | None:
    """Returns the names of an image's classes, possibly none for a multi-label image; None if its label is missing."""
    if source.labels is None:
        return None
    label = source.labels[index]
    if np.ndim(label) == 0 and label < 0:
        return None
    numbers = np.flatnonzero(label).tolist() if np.ndim(label) else [int(label)]
    return tuple(str(number) if source.classes is None else source.classes[number] for number in numbers)


class _Tests(NamedTuple):
    """Thumbnails `[n, 32, 32]` of test images, their chroma, and the digests of their pixels."""

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
    """Returns pairs of (source, test) images with equal pixels; only source images with the hash of a test image are read."""
    # Equal pixels have equal hashes. Flat images all share one hash, so they are found here although they are never near.
    places = np.flatnonzero(np.isin(own.hashes, hash_thumbnails(tests.gray)))
    pairs = exact_pairs_between(own.pixels(places), tests.digests)
    return pairs._replace(first=places[pairs.first])


class _Variants:
    """Details of all variants of some test images, computed for images with candidates only.

    Variant v of image i has place `v * count + i`: the unchanged images come first. Most leaked images match early, and their
    later variants are skipped.

    Attributes:
      count: number of test images.
      brightness: of every image, float32 `[count]`.
      details, sketches, contrast: of every variant, float32 `[places, ...]`, after `compute`.
    """

    def __init__(self, gray: np.ndarray):
        self.count = len(gray)
        self.brightness = gray.mean((1, 2))
        self._gray = gray
        self._have = np.zeros(self.count, bool)
        self.details = np.zeros((VARIANTS * self.count, DETAILS), np.float32)
        self.sketches = sketches(self.details)
        self.contrast = np.zeros(VARIANTS * self.count, np.float32)

    @functools.cached_property
    def thumbnails(self) -> np.ndarray:
        """Thumbnails of all variants, float32 `[places, 32, 32]`."""
        return variants(self._gray).swapaxes(0, 1).reshape(-1, SIDE, SIDE)

    def compute(self, places: np.ndarray) -> None:
        """Computes the variants of the images at these places that are not there yet."""
        images = np.unique(places % self.count)
        images = images[~self._have[images]]
        every = (np.arange(VARIANTS)[:, None] * self.count + images).ravel()
        # Thumbnails are there if the hashes were just computed from them, for the first source of a search.
        made = self.thumbnails[every] if "thumbnails" in vars(self) else _Variants(self._gray[images]).thumbnails
        details, self.contrast[every] = details_and_contrast(made)
        self.details[every] = details
        self.sketches[every] = sketches(details)
        self._have[images] = True
