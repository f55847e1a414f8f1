"""A convolution whose gradient with respect to the kernel is fast on CPUs.

XLA's CPU backend computes that gradient as a convolution with an image-sized kernel, at a tenth of the machine's speed.
It equals one matrix product per kernel tap, contracting batch, height and width; that runs at full speed. Elsewhere XLA's
own gradient is used. `flax.linen.Conv(..., conv_general_dilated=convolve)` takes it; `tools/README.md` has the ratio.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

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
      window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision: as in lax;
        dilated, grouped and otherwise laid out convolutions pass through to lax unchanged.
    """
    plain = feature_group_count == 1 and all(d in (None, (1, 1)) for d in (_pair(lhs_dilation), _pair(rhs_dilation)))
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

    (image_gradient,) = jax.linear_transpose(lambda x: plain(x, kernel), images)(gradient)
    kernel_gradient = lax.platform_dependent(
        images,
        gradient,
        cpu=functools.partial(_kernel_gradient, kernel=kernel, strides=strides, padding=padding),
        default=lambda x, g: jax.linear_transpose(lambda k: plain(x, k), kernel)(g)[0],
    )
    return image_gradient, kernel_gradient


def _kernel_gradient(images, gradient, *, kernel, strides, padding):
    """One product per tap: `[batch * out_height * out_width, channels]` transposed, times `[..., features]`."""
    height, width, channels, features = kernel.shape
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    batch, out_height, out_width, _ = gradient.shape
    flat = gradient.reshape(-1, features)

    def tap(row, column):
        stop = (batch, row + (out_height - 1) * strides[0] + 1, column + (out_width - 1) * strides[1] + 1, channels)
        seen = lax.slice(padded, (0, row, column, 0), stop, (1, *strides, 1))
        return jnp.matmul(seen.reshape(-1, channels).T, flat, preferred_element_type=jnp.float32)

    taps = [tap(row, column) for row in range(height) for column in range(width)]
    return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)
