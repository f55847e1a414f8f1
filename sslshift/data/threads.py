"""Computation of parts in threads, in order and a few parts ahead, with a progress bar on a terminal and lines in a log."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(function: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """Yields `map(function, parts)`, computed in one thread per core.

    At most one result per thread waits for the consumer, so that a slow consumer does not fill the memory.
    """
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        running = deque()
        for part in parts:
            running.append(pool.submit(function, part))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def watched(parts: Iterable[Part], what: str, *, long: bool, total: int | None = None) -> Iterable[Part]:
    """Returns the parts; if the work is long, standard error shows a progress bar, or lines if it is no terminal.

    Args:
      parts: the parts.
      what: the work.
      long: whether the work is long enough to be shown.
      total: number of the parts; None: their length.
    """
    count = len(parts) if total is None and isinstance(parts, Sized) else total
    if long and sys.stderr.isatty():
        return track(parts, escape(what), count, console=Console(stderr=True), transient=True)
    return _logged(parts, what, count) if long else parts


def _logged(parts: Iterable[Part], what: str, count: int | None) -> Iterator[Part]:
    # Imported here, because templates of pages, which reading images does not need, come with it.
    from sslshift.reporting.progress import LogLines

    lines = LogLines(Console(stderr=True))
    for number, part in enumerate(parts):
        lines.show(what, number, count)
        yield part
