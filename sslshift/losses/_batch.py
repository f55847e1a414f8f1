"""What every loss of a batch shares: its precision, and its view of a batch that lies on several devices."""

import jax
import jax.numpy as jnp
from jax import lax


def accumulated(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays in float32, or in float64 if they are: low-precision inputs must not be summed in their own dtype."""
    dtype = jnp.result_type(jnp.float32, *arrays)
    return tuple(array.astype(dtype) for array in arrays)


def gathered(array: jax.Array, axis_name: str | None) -> jax.Array:
    """The global batch on every device, `[devices * batch, ...]`; without an axis, the array itself."""
    return array if axis_name is None else lax.all_gather(array, axis_name, tiled=True)


def batch_mean(array: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the first axis and over the devices of an axis."""
    mean = array.mean(axis=0)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def batch_size(array: jax.Array, axis_name: str | None) -> int:
    return len(array) * (1 if axis_name is None else lax.axis_size(axis_name))


def unit(z: jax.Array) -> jax.Array:
    """Rows of length 1; zero rows stay zero and keep a finite gradient."""
    return z * lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-12))


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner products of all rows, in full precision on every device."""
    return jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)


def require_positive(**values) -> None:
    """Raises ValueError for a hyperparameter that is a plain number and not above zero (a traced one cannot be read)."""
    for name, value in values.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}.")


def require_pairs(z1: jax.Array, z2: jax.Array) -> None:
    """Raises ValueError unless both are `[batch, dim]` of one shape and a floating dtype."""
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"Two arrays of one shape [batch, dim] are needed, not {z1.shape} and {z2.shape}.")
    for z in (z1, z2):
        if not jnp.issubdtype(z.dtype, jnp.floating):
            raise ValueError(f"Embeddings must have a floating dtype, not {z.dtype}.")
