"""Progress of a study: bars on a terminal, lines now and then in logs, and one line for each finished part in both."""

import contextlib
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.table import Column
from rich.text import Text

from sslshift.clock import Clock
from sslshift.heartbeat import Heartbeat
from sslshift.reporting.numbers import two_digits
from sslshift.reporting.progress import LogLines, duration
from sslshift.stopping import Stop
from sslshift.transfer.scores import TaskScores

_BAR_WIDTH = 16


# Not an Exception, because it must not be recorded as the failure of a run.
class CancelledWorkError(BaseException):
    """Work on another thread must end, because the command was interrupted."""


class TimeLeft:
    """Estimate of the remaining time of a study, from its finished runs.

    Args:
      kinds: kind of each remaining run; runs of one kind take about the same time.
      weights: expected relative time of each kind.
    """

    def __init__(self, kinds: Sequence[Hashable], weights: Mapping[Hashable, float]):
        self._open = list(kinds)
        self._weights = dict(weights)
        self._seconds: dict[Hashable, list[float]] = {}

    def done(self, kind: Hashable, seconds: float | None) -> None:
        """Counts a run that ended; `seconds` is None if it failed or had no work, so that its time predicts nothing."""
        # Finished runs are not among the remaining runs.
        if kind in self._open:
            self._open.remove(kind)
        if seconds is not None:
            self._seconds.setdefault(kind, []).append(seconds)

    @property
    def seconds(self) -> float | None:
        """Seconds that all remaining runs take; None before the first run was timed."""
        if not self._seconds:
            return None
        means = {kind: sum(each) / len(each) for kind, each in self._seconds.items()}
        # The time of a kind that was not timed yet is extrapolated from the other kinds by its weight.
        rate = sum(means.values()) / sum(self._weights.get(kind, 1.0) for kind in means)
        return sum(means.get(kind, rate * self._weights.get(kind, 1.0)) for kind in self._open)


class Progress:
    """Progress of one study on a console.

    Attributes:
      console: console to print on.
      clock: seconds of the study by part.
      stop: request to stop, which training asks for.
    """

    def __init__(self, console: Console | None = None, clock: Clock | None = None, stop: Stop | None = None):
        self.clock = clock or Clock()
        self.stop = stop or Stop()
        self.console = console or Console(emoji=False)
        self._left = ""
        self._bars: Bars | None = None
        self._whole: TaskID | None = None
        self._time = TimeLeft((), {})
        self._cancelled = threading.Event()

    def say_scores(self, what: str, scores: TaskScores) -> None:
        """Prints the main scores and the remaining time in one line."""
        parts = [f"{name} {scores.evaluations[name].value:.1%}" for name in ("knn", "linear") if name in scores.evaluations]
        self._say(f"{what}: {', '.join(parts)}")

    def say_shift(self, what: str, index: float) -> None:
        """Prints a shift index in one line."""
        self._say(f"{what}: {two_digits(index)}")

    def _say(self, text: str) -> None:
        self.console.print(text + self._left, highlight=False, soft_wrap=True, markup=False)
        self._left = ""

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def study(self, count: int, kinds: Sequence[Hashable], weights: Mapping[Hashable, float]) -> Iterator[None]:
        """Shows a bar of the whole study above those of its runs.

        Args:
          count: number of all runs, including finished ones.
          kinds: kind of each remaining run.
          weights: relative time of each kind.
        """
        self._time = TimeLeft(kinds, weights)
        with self._new_bars() as bars:
            self._bars = bars
            self._whole = bars.add_task("study", total=count, completed=count - len(kinds), time=self._time)
            try:
                yield
            finally:
                self._bars = self._whole = None

    def training(self, what: str, steps: int) -> contextlib.AbstractContextManager["Work"]:
        """Returns a bar for the training of an encoder."""
        return self._bar(what, steps)

    def evaluating(self, what: str, heartbeat: Heartbeat | None = None) -> contextlib.AbstractContextManager["Work"]:
        """Returns a bar for the evaluation of an encoder, and writes the sign of life of its run if it belongs to one."""
        return self._bar(what, None, heartbeat)

    def ended(self, number: int, count: int, kind: Hashable, seconds: float | None) -> None:
        """Counts a run that ended, in the bar of the study and in the estimate, which the next line of scores shows.

        Args:
          number, count: number of the run, and number of all runs.
          kind: kind of the run.
          seconds: time of the run; None if it failed or had no work to do, so that its time predicts nothing.
        """
        self._time.done(kind, seconds)
        if self._whole is not None:
            self._bars.update(self._whole, completed=number)
        if seconds is not None:
            left = self._time.seconds
            self._left = f"   [{number}/{count}, {seconds:.0f} s" + (f", about {duration(left)} left]" if left else "]")

    def cancel(self) -> None:
        """Ends all work on other threads: it raises `CancelledWorkError` as soon as it reports progress."""
        self._cancelled.set()

    def _new_bars(self) -> Bars:
        # On a narrow terminal, long names are cut, so that numbers and time remain visible.
        name = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        columns = (SpinnerColumn(), name, BarColumn(_BAR_WIDTH), MofNCompleteColumn(table_column=Column(no_wrap=True)), _Left())
        return Bars(*columns, console=self.console, transient=True, expand=True, disable=not self.console.is_terminal)

    @contextlib.contextmanager
    def _bar(self, what: str, total: int | None, heartbeat: Heartbeat | None = None) -> Iterator["Work"]:
        with contextlib.nullcontext(self._bars) if self._bars else self._new_bars() as bars:
            bar = bars.add_task(what, total=total)
            try:
                yield Work(bars, bar, what, self._cancelled, heartbeat, LogLines(self.console))
            finally:
                bars.remove_task(bar)


class _Left(ProgressColumn):
    """Column of the remaining time: by runs for the study, by steps for a run."""

    def __init__(self):
        super().__init__(table_column=Column(no_wrap=True))
        self._by_steps = TimeRemainingColumn()

    def render(self, task: Bar) -> Text:
        if "time" not in task.fields:
            return self._by_steps.render(task)
        seconds = task.fields["time"].seconds
        return Text("" if seconds is None else f"{duration(seconds)} left")


class Work:
    """A bar that follows the work on one encoder: steps of training, then its evaluations.

    Attributes:
      done: whether there was anything to do.
    """

    def __init__(
        self,
        bars: Bars,
        bar: TaskID,
        what: str,
        cancelled: threading.Event,
        heartbeat: Heartbeat | None,
        lines: LogLines,
    ):
        self._lines = lines
        self._bars = bars
        self._bar = bar
        self._what = what
        self._cancelled = cancelled
        self._heartbeat = heartbeat
        self.done = False

    def on_step(self, step: int, scalars: dict[str, float]) -> None:
        """Shows a step; the training loop calls it."""
        self._show(step, None, "training", f"loss {scalars['loss']:.3f}")

    def on_progress(self, part: str, done: int, total: int) -> None:
        """Shows a part of an evaluation; `transfer.protocol.evaluate` calls it."""
        self._show(done, total, part, part)
        if self._heartbeat:
            self._heartbeat.evaluated(part, done, total)

    def _show(self, done: int, total: int | None, part: str, text: str) -> None:
        if self._cancelled.is_set():
            raise CancelledWorkError
        self.done = True
        self._bars.update(self._bar, completed=done, total=total, description=f"{self._what}, {text}")
        known = next((task.total for task in self._bars.tasks if task.id == self._bar), None)
        self._lines.show(f"{self._what}, {part}", done, None if known is None else int(known), text if text != part else "")
