"""Identities of a source's images: digest, perceptual hash, and the detail and colours that decide if hashes are near."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sslshift.data.likeness import (
    DETAILS,
    Colours,
    blurred_chroma,
    colour_differences,
    details_and_contrast,
    sketches,
    unlikeness,
)
from sslshift.data.perceptual_hash import SIDE, colour_thumbnails, hash_thumbnails
from sslshift.data.sources import Source
from sslshift.data.threads import in_threads, watched

# Bytes of a digest: at 16, no two of 10^9 different images are expected to share one.
_DIGEST = 16
# Images of a block, which one thread reads.
_CHUNK = 512
# Images of at most this size in bytes are collected by shape, since one matrix product can then process all of one shape.
_SMALL = 1 << 14
# Shape of the chroma of one image.
CHROMA = (2, SIDE // 2, SIDE // 2)


class Looks(NamedTuple):
    """Appearance of a block of images.

    Attributes:
      indices: indices of the images in their source.
      gray: thumbnails, float32 `[n, 32, 32]`.
      chroma: chroma as `likeness.Colours` holds it; None if all images are grey.
      digests: digests of the pixels: equal pixels have equal digests, even if they come from different files.
    """

    indices: np.ndarray
    gray: np.ndarray
    chroma: np.ndarray | None
    digests: list[bytes]


def looks(source: Source, indices: np.ndarray, *, shown: bool = False) -> Iterator[Looks]:
    """Yields blocks of images in their order, read in threads; `shown` adds a progress bar if there are many images."""

    def look(start: int) -> Looks:
        chunk = indices[start : start + _CHUNK]
        gray = np.empty((len(chunk), SIDE, SIDE), np.float32)
        chroma = None
        digests = []
        same_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}

        def add(places: list[int], images: np.ndarray) -> None:
            nonlocal chroma
            gray[places], colours = colour_thumbnails(images)
            if colours is not None:
                chroma = np.zeros((len(chunk), *CHROMA), np.int8) if chroma is None else chroma
                chroma[places] = blurred_chroma(colours)

        for place, index in enumerate(chunk.tolist()):
            image = source.image(index)
            # The digest includes the shape, since images of different shapes can have the same bytes.
            digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=_DIGEST)
            digest.update(image.tobytes())
            digests.append(digest.digest())
            if image.size > _SMALL:
                add([place], image[None])
            else:
                same_shape.setdefault(image.shape, []).append((place, image))
        for images in same_shape.values():
            add([place for place, _ in images], np.stack([image for _, image in images]))
        return Looks(chunk, gray, chroma, digests)

    starts = range(0, len(indices), _CHUNK)
    yield from in_threads(look, watched(starts, f"reading {source.name}", long=shown and len(indices) > 5000))


class Identities:
    """Digests, perceptual hashes, details and colours of a source's images.

    If the source has stored digests and hashes, an image is read only when its detail is needed. Otherwise every image is read
    once. The memory is 750 bytes per grey image, and 1,250 bytes per colour image.

    Attributes:
      hashes: perceptual hashes, uint64 `[n]`.
      digests: digests of the files if these were stored, otherwise digests of the pixels; equal images have equal digests.
    """

    def __init__(self, source: Source):
        self._source = source
        self._details = np.zeros((len(source), DETAILS), np.float16)
        self._sketches = sketches(self._details)
        self._brightness, self._contrast = np.zeros((2, len(source)), np.float32)
        self._chroma = np.zeros((len(source), *CHROMA), np.int8)
        self._pixels = np.zeros((len(source), _DIGEST), np.uint8)
        self._have = np.zeros(len(source), bool)
        stored = source.stored_identities()
        if stored is None:
            self.hashes = np.zeros(len(source), np.uint64)
            self._read(np.arange(len(source)), hashed=True)
            self.digests: list = self.pixels(np.arange(len(source)))
        else:
            self.digests, self.hashes = stored

    def __len__(self) -> int:
        return len(self._source)

    def pixels(self, indices: np.ndarray) -> list[bytes]:
        """Returns digests of the pixels of these images, as `looks` computes them."""
        self._read(indices)
        return [digest.tobytes() for digest in self._pixels[indices]]

    def details(self, indices: np.ndarray) -> np.ndarray:
        """Returns the detail of these images, float32 `[m, 256]`; see `likeness`."""
        self._read(indices)
        return self._details[indices].astype(np.float32)

    def sketches(self, indices: np.ndarray) -> np.ndarray:
        """Returns sketches of the detail of these images, float32 `[m, 38]`; see `likeness`."""
        self._read(indices)
        return self._sketches[indices]

    def colours(self, indices: np.ndarray) -> Colours:
        """Returns the colours of these images."""
        self._read(indices)
        return Colours(self._brightness[indices], self._contrast[indices], self._chroma[indices])

    def unlikeness(self, first: np.ndarray, second: np.ndarray, limit: float) -> np.ndarray:
        """Returns the unlikeness of pairs of images, `[m]`; see `likeness.unlikeness`."""

        def colours(rows: np.ndarray) -> tuple[Colours, Colours]:
            return self.colours(first[rows]), self.colours(second[rows])

        return unlikeness(self.details(first), self.details(second), limit, colours)

    def colour_differences(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Returns the difference in colour of pairs of images, `[m]`; see `likeness.colour_differences`."""
        # Computed in blocks, since the chroma of two images takes 1 kB.
        starts = range(0, len(first), _CHUNK)
        parts = [
            colour_differences(self.colours(first[start : start + _CHUNK]), self.colours(second[start : start + _CHUNK]))
            for start in starts
        ]
        return np.concatenate([np.zeros(0), *parts])

    def _read(self, indices: np.ndarray, hashed: bool = False) -> None:
        missing = np.unique(indices[~self._have[indices]])
        for chunk, gray, chroma, digests in looks(self._source, missing, shown=hashed):
            details, self._contrast[chunk] = details_and_contrast(gray)
            self._details[chunk] = details
            self._sketches[chunk] = sketches(details)
            self._brightness[chunk] = gray.mean((1, 2))
            if chroma is not None:
                self._chroma[chunk] = chroma
            self._pixels[chunk] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)
            self._have[chunk] = True
            if hashed:
                self.hashes[chunk] = hash_thumbnails(gray)
