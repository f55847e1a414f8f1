"""A trace of a few training steps by JAX's profiler: what the devices and the host did in each microsecond."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sslshift.training.feed import StepChunk

# Name of the folder of a trace in a run's folder.
PROFILE = "profile"


class StepWindow(NamedTuple):
    """Consecutive steps of a run, counted from 1; both ends belong to them."""

    first: int
    last: int


def parse_window(text: str, steps: int) -> StepWindow | None:
    """Returns the steps in `FIRST:LAST`; None for an empty text.

    Example:
      >>> parse_window("10:20", steps=200)
      StepWindow(first=10, last=20)

    Args:
      text: text of the flag --profile.
      steps: number of steps of every run.

    Raises:
      ValueError: the text cannot be read, or a run has no such steps.
    """
    if not text.strip():
        return None
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"Expected --profile as FIRST:LAST, two step numbers such as 10:20, got {text!r}.")
    window = StepWindow(*map(int, parts))
    if not 1 <= window.first <= window.last <= steps:
        raise ValueError(
            f"Expected --profile=FIRST:LAST with 1 <= FIRST <= LAST <= {steps:,}, the number of steps of a run, got {text!r}."
        )
    return window


class Profiler:
    """Traces a window of steps of the first run that takes these steps, into `profile/` in the run's folder.

    One object serves all runs of a command, since a trace of every run would fill the disk. If several steps share a program,
    the trace begins and ends with whole programs.

    Args:
      window: the steps.
    """

    def __init__(self, window: StepWindow):
        self._window = window
        self._open = True
        self._traced: Path | None = None

    def follow(self, folder: Path, done: int, note: Callable[[str], None]) -> "RunProfile | None":
        """Returns the trace of a run; None if another run was traced, or if the run has finished these steps.

        Args:
          folder: folder of the run.
          done: number of steps that the run finished in earlier calls.
          note: called with sentences for the user.
        """
        if not self._open:
            return None
        if done >= self._window.last:
            note(
                f"--profile: {folder} continues after step {done:,}, past steps {self._window.first:,} to "
                f"{self._window.last:,}; the next run that takes them is traced."
            )
            return None
        return RunProfile(self, folder, self._window, note)

    def begin(self, path: Path) -> None:
        """Starts the only trace of this object."""
        self._open = False
        self._traced = path
        jax.profiler.start_trace(path)

    def summary(self) -> str:
        """Returns a sentence for the end of a command: the folder of the trace, or that there is none."""
        if self._traced is None:
            return f"--profile: no run took steps {self._window.first:,} to {self._window.last:,}, so nothing was traced."
        return f"--profile: the trace is in {self._traced}; TensorBoard's profile plugin and https://ui.perfetto.dev show it."


class RunProfile:
    """The trace of one run; see `Profiler`."""

    def __init__(self, profiler: Profiler, folder: Path, window: StepWindow, note: Callable[[str], None]):
        self._profiler = profiler
        self._folder = folder
        self._window = window
        self._note = note
        # The first traced step while the trace runs.
        self._first: int | None = None
        self._last = 0

    @contextlib.contextmanager
    def dispatching(self, chunk: StepChunk, state: Any) -> Iterator[None]:
        """Starts the trace before the first steps of the window, and marks steps in it.

        Args:
          chunk: the steps that the block starts.
          state: the state before these steps; earlier steps are not part of the trace.
        """
        first = chunk.stop - chunk.count + 1
        if self._first is None and self._window.first <= chunk.stop and first <= self._window.last and not self._last:
            jax.block_until_ready(state)
            self._profiler.begin(self._folder / PROFILE)
            self._first = first
        with jax.profiler.StepTraceAnnotation("train", step_num=first) if self._first else contextlib.nullcontext():
            yield

    def dispatched(self, chunk: StepChunk, metrics: Any) -> None:
        """Ends the trace after the last steps of the window; waits for them."""
        if self._first is not None:
            self._last = chunk.stop
            if chunk.stop >= self._window.last:
                jax.block_until_ready(metrics)
                self.close()

    def close(self) -> None:
        """Ends the trace if it still runs."""
        if self._first is None:
            return
        first = self._first
        self._first = None
        jax.profiler.stop_trace()
        whole = "" if (first, self._last) == self._window else f" in place of {self._window.first:,} to {self._window.last:,}"
        self._note(f"--profile: steps {first:,} to {self._last:,}{whole} of {self._folder} were traced.")
