"""A small encoder that a CPU trains at thousands of images a second."""

import functools
from typing import Any

import flax.linen as nn
import jax

from sslshift.models.convolution import convolve
from sslshift.models.patches import require_patches


class PatchMLP(nn.Module):
    """Patch embedding, then one dense layer over all patches: two matrix products, for images of about 32 pixels.

    Maps images `[batch, height, width, channels]`, whose sides the patch divides, to features `[batch, features]`.

    Args:
      patch: side of a patch in pixels.
      width: number of features of a patch.
      features: number of features of an image.
      dtype: dtype of the computation, e.g. `jax.numpy.bfloat16`; parameters stay in float32.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.
    """

    patch: int = 4
    width: int = 48
    features: int = 256
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        require_patches(x.shape[1], x.shape[2], self.patch)
        # PyTorch's momentum of running statistics, as in the other encoders; Flax's default is 0.99.
        norm = functools.partial(nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name)
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, use_bias=False, dtype=self.dtype, conv_general_dilated=convolve)(x)
        x = nn.relu(norm()(x))
        self.sow("intermediates", "map", x)
        # A batch norm subtracts any bias in front of it.
        x = nn.Dense(self.features, use_bias=False, dtype=self.dtype)(x.reshape(len(x), -1))
        return nn.relu(norm()(x))
