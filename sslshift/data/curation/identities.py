"""What tells the images of a source apart: digest, perceptual hash, and the detail that decides where hashes are near."""

import hashlib
from collections.abc import Iterator

import numpy as np

from sslshift.data.curation.likeness import DETAILS, correlations, details
from sslshift.data.curation.perceptual_hash import SIDE, hash_thumbnails, thumbnails
from sslshift.data.curation.threads import in_threads, watched
from sslshift.data.sources import Source

# Bytes of a digest, images of a block, and bytes of an image that is held until others of its size are read.
_DIGEST, _CHUNK, _SMALL = 16, 512, 1 << 14


def looks(source: Source, indices: np.ndarray, *, shown: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray, list[bytes]]]:
    """Reads images in threads: in order, blocks of their indices, thumbnails `[n, 32, 32]`, and digests of their pixels.

    `shown` is for a person who waits for many. Equal pixels have equal digests, whatever file they come from.
    """

    def look(start: int) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        chunk = indices[start : start + _CHUNK]
        gray, digests = np.empty((len(chunk), SIDE, SIDE), np.float32), []
        same_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for place, index in enumerate(chunk.tolist()):
            image = source.image(index)
            digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=_DIGEST)
            digest.update(image.tobytes())
            digests.append(digest.digest())
            if image.size > _SMALL:
                gray[place] = thumbnails(image[None])[0]
            else:
                same_shape.setdefault(image.shape, []).append((place, image))
        for images in same_shape.values():
            gray[[place for place, _ in images]] = thumbnails(np.stack([image for _, image in images]))
        return chunk, gray, digests

    starts = range(0, len(indices), _CHUNK)
    yield from in_threads(look, watched(starts, f"reading {source.name}", long=shown and len(indices) > 5000))


class Identities:
    """Digests, perceptual hashes and details of a source's images.

    Where the source has stored digests and hashes, no image is read before its detail is asked for. Else every image is read
    once. 600 bytes per image are held.

    Attributes:
      hashes: perceptual hashes, uint64 `[n]`.
      digests: equal for equal images: of their files where these were stored, else of their pixels.
    """

    def __init__(self, source: Source):
        self._source = source
        self._details = np.zeros((len(source), DETAILS), np.float16)
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
        """Digests of the pixels of these images, as `looks` makes them."""
        self._read(indices)
        return [digest.tobytes() for digest in self._pixels[indices]]

    def details(self, indices: np.ndarray) -> np.ndarray:
        """Of these images, float32 `[m, 256]`; see `likeness`."""
        self._read(indices)
        return self._details[indices].astype(np.float32)

    def unlikeness(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """1 - correlation of the details of pairs of images, `[m]`."""
        return np.maximum(1 - correlations(self.details(first), self.details(second)), 0)

    def _read(self, indices: np.ndarray, hashed: bool = False) -> None:
        missing = np.unique(indices[~self._have[indices]])
        for chunk, gray, digests in looks(self._source, missing, shown=hashed):
            self._details[chunk] = details(gray)
            self._pixels[chunk] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)
            self._have[chunk] = True
            if hashed:
                self.hashes[chunk] = hash_thumbnails(gray)
