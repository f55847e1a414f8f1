"""What a person sees while a study runs: a bar with the time left on a terminal, a line per finished part everywhere."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from sslshift.study.intervals import two_digits


class Progress:
    """Progress of one study on a console."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console()
        self._seconds: list[float] = []
        self._left = ""

    def say(self, what: str, numbers: dict) -> None:
        """One line: a name, and those of its numbers that a person waits for, as percentages or a shift."""
        parts = [f"{name} {numbers[name]:.1%}" for name in ("knn", "linear") if name in numbers]
        parts += [two_digits(numbers["shift"])] if "shift" in numbers else []
        self._console.print(f"{what}: {', '.join(parts)}{self._left}", highlight=False, soft_wrap=True, markup=False)
        self._left = ""

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def run(self, what: str, number: int, count: int, steps: int) -> Iterator["Work"]:
        """A bar for one run of a series; its time counts for the time left where the run did anything."""
        started = time.monotonic()
        with self._bar(f"{number}/{count} {what}", steps) as work:
            yield work
        if work.done:
            self._seconds.append(time.monotonic() - started)
            left = sum(self._seconds) / len(self._seconds) * (count - number)
            self._left = f"   [{number}/{count}, {self._seconds[-1]:.0f} s" + (
                f", about {_duration(left)} left]" if left else "]"
            )

    def judging(self, what: str) -> contextlib.AbstractContextManager["Work"]:
        """A bar while something is judged that was not trained."""
        return self._bar(what, None)

    @contextlib.contextmanager
    def _bar(self, what: str, total: int | None) -> Iterator["Work"]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bars:
            yield Work(bars, bars.add_task(what, total=total), what)


class Work:
    """What a bar is told: steps of training, then what an encoder is judged by. `done`: whether there was anything to do."""

    def __init__(self, bars: Bars, bar: TaskID, what: str):
        self._bars, self._bar, self._what, self.done = bars, bar, what, False

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """What the training loop calls after each step."""
        self._show(step, None, f"loss {scalars['loss']:.3f}")

    def on_progress(self, part: str, done: int, total: int) -> None:
        """What `transfer.protocol.evaluate` reports to."""
        self._show(done, total, part)

    def _show(self, done: int, total: int | None, text: str) -> None:
        self.done = True
        self._bars.update(self._bar, completed=done, total=total, description=f"{self._what}, {text}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
