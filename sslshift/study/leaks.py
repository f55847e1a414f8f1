"""Leaks: test images that equal or resemble images of a source. Every source is searched for leaks.

Digests and hashes of a source, and the leaks that were found, are kept by the content of both sources in the folder
`identities` of the user's cache, so that a second study on the same images reads and compares none of them. The environment
variable SSLSHIFT_IDENTITIES names another folder; an empty value keeps nothing.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslshift.array_cache import ArrayCache
from sslshift.cache import cache_folder
from sslshift.data.curation.leaks import NEAR, VERSION, LeakSearch, differently_labelled
from sslshift.data.decode import BrokenImageError
from sslshift.data.sources import Source
from sslshift.shards import editing
from sslshift.storage import NotStoredError, Store, slug, write
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress

# Environment variable with the folder of kept identities.
CACHE = "SSLSHIFT_IDENTITIES"
# Largest number of pairs that a folder keeps and the report can show.
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


def search_leaks(opened: Opened, store: Store, progress: Progress) -> dict[str, SourceLeaks]:
    """Returns the test images of the first task that each source contains or resembles, by the URI of the source.

    Writes the kept pairs, if there are any, to `leaks.csv`.

    Raises:
      NotStoredError: a source was not searched yet, and the store is read only.
    """
    found = {}
    test, indices = opened.task.test
    search = LeakSearch(test, indices, colour=opened.canvas.channels > 1, missed=False, cache=_cache(progress.note))
    for uri, source in opened.sources.items():
        if source.shares_none_with(test):
            found[uri] = SourceLeaks(why="generated images are functions of a seed and cannot be copies")
            continue
        if len(source) > _SEARCHED and source.stored_identities() is None:
            why = f"it has more than {_SEARCHED:,} images and no stored hashes; python -m tools.import_images stores them"
            found[uri] = SourceLeaks(why=why)
            continue
        record = {
            "source": source.fingerprint,
            "test": test.fingerprint,
            "test_images": len(indices),
            "search": VERSION,
            "colour": opened.canvas.channels > 1,
        }
        folder = opened.design.out / "leaks" / slug(uri)
        result = store.remembered(folder, record, lambda source=source: _searched(source, opened, search).as_result())
        leaks = found[uri] = SourceLeaks.of_result(result)
        if leaks.count:
            progress.note(f"WARNING: {leaks.sentence(opened.names[uri], len(indices))} (leaks.csv lists the pairs)")
    if not store.read_only:
        _write(found, opened)
    return found


def read_leaks(opened: Opened, store: Store, progress: Progress) -> dict[str, SourceLeaks]:
    """Returns the leaks in a study's folder, from a read-only store."""
    try:
        return search_leaks(opened, store, progress)
    except NotStoredError:
        return {uri: SourceLeaks(why="the study is not finished") for uri in opened.sources}


def _cache(note: Callable[[str], None]) -> ArrayCache | None:
    folder = os.environ.get(CACHE, str(cache_folder("identities")))
    return ArrayCache(Path(folder).expanduser(), _KEPT_BYTES, note) if folder else None


def _searched(source: Source, opened: Opened, search: LeakSearch) -> SourceLeaks:
    test, _ = opened.task.test
    try:
        leaks = search.among(source)
    except BrokenImageError as error:
        return SourceLeaks(why=f"an image cannot be read: {error}")
    columns = zip(
        leaks.pairs.first.tolist(), leaks.pairs.second.tolist(), leaks.pairs.distance.tolist(), leaks.how, strict=True
    )
    pairs = [LeakedPair(*pair, source.origin(pair[0]), test.origin(pair[1])) for pair in columns]
    return SourceLeaks(
        count=leaks.count,
        equal=len(np.unique(leaks.same.second)),
        same=leaks.same.count,
        near=leaks.near.count,
        other_label=int(differently_labelled(source, leaks.pairs.first, test, leaks.pairs.second).sum()),
        colour=opened.canvas.channels > 1,
        pairs=tuple(pairs[:_KEPT]),
    )


def _write(found: Mapping[str, SourceLeaks], opened: Opened) -> None:
    path = opened.design.out / "leaks.csv"
    rows: Iterable[tuple] = [(uri, *pair) for uri, leaks in found.items() for pair in leaks.pairs]
    text = io.StringIO()
    head = ("source", "source_index", "test_index", "distance", "how", "source_image", "test_image")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    with editing(opened.design.out):
        if rows:
            write(path, text.getvalue())
        else:
            # An earlier search may have left the file.
            path.unlink(missing_ok=True)
