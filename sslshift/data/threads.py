"""Computation of parts in threads, in order and a few parts ahead, with a progress bar on a terminal."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
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


def watched(parts: Sequence[Part], what: str, *, long: bool) -> Iterable[Part]:
    """Returns the parts; if the work is long and standard error is a terminal, a progress bar is shown."""
    shown = long and sys.stderr.isatty()
    return track(parts, what, console=Console(stderr=True), transient=True) if shown else parts
