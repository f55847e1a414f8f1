"""Requests to stop: SIGTERM, and the signals by which clusters announce that they will take a machine away.

    stop = Stop()
    with stop.listening():
        train(..., stop=stop)

A command makes one `Stop` and passes it on. A signal ends the work at once with `StoppedError`, as Ctrl-C does: every file is
whole or absent, so the same command continues. Work that would lose much, such as training, runs in `with stop.deferred()`,
asks `stop.requested` at its safe points, keeps what it has, and calls `stop.end`.

| signal | sent by |
|---|---|
| SIGTERM | Kubernetes, cloud machines that are taken back, systemd, `timeout`, and Slurm at preemption and at the time limit |
| SIGUSR1 | Slurm before the time limit, if asked with `--signal=USR1@120`; NCCL may use this signal too |
| SIGUSR2 | submitit's jobs under Slurm, or `--signal=USR2@120` |

A batch script gets Slurm's signal with `--signal=B:USR2@120`, and must pass it on to the command.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from sslshift import cluster

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# `timeout`, and scripts that pass a signal on, send the first signal twice within this time.
_ONE_SIGNAL_SECONDS = 1.0


# Not an Exception, because a signal must not be recorded as the failure of a run.
class StoppedError(BaseException):
    """The command ends because a signal asked it to; the message says what continues it."""


class Stop:
    """A request to stop, which a signal makes at any time, and which the work of a command answers.

    Example:
      >>> stop = Stop()
      >>> with stop.deferred():
      ...     stop.request("SIGTERM")
      ...     print(stop.requested)
      ...     stop.end("after step 3 of 10")
      Traceback (most recent call last):
      sslshift.stopping.StoppedError: Stopped by SIGTERM after step 3 of 10: the same command continues.
    """

    def __init__(self):
        self._signal = ""
        self._deferred = 0
        self._first = 0.0

    @property
    def requested(self) -> bool:
        """Returns whether a signal has arrived."""
        return bool(self._signal)

    def agreed(self) -> bool:
        """Returns whether a signal has arrived at any process of the command. All processes ask at the same points."""
        signals = cluster.gathered("a request to stop", self._signal)
        self._signal = self._signal or next(filter(None, signals), "")
        # A signal that arrives after the question waits for the next one, in all processes.
        return any(signals)

    def request(self, name: str) -> None:
        """Makes the request, in the main thread; raises StoppedError unless it is deferred.

        Args:
          name: name of the signal.
        """
        self._signal = name
        self._first = time.monotonic()
        if not self._deferred:
            self.end()

    def end(self, when: str = "") -> NoReturn:
        """Raises StoppedError.

        Args:
          when: what was finished and kept, such as "after step 3 of 10"; empty: nothing but what is in files already.
        """
        if when:
            raise StoppedError(f"Stopped by {self._signal} {when}: the same command continues.")
        raise StoppedError(f"Stopped by {self._signal}. Commands that keep their results continue when they are given again.")

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Leaves it to the block to end at a request. A request that the block has not answered ends the work after it."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.requested and not self._deferred:
            self.end()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Turns the signals into requests while the block runs. A second signal ends the process at once.

        Signals reach the main thread alone, so that the block of another thread hears none.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._on_signal) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                # None stands for a handler that was not set by Python, which Python cannot set again. After a request the
                # process ends, and the second of two equal signals must not turn its code 0 into a failure.
                restored = signal.SIG_DFL if handler is None else handler
                signal.signal(each, signal.SIG_IGN if self.requested else restored)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if not self.requested:
            self.request(signal.Signals(number).name)
        elif time.monotonic() - self._first > _ONE_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def follow_parent() -> None:
    """Lets a worker process end with its parent and not before it.

    Clusters send a signal to all processes of a job. A worker that ended first would be an error of its parent, and a worker
    whose parent was killed would wait for ever.
    """
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    # Unlike sys.exit, this ends all threads.
    os._exit(1)
