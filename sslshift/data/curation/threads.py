"""Work in threads, in order and a few parts ahead, with a bar where a person watches."""

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
    """`map` in one thread per core. No more results wait than there are threads, however slowly they are taken."""
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
    """The parts, with a bar on a terminal that says how many are done if the work is long."""
    shown = long and sys.stderr.isatty()
    return track(parts, what, console=Console(stderr=True), transient=True) if shown else parts
