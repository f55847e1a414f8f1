"""Encoders as functions from images to features: networks on all devices of this process, and raw pixels."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sslshift import cluster
from sslshift.methods import Method
from sslshift.models import PretrainedEncoder
from sslshift.training.sharding import gathered
from sslshift.training.step import local_mesh, replicate, shard_batch

_PIXEL_SIDE = 32
# Number of images in a batch.
BATCH = 500


class Encoder(Protocol):
    """A pure function from uint8 images `[n, height, width, channels]` to float32 features `[n, dim]`.

    Features of networks are on the device, so that evaluations need no transfer. They can be cached if the encoder has a
    `fingerprint`, which must change whenever its features change.
    """

    def __call__(self, images: np.ndarray) -> np.ndarray | jax.Array: ...


@dataclasses.dataclass(frozen=True)
class PixelEncoder:
    """The baseline without a network: pixels in [0, 1], flattened; larger images are first averaged down to 32 x 32.

    More pixels would give a probe tens of thousands of dimensions, which are slow to fit and do not improve the baseline.
    """

    fingerprint: str = f"pixels, at most {_PIXEL_SIDE} x {_PIXEL_SIDE}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        scaled = np.asarray(images, np.float32) / np.float32(255)
        shape = (len(images), min(height, _PIXEL_SIDE), min(width, _PIXEL_SIDE), channels)
        if shape != images.shape:
            scaled = jax.device_get(_resized(scaled, shape))
        return scaled.reshape(len(images), -1)


@functools.partial(jax.jit, static_argnames="shape")
def _resized(images, shape):
    return jax.image.resize(images, shape, "linear", antialias=True)


pixel_encoder = PixelEncoder()


# Weights are an argument and not part of the key, so that encoders of one architecture share the compiled program.
@functools.lru_cache(maxsize=8)
def _compiled(module, shape, mean, std, features):
    everywhere = NamedSharding(local_mesh(), PartitionSpec())
    split = NamedSharding(local_mesh(), PartitionSpec("data"))

    def apply(variables, images):
        return PretrainedEncoder(module, variables, shape, mean, std, features).apply(images)

    return jax.jit(apply, in_shardings=(everywhere, split), out_shardings=everywhere)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkEncoder:
    """A pretrained encoder on all devices of this process, for any number of images.

    Args:
      pretrained: the encoder.
      batch_size: number of images in a batch, rounded up to a multiple of the number of devices.
    """

    pretrained: PretrainedEncoder
    batch_size: int = BATCH

    @functools.cached_property
    def fingerprint(self) -> str:
        return self.pretrained.fingerprint

    @functools.cached_property
    def _placed(self):
        # Cached, so that weights are copied only once. Those of a run of several processes lie on the devices of all of them.
        several = cluster.process_count() > 1
        return replicate(local_mesh(), jax.device_get(self.pretrained.variables) if several else self.pretrained.variables)

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Returns features on the first device of this process; probes run on one device."""
        encoder = self.pretrained
        mesh = local_mesh()
        apply = _compiled(encoder.module, encoder.shape, encoder.mean, encoder.std, encoder.features)
        size = -(-self.batch_size // mesh.size) * mesh.size
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # The last batch is padded, so that only one shape is compiled; the padding is removed afterwards.
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            parts.append(apply(self._placed, shard_batch(mesh, filled)).addressable_data(0))
        return joined(parts, count=len(images))


@functools.partial(jax.jit, static_argnames="count")
def joined(parts, *, count):
    """Returns the first `count` rows of the concatenated parts."""
    return jnp.concatenate(parts)[:count]


def encoder_of(method: Method, variables, shape: Sequence[int], card: dict | None = None) -> PretrainedEncoder:
    """Returns the encoder among a method's trained networks, without the heads; every device holds all of it.

    Args:
      method: the method that was trained.
      variables: `params` and `batch_stats` of the method.
      shape: height, width and channels of the images.
      card: facts about the training.
    """
    own = {kind: variables[kind].get("encoder", {}) for kind in ("params", "batch_stats")}
    # Training may have split the weights over the devices; evaluations and files take whole ones.
    mean, std = method.normalisation
    # Grey images are repeated for an encoder of colour images, which has one mean for each channel.
    channels = len(mean) if isinstance(mean, tuple) else shape[2]
    return PretrainedEncoder(method.networks.encoder, gathered(own), (*shape[:2], channels), mean, std, card=card or {})
