"""The loss of SimCLR."""

import jax
import jax.numpy as jnp

from sslshift.arrays import on_any_mesh
from sslshift.losses import _batch


@on_any_mesh
def nt_xent(z1: jax.Array, z2: jax.Array, *, temperature: float, axis_name: str | None = None) -> jax.Array:
    """Returns the normalised temperature-scaled cross-entropy of finding each image's other view in the batch.

    Both views are anchors, an anchor is not its own negative, and the mean is over all 2B anchors.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.ones((4, 8))
      >>> round(float(nt_xent(z, z, temperature=0.2)), 4)  # log(2B - 1): no image can be distinguished
      1.9459

    Args:
      z1: embeddings of the first views, `[batch, dim]`, any floating dtype; normalised here.
      z2: embeddings of the second views of the same images, same shape.
      temperature: divides the cosine similarities, above 0.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; negatives are then global.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes differ, or the temperature is not above 0.

    References:
      Chen et al., `A Simple Framework for Contrastive Learning of Visual Representations
      <https://arxiv.org/abs/2002.05709>`_, 2020
    """
    _batch.require_pairs(z1, z2)
    z1, z2 = _batch.units(z1, z2)
    (temperature,) = _batch.positive_scalars(z1, temperature=temperature)
    all1 = _batch.gathered(z1, axis_name)
    all2 = _batch.gathered(z2, axis_name)
    positives = _batch.first_row(z1, axis_name) + jnp.arange(len(z1))
    # An anchor's cosine with itself is 1: as a negative it would outweigh all others.
    itself = jax.nn.one_hot(positives, len(all1), dtype=bool)

    def anchors(z, same, other):
        """Returns the cross-entropy of each anchor; `same` holds its own view's embeddings, `other` the other view's."""
        # -inf adds exactly 0 to the sum of exponentials, at any temperature.
        within = jnp.where(itself, -jnp.inf, _batch.similarity(z, same) / temperature)
        across = _batch.similarity(z, other) / temperature
        positive = jnp.take_along_axis(across, positives[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(jnp.concatenate([across, within], axis=1), axis=1) - positive

    return _batch.batch_mean((anchors(z1, all1, all2) + anchors(z2, all2, all1)) / 2, axis_name)
