"""The loss of SimSiam; BYOL's is an affine function of it."""

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh
from sslshift.losses import _batch


@on_any_mesh
def negative_cosine(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean of the negative cosine between predictions and targets; no gradient reaches the targets.

    SimSiam averages it over the two directions. BYOL's loss of one direction is 2 + 2 * negative_cosine.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[3.0, 0.0], [0.0, 2.0]])
      >>> float(negative_cosine(z, z)), float(negative_cosine(z, -z))
      (-1.0, 1.0)

    Args:
      prediction: `[batch, dim]`, any floating dtype.
      target: same shape.

    Returns:
      Scalar in [-1, 1], in float32 or better. It is a mean over images: inside `shard_map` take `lax.pmean` of it.

    Raises:
      ValueError: shapes differ.

    References:
      Chen & He, `Exploring Simple Siamese Representation Learning <https://arxiv.org/abs/2011.10566>`_, 2021

      Grill et al., `Bootstrap your own latent <https://arxiv.org/abs/2006.07733>`_, 2020
    """
    _batch.require_pairs(prediction, target)
    # SimSiam collapses to a constant if a gradient reaches the targets, as its paper shows.
    prediction, target = _batch.units(prediction, lax.stop_gradient(target))
    return -jnp.sum(prediction * target, axis=-1).mean()
