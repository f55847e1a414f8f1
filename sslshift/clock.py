"""Seconds of a command by part, so that users see where the time goes: compiling, training, evaluating and so on.

A command makes one `Clock` and passes it on; work names its part by `with clock.part("training")`. Every second of the main
thread belongs to exactly one part, so that the parts sum to the time of the whole command.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

START = "start"
COMPILING = "compiling"
TRAINING = "training"
REPORTING = "reporting"
# Seconds of the main thread outside of every part.
OTHER = "other"


class Timing(NamedTuple):
    """Seconds of a command so far.

    Attributes:
      parts: seconds of each part of the main thread; they sum to the time since the start of the clock.
      overlapped: seconds of each part on other threads, which ran beside the parts of the main thread.
      compiled: number of compiled programs, without those from the persistent cache.
      from_cache: number of programs that were read from the persistent compilation cache.
      samples: number of samples trained on.
      at_peak: seconds that the training would take at the peak of the devices; 0 if the peak is unknown.
    """

    parts: Mapping[str, float]
    overlapped: Mapping[str, float]
    compiled: int
    from_cache: int
    samples: int
    at_peak: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole command."""
        return sum(self.parts.values())

    @property
    def training(self) -> float:
        """Seconds of training, on the main thread or beside it."""
        return self.parts.get(TRAINING, 0.0) + self.overlapped.get(TRAINING, 0.0)

    @property
    def samples_per_second(self) -> float | None:
        """Samples per second of training; None without training."""
        return self.samples / self.training if self.samples and self.training else None

    @property
    def share_of_peak(self) -> float | None:
        """Share of the peak FLOP/s of the devices while training; None if the peak is unknown."""
        return self.at_peak / self.training if self.at_peak and self.training else None

    @property
    def efficiency(self) -> float | None:
        """Seconds of training for each second of the command; None without training."""
        return self.training / self.seconds if self.training and self.seconds else None

    def ordered(self) -> list[tuple[str, float]]:
        """Returns the parts of the main thread that took time, the longest first."""
        return sorted(((name, each) for name, each in self.parts.items() if each > 0), key=lambda part: -part[1])

    def since(self, earlier: "Timing") -> "Timing":
        """Returns the timing of the part of a command that follows an earlier moment.

        Example:
          >>> Timing({"training": 12.0}, {}, 4, 0, 24_000, 0.0).since(Timing({"training": 2.0}, {}, 3, 0, 4_000, 0.0))
          Timing(parts={'training': 10.0}, overlapped={}, compiled=1, from_cache=0, samples=20000, at_peak=0.0)
        """
        parts, overlapped = (
            {name: seconds - then.get(name, 0.0) for name, seconds in now.items()}
            for now, then in ((self.parts, earlier.parts), (self.overlapped, earlier.overlapped))
        )
        return Timing(parts, overlapped, *(now - then for now, then in zip(self[2:], earlier[2:], strict=True)))

    def sentence(self) -> str:
        """Returns the timing in one line.

        Example:
          >>> Timing({"start": 3.0, "training": 12.0}, {}, 4, 0, 24_000, 0.0).sentence()
          '15 s: training 12 s (80%), start 3.0 s; 2,000 samples/s'
        """
        parts = []
        for name, seconds in self.ordered():
            share = f" ({self.efficiency:.0%})" if name == TRAINING and self.efficiency else ""
            # Parts of less than a twentieth of a second would read as 0.
            parts += [f"{name} {_brief(seconds)} s{share}"] if seconds >= 0.05 else []
        texts = [f"{_brief(self.seconds)} s: {', '.join(parts)}" if parts else f"{_brief(self.seconds)} s"]
        if self.overlapped:
            beside = ", ".join(f"{name} {_brief(seconds)} s" for name, seconds in self.overlapped.items())
            texts.append(f"beside them {beside}")
        if self.samples_per_second:
            texts.append(f"{self.samples_per_second:,.0f} samples/s")
        if self.share_of_peak:
            import jax

            texts.append(f"{self.share_of_peak:.0%} of the peak of {jax.devices()[0].device_kind}")
        return "; ".join(texts)


def _brief(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"


class Clock:
    """Measures the parts of one command. The thread that makes the clock is the main thread.

    Compilation is a part of its own, `compiling`, and is subtracted from the part in which it happens: tracing, lowering,
    compiling, and reading programs from the persistent cache. It is measured inside of `running`.

    Example:
      >>> clock = Clock()
      >>> with clock.running(), clock.part("evaluating"), clock.part("reading"):
      ...     pass
      >>> sorted(clock.timing().parts)
      ['evaluating', 'other', 'reading']

    Args:
      before: seconds that passed before the clock was made; they are the part `start`.

    Attributes:
      samples: number of samples trained on; whoever trains adds to it.
      at_peak: seconds that these samples would take at the peak of the devices.
    """

    def __init__(self, before: float = 0.0):
        self.samples = 0
        self.at_peak = 0.0
        self._main = threading.get_ident()
        # Threads change the totals at the same time.
        self._lock = threading.Lock()
        self._parts: Counter[str] = Counter({START: before} if before else {})
        self._overlapped: Counter[str] = Counter()
        self._programs = 0
        self._from_cache = 0
        # By thread: its open parts, the moment up to which its time is counted, and the spans of its compilations.
        self._open: dict[int, list[str]] = {self._main: [OTHER]}
        self._counted: dict[int, float] = {self._main: time.perf_counter()}
        self._compilations: dict[int, list[tuple[float, float]]] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block to a part; the time of parts inside of the block is not counted twice."""
        thread = threading.get_ident()
        with self._lock:
            self._count(thread)
            self._open.setdefault(thread, []).append(name)
            self._counted.setdefault(thread, time.perf_counter())
        try:
            yield
        finally:
            with self._lock:
                self._count(thread)
                self._open[thread].pop()
                if not self._open[thread]:
                    del self._open[thread]
                    del self._counted[thread]

    @contextlib.contextmanager
    def running(self) -> Iterator["Clock"]:
        """Measures compilation during the block, and yields the clock."""
        # Importing JAX takes longer than the --help of a command.
        import jax

        jax.monitoring.register_event_time_span_listener(self._on_span)
        jax.monitoring.register_event_listener(self._on_event)
        try:
            yield self
        finally:
            jax.monitoring.unregister_event_time_span_listener(self._on_span)
            jax.monitoring.unregister_event_listener(self._on_event)

    def timing(self) -> Timing:
        """Returns the seconds up to now; open parts are included."""
        with self._lock:
            for thread in self._open:
                self._count(thread)
            compiled = self._programs - self._from_cache
            totals = (dict(self._parts), dict(self._overlapped))
            return Timing(*totals, compiled, self._from_cache, self.samples, self.at_peak)

    def _totals(self, thread: int) -> Counter[str]:
        return self._parts if thread == self._main else self._overlapped

    def _count(self, thread: int) -> None:
        """Adds the time since the last call to the innermost part of a thread."""
        if self._open.get(thread):
            now = time.perf_counter()
            self._totals(thread)[self._open[thread][-1]] += now - self._counted[thread]
            self._counted[thread] = now

    def _on_span(self, event: str, start: float, end: float, **_: str | int) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        thread = threading.get_ident()
        with self._lock:
            self._programs += event.endswith("/backend_compile_duration")
            # JAX traces and compiles functions inside of others, and reports the inner span first.
            inner = self._compilations.setdefault(thread, [])
            seconds = end - start
            while inner and inner[-1][0] >= start:
                seconds -= inner.pop()[1]
            inner.append((start, end - start))
            self._count(thread)
            totals = self._totals(thread)
            # Threads without a part are not measured, except for what they compile.
            if self._open.get(thread):
                totals[self._open[thread][-1]] -= seconds
            totals[COMPILING] += seconds

    def _on_event(self, event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            with self._lock:
                self._from_cache += 1


def process_age() -> float:
    """Returns the seconds since this process started."""
    try:
        # The fields after the name of the command, which may contain blanks; the system counts from its start.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        # Other systems have no such files. Starting a command is computation rather than waiting.
        return time.process_time()
