"""Features of images under an encoder: read in blocks, computed over all devices, kept in a cache if there is one."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.sources import Source
from sslshift.data.views import MEAN, STD
from sslshift.methods import Method
from sslshift.models import PretrainedEncoder
from sslshift.training.step import make_mesh, replicate, shard_batch

_PIXEL_SIDE = 32
# Images encoded at a time. They are read in blocks of whole batches, about so many bytes, while the block before is being
# encoded; a thread reads a chunk.
_BATCH = 500
_BLOCK_BYTES = 1 << 26
_CHUNK = 64


class Encoder(Protocol):
    """A pure function from uint8 images `[n, height, width, channels]` to float32 features `[n, dim]`.

    One with a `fingerprint`, which changes when its features would, can be cached.
    """

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class PixelEncoder:
    """The floor that needs no network: pixels in [0, 1], flattened; images beyond 32 x 32 are first averaged down to that.

    More pixels would make a probe of ten thousands of dimensions, slow to fit and no better a floor.
    """

    fingerprint: str = f"pixels, at most {_PIXEL_SIDE} x {_PIXEL_SIDE}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        shape = (len(images), min(height, _PIXEL_SIDE), min(width, _PIXEL_SIDE), channels)
        small = jax.image.resize(jnp.asarray(images, jnp.float32) / 255, shape, "linear", antialias=True)
        return np.asarray(small).reshape(len(images), -1)


pixel_encoder = PixelEncoder()


@functools.lru_cache(maxsize=8)
def _compiled(module, shape, mean, std, features):
    everywhere = NamedSharding(make_mesh(), PartitionSpec())
    split = NamedSharding(make_mesh(), PartitionSpec("data"))

    def apply(variables, images):
        return PretrainedEncoder(module, variables, shape, mean, std, features).apply(images)

    return jax.jit(apply, in_shardings=(everywhere, split), out_shardings=everywhere)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkEncoder:
    """A pretrained encoder on all devices, for any number of images.

    Args:
      pretrained: the encoder.
      batch_size: images encoded at a time, over all devices; rounded up to what these divide.
    """

    pretrained: PretrainedEncoder
    batch_size: int = _BATCH

    @functools.cached_property
    def fingerprint(self) -> str:
        return self.pretrained.fingerprint

    @functools.cached_property
    def _placed(self):
        return replicate(make_mesh(), self.pretrained.variables)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        encoder = self.pretrained
        mesh = make_mesh()
        apply = _compiled(encoder.module, encoder.shape, encoder.mean, encoder.std, encoder.features)
        size = -(-self.batch_size // mesh.size) * mesh.size
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # The last batch is filled up, so that one shape is compiled; its filling is cut off again.
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            parts.append(jax.device_get(apply(self._placed, shard_batch(mesh, filled)))[: len(batch)])
        return np.concatenate(parts)


def encoder_of(method: Method, variables, shape: Sequence[int], card: dict | None = None) -> PretrainedEncoder:
    """The encoder out of a method's trained networks, whose heads are left behind.

    Args:
      method: that was trained.
      variables: its `params` and `batch_stats`.
      shape: height, width, channels of the images.
      card: what is known of it.
    """
    own = {kind: variables[kind].get("encoder", {}) for kind in ("params", "batch_stats")}
    return PretrainedEncoder(method.networks.encoder, own, tuple(shape), MEAN, STD, card=card or {})


class Extracted(NamedTuple):
    """Features of chosen images.

    Attributes:
      features: float32 `[n, dim]` of the images that could be read, in the order in which they were asked for.
      kept: which of those asked for these are, bool.
      digests: of their pixels on the canvas, `[n]` of 16 bytes: equal images have equal ones.
      broken: (index in the source, reason) of the others.
    """

    features: np.ndarray
    kept: np.ndarray
    digests: np.ndarray
    broken: tuple[tuple[int, str], ...]


def no_images(done: int, total: int) -> None:
    del done, total


def source_features(encode: Encoder, source: Source, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Features of chosen images of a source, float32 `[n, dim]`.

    Raises:
      BrokenImageError: an image cannot be read.
      ValueError: a feature is not finite, which would make every number computed from it meaningless.
    """
    extracted = extract(encode, source, indices, canvas)
    if extracted.broken:
        raise BrokenImageError(extracted.broken[0][1])
    return extracted.features


def extract(
    encode: Encoder,
    source: Source,
    indices: np.ndarray,
    canvas: Canvas,
    *,
    cache: Path | None = None,
    on_images: Callable[[int, int], None] = no_images,
) -> Extracted:
    """Features of chosen images of a source; images that cannot be read are left out and listed.

    Memory holds the features and two blocks of images.

    Args:
      encode: from images to features.
      source: the images.
      indices: of those wanted.
      canvas: what they are brought to.
      cache: a folder that keeps features by fingerprints of encoder and source, canvas and indices; None: none does. Only an
        encoder with a fingerprint is cached.
      on_images: called with the numbers of images done and wanted.

    Raises:
      ValueError: no image can be read, or a feature is not finite.
    """
    fingerprint = getattr(encode, "fingerprint", None)
    if cache is None or fingerprint is None:
        return _extracted(encode, source, indices, canvas, on_images)
    chosen = hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()
    key = json.dumps([fingerprint, source.fingerprint, list(canvas), chosen])
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
    found = _load(folder)
    if found is None:
        found = _extracted(encode, source, indices, canvas, on_images)
        _save(folder, found)
    return found


def _extracted(encode, source, indices, canvas, on_images) -> Extracted:
    features = []
    digests = []
    kept = []
    broken = []
    done = 0
    for images, own_digests, reasons in _blocks(source, np.asarray(indices, np.int64), canvas):
        good = np.array([not reason for reason in reasons], bool)
        own = indices[done : done + len(images)]
        broken += [(int(index), reason) for index, reason in zip(own, reasons, strict=True) if reason]
        if good.any():
            features.append(_finite(encode(images[good]), source, own[good]))
            digests.append(own_digests[good])
        kept.append(good)
        done += len(images)
        on_images(done, len(indices))
    if not features:
        why = f", the first since {broken[0][1]}" if broken else ""
        raise ValueError(f"{source.name}: none of {len(indices):,} images can be read{why}.")
    return Extracted(np.concatenate(features), np.concatenate(kept), np.concatenate(digests), tuple(broken))


def _finite(features: np.ndarray, source: Source, indices: np.ndarray) -> np.ndarray:
    finite = np.isfinite(features).all(axis=tuple(range(1, features.ndim)))
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"{source.name}: image {int(indices[bad])} has features that are not finite; the encoder is broken.")
    return features


def _blocks(source: Source, indices: np.ndarray, canvas: Canvas) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Images, digests and reasons why not, block by block; a block is read while its predecessor is used."""
    size = max(1, _BLOCK_BYTES // int(np.prod(canvas)) // _BATCH) * _BATCH
    starts = range(0, len(indices), size)
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
    try:
        images = source.read(indices, canvas)
        reasons = [""] * len(indices)
    except BrokenImageError:
        images = np.zeros((len(indices), *canvas), np.uint8)
        reasons = []
        for place, index in enumerate(indices):
            try:
                images[place] = source.read(np.array([index]), canvas)[0]
                reasons.append("")
            except BrokenImageError as error:
                reasons.append(str(error) or "it cannot be decoded")
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    return images, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16), reasons


def _save(folder: Path, extracted: Extracted) -> None:
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in ("features", "kept", "digests"):
        np.save(part / f"{name}.npy", getattr(extracted, name), allow_pickle=False)
    (part / "broken.json").write_text(json.dumps(extracted.broken))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        part.rename(folder)
    except OSError:
        # Another process was first, with the same numbers.
        shutil.rmtree(part, ignore_errors=True)


def _load(folder: Path) -> Extracted | None:
    """What the cache has; None if that is nothing, or is damaged."""
    try:
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("features", "kept", "digests")}
        broken = tuple((int(index), str(reason)) for index, reason in json.loads((folder / "broken.json").read_text()))
        found = Extracted(broken=broken, **arrays)
    except (OSError, ValueError, TypeError, EOFError):
        return None
    whole = len(found.features) == len(found.digests) == found.kept.sum() and len(found.broken) == (~found.kept).sum()
    return found if whole and np.isfinite(found.features).all() else None
