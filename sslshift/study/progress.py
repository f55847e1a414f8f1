"""What a person sees while a study runs: a bar with the time left on a terminal, a line per finished part everywhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
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
    def run(self, what: str, number: int, count: int, steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """A bar for one run of a series; yields what the training loop calls after each step."""
        started, stepped = time.monotonic(), False
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bars:
            bar = bars.add_task(f"{number}/{count} {what}", total=steps)

            def on_step(step: int, scalars: dict[str, float]) -> None:
                nonlocal stepped
                stepped = True
                bars.update(bar, completed=step, description=f"{number}/{count} {what}, loss {scalars['loss']:.3f}")

            yield on_step
        if stepped:
            self._seconds.append(time.monotonic() - started)
            left = sum(self._seconds) / len(self._seconds) * (count - number)
            self._left = f"   [{number}/{count}, {self._seconds[-1]:.0f} s" + (
                f", about {_duration(left)} left]" if left else "]"
            )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
