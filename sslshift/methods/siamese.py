"""What the methods that compare views share: their networks, and a target that follows them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from sslshift.methods.base import PyTree, Views

_PROJECTING = ("encoder", "projector")
_KINDS = ("params", "batch_stats")


class Siamese(nn.Module):
    """Encoder, projector and perhaps a predictor, applied to each view in turn, so that batch norm sees one view at a time."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None

    def __call__(self, views: Views, *, train: bool) -> Any:
        """Projections of the views; with a predictor a pair (projections, predictions)."""
        z = self.project(views, train=train)
        return z if self.predictor is None else (z, tuple(self.predictor(one, train=train) for one in z))

    def project(self, views: Views, *, train: bool) -> Views:
        return tuple(self.projector(self.encoder(view, train=train), train=train) for view in views)

    def features(self, images: jax.Array) -> jax.Array:
        return self.encoder(images, train=False)


def settings_of(encoder: nn.Module) -> dict[str, Any]:
    """What heads take over from the encoder that they stand on; an encoder of others need not have it."""
    return {name: getattr(encoder, name, None) for name in ("dtype", "axis_name")}


def forward(networks: nn.Module, variables: PyTree, views: Views, method: str = "__call__") -> tuple[Any, PyTree]:
    """Output in training mode, and the new batch statistics."""
    output, updated = networks.apply(variables, views, train=True, mutable=["batch_stats"], method=method)
    return output, updated.get("batch_stats", {})


def copy_networks(variables: PyTree) -> PyTree:
    """A target: copies of the weights and batch statistics of encoder and projector."""
    parts = {kind: {name: variables[kind][name] for name in _PROJECTING if name in variables[kind]} for kind in _KINDS}
    # Copies, since a step is given its state's buffers to write into, each once.
    return jax.tree.map(jnp.copy, parts)


def follow(momentum: float) -> Callable[[PyTree, PyTree, jax.Array], PyTree]:
    """A target update: weights are a moving average of the trained ones, its momentum rising to 1 by a cosine.

    Batch statistics are the target's own, from its forward passes.

    Raises:
      ValueError: the momentum is outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"A target's momentum must lie in [0, 1], not {momentum}.")
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
        raise ValueError(f"frozen must lie in [0, 1], not {share}.")

    def freeze(gradient: PyTree, progress: jax.Array) -> PyTree:
        moving = (progress >= share).astype(jnp.float32)

        def scaled(path, leaf):
            return leaf * moving if path[-1].key == "prototypes" else leaf

        return jax.tree_util.tree_map_with_path(scaled, gradient)

    return freeze
