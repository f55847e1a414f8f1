"""Signs of life of runs: `progress.json` in a run's folder says what the run does now, on which machine, and how far it is.

A process that trains or evaluates writes the file every few seconds, whole or not at all. Nothing reads it to decide what
happens next: it is for people, through `python -m tools.status`.
"""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sslshift.storage import read_json, write_json

# Name of the file in a run's folder.
PROGRESS = "progress.json"

# Name of the file in a study's folder that lists its runs, since a run that waits has no folder yet.
RUNS = "runs.json"

# What a run does. STOPPED: an error or an interrupt ended its training, and the same command continues it.
TRAINING = "training"
TRAINED = "trained"
EVALUATING = "evaluating"
STOPPED = "stopped"
FINISHED = "finished"

# Seconds between two writes of one file, which is small beside what a network file system takes.
_EVERY = 5.0


class Heartbeat:
    """Writes the sign of life of one run.

    Args:
      folder: folder of the run, which exists.
      steps: training steps of the run.
      batch_size: images in a step.
      now: clock in seconds, for tests.
    """

    def __init__(self, folder: Path, steps: int, batch_size: int, now: Callable[[], float] = time.monotonic):
        self._file = folder / PROGRESS
        self._about = {"steps": steps, "batch_size": batch_size, "host": platform.node(), "process": os.getpid()}
        self._now = now
        self._step: int | None = None
        self._written: float | None = None
        self._since: tuple[float, int] | None = None
        self._speed: float | None = None

    def trained(self, step: int) -> None:
        """Counts a finished training step; writes the file if the last write is some seconds ago."""
        now = self._now()
        self._step = step
        if self._since is None:
            # The first step includes the compilation of its program.
            self._since = (now, step)
        if self._due(now):
            started, first = self._since
            if step > first and now > started:
                self._speed = (step - first) * self._about["batch_size"] / (now - started)
                self._since = (now, step)
            self._write(TRAINING, now)

    def evaluated(self, part: str, done: int, total: int | None) -> None:
        """Reports a part of the evaluation; writes the file if the last write is some seconds ago."""
        now = self._now()
        self._step = self._about["steps"]
        if self._due(now):
            self._write(EVALUATING, now, part=part, done=done, total=total)

    def write(self, state: str, step: int | None = None) -> None:
        """Writes a new state at once, with a step number if the run starts or ends at it."""
        self._step = self._step if step is None else step
        self._write(state, self._now())

    def finish(self) -> None:
        """Writes that the run is trained and evaluated, unless the file says so already."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if read_json(self._file).get("state") == FINISHED:
                return
        self.write(FINISHED, self._about["steps"])

    def _due(self, now: float) -> bool:
        return self._written is None or now >= self._written + _EVERY

    def _write(self, state: str, now: float, **more: Any) -> None:
        self._written = now
        speed = None if self._speed is None else round(self._speed, 3)
        about = {"state": state, "step": self._step, **self._about, "samples_per_second": speed, **more}
        # A run does not depend on its sign of life. A full disk is reported by the results that need it.
        with contextlib.suppress(OSError):
            write_json(self._file, about | {"time": round(time.time(), 3)})


def keep_run_list(out: Path, names: Sequence[str], steps: int) -> None:
    """Writes `runs.json` to a study's folder, unless it is there with this content.

    Args:
      out: folder of the study, which exists.
      names: names of the folders of all runs, in the order of the study.
      steps: training steps of every run.
    """
    content = {"steps": steps, "runs": list(names)}
    with contextlib.suppress(OSError, ValueError):
        if read_json(out / RUNS) == content:
            return
    write_json(out / RUNS, content)
