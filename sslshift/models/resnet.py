"""Residual networks."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.models.convolution import convolve

_Conv = functools.partial(
    nn.Conv,
    use_bias=False,
    conv_general_dilated=convolve,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = _Conv(self.features, (3, 3), self.stride, padding=1)(x)
        y = nn.relu(norm()(y))
        y = norm(scale_init=nn.initializers.zeros)(_Conv(self.features, (3, 3), padding=1)(y))
        if x.shape != y.shape:
            x = norm()(_Conv(self.features, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images `[batch, height, width, channels]` to features `[batch, 8 * width]`.

    Args:
      depths: blocks in each of the four stages; (2, 2, 2, 2) is ResNet-18.
      width: features of the first stage.
      small_images: the CIFAR stem (3x3, stride 1, no pooling) in place of ImageNet's (7x7, stride 2, max-pool).

    References:
      He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_, 2016
    """

    depths: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    small_images: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        side, stride, padding = (3, 1, 1) if self.small_images else (7, 2, 3)
        x = _Conv(self.width, (side, side), stride, padding=padding)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                x = BasicBlock(self.width * 2**stage, stride)(x, train=train)
        return jnp.mean(x, axis=(1, 2))
