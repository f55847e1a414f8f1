"""An encoder with its weights, as a pure function from images to features, or to the output of every block."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.errors import ScopeParamShapeError

from sslshift.models.description import describe
from sslshift.models.resnet import BasicBlock, Bottleneck
from sslshift.models.vit import Block

PyTree = Any

_BLOCKS = (Block, BasicBlock, Bottleneck)

FEATURES = {
    "pooled": "features as the encoder pools them",
    "mean": "the mean over all places of the last feature map",
    "map": "the last feature map itself, before pooling, flattened",
    "token": "the class token (of a ViT)",
    "token_mean": "the class token and the mean, one after the other (of a ViT)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """An encoder with its weights.

    An encoder unpacks into a function and its parameters: `apply, params = load_encoder(...)`.

    Args:
      module: the network; called with normalised images and `train=`.
      variables: the network's `params` and `batch_stats`.
      shape: height, width and channels of the training images.
      mean, std: images in [0, 1] are normalised to (image - mean) / std; a number, or one for each channel.
      features: name of the features that it returns, one of `FEATURES`.
      card: facts about the encoder: method, mixture, budget, shift, licences.
    """

    module: nn.Module
    variables: PyTree
    shape: tuple[int, int, int]
    # The normalisation of this package's own views, for encoders that were trained here.
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.25
    features: str = "pooled"
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.features not in FEATURES:
            raise ValueError(f"Expected one of {', '.join(FEATURES)} for features, got {self.features!r}.")

    def apply(self, images: jax.Array, variables: PyTree | None = None) -> jax.Array:
        """Returns features of images; a pure function that works under `jit`, `vmap`, and `grad` with respect to its variables.

        Args:
          images: `[batch, height, width, channels]`, uint8, or floats in [0, 1]. An encoder of colour images also takes
            grey ones, whose channel is repeated.
          variables: variables of the same structure that replace those of the encoder; None: those of the encoder.

        Returns:
          float32 `[batch, dim]`.

        Raises:
          ValueError: the images have another shape than the encoder takes, or the encoder has no such features.
        """
        channels = self.shape[2]
        if images.ndim != 4 or images.shape[3] not in (1, channels):
            raise ValueError(f"Expected images [batch, height, width, {channels}], got shape {images.shape}.")
        images = jnp.asarray(images)
        if not (images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)):
            raise ValueError(f"Expected images of uint8, or floats in [0, 1], got {images.dtype}.")
        scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        scaled = jnp.broadcast_to(scaled, (*images.shape[:3], channels))
        mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (self.mean, self.std))
        x = (scaled - mean) / std
        try:
            return named_features(self.module, self.variables if variables is None else variables, x, self.features)
        except ScopeParamShapeError as error:
            raise ValueError(
                f"Expected images of {self.shape[0]} x {self.shape[1]}, on which this {type(self.module).__name__} was "
                f"trained, got {images.shape[1]} x {images.shape[2]}."
            ) from error

    def __iter__(self) -> Iterator[Any]:
        return iter((self.apply, self.variables))

    @property
    def params(self) -> PyTree:
        """Returns the variables, the second argument of `apply`."""
        return self.variables

    @functools.cached_property
    def fingerprint(self) -> str:
        """Returns a hash of everything that the features depend on: architecture, weights, normalisation, and their name."""
        facts = [describe(self.module), self.mean, self.std, self.features]
        content = hashlib.sha256(json.dumps(facts).encode())
        # Sorted, since equal variables may be stored in different orders.
        for name, leaf in sorted(flat_tensors(self.variables).items()):
            content.update(f"{name} {leaf.shape} {leaf.dtype}\n".encode() + np.ascontiguousarray(leaf).tobytes())
        return content.hexdigest()

    def with_features(self, name: str) -> "PretrainedEncoder":
        """Returns the same encoder with other features, see `FEATURES`."""
        return dataclasses.replace(self, features=name)


def named_features(module: nn.Module, variables: PyTree, images: jax.Array, name: str) -> jax.Array:
    """Returns features of normalised images by name, see `FEATURES`; float32 `[batch, dim]`.

    Raises:
      ValueError: the module has no such features.
    """
    if name == "pooled":
        return module.apply(variables, images, train=False).astype(jnp.float32)
    _, state = module.apply(variables, images, train=False, mutable=["intermediates"])
    seen = {key: value[0].astype(jnp.float32) for key, value in state.get("intermediates", {}).items() if key in FEATURES}
    if "map" in seen:
        seen["mean"] = seen["map"].reshape(len(images), -1, seen["map"].shape[-1]).mean(axis=1)
        seen["map"] = seen["map"].reshape(len(images), -1)
    if "token" in seen:
        seen["token_mean"] = jnp.concatenate([seen["token"], seen["mean"]], axis=1)
    if name not in seen:
        raise ValueError(f"{type(module).__name__} has no features {name!r}; it has {', '.join(['pooled', *seen])}.")
    return seen[name]


def layer_activations(encoder: PretrainedEncoder, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the output of every block, from the first to the last; works under `jit`.

    Args:
      encoder: an encoder with its weights; its setting `features` has no effect.
      images: as `encoder.apply` takes them, `[n, height, width, channels]`.

    Returns:
      For each block its name, `block0`, `block1` and so on, and float32 `[n, positions, channels]`. A ResNet's positions are
      the pixels of the feature map, row by row; a ViT's are the class token, the registers if it has any, and the patches row
      by row, before the last norm. The result for an encoder without blocks is its one feature map, `map`.

    Raises:
      ValueError: the images have another shape than the encoder takes.
    """
    seen: dict[str, Any] = {}

    def watch(call, args, kwargs, context):
        output = call(*args, **kwargs)
        # Helper methods of a block are intercepted too.
        if context.method_name == "__call__" and isinstance(context.module, _BLOCKS):
            seen[context.module.name] = output
        return output

    with nn.intercept_methods(watch):
        encoder.with_features("pooled").apply(images)
    if not seen:
        channels = encoder.with_features("mean").apply(images).shape[-1]
        seen["map"] = encoder.with_features("map").apply(images).reshape(len(images), -1, channels)
    return {name: output.astype(jnp.float32).reshape(len(images), -1, output.shape[-1]) for name, output in seen.items()}


def flat_tensors(variables: PyTree) -> dict[str, np.ndarray]:
    """Returns the arrays of nested variables as a dict with names such as `params/block0/kernel`."""
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}


def nested(tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Returns the variables that `flat_tensors` flattened; `batch_stats` is present even if it is empty."""
    return {"batch_stats": {}} | traverse_util.unflatten_dict(dict(tensors), sep="/")
