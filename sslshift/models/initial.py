"""Encoders that pretraining continues from: the name of their architecture, and their form for the images of a study.

Nothing of the encoder changes but the table of learned positions, which is resized once to the grid of the new images as the
published code does it. Its features of images of the new size therefore stay the same. Grey images need no other first layer:
they are repeated over the channels and normalised by the mean and standard deviation of each, which equals a first layer whose
kernels are divided by these deviations and added up over the channels, at the borders of padded convolutions too.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.models import ENCODERS
from sslshift.models.patch_mlp import PatchMLP
from sslshift.models.patches import require_patches, resized_positions
from sslshift.models.pretrained import PretrainedEncoder
from sslshift.models.resnet import BasicBlock, Bottleneck, PatchResNet, ResNet
from sslshift.models.vit import ViT

_RESNETS = {
    (2, 2, 2, 2): {BasicBlock: "resnet18"},
    (3, 4, 6, 3): {BasicBlock: "resnet34", Bottleneck: "resnet50"},
    (3, 4, 23, 3): {Bottleneck: "resnet101"},
    (3, 8, 36, 3): {Bottleneck: "resnet152"},
}
# By width, depth and heads.
_VITS = {
    (96, 4, 3): "nano",
    (192, 12, 3): "ti",
    (384, 12, 6): "s",
    (768, 12, 12): "b",
    (1024, 24, 16): "l",
    (1280, 32, 16): "h",
    (1536, 40, 24): "g",
}


def architecture_name(module: nn.Module) -> str:
    """Returns a short name of an architecture; for those of `ENCODERS` it is their name there.

    Example:
      >>> architecture_name(ViT(384, 12, 6, 14)), architecture_name(ResNet((2, 2, 2, 2), small_images=True))
      ('vit_s14', 'resnet18_cifar')

    Args:
      module: an encoder. Kinds of positions, registers and scales of branches do not change the name.
    """
    own = next((name for name, each in ENCODERS.items() if each == module), None)
    if own:
        return own
    if isinstance(module, ViT):
        shape = (module.width, module.depth, module.heads)
        size = _VITS.get(shape, "x".join(map(str, shape)) + "_")
        return f"vit_{size}{module.patch}"
    if isinstance(module, ResNet):
        depths = tuple(module.depths)
        known = _RESNETS.get(depths, {}).get(module.block, f"resnet{'-'.join(map(str, depths))}")
        width = "" if module.width == 64 else f"_w{module.width}"
        return f"{known}{width}{'_cifar' if module.small_images else ''}"
    if isinstance(module, PatchMLP):
        return f"patch_mlp_{module.patch}x{module.width}x{module.features}"
    if isinstance(module, PatchResNet):
        return f"resnet_{'-'.join(map(str, module.widths))}_{'-'.join(map(str, module.depths))}_{module.patch}"
    return type(module).__name__.lower()


def fitted(encoder: PretrainedEncoder, height: int, width: int, channels: int) -> PretrainedEncoder:
    """Returns the encoder for images of another size, with weights in float32; its features of such images do not change.

    Args:
      encoder: an encoder with its weights.
      height, width: size of the images.
      channels: number of channels of the images, 1 or 3. An encoder of colour images also takes grey ones.

    Raises:
      ValueError: the encoder does not take images of this size, or takes grey images and the images have colour.
    """
    own = encoder.shape[2]
    if own < channels:
        raise ValueError("it takes grey images, and these images have colour.")
    module = encoder.module
    # The study decides about the arithmetic, and not the run that kept the encoder.
    if getattr(module, "dtype", None) is not None:
        module = module.clone(dtype=None)
    if isinstance(module, ViT):
        require_patches(height, width, module.patch)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(encoder.variables))
    if isinstance(module, ViT) and module.positions == "learned":
        table = variables["params"]["positions"]
        table = resized_positions(table, height // module.patch, width // module.patch, module.resize)
        variables = variables | {"params": variables["params"] | {"positions": table}}
        module = module.clone(grid=None)
    mean, std = (_each(value, own) for value in (encoder.mean, encoder.std))
    found = dataclasses.replace(encoder, module=module, variables=variables, shape=(height, width, own), mean=mean, std=std)
    images = jax.ShapeDtypeStruct((2, *found.shape), jnp.float32)
    expected = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    if jax.tree.map(jnp.shape, expected["params"]) != jax.tree.map(jnp.shape, variables["params"]):
        raise ValueError(
            f"its {architecture_name(module)} takes images of {encoder.shape[1]} x {encoder.shape[0]} only, and these have "
            f"{width} x {height}."
        )
    return found


def _each(value: float | tuple[float, ...], channels: int) -> float | tuple[float, ...]:
    """Returns a mean or standard deviation with one number for each channel if there are several channels."""
    if channels == 1:
        return value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, tuple) else (value,) * channels
