"""Square patches of images; fixed positions of patches, and learned positions resized to another grid."""

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.arrays import on_any_mesh

# Fixed positions are defined over this many patches a side, ViT's grid at 224 pixels in patches of 16. Another grid samples the
# same extent, so that the borders of an image have the same positions at any size.
_EXTENT = 14

RESIZE = {
    "bicubic": "cubic convolution, a = -1/2, renormalised at the border; JAX's own",
    "torch": "cubic convolution, a = -3/4, the border repeated; PyTorch's own, and transformers' without registers",
    "torch_offset": "the same, scaled to a tenth of a patch more; the original DINO's, and DINOv2's without registers",
    "antialias": "as `bicubic`, the kernel widened where the grid shrinks; timm's, and DINOv2's with registers",
}
# The published code adds this offset so that a quotient rounds to the right grid; it also shifts the sampled positions.
_OFFSET = 0.1


def require_patches(height: int, width: int, patch: int) -> None:
    """Raises ValueError unless patches of this side cover an image exactly."""
    if height % patch or width % patch:
        sizes = [str(side) for side in (height // patch * patch, (height // patch + 1) * patch) if side]
        raise ValueError(
            f"Images of {height} x {width} cannot be cut into patches of {patch}; use a size that {patch} divides, "
            f"such as {' or '.join(sizes)}."
        )


@on_any_mesh(batch_axis=0)
def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cuts images into patches, row by row.

    Example:
      >>> import jax.numpy as jnp
      >>> patchify(jnp.arange(8).reshape(1, 2, 4, 1), 2)[0].tolist()
      [[0, 1, 4, 5], [2, 3, 6, 7]]

    Args:
      images: `[batch, height, width, channels]`.
      patch: side of a patch in pixels.

    Returns:
      `[batch, tokens, patch * patch * channels]`.

    Raises:
      ValueError: the patch does not divide a side of the images.
    """
    batch, height, width, channels = images.shape
    require_patches(height, width, patch)
    grid = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return grid.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns fixed positions `[rows, columns, width]`: sines and cosines of the row, then of the column, from fast to slow.

    Raises:
      ValueError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"Expected a width that 4 divides for sine-cosine positions, got {width}.")
    # The base of the original transformer's positions.
    rates = 10_000.0 ** -(np.arange(width // 4) / (width // 4))

    def along(count):
        angles = np.outer((np.arange(count) + 0.5) * _EXTENT / count - 0.5, rates)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    half = (rows, columns, width // 2)
    of_rows = np.broadcast_to(along(rows)[:, None], half)
    of_columns = np.broadcast_to(along(columns)[None], half)
    return np.concatenate([of_rows, of_columns], axis=2).astype(np.float32)


def resized_positions(table: jax.Array, rows: int, columns: int, how: str) -> jax.Array:
    """Returns a table of learned positions resized to another grid, `[rows, columns, width]`, as the published model does it.

    Args:
      table: learned positions, `[table_rows, table_columns, width]`.
      rows, columns: size of the new grid.
      how: method of interpolation, one of `RESIZE`.

    References:
      Keys, `Cubic Convolution Interpolation for Digital Image Processing <https://doi.org/10.1109/TASSP.1981.1163711>`_, 1981
    """
    # Even an offset, which shifts the sampled positions, has no effect here: the published code returns a table of the right
    # size unchanged.
    if table.shape[:2] == (rows, columns):
        return table
    if how in ("bicubic", "antialias"):
        return jax.image.resize(table, (rows, columns, table.shape[2]), "bicubic", antialias=how == "antialias")
    offset = _OFFSET if how == "torch_offset" else 0.0
    of_rows = _cubic_weights(table.shape[0], rows, offset)
    of_columns = _cubic_weights(table.shape[1], columns, offset)
    # A GPU would otherwise multiply in TF32, and features would differ from those of the published code.
    return jnp.einsum("ri,ijw,cj->rcw", of_rows, table, of_columns, precision="highest").astype(table.dtype)


def _cubic_weights(side: int, new: int, offset: float) -> np.ndarray:
    """Returns PyTorch's weight of each of `side` old positions in each of `new` new positions, `[new, side]`."""
    places = (np.arange(new) + 0.5) * side / (new + offset) - 0.5
    taps = np.floor(places)[:, None] + np.arange(-1, 3)
    weights = np.zeros((new, side))
    rows = np.broadcast_to(np.arange(new)[:, None], taps.shape)
    # At the border several taps fall on one old position, and their weights add up.
    np.add.at(weights, (rows, np.clip(taps, 0, side - 1).astype(int)), _cubic(np.abs(places[:, None] - taps), -0.75))
    return weights.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
