"""Parts that methods with several views share: networks, a target that follows them, a queue, and local views."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from sslshift.arrays import on_any_mesh
from sslshift.data.views import ViewSettings
from sslshift.methods.base import PyTree, Views
from sslshift.models import PatchMLP

_PROJECTING = ("encoder", "projector")
_KINDS = ("params", "batch_stats")


class Siamese(nn.Module):
    """Encoder, projector and perhaps a predictor, applied to each view separately: batch norm sees one view at a time."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None

    def __call__(self, views: Views, *, train: bool) -> Any:
        """Returns projections of the views; with a predictor a pair (projections, predictions)."""
        z = self.project(views, train=train)
        return z if self.predictor is None else (z, tuple(self.predictor(one, train=train) for one in z))

    def project(self, views: Views, *, train: bool) -> Views:
        return tuple(self.projector(self.encoder(view, train=train), train=train) for view in views)

    def features(self, images: jax.Array) -> jax.Array:
        return self.encoder(images, train=False)


def settings_of(encoder: nn.Module) -> dict[str, Any]:
    """Returns the settings that heads take over from their encoder; None where the encoder has no such field."""
    return {name: getattr(encoder, name, None) for name in ("dtype", "axis_name")}


def forward(networks: nn.Module, variables: PyTree, views: Views, method: str = "__call__") -> tuple[Any, PyTree]:
    """Returns the output in training mode, and the new batch statistics."""
    output, updated = networks.apply(variables, views, train=True, mutable=["batch_stats"], method=method)
    return output, updated.get("batch_stats", {})


def copy_networks(variables: PyTree) -> PyTree:
    """Returns a target: a copy of the weights and batch statistics of encoder and projector."""
    parts = {kind: {name: variables[kind][name] for name in _PROJECTING if name in variables[kind]} for kind in _KINDS}
    # Copies, since the buffers of a state are donated to the step, and one buffer cannot be donated twice.
    return jax.tree.map(jnp.copy, parts)


def follow(momentum: float) -> Callable[[PyTree, PyTree, jax.Array], PyTree]:
    """Returns a method's `update_target`: a moving average of the trained weights, whose momentum rises to 1 by a cosine.

    The target's batch statistics come from its own forward passes.

    Raises:
      ValueError: the momentum is outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"Expected a momentum of the target in [0, 1], got {momentum}.")
    # The schedule has one step, since it is evaluated at a share of the run and not at a step's number.
    share = optax.cosine_decay_schedule(1 - momentum, decay_steps=1)

    def update(target: PyTree, variables: PyTree, progress: jax.Array) -> PyTree:
        params = optax.incremental_update(copy_networks(variables)["params"], target["params"], share(progress))
        return target | {"params": params}

    return update


def hold_prototypes(share: float) -> Callable[[PyTree, jax.Array], PyTree]:
    """Returns a method's `freeze`: prototypes do not move during the first share of the run.

    Raises:
      ValueError: the share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"Expected frozen in [0, 1], got {share}.")

    def freeze(gradient: PyTree, progress: jax.Array) -> PyTree:
        # A factor in place of a branch, since progress is traced: the whole run uses one compiled step.
        moving = (progress >= share).astype(jnp.float32)

        def scaled(path, leaf):
            return leaf * moving if path[-1].key == "prototypes" else leaf

        return jax.tree_util.tree_map_with_path(scaled, gradient)

    return freeze


@on_any_mesh
def enqueued(queue: jax.Array, newest: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns a queue of past embeddings with the global batch in front and the oldest embeddings removed.

    Args:
      queue: `[..., queue, dim]`, the same on every device.
      newest: embeddings `[..., batch, dim]`; no gradient passes. If the batch is larger than the queue, its first images enter.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.
    """
    # The queue is a part of the state, and the dtypes of the state must not change from step to step.
    newest = _gathered(lax.stop_gradient(newest), axis_name).astype(queue.dtype)
    return jnp.concatenate([newest, queue], axis=-2)[..., : queue.shape[-2], :]


def batch_size(z: jax.Array, axis_name: str | None) -> int:
    """Returns the number of images of the global batch, for embeddings `[..., batch, dim]`."""
    return z.shape[-2] * (1 if axis_name is None else lax.axis_size(axis_name))


def _gathered(z: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the embeddings `[..., batch, dim]` of the global batch, typed as equal on all devices of a shard_map."""
    if axis_name is None:
        return z
    # A sum is used, since by its type the result of a gather differs between devices.
    room = jnp.zeros((*z.shape[:-2], batch_size(z, axis_name), z.shape[-1]), z.dtype)
    return lax.psum(lax.dynamic_update_slice_in_dim(room, z, lax.axis_index(axis_name) * z.shape[-2], axis=-2), axis_name)


def with_local_views(
    encoder: nn.Module, views: tuple[ViewSettings, ...], count: int, *, size: int, crop_scale: float
) -> tuple[ViewSettings, ...]:
    """Returns the settings of the views followed by the settings of the local views (multi-crop).

    Args:
      encoder: an encoder; with a `size` it must also take images of that size.
      views: settings of the views of an image; if there are local views, these become the global views.
      count: number of local views; 0 leaves the views as they are.
      size: side of the local views in pixels; 0: the side of the images.
      crop_scale: largest share of an image's area in a local view; with local views, also the smallest share in a global view.

    Raises:
      ValueError: a number is negative, or the encoder does not take local views of this size.
    """
    if min(count, size) < 0:
        raise ValueError(f"Expected local_views and local_size of at least 0, got {count} and {size}.")
    if size and not count:
        raise ValueError("Expected local_views above 0 with a local_size, got local_views=0: set both, or neither.")
    if size and isinstance(encoder, PatchMLP):
        raise ValueError("patch_mlp takes images of only one size: leave local_size at 0, or use a ResNet or a ViT.")
    if not count:
        return views
    # The authors of DINO and SwAV use local crops from 0.05 on; if the upper bound is smaller, it is also the lower bound.
    smallest = min(0.05, crop_scale)
    # Local views are never solarised, as in the code of DINO's authors.
    local = dataclasses.replace(
        views[0], min_crop_scale=smallest, max_crop_scale=crop_scale, size=size, solarise_probability=0.0
    )
    return (*(dataclasses.replace(view, min_crop_scale=crop_scale) for view in views), *[local] * count)
