"""Heads that an encoder has during pretraining only."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import power_of_two, unit, widened


class MLPHead(nn.Module):
    """Linear layers with an activation between them, `[batch, dim]` to `[batch, widths[-1]]`.

    Args:
      widths: widths of the layers; the last one is the width of the output.
      batch_norm: whether there is a batch norm between a linear layer and its activation.
      output_norm: kind of batch norm on the output: `none`, `plain` (without scale and offset) or `affine`.
      output_bias: whether the last layer has a bias if no batch norm follows it.
      activation: activation between the layers.
      dtype: dtype of the computation; parameters stay in float32.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.
    """

    widths: Sequence[int]
    batch_norm: bool = False
    output_norm: str = "none"
    output_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def norm(x, affine=True):
            # PyTorch's default, which PyTorch writes as 0.1, the share of the new batch; Flax's own default is 0.99.
            settings = {"momentum": 0.9, "dtype": self.dtype, "axis_name": self.axis_name}
            return nn.BatchNorm(not train, use_scale=affine, use_bias=affine, **settings)(x)

        # A batch norm subtracts any bias in front of it.
        for width in self.widths[:-1]:
            x = nn.Dense(width, use_bias=not self.batch_norm, dtype=self.dtype)(x)
            x = self.activation(norm(x) if self.batch_norm else x)
        x = nn.Dense(self.widths[-1], use_bias=self.output_bias and self.output_norm == "none", dtype=self.dtype)(x)
        return x if self.output_norm == "none" else norm(x, affine=self.output_norm == "affine")


class PrototypeHead(nn.Module):
    """DINO's head: a GELU network to a bottleneck of length 1, then the cosines of the bottleneck with the prototypes.

    Args:
      widths: widths of the network's layers; the last one is the bottleneck.
      prototypes: number of prototypes; the output is `[batch, prototypes]`, in float32 or better.
      dtype: dtype of the computation; parameters stay in float32.

    References:
      Caron et al., `Emerging Properties in Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.14294>`_, 2021
    """

    widths: Sequence[int]
    prototypes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # PyTorch's GELU is exact, Flax's approximate by default.
        exact_gelu = functools.partial(nn.gelu, approximate=False)
        z = MLPHead(self.widths, activation=exact_gelu, dtype=self.dtype, name="mlp")(x, train=train)
        # A vector's length does not affect the output, but it affects how fast the vector turns: linear layers usually start
        # at this length, 1 / sqrt(3).
        initial = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        weights = self.param("prototypes", initial, (self.widths[-1], self.prototypes))
        return _cosines(z, unit(weights, axis=0))


class Prototypes(nn.Module):
    """SwAV's prototypes; maps projections `[..., dim]` to cosines `[..., prototypes]`, in float32 or better.

    The weights start at length 1, and SwAV normalises them to length 1 after every step. No gradient passes through their
    length, as in the authors' code, which normalises them outside of the gradient.

    Args:
      prototypes: number of outputs.
      dtype: dtype of the computation; parameters stay in float32.

    References:
      Caron et al., `Unsupervised Learning of Visual Features by Contrasting Cluster Assignments
      <https://arxiv.org/abs/2006.09882>`_, 2020
    """

    prototypes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        del train

        def directions(key, shape):
            return unit(jax.random.normal(key, shape, jnp.float32), axis=0)

        weights = self.param("prototypes", directions, (z.shape[-1], self.prototypes))
        # The square of a huge or tiny length would leave the range of float32.
        weights = weights * power_of_two(weights, 0)
        length = jnp.linalg.norm(lax.stop_gradient(weights), axis=0, keepdims=True)
        return _cosines(z if self.dtype is None else z.astype(self.dtype), weights / jnp.where(length > 0, length, 1))


def _cosines(z: jax.Array, unit_weights: jax.Array) -> jax.Array:
    # A temperature of a few hundredths would enlarge a rounded cosine's error.
    return jnp.matmul(unit(z), unit_weights.astype(z.dtype), preferred_element_type=widened(z)[0].dtype)
