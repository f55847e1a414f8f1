"""Images as rows of square patches, and back."""

import jax

from sslshift.arrays import on_any_mesh


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


@on_any_mesh(batch_axis=0)
def unpatchify(patches: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """The images, `[batch, height, width, channels]`, that `patchify` cut into `patches`.

    Raises:
      ValueError: patches of this side and number do not make an image of this size.
    """
    require_patches(height, width, patch)
    batch, tokens, pixels = patches.shape
    if tokens * patch * patch != height * width or pixels % (patch * patch):
        raise ValueError(f"{tokens} patches of {pixels} values are no image of {height} x {width} in patches of {patch}.")
    grid = patches.reshape(batch, height // patch, width // patch, patch, patch, -1)
    return grid.swapaxes(2, 3).reshape(batch, height, width, -1)
