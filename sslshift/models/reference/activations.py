"""What every block of an encoder gives, for distances over all layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.models.pretrained import PretrainedEncoder
from sslshift.models.resnet import BasicBlock, Bottleneck
from sslshift.models.vit import Block

_BLOCKS = (Block, BasicBlock, Bottleneck)


def layer_activations(encoder: PretrainedEncoder, images: jax.Array) -> dict[str, jax.Array]:
    """The output of every block, from the first to the last; works under `jit`.

    Args:
      encoder: with its weights; which features it gives does not matter.
      images: as `encoder.apply` takes them, `[n, height, width, channels]`.

    Returns:
      For each block its name, `block0`, `block1` and so on, and float32 `[n, positions, channels]`. A ResNet's positions are
      the places of the map, row by row; a ViT's are the class token, the registers if it has any, and the patches row by row,
      before the last norm. An encoder without blocks gives its one feature map, `map`.

    Raises:
      ValueError: images of another shape than the encoder takes.
    """
    seen: dict[str, Any] = {}

    def watch(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, _BLOCKS):
            seen[context.module.name] = output
        return output

    with nn.intercept_methods(watch):
        encoder.with_features("pooled").apply(images)
    if not seen:
        channels = encoder.with_features("mean").apply(images).shape[-1]
        seen["map"] = encoder.with_features("map").apply(images).reshape(len(images), -1, channels)
    return {name: output.astype(jnp.float32).reshape(len(images), -1, output.shape[-1]) for name, output in seen.items()}
