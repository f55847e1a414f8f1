"""Progress of a command that counts images: a bar with speed and remaining time on a terminal, one line per minute in a log."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


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
        said = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            nonlocal said
            bars.update(bar, completed=done, total=total)
            # A log cannot redraw a bar; a line a minute keeps it short.
            if not console.is_terminal and task.speed and time.monotonic() > said + 60:
                said = time.monotonic()
                left = datetime.timedelta(seconds=round(task.time_remaining or 0))
                print(f"{what}: {done:,} of {total:,}, {speed_text(task.speed)}, {left} left", flush=True)

        yield on_progress


class _Speed(ProgressColumn):
    """Speed in images per second. The first step is ignored, because it includes the start."""

    def render(self, task: Task) -> Text:
        return Text(speed_text(task.speed) if task.speed else "")


def speed_text(speed: float) -> str:
    """Returns a speed as text, in images per second, or in seconds per image if it is low."""
    return f"{speed:,.2f} images/s" if speed >= 0.1 else f"{1 / speed:,.0f} s/image"
