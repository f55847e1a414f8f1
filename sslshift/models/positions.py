"""Tables of learned positions brought to another grid, as the models that they come from bring them there."""

import jax
import jax.numpy as jnp
import numpy as np

RESIZE = {
    "bicubic": "cubic convolution, a = -1/2, renormalised at the border; JAX's own",
    "torch": "cubic convolution, a = -3/4, the border repeated; PyTorch's own, and transformers' without registers",
    "torch_offset": "the same, scaled to a tenth of a patch more; the original DINO's, and DINOv2's without registers",
    "antialias": "as `bicubic`, the kernel widened where the grid shrinks; timm's, and DINOv2's with registers",
}
# The published code adds it so that a quotient rounds to the right grid; the sampling places move with it.
_OFFSET = 0.1


def resized_positions(table: jax.Array, rows: int, columns: int, how: str) -> jax.Array:
    """A table `[rows, columns, width]` on a grid of another size.

    Args:
      table: learned positions, `[table_rows, table_columns, width]`.
      rows, columns: of the grid that is wanted.
      how: one of `RESIZE`.

    References:
      Keys, `Cubic Convolution Interpolation for Digital Image Processing <https://doi.org/10.1109/TASSP.1981.1163711>`_, 1981
    """
    if table.shape[:2] == (rows, columns):
        return table
    if how in ("bicubic", "antialias"):
        return jax.image.resize(table, (rows, columns, table.shape[2]), "bicubic", antialias=how == "antialias")
    offset = _OFFSET if how == "torch_offset" else 0.0
    of_rows = _cubic_weights(table.shape[0], rows, offset)
    of_columns = _cubic_weights(table.shape[1], columns, offset)
    return jnp.einsum("ri,ijw,cj->rcw", of_rows, table, of_columns, precision="highest").astype(table.dtype)


def _cubic_weights(side: int, new: int, offset: float) -> np.ndarray:
    """How much each of `side` old places counts for each of `new` ones, `[new, side]`, as PyTorch weighs them."""
    places = (np.arange(new) + 0.5) * side / (new + offset) - 0.5
    taps = np.floor(places)[:, None] + np.arange(-1, 3)
    weights = np.zeros((new, side))
    rows = np.broadcast_to(np.arange(new)[:, None], taps.shape)
    np.add.at(weights, (rows, np.clip(taps, 0, side - 1).astype(int)), _cubic(np.abs(places[:, None] - taps), -0.75))
    return weights.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
