"""A queue of past embeddings in a method's target, the newest first."""

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh


@on_any_mesh
def enqueued(queue: jax.Array, newest: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the queue after the global batch entered it and the oldest embeddings left it.

    Args:
      queue: `[..., queue, dim]`, the same on every device.
      newest: embeddings `[..., batch, dim]`; no gradient passes. Of a batch larger than the queue the first images enter.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.
    """
    newest = gathered(lax.stop_gradient(newest), axis_name).astype(queue.dtype)
    return jnp.concatenate([newest, queue], axis=-2)[..., : queue.shape[-2], :]


def gathered(z: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the embeddings `[..., batch, dim]` of the global batch, which shard_map knows to be the same on all devices."""
    if axis_name is None:
        return z
    # By a sum, since the result of a gather counts as different on each device.
    room = jnp.zeros((*z.shape[:-2], batch_size(z, axis_name), z.shape[-1]), z.dtype)
    return lax.psum(lax.dynamic_update_slice_in_dim(room, z, first_image(z, axis_name), axis=-2), axis_name)


def batch_size(z: jax.Array, axis_name: str | None) -> int:
    """Returns the number of images of the global batch, for embeddings `[..., batch, dim]`."""
    return z.shape[-2] * (1 if axis_name is None else lax.axis_size(axis_name))


def first_image(z: jax.Array, axis_name: str | None) -> int | jax.Array:
    """Returns the number of this device's first image in the global batch, for embeddings `[..., batch, dim]`."""
    return 0 if axis_name is None else lax.axis_index(axis_name) * z.shape[-2]
