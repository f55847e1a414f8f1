"""The loss of VICReg."""

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh, widened
from sslshift.losses import _batch

# As in the authors' code: the gradient of a square root has no bound at 0.
EPSILON = 1e-4


@on_any_mesh
def vicreg(
    z1: jax.Array,
    z2: jax.Array,
    *,
    invariance_weight: float,
    variance_weight: float,
    covariance_weight: float,
    axis_name: str | None = None,
) -> jax.Array:
    """Returns the loss of variance-invariance-covariance regularisation.

    invariance = mean squared difference of the views; variance = mean over dimensions of max(0, 1 - sqrt(var + 1e-4)),
    averaged over the two views as in the authors' code; covariance = squared off-diagonal covariances / dim, summed over
    the views. Variances and covariances divide by batch - 1.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.ones((4, 8))  # collapsed: only the variance term remains, 1 - sqrt(1e-4)
      >>> round(float(vicreg(z, z, invariance_weight=25.0, variance_weight=25.0, covariance_weight=1.0)), 4)
      24.75

    Args:
      z1: embeddings of the first views, `[batch, dim]`, any floating dtype, not normalised.
      z2: embeddings of the second views of the same images, same shape.
      invariance_weight: weight of the invariance term (25 in the paper).
      variance_weight: weight of the variance term (25 in the paper).
      covariance_weight: weight of the covariance term (1 in the paper).
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; statistics are then global.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes differ, or the global batch holds a single image, which has no variance.

    References:
      Bardes et al., `VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning
      <https://arxiv.org/abs/2105.04906>`_, 2022
    """
    _batch.require_pairs(z1, z2)
    count = _batch.batch_size(z1, axis_name)
    if count < 2:
        raise ValueError(f"Expected at least two images in a batch for VICReg, got {count}: one image has no variance.")
    z1, z2 = widened(z1, z2)
    weights = _batch.scalars(
        z1, invariance_weight=invariance_weight, variance_weight=variance_weight, covariance_weight=covariance_weight
    )
    invariance = _batch.batch_mean(jnp.square(z1 - z2), axis_name).mean()
    covariances = [_covariance(z, count, axis_name) for z in (z1, z2)]
    # Halved as in the authors' code; solo-learn adds up the terms of the two views.
    variance = sum(jnp.maximum(0.0, 1.0 - jnp.sqrt(jnp.diagonal(c) + EPSILON)).mean() for c in covariances) / 2
    covariance = sum(jnp.square(_batch.off_diagonal(c)).sum() for c in covariances) / z1.shape[1]
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


def _covariance(z: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """Returns the covariance of the global batch, `[dim, dim]`, divided by count - 1."""
    centred = _batch.centred(z, axis_name)
    # A small covariance beside large variances would be lost in a product of low precision.
    scatter = jnp.matmul(centred.T, centred, precision=lax.Precision.HIGHEST)
    if axis_name is not None:
        # The loss squares the covariances of the global batch, so the sum of one loss per device would be another value.
        scatter = lax.psum(scatter, axis_name)
    return scatter / (count - 1)
