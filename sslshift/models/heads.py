"""Heads that stand on an encoder while it is pretrained and are dropped afterwards."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class MLPHead(nn.Module):
    """Linear layers with ReLU between them, `[batch, dim]` to `[batch, widths[-1]]`.

    Args:
      widths: of the layers, the output's last.
      batch_norm: whether batch norm stands between a linear layer and its ReLU.
    """

    widths: Sequence[int]
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for width in self.widths[:-1]:
            x = nn.Dense(width, use_bias=not self.batch_norm)(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return nn.Dense(self.widths[-1])(x)
