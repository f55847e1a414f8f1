"""One training step: a pure function, and its compilation over a mesh of devices."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sslshift.methods import Method
from sslshift.training.state import TrainState, init_state

Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState, images: jax.Array, key: jax.Array, *, method: Method, optimiser: optax.GradientTransformation, steps: int
) -> tuple[TrainState, Metrics]:
    """Views, loss, gradient, update, target.

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
    key = jax.random.fold_in(key, state.step)
    views = method.make_views(key, images)
    moment = method.moment(key, images, state.step / steps)

    def loss_of(params):
        loss, output = method.loss({"params": params, "batch_stats": state.batch_stats}, state.target, views, moment)
        # Inside shard_map some losses are means over a device's own images.
        return (lax.pmean(loss, method.axis_name) if method.axis_name else loss), output

    (loss, output), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    gradient = method.freeze(gradient, moment.progress)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    # Weight decay moves what has no gradient.
    params = method.constrain(optax.apply_updates(state.params, method.freeze(updates, moment.progress)))
    variables = {"params": params, "batch_stats": output.batch_stats}
    new = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=output.batch_stats,
        target=method.update_target(output.target, variables, (state.step + 1) / steps),
        optimiser=optimiser_state,
    )
    return new, {"loss": loss, "gradient_norm": optax.global_norm(gradient), **output.metrics}


def make_mesh() -> Mesh:
    """All devices along one axis, `data`. Auto axes: statistics and negatives of a jitted loss are global by construction."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array:
    """The global batch on the mesh, from this host's part of it."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), batch)


def replicate(mesh: Mesh, tree):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


# Runs of one study share method, optimiser and steps: they are compiled once. A study takes its methods in turn, seed by seed:
# all that it may have are kept.
@functools.lru_cache(maxsize=64)
def compiled_step(
    method: Method, optimiser: optax.GradientTransformation, steps: int, mesh: Mesh
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """`train_step` jitted over the mesh: the state replicated and donated, the batch split."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = functools.partial(train_step, method=method, optimiser=optimiser, steps=steps)
    return jax.jit(step, in_shardings=(everywhere, split, everywhere), out_shardings=everywhere, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def compiled_init(method: Method, optimiser: optax.GradientTransformation) -> Callable[[jax.Array, jax.Array], TrainState]:
    return jax.jit(functools.partial(init_state, method, optimiser))
