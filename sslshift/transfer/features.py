"""Features of images under an encoder, computed in batches over all devices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sslshift.data.decode import Canvas
from sslshift.data.sources import Source
from sslshift.data.views import normalise
from sslshift.methods import Method
from sslshift.training.step import make_mesh, replicate, shard_batch

_PIXEL_SIDE = 32
_READ_AT_ONCE = 5000

# A pure function from uint8 images [n, height, width, channels] to float32 features [n, dim].
Encoder = Callable[[np.ndarray], np.ndarray]


@functools.lru_cache(maxsize=8)
def _compiled(method: Method):
    everywhere = NamedSharding(make_mesh(), PartitionSpec())
    split = NamedSharding(make_mesh(), PartitionSpec("data"))

    def features(variables, images):
        return method.features(variables, normalise(images))

    return jax.jit(features, in_shardings=(everywhere, split), out_shardings=everywhere)


def network_encoder(method: Method, variables, batch_size: int = 500) -> Encoder:
    """The encoder of a method's networks with these variables, for any number of images."""
    mesh = make_mesh()
    variables = replicate(mesh, variables)
    batch_size = -(-batch_size // mesh.size) * mesh.size

    def encode(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            # The last batch is filled up, so that one shape is compiled; its filling is cut off again.
            filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            parts.append(jax.device_get(_compiled(method)(variables, shard_batch(mesh, filled)))[: len(batch)])
        return np.concatenate(parts)

    return encode


def pixel_encoder(images: np.ndarray) -> np.ndarray:
    """The floor that needs no network: pixels in [0, 1], flattened; images beyond 32 x 32 are first averaged down to that.

    More pixels would make a probe of ten thousands of dimensions, slow to fit and no better a floor.
    """
    height, width, channels = images.shape[1:]
    shape = (len(images), min(height, _PIXEL_SIDE), min(width, _PIXEL_SIDE), channels)
    small = jax.image.resize(jnp.asarray(images, jnp.float32) / 255, shape, "linear", antialias=True)
    return np.asarray(small).reshape(len(images), -1)


def source_features(encode: Encoder, source: Source, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Features of chosen images of a source, float32 `[n, dim]`.

    Raises:
      ValueError: a feature is not finite, which would make every number computed from it meaningless.
    """
    blocks = [indices[start : start + _READ_AT_ONCE] for start in range(0, len(indices), _READ_AT_ONCE)]
    features = np.concatenate([encode(source.read(block, canvas)) for block in blocks])
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"{source.name}: image {int(indices[bad])} has features that are not finite; the encoder is broken.")
    return features
