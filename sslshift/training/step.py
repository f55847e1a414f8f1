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
    """Everything that changes from step to step. There is no random state, since the number of a step determines its key."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    target: PyTree
    optimiser: PyTree

    @property
    def variables(self) -> PyTree:
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(method: Method, optimiser: optax.GradientTransformation, key: jax.Array, image: jax.Array) -> TrainState:
    """Returns the state before step 0 for uint8 images of the shape of `image`, `[height, width, channels]`."""
    # Two images, since batch statistics of a single image are undefined.
    variables = method.init(key, jnp.stack([image, image]))
    params = variables["params"]
    target = method.init_target(variables)
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], target, optimiser.init(params))


def train_step(
    state: TrainState, images: jax.Array, key: jax.Array, *, method: Method, optimiser: optax.GradientTransformation, steps: int
) -> tuple[TrainState, Metrics]:
    """Makes views, computes loss and gradient, and updates parameters and target.

    Args:
      state: state before the step.
      images: global batch, uint8 `[batch, height, width, channels]`.
      key: the run's key; the key of the step is derived from it here.
      method: the SSL method.
      optimiser: optimiser that was built for this number of steps.
      steps: number of steps of the whole run.

    Returns:
      The state after the step, and scalars: the loss, the norm of the gradient, and metrics of the method.
    """
    # The random numbers of a step depend only on its number, so that a resumed run draws the same views.
    key = jax.random.fold_in(key, state.step)
    views = method.make_views(key, images)
    context = method.step_context(key, images, state.step / steps)

    def loss_of(params):
        loss, output = method.loss({"params": params, "batch_stats": state.batch_stats}, state.target, views, context)
        # Inside shard_map some losses are means over the images of one device.
        return (lax.pmean(loss, method.axis_name) if method.axis_name else loss), output

    (loss, output), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # Freezing comes before the optimiser, so that moments and trust ratios do not contain gradients of frozen parameters.
    gradient = method.freeze(gradient, context.progress)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    # Updates are frozen too, since weight decay changes parameters even without a gradient.
    params = method.constrain(optax.apply_updates(state.params, method.freeze(updates, context.progress)))
    variables = {"params": params, "batch_stats": output.batch_stats}
    new = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=output.batch_stats,
        # The progress after the step is used, so that a momentum that rises to 1 reaches 1 in the last step.
        target=method.update_target(output.target, variables, (state.step + 1) / steps),
        optimiser=optimiser_state,
    )
    return new, {"loss": loss, "gradient_norm": optax.global_norm(gradient), **output.metrics}


def guarded_step(
    state: TrainState, images: jax.Array, key: jax.Array, *, method: Method, optimiser: optax.GradientTransformation, steps: int
) -> tuple[TrainState, Metrics]:
    """Takes a step like `train_step`, unless one of its scalars is not finite: then only the step number of the state changes.

    Returns:
      The state, and the scalars of the step with `skipped`, which is 1 if the step was not applied and otherwise 0.
    """
    new, metrics = train_step(state, images, key, method=method, optimiser=optimiser, steps=steps)
    finite = jnp.all(jnp.stack([jnp.isfinite(each) for each in jax.tree.leaves(metrics)]))
    kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    return kept.replace(step=new.step), metrics | {"skipped": 1 - finite.astype(jnp.int32)}


def train_steps(
    state: TrainState,
    images: jax.Array,
    count: jax.Array,
    key: jax.Array,
    *,
    method: Method,
    optimiser: optax.GradientTransformation,
    steps: int,
    skips: bool = False,
) -> tuple[TrainState, Metrics]:
    """Takes several steps in one program.

    Args:
      state: state before the first step.
      images: batches, uint8 `[most, batch, height, width, channels]`.
      count: number of steps, int32 in [1, most]; further batches are ignored.
      key: see `train_step`, like the other arguments.
      skips: whether each step is a `guarded_step`.

    Returns:
      The state after the last step, and each step's scalars `[most]`, of which the first `count` count.
    """
    step = functools.partial(guarded_step if skips else train_step, method=method, optimiser=optimiser, steps=steps)
    shapes = jax.eval_shape(step, state, images[0], key)[1]
    table = jax.tree.map(lambda one: jnp.zeros((len(images), *one.shape), one.dtype), shapes)

    def body(i, carry):
        state, table = carry
        state, metrics = step(state, lax.dynamic_index_in_dim(images, i, keepdims=False), key)
        return state, jax.tree.map(lambda rows, row: lax.dynamic_update_index_in_dim(rows, row, i, 0), table, metrics)

    return lax.fori_loop(0, count, body, (state, table))


def make_mesh() -> Mesh:
    """Returns all devices along one axis, `data`.

    The axis has type Auto, so batch statistics and negatives of a jitted loss are those of the global batch.
    """
    # JAX's default axes are Explicit, over which the product of a sharded batch with itself raises an error.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array:
    """Returns the global batch of images, or several, `[..., batch, height, width, channels]`; each host passes its part."""
    split = PartitionSpec(*[None] * (batch.ndim - 4), "data")
    return jax.make_array_from_process_local_data(NamedSharding(mesh, split), batch)


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns the tree with each array replicated on all devices of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


# Otherwise XLA moves constants out of the loop, fuses what remains in another way than in a single step, and rounds otherwise:
# the loss of simclr differs in its last bit. With these options the results are equal, except for swav, whose loss has a loop.
_WHOLE_BODY = {
    "xla_disable_hlo_passes": "while-loop-invariant-code-motion,while-loop-expensive-invariant-code-motion",
}


# Runs of one study with equal method, optimiser and steps share one compiled program. A study alternates between its methods
# for each seed, so the programs of all methods are kept.
@functools.lru_cache(maxsize=64)
def compiled_step(
    method: Method, optimiser: optax.GradientTransformation, steps: int, mesh: Mesh, *, skips: bool = False
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Returns a jitted step over the mesh: the state is replicated and donated, and the batch is split.

    Args:
      method, optimiser, steps: see `train_step`.
      mesh: the devices.
      skips: whether the step is `guarded_step` in place of `train_step`.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = functools.partial(guarded_step if skips else train_step, method=method, optimiser=optimiser, steps=steps)
    # Without donation, the states before and after a step would both occupy memory.
    return jax.jit(step, in_shardings=(everywhere, split, everywhere), out_shardings=everywhere, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def compiled_steps(
    method: Method, optimiser: optax.GradientTransformation, steps: int, mesh: Mesh, *, skips: bool = False
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Returns `train_steps` jitted over the mesh, like `compiled_step`."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(None, "data"))
    function = functools.partial(train_steps, method=method, optimiser=optimiser, steps=steps, skips=skips)
    shardings = (everywhere, split, everywhere, everywhere)
    return jax.jit(function, in_shardings=shardings, out_shardings=everywhere, donate_argnums=0, compiler_options=_WHOLE_BODY)


@functools.lru_cache(maxsize=64)
def compiled_init(method: Method, optimiser: optax.GradientTransformation) -> Callable[[jax.Array, jax.Array], TrainState]:
    """Returns `init_state` jitted; it takes a key and an image and returns the untrained state."""
    return jax.jit(functools.partial(init_state, method, optimiser))
