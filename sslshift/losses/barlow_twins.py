"""The loss of Barlow Twins."""

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh, power_of_two, widened
from sslshift.losses import _batch

# As in the batch norm of the authors' code.
EPSILON = 1e-5


@on_any_mesh
def barlow_twins(
    z1: jax.Array, z2: jax.Array, *, off_diagonal_weight: float, scale: float = 1.0, axis_name: str | None = None
) -> jax.Array:
    """Returns the redundancy-reduction loss: the cross-correlation matrix of two views should be the identity.

    Each dimension is standardised over the batch (variance divided by batch, plus 1e-5); c = z1' z2 / batch; the loss is
    scale * (sum of (c_ii - 1)^2 + off_diagonal_weight * sum of c_ij^2).

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # decorrelated, views agree
      >>> round(float(barlow_twins(z, z, off_diagonal_weight=5e-3)), 6)
      0.0

    Args:
      z1: embeddings of the first views, `[batch, dim]`, any floating dtype.
      z2: embeddings of the second views of the same images, same shape.
      off_diagonal_weight: weight of the redundancy term (5e-3 in the paper).
      scale: multiplies the loss (0.1 in solo-learn's recipes).
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; statistics are then global.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes differ, or the global batch holds a single image, which has no variance.

    References:
      Zbontar et al., `Barlow Twins: Self-Supervised Learning via Redundancy Reduction
      <https://arxiv.org/abs/2103.03230>`_, 2021
    """
    _batch.require_pairs(z1, z2)
    count = _batch.batch_size(z1, axis_name)
    if count < 2:
        raise ValueError(f"Expected at least two images in a batch for Barlow Twins, got {count}: one image has no variance.")
    z1, z2 = (_standardised(z, axis_name) for z in widened(z1, z2))
    off_diagonal_weight, scale = _batch.scalars(z1, off_diagonal_weight=off_diagonal_weight, scale=scale)
    correlation = jnp.matmul(z1.T, z2, precision=lax.Precision.HIGHEST)
    if axis_name is not None:
        # The loss squares the correlations of the global batch, so the sum of one loss per device would be another value.
        correlation = lax.psum(correlation, axis_name)
    correlation = correlation / count
    diagonal = jnp.diagonal(correlation)
    redundancy = jnp.square(_batch.off_diagonal(correlation)).sum()
    return scale * (jnp.square(diagonal - 1).sum() + off_diagonal_weight * redundancy)


def _standardised(z: jax.Array, axis_name: str | None) -> jax.Array:
    # Squares of huge values would overflow; small ones must stay small beside the epsilon.
    factor = jnp.minimum(power_of_two(z, 0), 1)
    if axis_name is not None:
        # Statistics of the global batch need the same factor on every device.
        factor = lax.pmin(factor, axis_name)
    centred = _batch.centred(z * factor, axis_name)
    variance = _batch.batch_mean(jnp.square(centred), axis_name, keepdims=True)
    # The epsilon is scaled like the variance, so that the factor cancels.
    variance = variance + EPSILON * jnp.square(factor)
    # With a tiny factor the epsilon underflows, and the variance of a constant dimension stays 0.
    return centred * lax.rsqrt(jnp.where(variance > 0, variance, 1))
