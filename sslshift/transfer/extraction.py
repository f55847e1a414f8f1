"""Extraction of features: the images of a source are read in blocks and encoded, by every process a part; features are kept."""

import functools
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslshift import cluster
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.sources import Source
from sslshift.storage import whole_file, write
from sslshift.training.feed import memory_for_images, written
from sslshift.transfer.features import BATCH, Encoder, joined

# Number of bytes in a block of whole batches, and of images that one thread reads at a time. A block is read while the previous
# one is encoded.
_BLOCK_BYTES = 1 << 26
_CHUNK = 64
# Largest share of an accelerator's free memory for the features of one split; standardised copies need as much again.
_MEMORY_SHARE = 0.25
# Files in a folder of the cache, in addition to broken.json.
_ARRAYS = ("features", "kept", "digests")


class Extracted(NamedTuple):
    """Features of chosen images.

    Attributes:
      features: float32 `[n, dim]` of the images that could be read, in the order of the request; on the device if the encoder
        is a network.
      kept: whether each requested image could be read, bool.
      digests: digests of the pixels on the canvas, uint8 `[n, 16]`; equal images have equal digests.
      broken: index in the source and reason for each image that could not be read.
    """

    features: np.ndarray | jax.Array
    kept: np.ndarray
    digests: np.ndarray
    broken: tuple[tuple[int, str], ...]


def no_images(done: int, total: int) -> None:
    """Ignores the progress."""
    del done, total


def extract(
    encode: Encoder,
    source: Source,
    indices: np.ndarray,
    canvas: Canvas,
    *,
    cache: Path | None = None,
    on_images: Callable[[int, int], None] = no_images,
) -> Extracted:
    """Returns features of chosen images of a source; images that cannot be read are excluded and listed.

    Memory holds the features and two blocks of images.

    Args:
      encode: function from images to features.
      source: source of the images.
      indices: indices of the chosen images.
      canvas: shape to which the images are resized.
      cache: folder that keeps features by the fingerprints of encoder and source, the canvas and the indices; None: no cache.
        Only the features of an encoder with a fingerprint are kept.
      on_images: callback that receives the number of images done and the total.

    Raises:
      ValueError: no image can be read, or a feature is not finite.
    """
    # Without a fingerprint, a changed encoder would get the cached features of the old one.
    fingerprint = getattr(encode, "fingerprint", None)
    if cache is None or fingerprint is None:
        return _extracted(encode, source, indices, canvas, on_images)
    chosen = hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()
    key = json.dumps([fingerprint, source.fingerprint, list(canvas), chosen])
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
    found = _load(folder)
    # All processes extract features or none does.
    if not all(cluster.gathered(f"kept features of {_named(source)}", found is not None)):
        found = _extracted(encode, source, indices, canvas, on_images)
        _save(folder, found)
    return found


def _extracted(encode, source, indices, canvas, on_images) -> Extracted:
    indices = np.asarray(indices)
    # Each process reads and encodes a part of the images.
    part = np.array_split(np.arange(len(indices)), cluster.process_count())[cluster.process_index()]
    found = _joined_parts(_encoded(encode, source, indices[part], canvas, on_images), source)
    if not len(found.features):
        why = f", the first because {found.broken[0][1]}" if found.broken else ""
        raise ValueError(f"{source.name}: none of {len(indices):,} images can be read{why}.")
    # Scores of features that are not finite would be meaningless.
    bad = _first_not_finite(found.features)
    if bad < len(found.features):
        index = int(indices[found.kept][bad])
        raise ValueError(f"{source.name}: image {index} has features that are not finite; the encoder is broken.")
    return found


def _named(source: Source) -> str:
    """Returns a name that differs among processes which see different images: they then end with one sentence."""
    return f"{source.name} ({source.fingerprint[:12]})"


def _joined_parts(own: Extracted, source: Source) -> Extracted:
    """Returns the features of all processes, each with those of its part of the images, in their order."""
    if cluster.process_count() == 1:
        return own
    shapes = cluster.gathered(f"features of {_named(source)}", [len(own.kept), list(own.features.shape), list(own.broken)])
    rows = [shape[0] for _, shape, _ in shapes]
    # A process without a readable image does not know the dimensions.
    features = own.features if len(own.features) else np.zeros((0, *max(shape[1:] for _, shape, _ in shapes)), np.float32)
    joined = cluster.gathered_rows(jax.device_get(features), rows)
    stays = isinstance(own.features, jax.Array) and _on_device(own.features, source, len(joined))
    return Extracted(
        jax.device_put(joined, own.features.sharding) if stays else joined,
        cluster.gathered_rows(own.kept, [count for count, _, _ in shapes]),
        cluster.gathered_rows(own.digests, rows),
        tuple((int(index), str(reason)) for _, _, broken in shapes for index, reason in broken),
    )


def _encoded(encode, source, indices, canvas, on_images) -> Extracted:
    """Returns the features of images of this process; no features if no image can be read."""
    collected = _Collected(source, len(indices))
    digests = []
    kept = []
    broken = []
    done = 0
    for images, own_digests, reasons in _blocks(source, np.asarray(indices, np.int64), canvas):
        good = np.array([not reason for reason in reasons], bool)
        own = indices[done : done + len(images)]
        broken += [(int(index), reason) for index, reason in zip(own, reasons, strict=True) if reason]
        # Encoders do not accept an empty batch.
        if good.any():
            collected.add(encode(images[good]))
            digests.append(own_digests[good])
        kept.append(good)
        done += len(images)
        on_images(done, len(indices))
    if not digests:
        nothing = np.zeros((0, 0), np.float32)
        return Extracted(nothing, np.zeros(len(indices), bool), np.zeros((0, 16), np.uint8), tuple(broken))
    return Extracted(collected.features(), np.concatenate(kept), np.concatenate(digests), tuple(broken))


class _Collected:
    """Features of a source's images, collected block by block where the encoder has them: on the device, or on the host."""

    def __init__(self, source: Source, images: int):
        self._source = source
        self._images = images
        self._rows: np.ndarray | jax.Array | None = None
        self._count = 0

    def add(self, block: np.ndarray | jax.Array) -> None:
        """Adds the features of the next images."""
        first = self._count
        self._count += len(block)
        if self._rows is None:
            stays = _on_device(block, self._source, self._images)
            if len(block) == self._images:
                # Without other blocks, nothing needs to be copied.
                self._rows = block if stays else jax.device_get(block)
                return
            shape = (self._images, *block.shape[1:])
            self._rows = _zeros(shape, block) if stays else np.empty(shape, block.dtype)
        if isinstance(self._rows, jax.Array):
            self._rows = written(self._rows, block, np.int32(first))
            # Otherwise the images of all blocks would be sent to the device before it has encoded the first ones.
            self._rows.block_until_ready()
        else:
            self._rows[first : self._count] = jax.device_get(block)

    def features(self) -> np.ndarray | jax.Array:
        """Returns the features of all images that were added."""
        if self._count == self._images:
            return self._rows
        if isinstance(self._rows, jax.Array):
            return joined([self._rows], count=self._count)
        return self._rows[: self._count]


def _zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(shape, like.dtype), out_shardings=like.sharding)()


def _on_device(block: np.ndarray | jax.Array, source: Source, images: int) -> bool:
    """Returns whether features of this many images stay on the device; warns if they do not fit."""
    if not isinstance(block, jax.Array):
        return False
    # On a CPU, the memory of the device is that of the host.
    if jax.default_backend() == "cpu":
        return True
    room = memory_for_images(_MEMORY_SHARE)
    size = images * (block.nbytes // len(block))
    if size > room:
        warnings.warn(
            f"{source.name}: features of {images:,} images need {size / 2**30:.3g} GiB, and the device has {room / 2**30:.3g} "
            f"GiB for them ({_MEMORY_SHARE:g} of its free memory): they stay on the host, and evaluations send them again.",
            stacklevel=2,
        )
    return size <= room


def _first_not_finite(features: np.ndarray | jax.Array) -> int:
    """Returns the first row with a number that is not finite; the number of rows if there is none."""
    if isinstance(features, jax.Array):
        return int(jax.device_get(_first_bad(features)))
    bad = np.flatnonzero(~np.isfinite(features).all(axis=tuple(range(1, features.ndim))))
    return int(bad[0]) if len(bad) else len(features)


@jax.jit
def _first_bad(features):
    bad = ~jnp.isfinite(features).all(axis=tuple(range(1, features.ndim)))
    return jnp.where(bad.any(), jnp.argmax(bad), len(features))


def _blocks(source: Source, indices: np.ndarray, canvas: Canvas) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields images, digests, and reasons for those that cannot be read; the next block is read while a block is used."""
    # Blocks consist of whole batches, because an incomplete batch would be padded.
    size = max(1, _BLOCK_BYTES // int(np.prod(canvas)) // BATCH) * BATCH
    starts = range(0, len(indices), size)
    # The thread that reads ahead waits for the readers; in a common pool, both could wait for each other.
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(os.cpu_count()) as readers:

        def read(start: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
            block = indices[start : start + size]
            chunks = [block[first : first + _CHUNK] for first in range(0, len(block), _CHUNK)]
            parts = list(readers.map(functools.partial(_read, source, canvas), chunks))
            images, digests, reasons = zip(*parts, strict=True)
            return np.concatenate(images), np.concatenate(digests), list(itertools.chain(*reasons))

        coming = ahead.submit(read, starts[0]) if starts else None
        for start in starts:
            block = coming.result()
            coming = ahead.submit(read, start + size) if start + size < len(indices) else None
            yield block


def _read(source: Source, canvas: Canvas, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns images, their digests, and the reason why each image cannot be read (empty for a readable image)."""
    try:
        images = source.read(indices, canvas)
        reasons = [""] * len(indices)
    except BrokenImageError:
        # Images are read one by one to find the broken ones.
        images = np.zeros((len(indices), *canvas), np.uint8)
        reasons = []
        for place, index in enumerate(indices):
            try:
                images[place] = source.read(np.array([index]), canvas)[0]
                reasons.append("")
            except BrokenImageError as error:
                reasons.append(str(error) or "it cannot be decoded")
    # Digests cover the pixels on the canvas, not the file: images that the encoder cannot distinguish count as equal.
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    return images, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16), reasons


def _save(folder: Path, extracted: Extracted) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in _ARRAYS:
        with whole_file(folder / f"{name}.npy") as file:
            np.save(file, jax.device_get(getattr(extracted, name)), allow_pickle=False)
    write(folder / "broken.json", json.dumps(extracted.broken))


def _load(folder: Path) -> Extracted | None:
    """Returns the features in a folder of the cache; None if the folder has none, or they are incomplete or damaged."""
    try:
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
        broken = tuple((int(index), str(reason)) for index, reason in json.loads((folder / "broken.json").read_text()))
        found = Extracted(broken=broken, **arrays)
    except (OSError, ValueError, TypeError, EOFError):
        return None
    # Two processes that write the same folder may have found different images broken; their files must not be mixed.
    whole = len(found.features) == len(found.digests) == found.kept.sum() and len(found.broken) == (~found.kept).sum()
    return found if whole and np.isfinite(found.features).all() else None
