"""Benchmark of single convolutions with XLA's kernel gradient and with ours, on CPUs."""

import contextlib
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.models import convolution
from sslshift.models.convolution import convolve

# Side, channels, features, kernel, stride and batch of the convolutions of small ResNets and of patch embeddings.
_CONVOLUTIONS = (
    (32, 64, 64, 3, 1, 64),
    (16, 128, 128, 3, 1, 64),
    (32, 3, 64, 3, 1, 64),
    (128, 3, 64, 7, 2, 16),
    (128, 16, 16, 3, 1, 16),
    (28, 1, 48, 4, 4, 256),
)


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float]) -> None:
    """Prints forward and backward times of convolutions with XLA's kernel gradient and with ours."""
    for sizes in _CONVOLUTIONS:
        _convolution(show, seconds, *sizes)


def without_remedy() -> contextlib.AbstractContextManager:
    """Returns a context in which new programs use XLA's kernel gradient; programs that exist keep ours."""
    return mock.patch.object(convolution, "_convolve", convolution._convolve.__wrapped__)


def _convolution(
    show: Callable[..., None],
    seconds: Callable[[Callable[[], object]], float],
    side: int,
    channels: int,
    features: int,
    kernel: int,
    stride: int,
    batch: int,
) -> None:
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (batch, side, side, channels))
    weights = jax.random.normal(keys[1], (kernel, kernel, channels, features))

    def gradient(function):
        def loss(weights, images):
            out = function(images, weights, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.sum(jnp.square(out))

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return lambda: jax.block_until_ready(compiled(weights, images))

    xla = seconds(gradient(lax.conv_general_dilated))
    ours = seconds(gradient(convolve))
    shape = f"{kernel}x{kernel}/{stride}, {batch} x {side} x {side} x {channels} -> {features}"
    show("convolution", shape=shape, xla_ms=xla * 1e3, ours_ms=ours * 1e3, speedup=xla / ours)
