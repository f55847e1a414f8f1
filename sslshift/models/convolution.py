"""A convolution whose gradient with respect to the kernel is fast on every CPU.

XLA computes that gradient as a convolution with an image-sized kernel, at a speed that varies tenfold between CPUs. The
gradient also equals (patches)^T (output gradient), a matrix product, which is fast everywhere once it is summed over blocks
that fit into the cache. On other devices XLA's own gradient is used: the choice is made when a program is compiled, and the
models do not know of it. Every encoder uses it, as `flax.linen.Conv(..., conv_general_dilated=convolve)`; `tools/README.md`
lists the measured speed-ups.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    precision=None,
):
    """`lax.conv_general_dilated` with the same arguments and values; only the CPU gradient's arithmetic differs.

    Args:
      lhs: images `[batch, height, width, channels]`.
      rhs: kernel `[height, width, channels, features]`.
      window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision: as in lax.
        Dilated and grouped convolutions, other array layouts, and calls inside `shard_map` pass through to lax unchanged.
    """
    plain = feature_group_count == 1 and all(d in (None, (1, 1)) for d in (_pair(lhs_dilation), _pair(rhs_dilation)))
    # Inside shard_map a custom gradient would have to do the sum over devices itself.
    plain = plain and not jax.sharding.get_abstract_mesh().manual_axes
    if not plain or lhs.ndim != 4 or not _is_nhwc(dimension_numbers, lhs, rhs):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    strides = _pair(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    return _convolve(lhs, rhs, strides, tuple(tuple(pad) for pad in padding), precision)


def _pair(value):
    return None if value is None else tuple(value)


def _is_nhwc(dimension_numbers, lhs, rhs) -> bool:
    # None means lax's default, in which channels come before pixels.
    if dimension_numbers is None:
        return False
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(images, kernel, strides, padding, precision):
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=_LAYOUT, precision=precision)


def _forward(images, kernel, strides, padding, precision):
    return _convolve(images, kernel, strides, padding, precision), (images, kernel)


def _backward(strides, padding, precision, saved, gradient):
    images, kernel = saved

    def plain(images, kernel):
        return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=_LAYOUT, precision=precision)

    @on_any_mesh
    def kernel_gradient(images, gradient, kernel):
        # The choice depends on the device that the program is compiled for, which need not be the default device.
        return lax.platform_dependent(
            images,
            gradient,
            cpu=functools.partial(_kernel_gradient, kernel=kernel, strides=strides, padding=padding),
            default=lambda x, g: jax.linear_transpose(lambda k: plain(x, k), kernel)(g)[0],
        )

    # A convolution is linear in its images: the transpose is the gradient, without another forward pass.
    (image_gradient,) = jax.linear_transpose(lambda x: plain(x, kernel), images)(gradient)
    return image_gradient, kernel_gradient(images, gradient, kernel)


def _kernel_gradient(images, gradient, *, kernel, strides, padding):
    """Returns (patches)^T (output gradient), `[taps * channels, features]`, summed over blocks of the output."""
    height, width, channels, features = kernel.shape
    batch, out_height, out_width, _ = gradient.shape
    group, rows = _block(batch, out_height, out_width)
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    blocks = out_height // rows
    seen_rows = (rows - 1) * strides[0] + height
    stop = ((rows - 1) * strides[0] + 1, (out_width - 1) * strides[1] + 1)

    def patches(some):
        taps = [
            lax.slice(some, (0, row, column, 0), (group, row + stop[0], column + stop[1], channels), (1, *strides, 1))
            for row in range(height)
            for column in range(width)
        ]
        return jnp.concatenate(taps, axis=-1).reshape(-1, height * width * channels)

    def add(total, number):
        image = number // blocks * group
        block = number % blocks
        some = lax.dynamic_slice(
            padded, (image, block * rows * strides[0], 0, 0), (group, seen_rows, padded.shape[2], channels)
        )
        some_gradient = lax.dynamic_slice(gradient, (image, block * rows, 0, 0), (group, rows, out_width, features))
        # Summed in float32: in bfloat16 a sum over many blocks would lose small terms.
        product = jnp.matmul(patches(some).T, some_gradient.reshape(-1, features), preferred_element_type=jnp.float32)
        return total + product, None

    start = jnp.zeros((height * width * channels, features), jnp.float32)
    total, _ = lax.scan(add, start, jnp.arange(batch // group * blocks))
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _block(batch: int, height: int, width: int, positions: int = 1024) -> tuple[int, int]:
    """Returns the images and rows of a block that divides the output evenly and whose patches are few enough to stay cached."""

    def largest_divisor(number, limit):
        return max((divisor for divisor in range(1, number + 1) if number % divisor == 0 and divisor <= limit), default=1)

    if height * width <= positions:
        return largest_divisor(batch, positions // (height * width)), height
    return 1, largest_divisor(height, max(1, positions // width))


_convolve.defvjp(_forward, _backward)
