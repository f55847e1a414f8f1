"""The loss of MAE."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh, widened
from sslshift.losses import _batch

# As in the authors' code: a patch of one colour has no variance.
EPSILON = 1e-6


@on_any_mesh
def masked_reconstruction(prediction: jax.Array, patches: jax.Array, mask: jax.Array, *, normalize: bool = True) -> jax.Array:
    """Returns the mean squared error of the hidden patches.

    Example:
      >>> import jax.numpy as jnp
      >>> patches = jnp.zeros((1, 2, 3))
      >>> prediction = jnp.array([[[2.0, 2.0, 2.0], [9.0, 9.0, 9.0]]])
      >>> float(masked_reconstruction(prediction, patches, jnp.array([[1, 0]]), normalize=False))
      4.0

    Args:
      prediction: `[batch, tokens, pixels]`, any floating dtype.
      patches: the image's patches, same shape.
      mask: `[batch, tokens]`, 1 (or True) = hidden. Visible patches do not count.
      normalize: whether each patch is standardised by its own mean and unbiased variance (plus 1e-6) to be the target.

    Returns:
      Scalar in float32 or better: the mean over hidden patches. If each image has the same number of hidden patches, as in
      MAE, the loss is a mean over images: inside `shard_map` take `lax.pmean` of it.

    Raises:
      ValueError: shapes do not fit, or patches of one pixel are to be normalised.

    References:
      He et al., `Masked Autoencoders Are Scalable Vision Learners <https://arxiv.org/abs/2111.06377>`_, 2022
    """
    with _batch.refused(
        "Expected prediction and patches [batch, tokens, pixels] and a mask [batch, tokens], got "
        f"{prediction.shape}, {patches.shape} and {mask.shape}."
    ):
        chex.assert_rank([prediction, patches], 3)
        chex.assert_equal_shape([prediction, patches])
        chex.assert_shape(mask, patches.shape[:2])
    if normalize and patches.shape[-1] < 2:
        raise ValueError(
            "Expected patches of at least two pixels to normalise, got patches of one pixel: one pixel has no variance."
        )
    prediction, patches = widened(prediction, patches)
    if normalize:
        # The smallest is subtracted first: the mean of values far from 0 would be rounded.
        patches = patches - lax.stop_gradient(patches.min(axis=-1, keepdims=True))
        patches = patches - patches.mean(axis=-1, keepdims=True)
        # The reference implementations normalise by the unbiased variance.
        patches = patches / jnp.sqrt(jnp.var(patches, axis=-1, keepdims=True, ddof=1) + EPSILON)
    error = jnp.square(prediction - patches).mean(axis=-1)
    hidden = mask.astype(error.dtype)
    count = jnp.sum(hidden)
    # A mask that hides nothing would divide 0 by 0.
    return jnp.sum(error * hidden) / jnp.where(count > 0, count, 1)
