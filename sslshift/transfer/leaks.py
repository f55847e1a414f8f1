"""Leaks: test images that equal or resemble images of a source; the one search of studies, `tools.evaluate` and `tools.shift`.

Digests and hashes of a source, and the leaks that were found, are kept by the content of both sources in the folder
`identities` of the user's cache, so that a second command on the same images reads and compares none of them. The environment
variable SSLSHIFT_IDENTITIES names another folder; an empty value keeps nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslshift.array_cache import ArrayCache
from sslshift.cache import cache_folder
from sslshift.data.curation.leaks import NEAR, Leaks, LeakSearch, differently_labelled
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.sources import Source

# Environment variable with the folder of kept identities.
CACHE = "SSLSHIFT_IDENTITIES"
# Largest number of pairs that are kept and can be shown.
_KEPT = 10_000
# A larger source without stored hashes is not searched, because the search would have to read all its images.
_SEARCHED = 200_000
# Bytes of the kept facts about sources: 24 for each image.
_KEPT_BYTES = 1 << 28


class LeakedPair(NamedTuple):
    """An image of a source and a test image that equals or resembles it.

    Attributes:
      source_index, test_index: indices in the source and in the source of the test split.
      distance: distance between the two images; 0 if they are equal.
      how: criterion by which the images are alike.
      source_image, test_image: origin of each image, e.g. its file.
    """

    source_index: int
    test_index: int
    distance: float
    how: str
    source_image: str
    test_image: str


@dataclasses.dataclass(frozen=True)
class SourceLeaks:
    """Test images that a source contains or resembles.

    Attributes:
      count: number of test images that equal or resemble an image of the source.
      equal: number of test images that have the same pixels as an image of the source.
      same, near: number of pairs of equal images, and of similar images.
      other_label: number of pairs whose images have different labels.
      colour: whether colours were compared; they are not if encoders take grey images.
      pairs: the first pairs.
      why: reason why the source was not searched; empty if it was searched.
    """

    count: int = 0
    equal: int = 0
    same: int = 0
    near: int = 0
    other_label: int = 0
    colour: bool = False
    pairs: tuple[LeakedPair, ...] = ()
    why: str = ""

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> "SourceLeaks":
        """Returns the leaks in a `result.json`, see `as_result`."""
        return cls(**dict(result) | {"pairs": tuple(LeakedPair(*pair) for pair in result.get("pairs", ()))})

    def as_result(self) -> dict[str, Any]:
        """Returns the values that a `result.json` keeps."""
        if self.why:
            return {"why": self.why}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "why"}

    def sentence(self, uri: str, test_images: int) -> str:
        """Returns the findings in a sentence without its full stop.

        Only images with equal pixels are reported as the same image; the reader decides whether similar images show the same.

        Args:
          uri: URI of the source.
          test_images: number of images of the test split.
        """
        similar = self.count - self.equal
        parts = []
        if self.equal:
            are = "is" if self.equal == 1 else "are"
            parts.append(f"{self.equal:,} of the {test_images:,} test images {are} also in {uri}, pixel for pixel")
        if similar:
            is_similar = "is similar" if similar == 1 else "are similar"
            of = f"{similar:,} others" if parts else f"{similar:,} of the {test_images:,} test images"
            by = "detail and colours" if self.colour else "detail, without colours, which these encoders do not see"
            parts.append(f"{of} {is_similar} to images in {'it' if parts else uri} by {by}{self._example()}")
        if self.other_label:
            parts.append(f"{self.other_label:,} of the pairs have different labels")
        return "; ".join(parts)

    def _example(self) -> str:
        pair = next((pair for pair in self.pairs if pair.how == NEAR), None)
        return f", for example {pair.test_image} to {pair.source_image}" if pair else ""


class LeakFinder:
    """Search for the test images of one task in several sources; identities and results are kept for later commands.

    Args:
      test: source of the test split.
      indices: indices of the test images.
      colour: whether images that differ in colour alone are different; False for encoders that take grey images.
      note: called at most once, with a sentence, if nothing can be kept.
    """

    def __init__(self, test: Source, indices: np.ndarray, *, colour: bool, note: Callable[[str], None]):
        self.test = test
        self._colour = colour
        self._search = LeakSearch(test, indices, colour=colour, missed=False, cache=_cache(note))

    def why_not(self, source: Source) -> str:
        """Returns the reason why a source is not searched; empty if it is."""
        if source.shares_none_with(self.test):
            return "generated images are functions of a seed and cannot be copies"
        if len(source) > _SEARCHED and source.stored_identities() is None:
            return f"it has more than {_SEARCHED:,} images and no stored hashes; python -m tools.import_images stores them"
        return ""

    def leaks(self, source: Source) -> Leaks:
        """Returns the pairs of images of a source and test images.

        Raises:
          BrokenImageError: an image cannot be read.
        """
        return self._search.among(source)

    def among(self, source: Source) -> SourceLeaks:
        """Returns the test images that a source contains or resembles."""
        try:
            leaks = self.leaks(source)
        except BrokenImageError as error:
            return SourceLeaks(why=f"an image cannot be read: {error}")
        columns = zip(
            leaks.pairs.first.tolist(), leaks.pairs.second.tolist(), leaks.pairs.distance.tolist(), leaks.how, strict=True
        )
        pairs = [LeakedPair(*pair, source.origin(pair[0]), self.test.origin(pair[1])) for pair in columns]
        return SourceLeaks(
            count=leaks.count,
            equal=len(np.unique(leaks.same.second)),
            same=leaks.same.count,
            near=leaks.near.count,
            other_label=int(differently_labelled(source, leaks.pairs.first, self.test, leaks.pairs.second).sum()),
            colour=self._colour,
            pairs=tuple(pairs[:_KEPT]),
        )


class OnCanvas(Source):
    """Images of a source as an encoder sees them: on its canvas, where images of any size are compared at one size."""

    def __init__(self, source: Source, canvas: Canvas):
        super().__init__(source.name, fingerprint=f"{source.fingerprint} on {canvas}")
        self.labels = source.labels
        self.classes = source.classes
        self.generator = source.generator
        self._source = source
        self._canvas = canvas

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self._source.read(np.array([index]), canvas or self._canvas)[0]

    def origin(self, index: int) -> str:
        return self._source.origin(index)

    def content_key(self) -> str | None:
        key = self._source.content_key()
        return key and f"{key} on {tuple(self._canvas)}"


def _cache(note: Callable[[str], None]) -> ArrayCache | None:
    folder = os.environ.get(CACHE, str(cache_folder("identities")))
    return ArrayCache(Path(folder).expanduser(), _KEPT_BYTES, note) if folder else None
