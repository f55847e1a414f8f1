"""The training loop: from a sample plan to a trained state, through checkpoints."""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sslshift import cluster
from sslshift.data.decode import Canvas
from sslshift.data.pipeline import BatchReader
from sslshift.data.plan import SamplePlan
from sslshift.methods import METHODS, Method
from sslshift.models import PretrainedEncoder
from sslshift.stopping import Stop
from sslshift.training.accumulation import require_equal_parts
from sslshift.training.checkpoints import Checkpoints
from sslshift.training.collapse import CollapseCheck
from sslshift.training.feed import PlacedImages, StepChunk, chunks
from sslshift.training.guards import ON_NONFINITE, SKIP, STOP, FiniteGuard
from sslshift.training.journal import BROKEN, METRICS, BrokenImages, own_run_folder, read_metrics
from sslshift.training.lockstep import in_lockstep
from sslshift.training.observe import Observation, Observers
from sslshift.training.online import Online, OnlineProbe, Watch
from sslshift.training.optimiser import Optimiser, built
from sslshift.training.sharding import REPLICATED, SHARDINGS
from sslshift.training.step import (
    Metrics,
    StepSettings,
    TrainState,
    compiled_step,
    compiled_steps,
    init_state,
    make_mesh,
    placed_init,
    replicate,
    train_step,
)

OnStep = Callable[[int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of a run's training, without its data.

    Args:
      method: the SSL method on its encoder.
      optimiser: optimiser and schedule.
      checkpoint_every: number of steps between checkpoints; a checkpoint is always written after the last step.
      workers: number of processes that read batches; 0: batches are read in threads.
      max_broken: share of the run's different images that may be unreadable; if the share is larger, the run stops.
      steps_per_dispatch: largest number of steps in one program, for steps that are shorter than the host needs to start them.
        All numbers above 1 give the same bits.
      on_nonfinite: what the run does at a step whose loss or gradient is not finite: it stops (`stop`), or does not apply the
        step and counts it (`skip`), up to a limit (see `guards.py`).
      accumulate: number of parts in which a batch is taken, one after the other, to save memory; the gradient is that of the
        whole batch, and methods for which it would not be are refused (see `accumulation.py`).
      sharding: what each device holds of the state: all of it (`replicated`) or an equal part of every large array (`fsdp`).
      initial: encoder that training continues from; its module is that of the method's encoder. None: random weights.
    """

    method: Method
    optimiser: Optimiser
    checkpoint_every: int = 1000
    workers: int = 0
    max_broken: float = 0.01
    steps_per_dispatch: int = 1
    on_nonfinite: str = STOP
    accumulate: int = 1
    sharding: str = REPLICATED
    initial: PretrainedEncoder | None = None

    def __post_init__(self):
        if self.checkpoint_every < 1 or self.steps_per_dispatch < 1:
            raise ValueError(
                "Expected checkpoint_every and steps_per_dispatch of at least 1, got "
                f"{self.checkpoint_every} and {self.steps_per_dispatch}."
            )
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(f"Expected one of {', '.join(ON_NONFINITE)} for on_nonfinite, got {self.on_nonfinite!r}.")
        if self.accumulate < 1:
            raise ValueError(f"Expected accumulate of at least 1, got {self.accumulate}.")
        if self.sharding not in SHARDINGS:
            raise ValueError(f"Expected one of {', '.join(SHARDINGS)} for sharding, got {self.sharding!r}.")

    @property
    def skips(self) -> bool:
        """Returns whether a step that is not finite is not applied, in place of stopping the run."""
        return self.on_nonfinite == SKIP

    def steps_per_chunk(self, *, reported: bool) -> int | None:
        """Returns the largest number of steps in a chunk for `compiled_steps`; None: a single step, for `compiled_step`.

        The program depends on nothing but these settings, since XLA may round differently in another program.
        """
        if self.steps_per_dispatch == 1:
            return None
        # An online probe learns from the state after every step.
        return 1 if reported else self.steps_per_dispatch

    @classmethod
    def from_recipe(cls, method: str, encoder: nn.Module, **options: Any) -> "Training":
        """Returns a method with its recipe's hyperparameters and optimiser for an encoder.

        Args:
          method: one of `sslshift.methods.METHODS`.
          encoder: any encoder, such as one of `sslshift.models.ENCODERS`.
          **options: hyperparameters of the method that replace those of the recipe.

        Raises:
          ValueError: the method is unknown, or an option is unknown or out of its range.
        """
        if method not in METHODS:
            raise ValueError(f"Expected one of {', '.join(METHODS)} for the method, got {method!r}.")
        recipe = METHODS[method]
        return cls(recipe.build(encoder, **options), Optimiser(**recipe.optimiser_for(encoder)))


def no_progress(step: int, scalars: dict[str, float]) -> None:
    del step, scalars


def train(
    training: Training,
    reader: BatchReader,
    seed: int,
    folder: str | os.PathLike,
    on_step: OnStep = no_progress,
    online: Online | None = None,
    placed: PlacedImages | None = None,
    stop: Stop | None = None,
    observation: Observation | None = None,
) -> TrainState:
    """Trains a run to the end of its budget, from its latest checkpoint if it has one.

    Args:
      training: settings of the training.
      reader: reads the batches of the plan.
      seed: seed of the initial weights and of all views.
      folder: folder of the run, for `checkpoints/`, `metrics.jsonl`, and `broken.csv` if other images replaced unreadable ones.
      on_step: called with the number of a finished step and its metrics, one dispatch late.
      online: probe and signals that are reported during training (see `online.py`). The probe is saved in the checkpoints. If
        a run continues from a checkpoint without a probe, or with a probe of other shapes, the probe starts at that step.
      placed: all images of the plan in device memory; None: the reader reads them on the host.
      stop: request to stop; the loop then saves a checkpoint and raises StoppedError.
      observation: what is observed besides (see `observe.py`); None: only `metrics.jsonl` and `progress.json` are written.

    Returns:
      The trained state; its bits do not depend on interruptions of the run, on `online`, `placed` or `observation`.

    Raises:
      NonFiniteError: loss or gradient is not finite, or was not in too many skipped steps; no later state is saved.
      CheckpointError: a checkpoint cannot be written or read.
      RuntimeError: another process trains in the folder.
      BrokenDataError: more than `max_broken` of the images cannot be read.
      ValueError: the budget is not a whole number of batches, or the devices or the images of `online` do not fit the batch.
      StoppedError: a signal asked to stop, and the state after the last step is saved.
    """
    steps = _whole_steps(reader.plan, training.accumulate)
    if online:
        online.require_shape(reader.canvas)
    mesh = make_mesh()
    most = training.steps_per_chunk(reported=online is not None)
    # The step is compiled when it is first called: nothing runs before the first batch is read.
    step_fn = _jitted_step(training, reader.plan, mesh, most)
    # A resumed run needs this state too: the checkpoint is read with its shapes and shardings.
    state = initial_state(training, reader, seed)
    # Folded in, since the initial weights use the key of the seed itself: the two must not share random numbers.
    key = replicate(mesh, jax.random.fold_in(jax.random.key(seed), 1))
    watch = Watch(online, training.method, mesh) if online else None
    folder = Path(folder)
    with own_run_folder(folder), _RunFolder(folder, training, reader.plan, on_step, stop, observation).opened() as kept:
        state, probe = kept.restored(state, watch)
        for chunk in kept.chunks(reader, placed, mesh, most):
            # No part of the step may wait for the host. Saving and reporting wait for it, so they run outside of this guard.
            with kept.observers.dispatching(chunk, state), jax.transfer_guard("disallow"):
                state, metrics = step_fn(state, *chunk.arrays, key)
            # The probe has a separate program, which runs after the step: the program of the step is the same without a probe.
            probe, signals = watch.follow(probe, state.variables, chunk.stop, steps) if watch else (None, {})
            kept.observe(chunk, state, metrics, signals)
            kept.end_chunk(chunk.stop, state, probe)
    return state


def initial_state(training: Training, reader: BatchReader, seed: int) -> TrainState:
    """Returns the state of a run before step 0."""
    image = np.zeros(reader.canvas, np.uint8)
    key = jax.random.key(seed)
    encoder = training.initial and training.initial.variables
    return placed_init(training.method, _optimiser(training, reader.plan), key, image, make_mesh(), training.sharding, encoder)


def _jitted_step(
    training: Training, plan: SamplePlan, mesh: Mesh, most: int | None
) -> Callable[..., tuple[TrainState, Metrics]]:
    build = compiled_steps if most else compiled_step
    settings = StepSettings(training.skips, training.sharding, training.accumulate)
    return build(training.method, _optimiser(training, plan), _whole_steps(plan), mesh, settings)


def traced_step(training: Training, canvas: Canvas, batch_size: int) -> TrainState:
    """Returns the shapes of the state after a step on batches of this size.

    The call raises an error if settings do not fit each other, and computes nothing.
    """
    method = training.method
    key = jax.random.key(0)
    # The length of the schedule changes no shape.
    optimiser = built(training.optimiser, 1, batch_size, method.constant_rate)
    image = jax.ShapeDtypeStruct(tuple(canvas), jnp.uint8)
    images = jax.ShapeDtypeStruct((batch_size, *canvas), jnp.uint8)
    state = jax.eval_shape(functools.partial(init_state, method, optimiser), key, image)
    step = functools.partial(train_step, method=method, optimiser=optimiser, steps=1, parts=training.accumulate)
    return jax.eval_shape(step, state, images, key)[0]


def _optimiser(training: Training, plan: SamplePlan) -> optax.GradientTransformation:
    return built(training.optimiser, plan.budget.steps(plan.batch_size), plan.batch_size, training.method.constant_rate)


def _whole_steps(plan: SamplePlan, parts: int = 1) -> int:
    """Returns the number of steps of a plan; raises ValueError unless all batches are complete and the devices divide them."""
    whole = plan.budget.whole_batches(plan.batch_size)
    if plan.budget != whole:
        raise ValueError(
            f"The budget of {plan.budget.samples:,} is not a whole number of batches of {plan.batch_size:,}; use "
            f"{whole.samples:,}."
        )
    require_equal_parts(plan.batch_size, jax.device_count(), parts)
    return plan.budget.steps(plan.batch_size)


class _RunFolder:
    """Files in the folder of a run: checkpoints, metrics and the list of broken images."""

    def __init__(
        self,
        folder: Path,
        training: Training,
        plan: SamplePlan,
        on_step: OnStep,
        stop: Stop | None,
        observation: Observation | None,
    ):
        self._folder = folder
        self._on_step = on_step
        self._stop = stop or Stop()
        self._every = training.checkpoint_every
        self._workers = training.workers
        self._steps = _whole_steps(plan)
        observation = observation or Observation()
        self.checkpoints = Checkpoints(folder / "checkpoints", observation.note)
        self.done = self.checkpoints.latest or 0
        self.broken = BrokenImages(folder / BROKEN, plan.mixture.unique, training.max_broken)
        self.observers = Observers(observation, folder, self.done, self._steps, plan.batch_size)
        earlier = cluster.first("the metrics so far", lambda: read_metrics(folder / METRICS)) if training.skips else ()
        self._guard = FiniteGuard(folder, self._steps, earlier, lambda: self.checkpoints.latest)
        self._collapse = CollapseCheck(training.method, make_mesh(), self._steps, plan.mixture.unique)
        self._pending: tuple[StepChunk, Metrics, Metrics] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator["_RunFolder"]:
        """Yields this folder, and closes it after the block, which ends at a request to stop only in `end_chunk`."""
        with self._stop.deferred(), contextlib.closing(self):
            yield self

    def restored(self, state: TrainState, watch: Watch | None) -> tuple[TrainState, OnlineProbe | None]:
        """Returns the state and the probe of the latest checkpoint; without a checkpoint, `state` and a new probe.

        Raises:
          CheckpointError: the checkpoint cannot be read, or the disk has no space for those that follow.
        """
        state = self.checkpoints.restore(state) if self.done else state
        probe = watch.start(state.variables) if watch else None
        if self.done and probe is not None:
            probe = self.checkpoints.restore_online(probe)
        saves = -(-(self._steps - self.done) // self._every)
        if saves:
            # Before hours of training, and not at the first checkpoint.
            self.checkpoints.require_space((state, probe), saves)
        return state, probe

    def chunks(self, reader: BatchReader, placed: PlacedImages | None, mesh: Mesh, most: int | None) -> Iterator[StepChunk]:
        """Yields the batches of the remaining steps, and lists the images among them that could not be read."""
        # The step number is the position in the data: a resumed run continues to read at its checkpoint.
        settings = {"most": most, "every": self._every, "workers": self._workers}
        for chunk in in_lockstep(chunks(reader, placed, mesh, self.done, self._steps, **settings)):
            self.broken.add(chunk.broken)
            yield chunk

    def observe(self, chunk: StepChunk, state: TrainState, metrics: Metrics, signals: Metrics) -> None:
        """Writes the metrics of the previous steps: reading the metrics of these steps would leave the device idle."""
        self.observers.dispatched(chunk, metrics)
        self._flush()
        self._pending = (chunk, metrics, signals | self._collapse.signals(state.variables, chunk))

    def end_chunk(self, step: int, state: TrainState, probe: OnlineProbe | None) -> None:
        """Saves the state at the steps of checkpoints, and at a request to stop, which then raises StoppedError."""
        # Asked once in each chunk and nowhere else: chunks end at the same steps, wherever the run was stopped before.
        stopped = self._stop.agreed()
        if stopped or step % self._every == 0 or step == self._steps:
            # Metrics are checked first: a state that is not finite is never saved.
            self._flush()
            self.checkpoints.save(state, step, probe)
        if stopped:
            self._stop.end(f"after step {step:,} of {self._steps:,} in {self._folder}")

    def close(self) -> None:
        # The checkpoint that is written last may hang too.
        with contextlib.closing(self.observers):
            self.checkpoints.close()

    def _flush(self) -> None:
        if self._pending is None:
            return
        chunk, metrics, signals = self._pending
        self._pending = None
        # `device_get` is an explicit transfer; `float` of an array on an accelerator would be an implicit one.
        columns = {name: np.atleast_1d(values).tolist() for name, values in jax.device_get(metrics).items()}
        # A signal does not affect training: a signal that is not finite is omitted and does not stop the run.
        signals = {name: float(value) for name, value in jax.device_get(signals).items()}
        signals = {name: value for name, value in signals.items() if math.isfinite(value)}
        for i, step in enumerate(range(chunk.stop - chunk.count + 1, chunk.stop + 1)):
            scalars = {name: values[i] for name, values in columns.items()}
            finite = self._guard.checked(step, scalars)
            # Signals are those of the state after the last step.
            own = signals if step == chunk.stop else {}
            self.observers.write_scalars(step, finite | own)
            self._on_step(step, scalars | own)
        self.observers.finished(chunk.stop)
