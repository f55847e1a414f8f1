"""Vision transformers: the encoder, and MAE's decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslshift.arrays import on_any_mesh
from sslshift.models.patches import RESIZE, patchify, resized_positions, sincos_positions
from sslshift.models.rematerialisation import through


def _dense(width: int, dtype: Any, name: str) -> nn.Dense:
    # The initial weights of the published code of ViT and MAE.
    return nn.Dense(width, dtype=dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)


def _norm(dtype: Any, name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


# Parts without parameters are functions of arrays: over a mesh with Explicit axes the sharding of their results must be stated.
@on_any_mesh(batch_axis=0)
def _attend(qkv: jax.Array, heads: int) -> jax.Array:
    """Returns self-attention `[batch, tokens, width]` of queries, keys and values side by side, `[..., 3 * width]`."""
    if qkv.dtype == jnp.float16:
        # JAX's attention multiplies float16 into float32, which XLA does not support on a CPU.
        return _attend(qkv.astype(jnp.float32), heads).astype(jnp.float16)
    batch = qkv.shape[0]
    tokens = qkv.shape[1]
    width = qkv.shape[2] // 3
    query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, width // heads), 2, 0)
    return jax.nn.dot_product_attention(query, key, value).reshape(batch, tokens, width)


@on_any_mesh(batch_axis=0)
def _drop_images(branch: jax.Array, key: jax.Array, share: float) -> jax.Array:
    """Returns the branch or 0, image by image; scaled up where it stays, so that the expectation does."""
    stays = jax.random.bernoulli(key, 1 - share, (len(branch), 1, 1))
    return jnp.where(stays, branch / (1 - share), 0)


@on_any_mesh(batch_axis=0)
def _choose(patches: jax.Array, places: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the patches `[batch, tokens, pixels]` and positions `[tokens, width]` whose numbers are in `keep`."""
    return jnp.take_along_axis(patches, keep[..., None], axis=1), places[keep]


@on_any_mesh(batch_axis=0)
def _put_first(tokens: jax.Array, extra: jax.Array) -> jax.Array:
    """Returns the extra tokens `[extra, width]` followed by the tokens of the image, `[batch, extra + tokens, width]`."""
    first = jnp.broadcast_to(extra, (len(tokens), *extra.shape)).astype(tokens.dtype)
    return jnp.concatenate([first, tokens], axis=1)


@on_any_mesh(batch_axis=0)
def _put_back(visible: jax.Array, keep: jax.Array, hidden: jax.Array, count: int) -> jax.Array:
    """Returns `count` tokens for each image: the visible ones at their numbers `keep`, the token `[width]` at all others."""
    patches = jnp.broadcast_to(hidden, (len(visible), count, visible.shape[-1]))
    return patches.at[jnp.arange(len(visible))[:, None], keep].set(visible)


class Block(nn.Module):
    """Pre-norm self-attention and a dense layer of four times the width; tokens `[batch, tokens, width]`.

    In training each of the two is dropped for a share `drop_path` of the images. `ViT` documents the settings.
    """

    heads: int
    dtype: Any = None
    drop_path: float = 0.0
    layer_scale: float | None = None
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        width = x.shape[-1]
        attended = _attend(_dense(3 * width, self.dtype, "qkv")(_norm(self.dtype, "norm1", self.epsilon)(x)), self.heads)
        x = x + self._sometimes(self._scaled(_dense(width, self.dtype, "out")(attended), "scale1"), train)
        up = _dense(4 * width, self.dtype, "up")(_norm(self.dtype, "norm2", self.epsilon)(x))
        # Published ViTs have the exact GELU; Flax's is approximate by default.
        hidden = nn.gelu(up, approximate=False)
        return x + self._sometimes(self._scaled(_dense(width, self.dtype, "down")(hidden), "scale2"), train)

    def _scaled(self, branch: jax.Array, name: str) -> jax.Array:
        if self.layer_scale is None:
            return branch
        scale = self.param(name, nn.initializers.constant(self.layer_scale), branch.shape[-1:])
        return branch * scale.astype(branch.dtype)[None, None]

    def _sometimes(self, branch: jax.Array, train: bool) -> jax.Array:
        """Returns the branch or 0, image by image; scaled up where it stays, so that the expectation does."""
        if not train or not self.drop_path:
            return branch
        return _drop_images(branch, self.make_rng("drop_path"), self.drop_path)


class ViT(nn.Module):
    """Vision transformer; maps images `[batch, height, width, channels]` to features `[batch, width]`.

    The positions are interpolated for images of another size than the one it was initialised with.

    Args:
      width: number of features of a token; `heads` divides it.
      depth: number of blocks.
      heads: number of attention heads of a block.
      patch: side of a patch in pixels; it divides the sides of the images.
      pool: kind of pooling: `token` returns the class token, `mean` the mean over the patches.
      positions: kind of positions: fixed `sincos`, or `learned`.
      dtype: dtype of the computation, e.g. `jax.numpy.bfloat16`; parameters stay in float32. None: the dtype of the images.
      axis_name: the mapped axis over which the batch is split; unused here, but heads copy it from their encoder.
      drop_path: share of the images for which the last block's branches are dropped in training (stochastic depth). The share
        rises linearly from 0 in the first block. If it is above 0, training needs random numbers, `rngs={"drop_path": key}`.
      registers: number of learned tokens besides the class token, without positions and excluded from all features; None: none.
      layer_scale: initial value of learned scales of the branches, e.g. 1e-5; None: branches have no scales.
      grid: patches per side in the table of learned positions; None: the number in the images that it is initialised with.
      resize: method that brings learned positions to the grid of other images, one of `sslshift.models.patches.RESIZE`.
      epsilon: small number that the layer norms add to a variance.
      remat: whether the backward pass of training computes the blocks again, see `through`.

    Raises:
      ValueError: the patch does not divide a side of the images, or a setting has another value than described above.

    References:
      Dosovitskiy et al., `An Image is Worth 16x16 Words <https://arxiv.org/abs/2010.11929>`_, 2021
      Huang et al., `Deep Networks with Stochastic Depth <https://arxiv.org/abs/1603.09382>`_, 2016
      Touvron et al., `Going deeper with Image Transformers <https://arxiv.org/abs/2103.17239>`_, 2021 (scales of the branches)
      Darcet et al., `Vision Transformers Need Registers <https://arxiv.org/abs/2309.16588>`_, 2023
    """

    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16
    pool: str = "token"
    positions: str = "sincos"
    dtype: Any = None
    axis_name: str | None = None
    drop_path: float = 0.0
    registers: int | None = None
    layer_scale: float | None = None
    grid: int | None = None
    resize: str = "bicubic"
    epsilon: float = 1e-6
    remat: bool = False

    def __post_init__(self):
        known = self.pool in ("token", "mean") and self.positions in ("sincos", "learned")
        if not known or self.heads < 1 or self.width % self.heads:
            raise ValueError(
                "Expected pool 'token' or 'mean', positions 'sincos' or 'learned', and a width that its heads divide, got "
                f"{self.pool!r}, {self.positions!r} and {self.width} by {self.heads}."
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"Expected drop_path in [0, 1) for a ViT, got {self.drop_path}.")
        if self.resize not in RESIZE or (self.grid is not None and self.positions != "learned"):
            raise ValueError(
                f"Expected one of {', '.join(RESIZE)} for resize, a grid only with 'learned' positions, got {self.resize!r} "
                f"and {self.positions!r}."
            )
        super().__post_init__()

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        tokens = self.tokens(x, train=train)
        token = tokens[:, 0]
        patches = tokens[:, 1:]
        self.sow("intermediates", "token", token)
        self.sow("intermediates", "map", patches)
        return token if self.pool == "token" else patches.mean(axis=1)

    @nn.compact
    def tokens(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Returns the class token, then the tokens of the patches, after the last norm: `[batch, 1 + tokens, width]`.

        Args:
          images: `[batch, height, width, channels]`.
          keep: numbers of the visible patches, `[batch, kept]`, counted row by row; None: all patches.
          train: whether the tokens are for training, where branches may be dropped and blocks computed again.
        """
        patches = patchify(images, self.patch)
        places = self._places(images.shape[1] // self.patch, images.shape[2] // self.patch)[None]
        if keep is not None:
            patches, places = _choose(patches, places[0], keep)
        x = _dense(self.width, self.dtype, "embed")(patches)
        extra = self._extra_tokens()
        x = _put_first(x + places.astype(x.dtype), extra)
        for i, share in enumerate(np.linspace(0, self.drop_path, self.depth).tolist()):
            block = Block(self.heads, self.dtype, share, self.layer_scale, self.epsilon, name=f"block{i}")
            x = through(block, x, train=train, remat=self.remat)
        x = _norm(self.dtype, "norm", self.epsilon)(x)
        return x if self.registers is None else jnp.concatenate([x[:, :1], x[:, len(extra) :]], axis=1)

    def _extra_tokens(self) -> jax.Array:
        """Returns the class token and the registers, `[1 + registers, width]`."""
        token = self.param("class_token", nn.initializers.normal(0.02), (self.width,))[None]
        if self.registers is None:
            return token
        return jnp.concatenate([token, self.param("registers", nn.initializers.normal(0.02), (self.registers, self.width))])

    def _places(self, rows: int, columns: int) -> jax.Array:
        """Returns the positions of all patches, `[rows * columns, width]`."""
        if self.positions == "sincos":
            return jnp.asarray(sincos_positions(rows, columns, self.width)).reshape(-1, self.width)
        # `param` raises an error for a table that was made for images of another size.
        if self.has_variable("params", "positions"):
            table = self.get_variable("params", "positions")
        else:
            shape = (self.grid or rows, self.grid or columns, self.width)
            table = self.param("positions", nn.initializers.normal(0.02), shape)
        return resized_positions(table, rows, columns, self.resize).reshape(-1, self.width)


class MAEDecoder(nn.Module):
    """MAE's decoder; maps the tokens of the visible patches to the pixels of all patches.

    Args:
      width, depth, heads: as in `ViT`; the published decoder has 512, 8 and 16.
      dtype: dtype of the computation, as in `ViT`.
      remat: as in `ViT`.

    References:
      He et al., `Masked Autoencoders Are Scalable Vision Learners <https://arxiv.org/abs/2111.06377>`_, 2022
    """

    width: int = 512
    depth: int = 8
    heads: int = 16
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, tokens: jax.Array, keep: jax.Array, *, rows: int, columns: int, pixels: int, train: bool = False
    ) -> jax.Array:
        """Reconstructs patches.

        Args:
          tokens: class token and visible patches, `[batch, 1 + kept, dim]`.
          keep: numbers of the visible patches, `[batch, kept]`.
          rows, columns: number of rows and columns of patches in an image.
          pixels: number of values of a patch.
          train: whether blocks may be computed again in the backward pass.

        Returns:
          `[batch, rows * columns, pixels]`, in float32.
        """
        x = _dense(self.width, self.dtype, "embed")(tokens)
        hidden = self.param("mask_token", nn.initializers.normal(0.02), (self.width,)).astype(x.dtype)
        places = sincos_positions(rows, columns, self.width).reshape(1, -1, self.width)
        patches = _put_back(x[:, 1:], keep, hidden, rows * columns) + jnp.asarray(places, x.dtype)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        for i in range(self.depth):
            x = through(Block(self.heads, self.dtype, name=f"block{i}"), x, train=train, remat=self.remat)
        return _dense(pixels, self.dtype, "pixels")(_norm(self.dtype, "norm")(x)[:, 1:]).astype(jnp.float32)
