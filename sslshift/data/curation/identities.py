"""Identities of a source's images: digest, perceptual hash, and the detail and colours that decide if hashes are near."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL

from sslshift.array_cache import ArrayCache
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
from sslshift.data.perceptual_hash import VERSION as HASH_VERSION
from sslshift.data.sources import Source
from sslshift.data.threads import in_threads, watched

# Part of the key of kept identities: raise it when the pixels change to which any image is decoded, or its digest.
VERSION = 1
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


def kept_by_content(
    cache: ArrayCache | None, key: list, sources: Sequence[Source], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns arrays about the images of sources from the cache, or computes them; see `ArrayCache.remembered`.

    Args:
      cache: the cache; None: nothing is kept.
      key: everything else that the arrays depend on, as JSON values.
      sources: the sources. Nothing is kept if the content of one of them is not known, see `Source.content_key`.
      compute: function that returns the arrays.
    """
    contents = [source.content_key() for source in sources]
    if cache is None or None in contents:
        return compute()
    # Another version of Pillow may decode the same file to other pixels.
    return cache.remembered([*key, PIL.__version__, [len(source) for source in sources], contents], compute)


class Identities:
    """Digests, perceptual hashes, details and colours of a source's images.

    If digests and hashes are stored with the source, or were kept by an earlier command, an image is read only when its detail
    is needed. Otherwise every image is read once. The memory is 750 bytes per grey image, and 1,250 bytes per colour image.

    Attributes:
      hashes: perceptual hashes, uint64 `[n]`.
      digests: digests of the files if these were stored, otherwise digests of the pixels; equal images have equal digests.
    """

    def __init__(self, source: Source, cache: ArrayCache | None = None):
        self._source = source
        self._details = np.zeros((len(source), DETAILS), np.float16)
        self._sketches = sketches(self._details)
        self._brightness, self._contrast = np.zeros((2, len(source)), np.float32)
        self._chroma = np.zeros((len(source), *CHROMA), np.int8)
        self._pixels = np.zeros((len(source), _DIGEST), np.uint8)
        self._have = np.zeros(len(source), bool)
        # Whether the digests of the pixels of all images are known, although not all were read.
        self._hashed = False
        stored = source.stored_identities()
        if stored is None:
            kept = kept_by_content(cache, [VERSION, HASH_VERSION, "identities"], [source], self._hash)
            self.hashes: np.ndarray = kept["hashes"]
            self._pixels = kept["pixels"]
            self._hashed = True
            self.digests: list = self.pixels(np.arange(len(source)))
        else:
            self.digests, self.hashes = stored

    def __len__(self) -> int:
        return len(self._source)

    def pixels(self, indices: np.ndarray) -> list[bytes]:
        """Returns digests of the pixels of these images, as `looks` computes them."""
        if not self._hashed:
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

    def _hash(self) -> dict[str, np.ndarray]:
        """Reads all images; returns their perceptual hashes and the digests of their pixels."""
        hashes = np.zeros(len(self), np.uint64)
        self._read(np.arange(len(self)), hashes)
        return {"hashes": hashes, "pixels": self._pixels}

    def _read(self, indices: np.ndarray, hashes: np.ndarray | None = None) -> None:
        missing = np.unique(indices[~self._have[indices]])
        for chunk, gray, chroma, digests in looks(self._source, missing, shown=hashes is not None):
            details, self._contrast[chunk] = details_and_contrast(gray)
            self._details[chunk] = details
            self._sketches[chunk] = sketches(details)
            self._brightness[chunk] = gray.mean((1, 2))
            if chroma is not None:
                self._chroma[chunk] = chroma
            self._pixels[chunk] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)
            self._have[chunk] = True
            if hashes is not None:
                hashes[chunk] = hash_thumbnails(gray)
