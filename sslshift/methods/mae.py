"""MAE: the encoder sees a few patches of an image, and a decoder reconstructs the hidden patches.

References:
  He et al., `Masked Autoencoders Are Scalable Vision Learners <https://arxiv.org/abs/2111.06377>`_, 2022
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.arrays import on_any_mesh
from sslshift.data.views import ViewSettings
from sslshift.losses import masked_reconstruction
from sslshift.methods.base import Method, Output
from sslshift.models import MAEDecoder, ViT, patchify


class MaskedAutoencoder(nn.Module):
    """A ViT that sees the kept patches, and a decoder of all patches."""

    encoder: ViT
    decoder: MAEDecoder

    def __call__(self, views: tuple[jax.Array], keep: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Returns decoded patches `[batch, tokens, pixels]`; `keep`, `[batch, kept]`, lists the visible ones."""
        (images,) = views
        patch = self.encoder.patch
        rows = images.shape[1] // patch
        columns = images.shape[2] // patch
        pixels = patch * patch * images.shape[3]
        # Initialisation passes no choice: the shapes of the weights do not depend on it.
        keep = jnp.zeros((len(images), 1), jnp.int32) if keep is None else keep
        tokens = self.encoder.tokens(images, keep, train=train)
        return self.decoder(tokens, keep, rows=rows, columns=columns, pixels=pixels, train=train)

    def features(self, images: jax.Array) -> jax.Array:
        return self.encoder(images, train=False)


def mae(
    encoder: ViT,
    views: tuple[ViewSettings],
    *,
    mask_ratio: float,
    decoder_width: int,
    decoder_depth: int,
    decoder_heads: int,
    normalize: bool,
) -> Method:
    """Returns MAE on a vision transformer.

    Args:
      encoder: a ViT.
      views: settings of the single view of an image.
      mask_ratio: share of the patches that are hidden, rounded up to whole patches.
      decoder_width: width of the decoder; 0: two thirds of the encoder's width, at most 512, the paper's width for ViT-B.
      decoder_depth: number of blocks of the decoder.
      decoder_heads: number of attention heads of the decoder; 0: one head per 32 features, as in the paper.
      normalize: whether each patch is standardised to be the target.

    Raises:
      ValueError: the encoder is not a ViT, the decoder's heads do not divide its width, or the ratio is not between 0 and 1.
    """
    if not isinstance(encoder, ViT):
        raise ValueError(f"Expected a ViT (vit_*) as encoder of mae, which hides tokens, got {type(encoder).__name__}.")
    if not 0 < mask_ratio < 1:
        raise ValueError(f"Expected mask_ratio between 0 and 1, got {mask_ratio}.")
    # A multiple of 32, the width of a head in the paper: 512 features with 16 heads.
    width = decoder_width or min(512, max(1, encoder.width * 2 // 3 // 32) * 32)
    heads = decoder_heads or max(1, width // 32)
    # Sine-cosine positions need a multiple of 4: a sine and a cosine for each of the two axes.
    if width % 4 or width % heads:
        raise ValueError(f"Expected a decoder_width that is a multiple of 4 and of decoder_heads, got {width} and {heads}.")
    networks = MaskedAutoencoder(encoder, MAEDecoder(width, decoder_depth, heads, encoder.dtype, encoder.remat))

    def loss(variables, target, views, context):
        del target
        patches = patchify(views[0], encoder.patch)
        keep = visible_patches(context.keys, patches.shape[1], mask_ratio)
        prediction = networks.apply(variables, views, keep, train=True)
        hidden = _hidden(keep, patches.shape[1])
        return masked_reconstruction(prediction, patches, hidden, normalize=normalize), Output(variables["batch_stats"])

    # Each image is reconstructed separately, so a batch of one image is enough.
    return Method(views, networks, loss, least_batch=1, coupled="")


@on_any_mesh(batch_axis=0)
def _hidden(keep: jax.Array, tokens: int) -> jax.Array:
    """Returns 1 for each patch whose number is not in `keep` and 0 for the others, `[batch, tokens]`."""
    return jnp.ones((len(keep), tokens)).at[jnp.arange(len(keep))[:, None], keep].set(0)


def visible_patches(keys: jax.Array, tokens: int, mask_ratio: float) -> jax.Array:
    """Returns the numbers of the visible patches, `[batch, kept]`, chosen at random with the key of each image.

    Raises:
      ValueError: no patch would be visible.
    """
    # A ratio such as 0.9 is not exact in binary.
    kept = int(tokens * (1 - mask_ratio) + 1e-9)
    if not 0 < kept < tokens:
        raise ValueError(
            f"Hiding {mask_ratio:.0%} of {tokens} patches leaves {kept} visible; use smaller patches or another ratio."
        )
    # Each image keeps the same number of patches, since the tokens of a batch form one array.
    return jax.vmap(lambda key: jax.random.permutation(key, tokens)[:kept])(keys)
