"""The training state, one pure training step, and its compilation over a mesh of devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sslshift.methods import Method
from sslshift.training.accumulation import loss_and_gradient
from sslshift.training.sharding import FSDP, REPLICATED, gathering, split

PyTree = Any
Metrics = dict[str, jax.Array]
Step = Callable[["TrainState", jax.Array, jax.Array], tuple["TrainState", Metrics]]


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


def init_state(
    method: Method,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    image: jax.Array,
    encoder: PyTree | None = None,
) -> TrainState:
    """Returns the state before step 0.

    Args:
      method, optimiser: see `train_step`.
      key: key of the initial weights.
      image: uint8 image `[height, width, channels]` of the shape of the training images.
      encoder: `params` and `batch_stats` that the encoder starts from, in place of random ones. A target starts from them too.

    Raises:
      ValueError: `encoder` has arrays of other names or shapes than the method's encoder.
    """
    # Two images, since batch statistics of a single image are undefined.
    variables = method.init(key, jnp.stack([image, image]))
    if encoder is not None:
        _require_same_shapes(variables, encoder)
        variables = {kind: own | ({"encoder": encoder[kind]} if encoder.get(kind) else {}) for kind, own in variables.items()}
    params = variables["params"]
    target = method.init_target(variables)
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], target, optimiser.init(params))


def _require_same_shapes(variables: PyTree, encoder: PyTree) -> None:
    expected, got = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in ({kind: own.get("encoder", {}) for kind, own in variables.items()}, {"batch_stats": {}} | encoder)
    )
    differing = sorted(name for name in expected | got if expected.get(name) != got.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"The encoder to start from does not fit the method's encoder: {len(differing)} arrays differ, e.g. {name}, "
            f"expected shape {expected.get(name)}, got {got.get(name)}."
        )


def train_step(
    state: TrainState,
    images: jax.Array,
    key: jax.Array,
    *,
    method: Method,
    optimiser: optax.GradientTransformation,
    steps: int,
    parts: int = 1,
) -> tuple[TrainState, Metrics]:
    """Makes views, computes loss and gradient, and updates parameters and target.

    Args:
      state: state before the step.
      images: global batch, uint8 `[batch, height, width, channels]`.
      key: the run's key; the key of the step is derived from it here.
      method: the SSL method.
      optimiser: optimiser that was built for this number of steps.
      steps: number of steps of the whole run.
      parts: number of parts of the batch whose gradients are accumulated, see `loss_and_gradient`.

    Returns:
      The state after the step, and scalars: the loss, the norm of the gradient, and metrics of the method.
    """
    # The random numbers of a step depend only on its number, so that a resumed run draws the same views.
    key = jax.random.fold_in(key, state.step)
    progress = state.step / steps
    loss, output, gradient = loss_and_gradient(method, state, images, key, progress, parts)
    # Freezing comes before the optimiser, so that moments and trust ratios do not contain gradients of frozen parameters.
    gradient = method.freeze(gradient, progress)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    # Updates are frozen too, since weight decay changes parameters even without a gradient.
    params = method.constrain(optax.apply_updates(state.params, method.freeze(updates, progress)))
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


def guarded_step(state: TrainState, images: jax.Array, key: jax.Array, **settings: Any) -> tuple[TrainState, Metrics]:
    """Takes a step like `train_step`, unless one of its scalars is not finite: then only the step number of the state changes.

    Returns:
      The state, and the scalars of the step with `skipped`, which is 1 if the step was not applied and otherwise 0.
    """
    new, metrics = train_step(state, images, key, **settings)
    finite = jnp.all(jnp.stack([jnp.isfinite(each) for each in jax.tree.leaves(metrics)]))
    kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    return kept.replace(step=new.step), metrics | {"skipped": 1 - finite.astype(jnp.int32)}


def train_steps(
    state: TrainState, images: jax.Array, count: jax.Array, key: jax.Array, *, step: Step
) -> tuple[TrainState, Metrics]:
    """Takes several steps in one program.

    Args:
      state: state before the first step.
      images: batches, uint8 `[most, batch, height, width, channels]`.
      count: number of steps, int32 in [1, most]; further batches are ignored.
      key: the run's key.
      step: function from a state, a batch and the run's key to the next state and the scalars of the step.

    Returns:
      The state after the last step, and each step's scalars `[most]`, of which the first `count` count.
    """
    shapes = jax.eval_shape(step, state, images[0], key)[1]
    table = jax.tree.map(lambda one: jnp.zeros((len(images), *one.shape), one.dtype), shapes)

    def body(i, carry):
        state, table = carry
        state, metrics = step(state, lax.dynamic_index_in_dim(images, i, keepdims=False), key)
        return state, jax.tree.map(lambda rows, row: lax.dynamic_update_index_in_dim(rows, row, i, 0), table, metrics)

    return lax.fori_loop(0, count, body, (state, table))


def make_mesh() -> Mesh:
    """Returns the devices of all processes along one axis, `data`.

    The axis has type Auto, so batch statistics and negatives of a jitted loss are those of the global batch.
    """
    # In the order of the processes, whose parts of a batch follow each other; JAX may choose another order by the wiring.
    return _mesh(sorted(jax.devices(), key=lambda device: (device.process_index, device.id)))


def local_mesh() -> Mesh:
    """Returns the devices of this process along one axis, `data`; in a single process, it is that of `make_mesh`."""
    return _mesh(jax.local_devices())


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    # JAX's default axes are Explicit, over which the product of a sharded batch with itself raises an error.
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array:
    """Returns the global batch of images, or several, `[..., batch, height, width, channels]`; each host passes its part."""
    split = PartitionSpec(*[None] * (batch.ndim - 4), "data")
    return jax.make_array_from_process_local_data(NamedSharding(mesh, split), batch)


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns the tree with each array replicated on all devices of the mesh; every process passes the same values."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if not mesh.is_multi_process:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(functools.partial(_replicated, everywhere), tree)


def _replicated(everywhere: NamedSharding, leaf: Any) -> jax.Array:
    """Returns one array on the devices of all processes. `device_put` would compare the values of all processes first."""
    if isinstance(leaf, jax.Array) and leaf.sharding == everywhere:
        return leaf
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _replicated(everywhere, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(jax.device_get(leaf))
    return jax.make_array_from_callback(value.shape, everywhere, lambda index: value[index])


# Otherwise XLA moves constants out of the loop, fuses what remains in another way than in a single step, and rounds otherwise:
# the loss of simclr differs in its last bit. With these options the results are equal, except for swav, whose loss has a loop.
_WHOLE_BODY = ("while-loop-invariant-code-motion", "while-loop-expensive-invariant-code-motion")
# On a CPU, XLA removes the barriers that keep a block from being computed again before its gradient is: nothing would be saved.
_REMAT_ON_CPU = ("cse_barrier_expander",)


def _compiler_options(method: Method, mesh: Mesh, disabled: tuple[str, ...] = ()) -> dict[str, str] | None:
    disabled += _REMAT_ON_CPU if method.remat and mesh.devices.flat[0].platform == "cpu" else ()
    return {"xla_disable_hlo_passes": ",".join(disabled)} if disabled else None


class StepSettings(NamedTuple):
    """Settings of a compiled step.

    Attributes:
      skips: whether the step is `guarded_step` in place of `train_step`.
      sharding: one of `sharding.SHARDINGS`; the state must have the shardings of `placed_init`.
      parts: see `train_step`.
    """

    skips: bool = False
    sharding: str = REPLICATED
    parts: int = 1


PLAIN = StepSettings()


def _step(method: Method, optimiser: optax.GradientTransformation, steps: int, mesh: Mesh, settings: StepSettings) -> Step:
    """Returns the step that `compiled_step` compiles; with `fsdp` the state that it returns is split like its argument."""
    sharded = gathering(method, mesh) if settings.sharding == FSDP else method
    one = guarded_step if settings.skips else train_step
    step = functools.partial(one, method=sharded, optimiser=optimiser, steps=steps, parts=settings.parts)
    if settings.sharding == REPLICATED:
        return step

    def split_step(state, images, key):
        new, metrics = step(state, images, key)
        return split(new, mesh), metrics

    return split_step


# Runs of one study with equal method, optimiser and steps share one compiled program. A study alternates between its methods
# for each seed, so the programs of all methods are kept.
@functools.lru_cache(maxsize=64)
def compiled_step(
    method: Method,
    optimiser: optax.GradientTransformation,
    steps: int,
    mesh: Mesh,
    settings: StepSettings = PLAIN,
) -> Step:
    """Returns a jitted step over the mesh: the state is donated, and the batch is split.

    Args:
      method, optimiser, steps: see `train_step`.
      mesh: the devices.
      settings: how it is compiled.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    batch = NamedSharding(mesh, PartitionSpec("data"))
    # The shardings of a split state depend on its shapes, which are known when the step is traced.
    state = everywhere if settings.sharding == REPLICATED else None
    step = _step(method, optimiser, steps, mesh, settings)
    # Without donation, the states before and after a step would both occupy memory.
    return jax.jit(
        step,
        in_shardings=(state, batch, everywhere),
        out_shardings=(state, everywhere),
        donate_argnums=0,
        compiler_options=_compiler_options(method, mesh),
    )


@functools.lru_cache(maxsize=64)
def compiled_steps(
    method: Method,
    optimiser: optax.GradientTransformation,
    steps: int,
    mesh: Mesh,
    settings: StepSettings = PLAIN,
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Returns `train_steps` jitted over the mesh, like `compiled_step`."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    batches = NamedSharding(mesh, PartitionSpec(None, "data"))
    state = everywhere if settings.sharding == REPLICATED else None
    function = functools.partial(train_steps, step=_step(method, optimiser, steps, mesh, settings))
    return jax.jit(
        function,
        in_shardings=(state, batches, everywhere, everywhere),
        out_shardings=(state, everywhere),
        donate_argnums=0,
        compiler_options=_compiler_options(method, mesh, _WHOLE_BODY),
    )


@functools.lru_cache(maxsize=64)
def compiled_init(
    method: Method, optimiser: optax.GradientTransformation, mesh: Mesh | None = None
) -> Callable[..., TrainState]:
    """Returns `init_state` jitted; it takes a key, an image and the encoder's variables and returns the state before step 0.

    Args:
      method, optimiser: see `train_step`.
      mesh: devices that the state is split over, so that it is never whole on one of them; None: one device makes all of it.
    """
    init = functools.partial(init_state, method, optimiser)
    if mesh is None:
        return jax.jit(init)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda key, image, encoder=None: split(init(key, image, encoder), mesh), in_shardings=everywhere)


def placed_init(
    method: Method,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    image: np.ndarray,
    mesh: Mesh,
    sharding: str = REPLICATED,
    encoder: PyTree | None = None,
) -> TrainState:
    """Returns the state before step 0 on the devices of a mesh, with the sharding that the compiled steps expect."""
    start = (key, image) if encoder is None else (key, image, encoder)
    if sharding == REPLICATED:
        return replicate(mesh, compiled_init(method, optimiser)(*start))
    return compiled_init(method, optimiser, mesh)(*replicate(mesh, start))
