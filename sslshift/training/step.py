"""The training state, one pure training step, and its compilation over a mesh of devices."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sslshift.methods import Method

PyTree = Any
Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes from step to step; there is no random state, since a step's key follows from its number."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    target: PyTree
    optimiser: PyTree

    @property
    def variables(self) -> PyTree:
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(method: Method, optimiser: optax.GradientTransformation, key: jax.Array, image: jax.Array) -> TrainState:
    """Returns the state before step 0 for uint8 images like `image`, `[height, width, channels]`."""
    # Two images, since a batch statistic of one is undefined.
    variables = method.init(key, jnp.stack([image, image]))
    params = variables["params"]
    target = method.init_target(variables)
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], target, optimiser.init(params))


def train_step(
    state: TrainState, images: jax.Array, key: jax.Array, *, method: Method, optimiser: optax.GradientTransformation, steps: int
) -> tuple[TrainState, Metrics]:
    """Makes views, computes loss and gradient, and updates parameters and target.

    Args:
      state: before the step.
      images: global batch, uint8 `[batch, height, width, channels]`.
      key: the run's key; the step's own is folded in here.
      method: the SSL method.
      optimiser: as built for this number of steps.
      steps: of the whole run.

    Returns:
      The state after the step, and scalars: the loss, the gradient's norm and the method's own.
    """
    # The step's randomness depends on its number only, so that a resumed run draws the same views.
    key = jax.random.fold_in(key, state.step)
    views = method.make_views(key, images)
    context = method.step_context(key, images, state.step / steps)

    def loss_of(params):
        loss, output = method.loss({"params": params, "batch_stats": state.batch_stats}, state.target, views, context)
        # Inside shard_map some losses are means over a device's own images.
        return (lax.pmean(loss, method.axis_name) if method.axis_name else loss), output

    (loss, output), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # Before the optimiser, so that moments and trust ratios do not see the gradient of what is frozen.
    gradient = method.freeze(gradient, context.progress)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    # Weight decay moves what has no gradient.
    params = method.constrain(optax.apply_updates(state.params, method.freeze(updates, context.progress)))
    variables = {"params": params, "batch_stats": output.batch_stats}
    new = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=output.batch_stats,
        # Progress after the step, so that a momentum that rises to 1 reaches it in the last one.
        target=method.update_target(output.target, variables, (state.step + 1) / steps),
        optimiser=optimiser_state,
    )
    return new, {"loss": loss, "gradient_norm": optax.global_norm(gradient), **output.metrics}


def make_mesh() -> Mesh:
    """Returns all devices along one axis, `data`.

    The axis is Auto: statistics and negatives of a jitted loss are global by construction.
    """
    # JAX's default axes are Explicit, over which the product of a sharded batch with itself raises an error.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array:
    """Returns the global batch on the mesh, from this host's part of it."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), batch)


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns the arrays of a tree whole on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


# Runs of one study share method, optimiser and steps: they are compiled once. A study takes its methods in turn, seed by seed,
# so that the programs of all of them are kept.
@functools.lru_cache(maxsize=64)
def compiled_step(
    method: Method, optimiser: optax.GradientTransformation, steps: int, mesh: Mesh
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Returns `train_step` jitted over the mesh: the state is replicated and donated, the batch split."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = functools.partial(train_step, method=method, optimiser=optimiser, steps=steps)
    # Without donation the states before and after a step would need memory at once.
    return jax.jit(step, in_shardings=(everywhere, split, everywhere), out_shardings=everywhere, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def compiled_init(method: Method, optimiser: optax.GradientTransformation) -> Callable[[jax.Array, jax.Array], TrainState]:
    """Returns `init_state` jitted: from a key and an image to the untrained state."""
    return jax.jit(functools.partial(init_state, method, optimiser))
