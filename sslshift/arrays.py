"""Arrays for losses and models: unit vectors, and functions of arrays on a mesh with Explicit axes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec


def widened(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays in float32, or in float64 if one of them is float64: sums in a narrower dtype would be too inexact."""
    arrays = tuple(jnp.asarray(array) for array in arrays)
    # `jnp.result_type` would raise for two different dtypes under `jax_numpy_dtype_promotion="strict"`.
    dtype = jnp.float64 if any(array.dtype == jnp.float64 for array in arrays) else jnp.float32
    return tuple(array.astype(dtype) for array in arrays)


def power_of_two(x: jax.Array, axis: int | None) -> jax.Array:
    """Returns factors that bring vectors along an axis to lengths whose squares, and their gradients, stay in range.

    The factors are 1 for vectors of ordinary length and powers of two for all others, so a multiplication by them never rounds.

    Args:
      x: array of float32 or float64.
      axis: axis of a vector's entries; None: the array is one vector.

    Returns:
      Factors that broadcast against `x`, without gradient.
    """
    info = jnp.finfo(x.dtype)
    ordinary = 2.0 ** -(int(info.minexp) * 2 // 7)
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
    # At most a quarter of the largest number, so that the reciprocal is still a normal number.
    power = lax.reduce_precision(jnp.clip(largest, float(info.tiny), float(info.max) / 4), info.nexp, 0)
    return jnp.where((largest < 1 / ordinary) | (largest > ordinary), 1 / power, jnp.ones_like(power))


def unit(x: jax.Array, axis: int | None = -1, *, dtype: Any = None) -> jax.Array:
    """Returns the vectors along an axis scaled to length 1; the length is computed in float32 or better.

    The result does not depend on the lengths of the vectors, from the smallest normal number of the dtype to its largest. A
    zero vector stays zero, so its cosine with any vector is 0, and receives no gradient. The gradient grows as one over the
    length; if it could leave the range of the array's dtype, its size is bounded and its direction is kept.

    Example:
      >>> import jax.numpy as jnp
      >>> unit(jnp.array([[-1e-30, 0.0], [0.0, 1e30], [0.0, 0.0]])).tolist()
      [[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]

    Args:
      x: array of a floating dtype.
      axis: axis of a vector's entries; None: the array is one vector.
      dtype: dtype of the result; None: the dtype of the array.
    """
    x = jnp.asarray(x)
    (wide,) = widened(x)
    factor = power_of_two(wide, axis)
    scaled = wide * factor
    length = lax.stop_gradient(jnp.sqrt(jnp.sum(scaled * scaled, axis=axis, keepdims=True)))
    # The gradient of a short vector would leave the range of a narrow dtype such as float16.
    bounded = jnp.minimum(factor, float(jnp.finfo(x.dtype).max) / 16 * jnp.minimum(length, 1))
    # The value of `wide * factor` with the gradient of `wide * bounded`.
    scaled = lax.stop_gradient(scaled) + (wide - lax.stop_gradient(wide)) * bounded
    squared = jnp.sum(scaled * scaled, axis=axis, keepdims=True)
    # `where` is inside of `rsqrt`: with `where` around it, the gradient would be NaN at 0.
    return (scaled * lax.rsqrt(jnp.where(squared > 0, squared, 1))).astype(dtype or x.dtype)


def on_any_mesh(function: Callable[..., Any] | None = None, *, batch_axis: int | None = None) -> Callable[..., Any]:
    """Returns a version of the function that also takes arrays sharded over a mesh with Explicit axes.

    Inside, the axes are Auto: the compiler partitions the function as it does on a mesh of Auto axes. Nothing changes for Auto
    meshes, single devices and `shard_map`.

    Args:
      function: function of arrays, or of trees of arrays; it may also take other values.
      batch_axis: axis of the images in the first array and in every result. The results are split along it as the first
        array is. None: every device has the whole results.
    """
    if function is None:
        return functools.partial(on_any_mesh, batch_axis=batch_axis)

    @functools.wraps(function)
    def call(*args, **kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))
        # JAX traces the arguments of `auto_axes`: names and other settings cannot be traced.
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]
        arrays = [leaves[i] for i in places]
        mesh = next(filter(None, map(_explicit_mesh, arrays)), None)
        if mesh is None:
            return function(*args, **kwargs)

        def of_arrays(*arrays):
            filled = leaves.copy()
            for i, array in zip(places, arrays, strict=True):
                filled[i] = array
            args, kwargs = jax.tree.unflatten(tree, filled)
            return function(*args, **kwargs)

        spec = PartitionSpec()
        if batch_axis is not None:
            spec = PartitionSpec(*[None] * batch_axis, *jax.typeof(arrays[0]).sharding.spec[batch_axis : batch_axis + 1])
        axes = mesh.abstract_mesh.explicit_axes
        return jax.sharding.auto_axes(of_arrays, axes=axes, out_sharding=NamedSharding(mesh, spec))(*arrays)

    return call


def _explicit_mesh(array: jax.Array | np.ndarray) -> Mesh | AbstractMesh | None:
    """Returns the mesh of an array, without devices for a traced array; None if it has no Explicit axes."""
    mesh = jax.typeof(array).sharding.mesh
    # In a shard_map over some axes the batch is split over these axes; JAX has no gradient of Auto axes inside it.
    if not mesh.explicit_axes or mesh.manual_axes:
        return None
    # Outside of jit the devices must be known.
    return mesh if isinstance(array, jax.core.Tracer | np.ndarray) else array.sharding.mesh
