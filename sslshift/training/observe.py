"""Observation of a run while it trains: scalars, a sign of life, a watch for hangs, and a trace. It changes no numbers."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslshift.heartbeat import STOPPED, TRAINED, TRAINING, Heartbeat
from sslshift.training.collapse import collapse_text
from sslshift.training.events import scalar_writer
from sslshift.training.feed import StepChunk
from sslshift.training.hang import HangWatch
from sslshift.training.profile import Profiler


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """Settings of what is observed while runs train, beside `metrics.jsonl` and the sign of life of every run.

    Args:
      tensorboard: whether scalars are also written as TensorBoard events, to `tensorboard/` in a run's folder.
      profiler: trace of some steps; one object for all runs of a command.
      hang_after: seconds without a finished step after which the stacks of all threads are written; 0: never.
      note: called with sentences for the user.
    """

    tensorboard: bool = False
    profiler: Profiler | None = None
    hang_after: float = 0.0
    note: Callable[[str], None] = _to_stderr


class Observers:
    """Observers of one run, from the opening of its folder to the end of its training.

    Args:
      observation: the settings.
      folder: folder of the run, which exists.
      done: number of steps that earlier calls finished.
      steps: number of steps of the run.
      batch_size: images in a step.
    """

    def __init__(self, observation: Observation, folder: Path, done: int, steps: int, batch_size: int):
        self._steps = steps
        self._finished = done
        self._folder = folder
        self._note = observation.note
        self._warned = False
        self._writer = scalar_writer(folder, done, tensorboard=observation.tensorboard)
        self._profile = observation.profiler.follow(folder, done, observation.note) if observation.profiler else None
        self._heartbeat = Heartbeat(folder, steps, batch_size)
        self._heartbeat.write(TRAINING, done)
        self._hang = HangWatch(folder, observation.hang_after)
        self._hang.start(done)

    @contextlib.contextmanager
    def dispatching(self, chunk: StepChunk, state: Any) -> Iterator[None]:
        """Surrounds the start of a program that takes these steps from a state."""
        with self._profile.dispatching(chunk, state) if self._profile else contextlib.nullcontext():
            yield

    def dispatched(self, chunk: StepChunk, metrics: Any) -> None:
        """Says that the program of these steps was started, whose results are `metrics`."""
        if self._profile:
            self._profile.dispatched(chunk, metrics)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of a step; warns of the first collapse."""
        self._writer.write_scalars(step, scalars)
        collapsed = "" if self._warned else collapse_text({"step": step, **scalars})
        if collapsed:
            self._warned = True
            self._note(f"Warning: {self._folder} has collapsed: {collapsed}.")

    def finished(self, step: int) -> None:
        """Says that a step has finished, and all steps before it."""
        self._finished = step
        self._hang.finished(step)
        self._heartbeat.trained(step)

    def close(self) -> None:
        """Ends the observation, whether the training is complete or an error ended it."""
        self._hang.close()
        if self._profile:
            self._profile.close()
        self._writer.close()
        self._heartbeat.write(TRAINED if self._finished == self._steps else STOPPED)
