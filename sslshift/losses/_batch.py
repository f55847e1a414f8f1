"""Helpers of the losses: precision, checks of arguments, and sums over a batch that is split among several devices."""

import contextlib
import math
from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sslshift.arrays import unit, widened


def units(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays with rows scaled to length 1, in float32 or better; see `sslshift.arrays.unit`."""
    # All get the same dtype, since strict promotion refuses to multiply arrays of different dtypes.
    dtype = widened(*arrays)[0].dtype
    return tuple(unit(array, dtype=dtype) for array in arrays)


def scalars(like: jax.Array, **values: float | jax.Array) -> tuple[jax.Array, ...]:
    """Returns hyperparameters, plain or traced, as scalars of the dtype of `like`.

    Raises:
      ValueError: a hyperparameter is an array of more than one entry.
    """
    for name, value in values.items():
        if np.size(value) != 1:
            raise ValueError(f"Expected one number for {name}, got an array of shape {np.shape(value)}.")
    # Strict promotion refuses to mix the dtypes and ranks of hyperparameters and embeddings.
    return tuple(jnp.asarray(value, like.dtype).reshape(()) for value in values.values())


def positive_scalars(like: jax.Array, **values: float | jax.Array) -> tuple[jax.Array, ...]:
    """Returns hyperparameters as `scalars` does.

    Raises:
      ValueError: a hyperparameter is a plain number and not above zero (the value of a traced one is unknown), or is several
        numbers.
    """
    for name, value in values.items():
        # Not `value <= 0`, which lets NaN pass.
        if isinstance(value, int | float | np.number) and not value > 0:
            raise ValueError(f"Expected {name} above 0, got {value}.")
    return scalars(like, **values)


def gathered(array: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the global batch on every device, `[devices * batch, ...]`; without an axis, the array itself."""
    # Tiled, so that the batches of the devices are concatenated in the order in which `first_row` numbers them.
    return array if axis_name is None else lax.all_gather(array, axis_name, tiled=True)


def batch_mean(array: jax.Array, axis_name: str | None, *, keepdims: bool = False) -> jax.Array:
    """Returns the mean over the first axis and over the devices of a mapped axis."""
    # Every device holds an equally large part of the batch, so the mean of the devices' means is the mean over all images.
    mean = array.mean(axis=0, keepdims=keepdims)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def centred(array: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the array minus its mean over the global batch."""
    # The mean of numbers far from 0 would be rounded. After the smallest number is subtracted, all are near 0, and constant
    # numbers are exactly 0.
    # The gradient of `smallest` cancels in the subtraction of the mean, and JAX has no derivative of `pmin`.
    smallest = lax.stop_gradient(array.min(axis=0, keepdims=True))
    array = array - (smallest if axis_name is None else lax.pmin(smallest, axis_name))
    return array - batch_mean(array, axis_name, keepdims=True)


def batch_size(array: jax.Array, axis_name: str | None) -> int:
    """Returns the number of images of the global batch."""
    return len(array) * (1 if axis_name is None else math.prod(lax.axis_size(name) for name in _names(axis_name)))


def first_row(array: jax.Array, axis_name: str | None) -> int | jax.Array:
    """Returns the index of this device's first image in the global batch."""
    return 0 if axis_name is None else lax.axis_index(axis_name) * len(array)


def _names(axis_name):
    # The batch may be split over several axes of a mesh.
    return (axis_name,) if isinstance(axis_name, str) else axis_name


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the inner products of all rows, in full precision on every device."""
    # On a GPU JAX multiplies float32 in TF32 by default, and a low temperature enlarges the error of a rounded cosine.
    return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def off_diagonal(square: jax.Array) -> jax.Array:
    """Returns the matrix with zeros on its diagonal."""
    return jnp.where(jnp.eye(len(square), dtype=bool), jnp.zeros_like(square), square)


@contextlib.contextmanager
def refused(sentence: str) -> Iterator[None]:
    """Turns a failed assertion of chex into a ValueError of one sentence about the caller's own arguments.

    Assertions about shapes run while a function is traced: a compiled loss does not contain them.
    """
    try:
        yield
    except AssertionError as error:
        raise ValueError(sentence) from error


def require_pairs(z1: jax.Array, z2: jax.Array) -> None:
    """Raises ValueError unless both are `[batch, dim]` of one shape and a floating dtype."""
    with refused(f"Expected two arrays of one shape [batch, dim], got {z1.shape} and {z2.shape}."):
        chex.assert_rank([z1, z2], 2)
        chex.assert_equal_shape([z1, z2])
    require_floating(z1, z2)


def require_queue(queue: jax.Array, z: jax.Array) -> None:
    """Raises ValueError unless a queue is `[queue, dim]` of a floating dtype, not empty, for embeddings `[batch, dim]`."""
    with refused(f"Expected a queue [queue, {z.shape[1]}] of at least one embedding, got {queue.shape}."):
        chex.assert_shape(queue, (None, z.shape[1]))
        # An empty queue holds no nearest neighbour.
        chex.assert_axis_dimension_gt(queue, 0, 0)
    require_floating(queue)


def require_floating(*arrays: jax.Array) -> None:
    """Raises ValueError unless all arrays have a floating dtype."""
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"Expected embeddings of a floating dtype, got {array.dtype}.")
