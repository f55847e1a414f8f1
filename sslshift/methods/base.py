"""The parts of every method: views, networks, a loss, and updates besides the gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from sslshift.data.views import OWN, Normalisation, ViewSettings, image_keys, make_view, normalise
from sslshift.models import PretrainedEncoder

PyTree = Any
Views = tuple[jax.Array, ...]


class BatchPart(NamedTuple):
    """A part of a batch: every `count`-th image, beginning with image `number`."""

    number: int | jax.Array
    count: int


WHOLE = BatchPart(0, 1)


class StepContext(NamedTuple):
    """Per-step context that is passed to a loss.

    Attributes:
      keys: random keys, one per image, for randomness besides the views; new keys in each step.
      progress: share of the run's steps that are done, in [0, 1).
    """

    keys: jax.Array
    progress: jax.Array


class Output(NamedTuple):
    """Results of a loss besides its value.

    Attributes:
      batch_stats: the networks' new batch statistics.
      target: the target after the forward pass, with new batch statistics, a new centre or a new queue.
      metrics: scalars to log.
    """

    batch_stats: PyTree
    target: PyTree = ()
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012


def no_target(variables: PyTree) -> PyTree:
    del variables
    return ()


def keep_target(target: PyTree, variables: PyTree, progress: jax.Array) -> PyTree:
    del variables, progress
    return target


def freeze_nothing(gradient: PyTree, progress: jax.Array) -> PyTree:
    del progress
    return gradient


def constrain_nothing(params: PyTree) -> PyTree:
    return params


def continued(method: "Method", initial: PretrainedEncoder, frozen: float = 0.0) -> "Method":
    """Returns the method for training that continues from an encoder.

    Args:
      method: method that was built on the encoder's module.
      initial: the encoder; views are normalised as it takes them.
      frozen: share of the run, from its start, during which the parameters of the encoder do not move.

    Raises:
      ValueError: the share is outside [0, 1).
    """
    own = dataclasses.replace(method, normalisation=Normalisation(initial.mean, initial.std))
    return _hold_encoder(own, frozen)


def _hold_encoder(method: "Method", share: float) -> "Method":
    if not 0 <= share < 1:
        raise ValueError(f"Expected the share of steps with a frozen encoder in [0, 1), got {share}.")

    def freeze(gradient: PyTree, progress: jax.Array) -> PyTree:
        found = method.freeze(gradient, progress)
        # A factor in place of a branch, since progress is traced: the whole run uses one compiled step.
        moving = (progress >= share).astype(jnp.float32)
        return found | {"encoder": jax.tree.map(lambda leaf: leaf * moving, found["encoder"])}

    return dataclasses.replace(method, freeze=freeze) if share else method


# Frozen and therefore hashable: compiled steps are cached by method.
@dataclasses.dataclass(frozen=True)
class Method:
    """An SSL algorithm as data and pure functions.

    Args:
      views: settings of the views made of each image, one per view.
      networks: the module that is trained. It is called with the views and `train=`, and has a submodule `encoder` and a method
        `features(images)`, which returns the encoder's output.
      loss: `(variables, target, views, context) -> (scalar, Output)`; `variables` holds params and batch_stats.
      init_target: `(variables) -> target`, state that the gradient does not update.
      update_target: `(target, variables, progress) -> target` after each step; progress is then in (0, 1].
      freeze: `(gradient, progress) -> gradient` with zeros for parameters that must not move yet.
      constrain: `(params) -> params` after each step, e.g. normalisation of vectors to length 1.
      constant_rate: names of networks whose learning rate stays at its peak.
      least_batch: size of the smallest batch whose statistics are defined.
      coupled: how the loss couples the images of a batch, as a clause for an error; empty: apart from batch norm, loss and
        target are means over images, so that a batch can be taken in parts.
      normalisation: mean and standard deviation of the images that the encoder takes.
    """

    views: tuple[ViewSettings, ...]
    networks: nn.Module
    loss: Callable[[PyTree, PyTree, Views, StepContext], tuple[jax.Array, Output]]
    init_target: Callable[[PyTree], PyTree] = no_target
    update_target: Callable[[PyTree, PyTree, jax.Array], PyTree] = keep_target
    freeze: Callable[[PyTree, jax.Array], PyTree] = freeze_nothing
    constrain: Callable[[PyTree], PyTree] = constrain_nothing
    constant_rate: tuple[str, ...] = ()
    least_batch: int = 2
    coupled: str = "its loss may compare the images of a batch with each other"
    normalisation: Normalisation = OWN

    @property
    def axis_name(self) -> str | None:
        """Returns the mapped axis over which `shard_map` splits the batch, a field of the encoder; None under plain jit."""
        return getattr(self.networks.encoder, "axis_name", None)

    @property
    def remat(self) -> bool:
        """Returns whether the backward pass of training computes the blocks of the encoder again."""
        return getattr(self.networks.encoder, "remat", False)

    def init(self, key: jax.Array, images: jax.Array) -> PyTree:
        """Returns variables of the networks for images of this shape, with `batch_stats` even for networks without any."""
        # Initialisation runs outside of shard_map, even if the encoder names an axis: every device draws the same weights.
        views = self._views(key, images, 0)
        return {"batch_stats": {}} | self.networks.init(key, views, train=False)

    def make_views(self, key: jax.Array, images: jax.Array, part: BatchPart = WHOLE) -> Views:
        """Returns the views of a uint8 batch `[batch, height, width, channels]`, or of a part of one.

        Raises:
          ValueError: the batch has another shape or dtype, or is too small for a statistic over the batch.
        """
        if images.ndim != 4 or images.dtype != jnp.uint8:
            raise ValueError(
                f"Expected a uint8 batch [batch, height, width, channels], got {images.dtype} of shape {images.shape}."
            )
        batch = len(images) * part.count * (lax.axis_size(self.axis_name) if self.axis_name else 1)
        if batch < self.least_batch:
            raise ValueError(
                f"Expected a batch of at least {self.least_batch} images, got {batch}: this method compares images of a batch."
            )
        return self._views(key, images, self._first(images, part), part.count)

    def _views(self, key: jax.Array, images: jax.Array, first: int | jax.Array, every: int = 1) -> Views:
        # Each view needs a different key: with one key, equal settings would make equal views.
        return tuple(
            make_view(jax.random.fold_in(key, i), images, view, first=first, every=every, by=self.normalisation)
            for i, view in enumerate(self.views)
        )

    def normalised(self, images: jax.Array) -> jax.Array:
        """Returns uint8 images, or floats in [0, 1], normalised as the encoder takes them."""
        return normalise(images, self.normalisation)

    def step_context(self, key: jax.Array, images: jax.Array, progress: jax.Array, part: BatchPart = WHOLE) -> StepContext:
        """Returns the context of a step on these images; `key` is the key that was given to `views`."""
        # The views use the smaller numbers.
        own = jax.random.fold_in(key, len(self.views))
        return StepContext(image_keys(own, len(images), self._first(images, part), part.count), progress)

    def _first(self, images: jax.Array, part: BatchPart) -> int | jax.Array:
        # Randomness follows an image's number in the global batch, so that any number of devices or parts draws the same views.
        first = lax.axis_index(self.axis_name) * len(images) if self.axis_name else 0
        return first if part.count == 1 else first * part.count + part.number

    def features(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Returns features `[batch, dim]` of normalised images, in evaluation mode."""
        # An encoder may compute in bfloat16, but models that are fitted to its features compute in float32.
        return self.networks.apply(variables, images, method="features").astype(jnp.float32)
