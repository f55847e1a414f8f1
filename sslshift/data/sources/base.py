"""The interface of all sources, a source with a part of another source's images, and texts about files for people."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.ranges import PixelRange


class Refused(NamedTuple):
    """An image, or a file that could hold images, that is not used, and the reason."""

    path: str
    reason: str


class Terms(NamedTuple):
    """The licence and the cost per image that a URI states; None for a value that it does not state."""

    licence: str | None = None
    cost_per_image: float | None = None

    def over(self, other: "Terms") -> "Terms":
        """Returns these terms, with the values of `other` in place of values that are None."""
        return Terms(
            other.licence if self.licence is None else self.licence,
            other.cost_per_image if self.cost_per_image is None else self.cost_per_image,
        )


class StoredIdentities(NamedTuple):
    """Identities that were stored with the images: content digests, and perceptual hashes (uint64 `[len]`)."""

    digests: list[bytes]
    hashes: np.ndarray


class Source:
    """A named, random-access collection of images.

    `source[i]` is a dict with `image` (uint8 `[height, width, channels]`) and, if the source has labels, `label`: an int, or
    uint8 0/1 `[classes]` if an image may have several labels or none.

    Attributes:
      name: the URI that opens the source.
      licence: licence of the images, or "unknown".
      cost_per_image: cost of one more image, in any currency; 0 if no cost is stated.
      classes: names of the labels, or of the columns of multi-label `labels`; None for a source without labels.
      fingerprint: text that changes when the content does; it goes into the record of every run.
      refused: files that look like images but cannot be used; `len` does not count them.
      pixel_range: the values of images of more than 8 bits that become 0 and 255; None if there is no such image.
      notes: decisions that the files left open, and other facts that a reader must know; sentences without a full stop.
      generator: generator and seed of images that are functions of a seed; None for all other images.
    """

    def __init__(self, name: str, *, licence: str | None = None, cost_per_image: float | None = None, fingerprint: str):
        self.name = name
        self.licence = "unknown" if licence is None else licence
        self.cost_per_image = 0.0 if cost_per_image is None else cost_per_image
        self.fingerprint = fingerprint
        self.classes: tuple[str, ...] | None = None
        self.refused: Sequence[Refused] = []
        self.pixel_range: PixelRange | None = None
        self.notes: Sequence[str] = ()
        self.generator: str | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Labels: int64 `[len]`; uint8 0/1 `[len, classes]` if an image may have several labels (multi-label); or None.

        They are read at the first access, since only a downstream task or a stratified subset needs them.
        """
        return None

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """Names of groups of images that are not independent, such as frames of one video: text `[len]`; or None."""
        return None

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        """Returns one image as stored, or fitted to a canvas (`decode.fit`): uint8 `[height, width, channels]`.

        Raises:
          BrokenImageError: the image cannot be read or decoded; the message names its place and the reason.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        # `range` raises IndexError for an index beyond the end, and accepts negative indices.
        index = range(len(self))[index]
        sample = {"image": self.image(index)}
        if self.labels is None:
            return sample
        # A copy of a row, so that a caller cannot change the labels of the source.
        return sample | {"label": int(self.labels[index]) if self.labels.ndim == 1 else self.labels[index].copy()}

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Returns many images on one canvas: uint8 `[n, height, width, channels]`. Raises like `image`."""
        images = np.empty((len(indices), *canvas), np.uint8)
        for place, index in enumerate(np.asarray(indices).tolist()):
            images[place] = self.image(index, canvas)
        return images

    def shares_none_with(self, other: "Source") -> bool:
        """Returns True if no image can be in both: this source generates its images, and the other has another origin."""
        return self.generator is not None and self.generator != other.generator

    def origin(self, index: int) -> str:
        """Returns the path or address of an image, for people, or its number in the source if it has no path or address."""
        return f"{self.name}, image {index}"

    def stored_identities(self) -> StoredIdentities | None:
        """Returns the identities that were stored with the images, or None if they must be computed."""
        return None

    def content_key(self) -> str | None:
        """Returns text by which facts about all images can be kept for later commands, or None if the content is not known.

        A fingerprint alone is not enough where it does not hash every byte: shards may be edited in their middle.
        """
        return None


class PartialSource(Source):
    """The images of the source `whole` at `indices`, in that order."""

    def __init__(self, source: Source, indices: np.ndarray):
        indices = np.asarray(indices, np.int64)
        # The choice is part of the fingerprint: another choice of the same number of images is another source.
        chosen = hashlib.sha256(indices.tobytes()).hexdigest()[:16]
        super().__init__(
            source.name,
            licence=source.licence,
            cost_per_image=source.cost_per_image,
            fingerprint=f"{source.fingerprint}, {len(indices)} of {len(source)} ({chosen})",
        )
        self.refused = source.refused
        self.classes = source.classes
        self.pixel_range = source.pixel_range
        self.notes = source.notes
        self.generator = source.generator
        self.whole = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        return None if self.whole.labels is None else self.whole.labels[self.indices]

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        return None if self.whole.groups is None else self.whole.groups[self.indices]

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self.whole.image(int(self.indices[index]), canvas)

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        return self.whole.read(self.indices[indices], canvas)

    def origin(self, index: int) -> str:
        return self.whole.origin(int(self.indices[index]))

    def stored_identities(self) -> StoredIdentities | None:
        stored = self.whole.stored_identities()
        if not stored:
            return None
        return StoredIdentities([stored.digests[index] for index in self.indices.tolist()], stored.hashes[self.indices])

    def content_key(self) -> str | None:
        whole = self.whole.content_key()
        return whole and f"{whole} {hashlib.sha256(self.indices.tobytes()).hexdigest()}"


def digests(source: Source, indices: np.ndarray, canvas: Canvas) -> list[bytes]:
    """Returns a digest of each image on the canvas: equal images have equal digests, even if their file names differ.

    The digest of an image that cannot be read is empty.
    """
    result = []
    for index in indices:
        try:
            # Images are read one by one, so that a broken image does not affect the others.
            image = source.read(np.array([index]), canvas)[0]
        except BrokenImageError:
            result.append(b"")
        else:
            # At 16 bytes, no two of 10^9 different images are expected to share a digest.
            result.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    return result


def readable(source: Source, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Returns the indices whose images can be read."""
    return np.array(
        [index for index, digest in zip(indices, digests(source, indices, canvas), strict=True) if digest], np.int64
    )


def written_at(files: Sequence[Path]) -> str:
    """Returns a digest of the sizes and the times of the last change of files, in nanoseconds."""
    about = [file.stat() for file in files]
    return hashlib.sha256(repr([(each.st_size, each.st_mtime_ns) for each in about]).encode()).hexdigest()


def printable(path: str | bytes | Path) -> str:
    """Returns a path as text that can be written anywhere, even if the path is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def licence_text(counts: Counter[str], default: str) -> str:
    """Returns one text for the licences of many images: the one licence of all, or the commonest licences with their counts."""
    if len(counts) < 2:
        return next(iter(counts), default)
    # Five licences fit into a line of a table.
    some = ", ".join(f"{licence} ({count:,})" for licence, count in counts.most_common(5))
    return f"mixed: {some}" + (f" and {len(counts) - 5} more" if len(counts) > 5 else "")
