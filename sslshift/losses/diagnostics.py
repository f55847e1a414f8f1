"""Signals without labels that show the state of embeddings while a loss is minimised."""

import math

import chex
import jax
import jax.numpy as jnp

from sslshift.arrays import on_any_mesh, unit, widened
from sslshift.losses import _batch


@on_any_mesh
def alignment(z1: jax.Array, z2: jax.Array) -> jax.Array:
    """Returns the mean squared distance of the two views' unit vectors: 0 = views agree, 2 = unrelated, 4 = opposite.

    Example:
      >>> import jax.numpy as jnp
      >>> float(alignment(jnp.eye(3), jnp.eye(3)))
      0.0

    Args:
      z1: embeddings of the first views, `[batch, dim]`, any floating dtype; normalised here.
      z2: embeddings of the second views of the same images, same shape.

    Returns:
      Scalar in [0, 4], in float32 or better.

    References:
      Wang & Isola, `Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere
      <https://arxiv.org/abs/2005.10242>`_, 2020
    """
    _batch.require_pairs(z1, z2)
    z1, z2 = _batch.units(z1, z2)
    return jnp.square(z1 - z2).sum(axis=1).mean()


@on_any_mesh
def uniformity(z: jax.Array) -> jax.Array:
    """Returns the log of the mean of exp(-2 * squared distance) over pairs of unit vectors: 0 = all equal, lower = more even.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[1.0, 0.0], [-1.0, 0.0]])  # one pair at squared distance 4
      >>> round(float(uniformity(z)), 4)
      -8.0

    Args:
      z: embeddings `[batch, dim]`, any floating dtype, batch at least 2; normalised here.

    Returns:
      Scalar in [-8, 0], in float32 or better.

    Raises:
      ValueError: not a matrix, or a single row.

    References:
      Wang & Isola, `Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere
      <https://arxiv.org/abs/2005.10242>`_, 2020
    """
    _require_rows(z, 2)
    (z,) = _batch.units(z)
    # Rounding can bring the cosine of equal vectors above 1.
    squared = jnp.maximum(2 - 2 * _batch.similarity(z, z), 0.0)
    # The distance of an embedding to itself is always 0 and is therefore excluded.
    others = ~jnp.eye(len(z), dtype=bool)
    return jax.nn.logsumexp(-2 * squared, where=others) - math.log(len(z) * (len(z) - 1))


@on_any_mesh
def effective_rank(z: jax.Array) -> jax.Array:
    """Returns RankMe, the exponential of the entropy of the singular values of the uncentred embeddings.

    The value grows with the number of rows: compare it at equal batch.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(effective_rank(jnp.eye(5))), 3), round(float(effective_rank(jnp.ones((5, 5)))), 3)
      (5.0, 1.0)

    Args:
      z: embeddings `[batch, dim]`, any floating dtype.

    Returns:
      Scalar from 1 to min(batch, dim), in float32 or better.

    Raises:
      ValueError: not a matrix.

    References:
      Garrido et al., `RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank
      <https://arxiv.org/abs/2210.02885>`_, 2023
    """
    _require_rows(z, 1)
    # The rank does not depend on scale. At length 1 no singular value overflows, and a zero matrix receives no gradient.
    z = unit(z, axis=None, dtype=widened(z)[0].dtype)
    values = jnp.linalg.svd(z, compute_uv=False)
    total = values.sum()
    # RankMe's definition adds 1e-7 to each share, which keeps the logarithm of a vanishing one finite.
    share = values / jnp.where(total > 0, total, 1) + 1e-7
    return jnp.exp(-jnp.sum(share * jnp.log(share)))


@on_any_mesh
def collapse(z: jax.Array) -> jax.Array:
    """Returns the share of one common direction in the embeddings: the squared length of the mean unit vector.

    0 = directions spread evenly, 1 = all embeddings point the same way.

    Example:
      >>> import jax.numpy as jnp
      >>> float(collapse(jnp.ones((4, 3))).round(4)), float(collapse(jnp.array([[1.0], [-1.0]])))
      (1.0, 0.0)

    Args:
      z: embeddings `[batch, dim]`, any floating dtype; normalised here.

    Returns:
      Scalar in [0, 1], in float32 or better. For independent random directions its mean is 1 / batch.

    Raises:
      ValueError: not a matrix.
    """
    _require_rows(z, 1)
    (z,) = _batch.units(z)
    return jnp.square(z.mean(axis=0)).sum()


def _require_rows(z: jax.Array, least: int) -> None:
    with _batch.refused(f"Expected embeddings [batch, dim] with at least {least} rows, got {z.shape}."):
        chex.assert_rank(z, 2)
        chex.assert_axis_dimension_gteq(z, 0, least)
    _batch.require_floating(z)
