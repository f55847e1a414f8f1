"""The loss of NNCLR."""

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh
from sslshift.losses import _batch


@on_any_mesh
def nnclr(
    projection: jax.Array, prediction: jax.Array, *, queue: jax.Array, temperature: float, axis_name: str | None = None
) -> jax.Array:
    """Returns the contrastive loss of one direction, with nearest neighbours as positives.

    Each projection is replaced by the most similar past projection in the queue. That neighbour finds the prediction of the
    same image's other view among the predictions of the whole batch, by the cross-entropy over cosines / temperature. No
    gradient reaches the projections and the queue. The loss of the method is the mean over the two directions.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.eye(4)
      >>> queue = jnp.ones((2, 4)) / 2  # every image has the same neighbour
      >>> round(float(nnclr(z, z, queue=queue, temperature=0.2)), 4)  # log(B): no image can be distinguished
      1.3863

    Args:
      projection: projections of the first views, `[batch, dim]`, any floating dtype; normalised here.
      prediction: predictions of the second views of the same images, same shape; normalised here.
      queue: past projections of length 1, `[queue, dim]`, at least one, the same on every device; not normalised here, since
        it is long and changes by a batch in each step.
      temperature: divides the cosine similarities, above 0 (0.1 in the paper).
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; predictions are then global.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes differ, the queue is empty, or the temperature is not above 0.

    References:
      Dwibedi et al., `With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations
      <https://arxiv.org/abs/2104.14548>`_, 2021
    """
    _batch.require_pairs(projection, prediction)
    _batch.require_queue(queue, projection)
    projection, prediction = _batch.units(lax.stop_gradient(projection), prediction)
    # The dtype of the queue may differ from that of the projections, and strict promotion refuses to multiply the two.
    queue = lax.stop_gradient(queue).astype(projection.dtype)
    (temperature,) = _batch.positive_scalars(prediction, temperature=temperature)
    # Rounding can only exchange neighbours that are equally good, so the fastest product of the device is used.
    neighbours = queue[jnp.argmax(jnp.matmul(projection, queue.T), axis=1)]
    logits = _batch.similarity(neighbours, _batch.gathered(prediction, axis_name)) / temperature
    # The predictions come from all devices in order: the index of an image's own prediction counts those of earlier devices.
    own = _batch.first_row(prediction, axis_name) + jnp.arange(len(prediction))
    positive = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    return _batch.batch_mean(jax.nn.logsumexp(logits, axis=1) - positive, axis_name)
