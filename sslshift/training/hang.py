"""A watch for hangs: if no step finishes for a stated time, the stacks of all threads are written."""

import datetime
import faulthandler
import sys
import threading
import time
from pathlib import Path

from sslshift import cluster

# Name of the file in a run's folder.
HANG = "hang.log"


class HangWatch:
    """Writes the stacks of all threads to stderr and to a file if no step finishes for some seconds, once for each hang.

    A thread of its own waits, so that the stacks are written while the main thread waits inside a library, for example for a
    device, for another host, or for a file system. It cannot run while a library holds Python's global lock.

    Args:
      folder: folder of the run, for `hang.log`, and `hang-I.log` of process I if several train the run.
      seconds: seconds without a finished step; 0 turns the watch off. They should cover the compilation of a step.
    """

    def __init__(self, folder: Path, seconds: float):
        self._folder = folder
        self._seconds = seconds
        self._step = 0
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True) if seconds else None

    def start(self, step: int) -> None:
        """Starts to watch a run that has finished this many steps."""
        self.finished(step)
        if self._thread is not None:
            self._thread.start()

    def finished(self, step: int) -> None:
        """Says that a step has finished."""
        self._step = step
        self._last = time.monotonic()

    def close(self) -> None:
        """Ends the watch."""
        self._ended.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        reported = None
        while True:
            last = self._last
            # After a report, the next step starts a new wait.
            wait = self._seconds if reported == last else last + self._seconds - time.monotonic()
            if self._ended.wait(max(wait, 0.01)):
                return
            if self._last == last and reported != last:
                reported = last
                self._report()

    def _report(self) -> None:
        # Each of several processes has stacks of its own.
        file = self._folder / (HANG if cluster.is_first() else f"hang-{cluster.process_index()}.log")
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        text = f"{now}: no step has finished for {self._seconds:g} s after step {self._step:,} of {self._folder}."
        try:
            with file.open("a+", encoding="utf-8", errors="replace") as log:
                log.write(f"{text}\n")
                log.flush()
                start = log.tell()
                faulthandler.dump_traceback(log, all_threads=True)
                log.seek(start)
                stacks = log.read()
        except OSError as error:
            stacks = f"{file} cannot be written ({error.strerror or error})."
        print(f"{text} The stacks of all threads, also in {file}:\n{stacks}", file=sys.stderr, flush=True)
