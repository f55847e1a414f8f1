"""Residual networks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.models.convolution import convolve
from sslshift.models.rematerialisation import through


class _Settings(NamedTuple):
    """Settings that all parts of one network share."""

    dtype: Any = None
    axis_name: str | None = None

    @property
    def conv(self) -> Callable[..., nn.Module]:
        # He's initialisation with the number of outputs (fan_out), as in torchvision.
        initial = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        # The batch norm behind every convolution subtracts any bias.
        shared = {"use_bias": False, "dtype": self.dtype, "conv_general_dilated": convolve, "kernel_init": initial}
        return functools.partial(nn.Conv, **shared)

    def norm(self, train: bool, **options) -> nn.Module:
        # PyTorch's momentum of running statistics, for which 0.1 is the share of the new batch; Flax's default is 0.99.
        return nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, **options)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, to `[..., features]`."""

    features: int
    stride: int = 1
    settings: _Settings = _Settings()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = self.settings.conv
        norm = functools.partial(self.settings.norm, train)
        # PyTorch's padding: with a stride of 2, SAME may pad fewer pixels before the image than after it.
        y = nn.relu(norm()(conv(self.features, (3, 3), self.stride, padding=1)(x)))
        y = conv(self.features, (3, 3), padding=1)(y)
        # The last norm starts at 0, so that a block starts as its shortcut (Goyal et al., 2017).
        return _add_shortcut(x, norm(scale_init=nn.initializers.zeros)(y), self.stride, conv, norm)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones around a shortcut, to `[..., 4 * features]`; the 3x3 one has the stride."""

    features: int
    stride: int = 1
    settings: _Settings = _Settings()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = self.settings.conv
        norm = functools.partial(self.settings.norm, train)
        y = nn.relu(norm()(conv(self.features, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.features, (3, 3), self.stride, padding=1)(y)))
        y = conv(4 * self.features, (1, 1))(y)
        return _add_shortcut(x, norm(scale_init=nn.initializers.zeros)(y), self.stride, conv, norm)


def _add_shortcut(x: jax.Array, y: jax.Array, stride: int, conv: Callable, norm: Callable) -> jax.Array:
    if x.shape != y.shape:
        x = norm()(conv(y.shape[-1], (1, 1), stride)(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet; maps images `[batch, height, width, channels]` to 8 * width features, with bottlenecks to 32 * width.

    Args:
      depths: number of blocks in each of the four stages; (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) is ResNet-34, or ResNet-50
        with bottlenecks.
      block: `BasicBlock` or `Bottleneck`.
      width: number of features of the first stage.
      small_images: the CIFAR stem (3x3, stride 1, no pooling) in place of ImageNet's (7x7, stride 2, max-pool).
      dtype: dtype of the computation, e.g. `jax.numpy.bfloat16`; parameters and batch statistics stay in float32.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.
      remat: whether the backward pass of training computes the blocks again, see `through`.

    References:
      He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_, 2016
    """

    depths: Sequence[int] = (2, 2, 2, 2)
    block: type[nn.Module] = BasicBlock
    width: int = 64
    small_images: bool = False
    dtype: Any = None
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        settings = _Settings(self.dtype, self.axis_name)
        side, stride, padding = (3, 1, 1) if self.small_images else (7, 2, 3)
        x = settings.conv(self.width, (side, side), stride, padding=padding, name="stem")(x)
        x = nn.relu(settings.norm(train, name="stem_norm")(x))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        number = 0
        for stage, depth in enumerate(self.depths):
            for place in range(depth):
                stride = 2 if stage > 0 and place == 0 else 1
                block = self.block(self.width * 2**stage, stride, settings, name=f"block{number}")
                x = through(block, x, train=train, remat=self.remat)
                number += 1
        self.sow("intermediates", "map", x)
        return jnp.mean(x, axis=(1, 2))


class PatchResNet(nn.Module):
    """ResNet on patches, as fast on a CPU as on other devices; maps images to as many features as the last stage has.

    One convolution without overlap replaces ResNet's 7x7 convolution and pooling, which take half of the time of a small ResNet
    on a CPU; ConvNeXt and ViTs begin in this way. The image's sides need not be multiples of the patch.

    Args:
      widths: number of features of each stage; every stage but the first halves the sides.
      depths: number of blocks in each stage.
      patch: side of a patch in pixels.
      dtype, axis_name, remat: as in `ResNet`.
    """

    widths: Sequence[int] = (48, 96, 192)
    depths: Sequence[int] = (1, 1, 1)
    patch: int = 4
    dtype: Any = None
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        settings = _Settings(self.dtype, self.axis_name)
        x = settings.conv(self.widths[0], (self.patch, self.patch), self.patch, padding="SAME", name="stem")(x)
        x = nn.relu(settings.norm(train, name="stem_norm")(x))
        number = 0
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for place in range(depth):
                stride = 2 if stage > 0 and place == 0 else 1
                block = BasicBlock(width, stride, settings, name=f"block{number}")
                x = through(block, x, train=train, remat=self.remat)
                number += 1
        self.sow("intermediates", "map", x)
        return jnp.mean(x, axis=(1, 2))
