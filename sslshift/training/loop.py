"""The training loop: from a sample plan to a trained state, through checkpoints."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import jax

from sslshift.data.decode import Canvas
from sslshift.data.pipeline import BatchReader, batches
from sslshift.methods import Method
from sslshift.training.broken import BrokenImages
from sslshift.training.checkpoints import Checkpoints
from sslshift.training.metrics import MetricsWriter
from sslshift.training.online import Online, Watch
from sslshift.training.state import Optimiser, TrainState, init_state
from sslshift.training.step import compiled_init, compiled_step, make_mesh, replicate, shard_batch, train_step

# What a run's folder lists of images that it could not read.
BROKEN = "broken.csv"


class NonFiniteError(RuntimeError):
    """The loss or its gradient stopped being a number."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How a run is trained, data aside.

    Args:
      method: the SSL method on its encoder.
      optimiser: optimiser and schedule.
      checkpoint_every: steps between checkpoints; the end is always one.
      workers: processes that read batches; 0 reads in threads.
      max_broken: share of the run's different images that may turn out to be unreadable; above it the run stops.
    """

    method: Method
    optimiser: Optimiser
    checkpoint_every: int = 1000
    workers: int = 0
    max_broken: float = 0.01


def no_progress(step: int, scalars: dict[str, float]) -> None:
    del step, scalars


def initial_state(training: Training, reader: BatchReader, seed: int) -> TrainState:
    """The untrained state of a run."""
    plan = reader.plan
    optimiser = _built(training.optimiser, plan.budget.steps(plan.batch_size), plan.batch_size, training.method.constant_rate)
    image = jax.numpy.zeros(reader.canvas, jax.numpy.uint8)
    state = compiled_init(training.method, optimiser)(jax.random.key(seed), image)
    return replicate(make_mesh(), state)


def traced_step(training: Training, canvas: Canvas, batch_size: int) -> TrainState:
    """The shapes of the state after a step on batches of this size: finds settings that do not fit, computes nothing."""
    method = training.method
    key = jax.random.key(0)
    optimiser = _built(training.optimiser, 1, batch_size, method.constant_rate)
    image = jax.ShapeDtypeStruct(tuple(canvas), jax.numpy.uint8)
    images = jax.ShapeDtypeStruct((batch_size, *canvas), jax.numpy.uint8)
    state = jax.eval_shape(functools.partial(init_state, method, optimiser), key, image)
    step = functools.partial(train_step, method=method, optimiser=optimiser, steps=1)
    return jax.eval_shape(step, state, images, key)[0]


def train(
    training: Training,
    reader: BatchReader,
    seed: int,
    folder: Path,
    on_step: Callable[[int, dict[str, float]], None] = no_progress,
    online: Online | None = None,
) -> TrainState:
    """Trains a run to the end of its budget, from its latest checkpoint if it has one.

    Args:
      training: method, optimiser and bookkeeping.
      reader: reads the batches of the plan.
      seed: of the initial weights and of all views.
      folder: gets `checkpoints/`, `metrics.jsonl`, and `broken.csv` if an image could not be read and another stood in.
      on_step: called with the number of steps done and that step's metrics, one step late.
      online: a probe and signals reported on the way (see `online.py`). The probe is kept in the checkpoints; where a run goes
        on from one without, or with one of other shapes, it starts there.

    Returns:
      The trained state; the same bits whether or not the run was interrupted on the way, and with or without `online`.

    Raises:
      NonFiniteError: loss or gradient is not finite; no later state is saved.
      CheckpointError: a checkpoint cannot be written or read.
      BrokenDataError: more than `max_broken` of the images cannot be read.
      ValueError: the budget is not a whole number of batches, the devices do not divide the batch, or images of `online` are of
        another shape than the run's.
    """
    plan = reader.plan
    steps = plan.budget.steps(plan.batch_size)
    if plan.budget != plan.budget.whole_batches(plan.batch_size):
        whole = plan.budget.whole_batches(plan.batch_size).samples
        raise ValueError(
            f"The budget of {plan.budget.samples:,} is not a whole number of batches of {plan.batch_size:,}; use {whole:,}."
        )
    if plan.batch_size % jax.device_count():
        raise ValueError(f"A batch of {plan.batch_size} cannot be divided among {jax.device_count()} devices.")
    if online:
        online.require_shape(reader.canvas)
    mesh = make_mesh()
    optimiser = _built(training.optimiser, steps, plan.batch_size, training.method.constant_rate)
    step_fn = compiled_step(training.method, optimiser, steps, mesh)
    state = initial_state(training, reader, seed)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    done = checkpoints.latest or 0
    if done:
        state = checkpoints.restore(state)
    broken = BrokenImages(folder / BROKEN, plan.mixture.unique, training.max_broken)
    metrics_file = MetricsWriter(folder / "metrics.jsonl", keep_steps=done)
    watch = Watch(online, training.method, mesh) if online else None
    probe = watch.start(state.variables) if watch else None
    if done and probe is not None:
        probe = checkpoints.restore_online(probe)

    def observe(step, metrics, signals):
        scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(math.isfinite(value) for value in scalars.values()):
            good = f"step {checkpoints.latest:,} in {folder}" if checkpoints.latest else "none yet"
            raise NonFiniteError(
                f"Step {step:,} of {folder} gave {scalars}, which is not finite; training stopped. "
                f"The last good checkpoint: {good}. Try a lower learning rate, in another folder."
            )
        signals = {name: float(value) for name, value in jax.device_get(signals).items()}
        scalars |= {name: value for name, value in signals.items() if math.isfinite(value)}
        metrics_file.write_scalars(step, scalars)
        on_step(step, scalars)

    try:
        # From the run's key, not the initial weights' own: the two must not share random numbers.
        key = replicate(mesh, jax.random.fold_in(jax.random.key(seed), 1))
        pending = None
        for step, batch in enumerate(batches(reader, done, steps, workers=training.workers), done + 1):
            broken.add(batch.broken)
            images = shard_batch(mesh, batch.images)
            # Nothing of the step may wait for the host. Saving and reporting do, so that they must not run under this guard.
            with jax.transfer_guard("disallow"):
                state, metrics = step_fn(state, images, key)
            signals = {}
            if watch:
                probe = watch.learn(probe, state.variables, step)
                if step % online.every == 0 or step == steps:
                    signals = watch.report(probe, state.variables)
            # Metrics of the step before: reading this step's would leave the device idle.
            if pending:
                observe(*pending)
            pending = (step, metrics, signals)
            if step % training.checkpoint_every == 0 or step == steps:
                observe(*pending)
                pending = None
                checkpoints.save(state, step, probe)
    finally:
        metrics_file.close()
        checkpoints.close()
    return state


# One optax object per setting, so that runs which share it share a compiled step.
_built = functools.lru_cache(maxsize=64)(Optimiser.build)
