"""What every method is made of: views, networks, a loss, and what it updates besides the gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.data.views import ViewSettings, make_view

PyTree = Any


class Siamese(nn.Module):
    """An encoder with a head on it, applied to each view in turn, so that batch norm sees one view at a time."""

    encoder: nn.Module
    head: nn.Module

    def __call__(self, views: tuple[jax.Array, ...], *, train: bool) -> tuple[jax.Array, ...]:
        return tuple(self.head(self.encoder(view, train=train), train=train) for view in views)

    def features(self, images: jax.Array) -> jax.Array:
        return self.encoder(images, train=False)


class Output(NamedTuple):
    """What a loss returns beside its value: the new batch statistics, and scalars to log."""

    batch_stats: PyTree
    metrics: dict[str, jax.Array]


def no_target(variables: PyTree) -> PyTree:
    """The target of a method that has none."""
    del variables
    return ()


def keep_target(target: PyTree, variables: PyTree, progress: jax.Array) -> PyTree:
    del variables, progress
    return target


@dataclasses.dataclass(frozen=True)
class Method:
    """An SSL algorithm as data and pure functions.

    Args:
      views: settings of the views made of each image, one per view.
      networks: the module that is trained; it has a method `features(images)`, the encoder's output.
      loss: `(networks, variables, target, views) -> (scalar, Output)`; `variables` holds params and batch_stats.
      init_target: `variables -> target`, state that the gradient does not update.
      update_target: `(target, variables, progress) -> target` after each step; progress runs from 0 to 1.
    """

    views: tuple[ViewSettings, ...]
    networks: nn.Module
    loss: Callable[[nn.Module, PyTree, PyTree, tuple[jax.Array, ...]], tuple[jax.Array, Output]]
    init_target: Callable[[PyTree], PyTree] = no_target
    update_target: Callable[[PyTree, PyTree, jax.Array], PyTree] = keep_target

    def init(self, key: jax.Array, images: jax.Array) -> PyTree:
        """Variables of the networks for images of this shape, with `batch_stats` even where there are none."""
        views = self.make_views(key, images)
        return {"batch_stats": {}} | self.networks.init(key, views, train=False)

    def make_views(self, key: jax.Array, images: jax.Array) -> tuple[jax.Array, ...]:
        """The views of a uint8 batch `[batch, height, width, channels]`."""
        return tuple(make_view(jax.random.fold_in(key, i), images, view) for i, view in enumerate(self.views))

    def features(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Features `[batch, dim]` of normalised images, in evaluation mode."""
        return self.networks.apply(variables, images, method="features").astype(jnp.float32)
