"""Loss and gradient of a batch, at once or in parts whose gradients are accumulated.

Accumulation is exact where the loss is a mean over images and the networks have no batch norm: then the mean over equal parts
is the mean over the batch. Elsewhere it would be another method, with other negatives or statistics, and is refused.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.methods import Method, Output
from sslshift.methods.base import WHOLE, BatchPart

PyTree = Any


class Gradient(NamedTuple):
    """A loss with its gradient and other results, all of the whole batch."""

    loss: jax.Array
    output: Output
    gradient: PyTree


def loss_and_gradient(
    method: Method, state: Any, images: jax.Array, key: jax.Array, progress: jax.Array, parts: int
) -> Gradient:
    """Returns the loss of a batch and its gradient with respect to the parameters of a state.

    Args:
      method: the SSL method.
      state: the `TrainState` before the step.
      images: global batch, uint8 `[batch, height, width, channels]`.
      key: key of the step.
      progress: share of the run's steps that are done.
      parts: number of parts in which the batch is taken, one after the other; every image has the view that it has in one part.

    Raises:
      ValueError: the number does not divide the batch, or parts would not give the gradient of the batch.
    """
    of = functools.partial(_of_part, method, state, key, progress)
    if parts == 1:
        return of(images, WHOLE)
    require_exact(method, state.batch_stats, len(images), parts)
    # Part i has every k-th image from i on, so that each device holds an equal share of every part and nothing is moved.
    rows = images.reshape(len(images) // parts, parts, *images.shape[1:])

    def of_row(i):
        found = of(lax.dynamic_index_in_dim(rows, i, axis=1, keepdims=False), BatchPart(i, parts))
        return found._replace(output=found.output._replace(target=_changed(found.output.target, state.target)))

    def body(i, totals):
        return jax.tree.map(lambda total, each: total + each / parts, totals, of_row(i))

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_row, jnp.int32(0)))
    mean = lax.fori_loop(0, parts, body, zeros)
    target = jax.tree.map(
        lambda new, old: old if new is None else new, mean.output.target, state.target, is_leaf=lambda leaf: leaf is None
    )
    return mean._replace(output=mean.output._replace(target=target))


def require_exact(method: Method, batch_stats: PyTree, batch_size: int, parts: int) -> None:
    """Raises ValueError, with the reason, if the parts of a batch do not give the batch's gradient.

    Args:
      method: the SSL method.
      batch_stats: batch statistics of its networks; empty for networks without batch norm.
      batch_size: number of images of the batch.
      parts: number of parts.
    """
    norm = "its networks have batch norm, whose statistics are those of a whole batch" if jax.tree.leaves(batch_stats) else ""
    reason = method.coupled or norm
    if reason:
        raise ValueError(
            f"Expected accumulate=1 for this method, got {parts}: {reason}. To save memory without changing the method, use "
            "remat, or sharding=fsdp on several devices."
        )
    require_equal_parts(batch_size, 1, parts)


def require_equal_parts(batch_size: int, devices: int, parts: int, name: str = "A batch of ") -> None:
    """Raises ValueError unless every device gets an equal share of each part of a batch; `name` precedes the size."""
    if batch_size % (devices * parts):
        several = f" in {parts} parts each (accumulate={parts})" if parts > 1 else ""
        raise ValueError(f"{name}{batch_size} cannot be divided among {devices} device{'s' * (devices > 1)}{several}.")


def _of_part(method: Method, state: Any, key: jax.Array, progress: jax.Array, images: jax.Array, part: BatchPart) -> Gradient:
    views = method.make_views(key, images, part)
    context = method.step_context(key, images, progress, part)

    def loss_of(params):
        loss, output = method.loss({"params": params, "batch_stats": state.batch_stats}, state.target, views, context)
        # Inside shard_map some losses are means over the images of one device.
        return (lax.pmean(loss, method.axis_name) if method.axis_name else loss), output

    (loss, output), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return Gradient(loss, output, gradient)


def _changed(new: PyTree, old: PyTree) -> PyTree:
    """Returns the new target with None for arrays that the loss did not change: their mean over parts would be rounded."""
    return jax.tree.map(lambda after, before: None if after is before else after, new, old)
