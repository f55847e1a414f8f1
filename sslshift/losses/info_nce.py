"""The loss of MoCo v3."""

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh
from sslshift.losses import _batch


@on_any_mesh
def info_nce(query: jax.Array, key: jax.Array, *, temperature: float, axis_name: str | None = None) -> jax.Array:
    """Returns the contrastive loss of one direction: each query finds its own key among all keys of the batch.

    The cross-entropy is multiplied by 2 * temperature, as in MoCo v3, so that the gradient is similar at all temperatures. No
    gradient reaches the keys. The whole loss of the method is the sum over the two directions.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.ones((4, 8))
      >>> round(float(info_nce(z, z, temperature=0.5)), 4)  # log(B), times 2 * 0.5
      1.3863

    Args:
      query: predictions, `[batch, dim]`, any floating dtype; normalised here.
      key: target projections of the other views of the same images, same shape; normalised here.
      temperature: divides the cosine similarities, above 0.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; keys are then global.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes differ, or the temperature is not above 0.

    References:
      Chen et al., `An Empirical Study of Training Self-Supervised Vision Transformers
      <https://arxiv.org/abs/2104.02057>`_, 2021
    """
    _batch.require_pairs(query, key)
    query, key = _batch.units(query, lax.stop_gradient(key))
    (temperature,) = _batch.positive_scalars(query, temperature=temperature)
    keys = _batch.gathered(key, axis_name)
    logits = _batch.similarity(query, keys) / temperature
    # The keys come from all devices in order, so the index of a query's own key counts the keys of the devices before it.
    own = _batch.first_row(query, axis_name) + jnp.arange(len(query))
    positive = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    loss = jax.nn.logsumexp(logits, axis=1) - positive
    return 2 * temperature * _batch.batch_mean(loss, axis_name)
