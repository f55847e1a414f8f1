"""Progress of long commands: a bar with speed and remaining time on a terminal, a line now and then in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

# Seconds until the first line in a log, and between two lines.
_FIRST_LINE = 10
_NEXT_LINE = 20


@contextlib.contextmanager
def counting_images(console: Console, what: str, done: int = 0) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with the number of images done and the total number of images.

    Args:
      console: the terminal or log.
      what: the activity, such as "importing images".
      done: number of images that earlier calls finished; the speed ignores them.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn()
    # A step may take minutes, so the speed is the mean over the last hour; rich's default is half a minute.
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=3600)
    with bars:
        bar = bars.add_task(what, total=None, completed=done)
        (task,) = bars.tasks
        lines = LogLines(console, done)

        def on_progress(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)
            lines.show(what, done, total, speed_text(task.speed) if task.speed else "")

        yield on_progress


class LogLines:
    """Lines on the progress of one activity in a log, where bars cannot be redrawn; prints nothing on a terminal.

    The first line comes after 10 seconds, so that short activities have none, and the others every 20 seconds.

    Args:
      console: the terminal or log.
      done: what earlier calls finished; the remaining time is estimated without it.
    """

    def __init__(self, console: Console, done: int = 0):
        self._console = console
        self._first = done
        self._what = ""
        self._began = time.monotonic()
        self._next = self._began + _FIRST_LINE

    def show(self, what: str, done: int, total: int | None, more: str = "") -> None:
        """Prints a line if it is time for one.

        Args:
          what: the activity, or its present part.
          done, total: parts that are done, and all parts; None if their number is unknown.
          more: further text for the line.
        """
        now = time.monotonic()
        # Each part of the work has a speed of its own.
        if what != self._what:
            self._first = done if self._what else self._first
            self._began = now if self._what else self._began
            self._what = what
        if self._console.is_terminal or now < self._next:
            return
        self._next = now + _NEXT_LINE
        parts = [f"{done:,} of {total:,}" if total else f"{done:,}", more]
        # Without a finished part there is no estimate.
        if total and done > self._first:
            left = (now - self._began) / (done - self._first) * max(0, total - done)
            parts.append(f"about {duration(left)} left")
        text = f"{what}: {', '.join(filter(None, parts))}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Returns a time as text, such as 45 s, 12 min or 3.4 h."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Speed(ProgressColumn):
    """Speed in images per second. The first step is ignored, because it includes the start."""

    def render(self, task: Task) -> Text:
        return Text(speed_text(task.speed) if task.speed else "")


def speed_text(speed: float) -> str:
    """Returns a speed as text, in images per second, or in seconds per image if it is low."""
    return f"{speed:,.2f} images/s" if speed >= 0.1 else f"{1 / speed:,.0f} s/image"
