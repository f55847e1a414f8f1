"""What every source is, and how a problem with a file is told."""

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
    """An image that is not stored, and why."""

    path: str
    reason: str


class Source:
    """A named, random-access collection of images.

    `source[i]` is a dict with `image` (uint8 `[height, width, channels]`) and, where labels exist, `label`: an int, or uint8
    0/1 `[classes]` where an image may have several labels or none.

    Attributes:
      name: the URI that opens it.
      licence: licence of the images, or "unknown".
      cost_per_image: what one more image costs, in any currency; 0 where nothing was said.
      classes: names of the labels, or of the columns of multi-label `labels`; None where there are none.
      fingerprint: changes when the content does; it goes into the record of every run.
      refused: (path, reason) of files that looked like images and are not counted in `len`.
      pixel_range: the values of images of more than 8 bits that become 0 and 255; None where there is no such image.
      notes: what was decided where the files left it open, and what a reader must know; sentences without a full stop.
    """

    def __init__(self, name: str, *, licence: str = "unknown", cost_per_image: float = 0.0, fingerprint: str):
        self.name = name
        self.licence = licence
        self.cost_per_image = cost_per_image
        self.fingerprint = fingerprint
        self.classes: tuple[str, ...] | None = None
        self.refused: Sequence[tuple[str, str]] = []
        self.pixel_range: PixelRange | None = None
        self.notes: Sequence[str] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int64 `[len]`, or uint8 0/1 `[len, classes]` where an image may have several (multi-label), or None.

        Read when first asked for: only a downstream task or a stratified subset needs them.
        """
        return None

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        """One image as stored, or brought to a canvas (`decode.fit`): uint8 `[height, width, channels]`.

        Raises:
          BrokenImageError: it cannot be read or decoded; the message says where it is and why.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        sample = {"image": self.image(index)}
        if self.labels is None:
            return sample
        return sample | {"label": int(self.labels[index]) if self.labels.ndim == 1 else self.labels[index].copy()}

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Many images on one canvas: uint8 `[n, height, width, channels]`. Raises like `image`."""
        images = np.empty((len(indices), *canvas), np.uint8)
        for place, index in enumerate(np.asarray(indices).tolist()):
            images[place] = self.image(index, canvas)
        return images

    def origin(self, index: int) -> str:
        """Where an image comes from, for people: its path or address if there is one."""
        return f"{self.name}, image {index}"

    def stored_identities(self) -> tuple[list[bytes], np.ndarray] | None:
        """Content digests and perceptual hashes (uint64 `[len]`) if they were stored with the images; None: to be computed."""
        return None


class PartialSource(Source):
    """Some of the images of a source, in their order there: those of `whole` at `indices`."""

    def __init__(self, source: Source, indices: np.ndarray):
        indices = np.asarray(indices, np.int64)
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
        self.whole = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        return None if self.whole.labels is None else self.whole.labels[self.indices]

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self.whole.image(int(self.indices[index]), canvas)

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        return self.whole.read(self.indices[indices], canvas)

    def origin(self, index: int) -> str:
        return self.whole.origin(int(self.indices[index]))

    def stored_identities(self) -> tuple[list[bytes], np.ndarray] | None:
        stored = self.whole.stored_identities()
        return stored and ([stored[0][index] for index in self.indices.tolist()], stored[1][self.indices])


def digests(source: Source, indices: np.ndarray, canvas: Canvas) -> list[bytes]:
    """A digest of each image as it is seen on the canvas: equal images have equal ones, whatever their files are called.

    An image that cannot be read has the empty digest.
    """
    result = []
    for index in indices:
        try:
            image = source.read(np.array([index]), canvas)[0]
        except BrokenImageError:
            result.append(b"")
        else:
            result.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    return result


def readable(source: Source, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Those of the indices whose images can be read."""
    return np.array(
        [index for index, digest in zip(indices, digests(source, indices, canvas), strict=True) if digest], np.int64
    )


def printable(path: str | bytes | Path) -> str:
    """A path as text that can be written anywhere, also where its name is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def licence_text(counts: Counter[str], default: str) -> str:
    """One text for the licences of many images: the one they share, or the commonest with their counts."""
    if len(counts) < 2:
        return next(iter(counts), default)
    some = ", ".join(f"{licence} ({count:,})" for licence, count in counts.most_common(5))
    return f"mixed: {some}" + (f" and {len(counts) - 5} more" if len(counts) > 5 else "")
