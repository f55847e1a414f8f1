"""An encoder with its weights, as a pure function from images to features."""

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

PyTree = Any

FEATURES = {
    "pooled": "as the encoder pools them itself",
    "mean": "the mean over all places of the last feature map",
    "map": "the last feature map itself, before pooling, flattened",
    "token": "the class token (of a ViT)",
    "token_mean": "the class token and the mean, one after the other (of a ViT)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """An encoder with its weights.

    It unpacks into the two things that one builds on: `apply, params = load_encoder(...)`.

    Args:
      module: the network; called with normalised images and `train=`.
      variables: its `params` and `batch_stats`.
      shape: height, width and channels of the images that it was trained on.
      mean, std: images in [0, 1] are normalised to (image - mean) / std; a number, or one for each channel.
      features: which of `FEATURES` it gives.
      card: what is known of it: method, mixture, budget, shift, licences.
    """

    module: nn.Module
    variables: PyTree
    shape: tuple[int, int, int]
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.25
    features: str = "pooled"
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.features not in FEATURES:
            raise ValueError(f"No features are called {self.features!r}; there is {', '.join(FEATURES)}.")

    def apply(self, images: jax.Array, variables: PyTree | None = None) -> jax.Array:
        """Features of images: a pure function that works under `jit`, `vmap`, and `grad` with respect to its variables.

        Args:
          images: `[batch, height, width, channels]`, uint8, or floats in [0, 1].
          variables: in place of the encoder's own, of the same structure.

        Returns:
          float32 `[batch, dim]`.

        Raises:
          ValueError: images of another shape than the encoder takes, or it has no such features.
        """
        channels = self.shape[2]
        if images.ndim != 4 or images.shape[3] != channels:
            raise ValueError(f"Images [batch, height, width, {channels}] are needed, not of shape {images.shape}.")
        images = jnp.asarray(images)
        if not (images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)):
            raise ValueError(f"Images are uint8, or floats in [0, 1], not {images.dtype}.")
        scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        x = (scaled - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        try:
            return named_features(self.module, self.variables if variables is None else variables, x, self.features)
        except ScopeParamShapeError as error:
            raise ValueError(
                f"This {type(self.module).__name__} takes images of {self.shape[0]} x {self.shape[1]}, on which it was "
                f"trained, not of {images.shape[1]} x {images.shape[2]}."
            ) from error

    def __iter__(self) -> Iterator[Any]:
        return iter((self.apply, self.variables))

    @property
    def params(self) -> PyTree:
        """What `apply` takes as its second argument."""
        return self.variables

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all that its features depend on: architecture, weights, normalisation, and which features they are."""
        facts = [describe(self.module), self.mean, self.std, self.features]
        content = hashlib.sha256(json.dumps(facts).encode())
        for name, leaf in sorted(flat_tensors(self.variables).items()):
            content.update(f"{name} {leaf.shape} {leaf.dtype}\n".encode() + np.ascontiguousarray(leaf).tobytes())
        return content.hexdigest()

    def with_features(self, name: str) -> "PretrainedEncoder":
        """The same encoder, giving other features, see `FEATURES`."""
        return dataclasses.replace(self, features=name)


def named_features(module: nn.Module, variables: PyTree, images: jax.Array, name: str) -> jax.Array:
    """Features of normalised images by name, see `FEATURES`; float32 `[batch, dim]`.

    Raises:
      ValueError: the module does not give such features.
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


def flat_tensors(variables: PyTree) -> dict[str, np.ndarray]:
    """The arrays of nested variables by names such as `params/block0/kernel`."""
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}


def nested(tensors: Mapping[str, np.ndarray]) -> PyTree:
    """The variables that `flat_tensors` flattened; `batch_stats` are there even if there are none."""
    return {"batch_stats": {}} | traverse_util.unflatten_dict(dict(tensors), sep="/")
