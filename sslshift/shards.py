"""Shards of a study: parts of its grid that several processes run in one folder at the same time, on one machine or on many.

Shard i of n has a fixed part of the runs, see `deal`. It takes no runs of other shards, so that it costs what was planned for
it. The command of a shard that was lost continues it, on any machine. Results that all shards need, such as baselines, are
computed by one of them, which holds a lock; the others do other work first, and then wait (see `sslshift.storage.Store`). All
processes must see one folder, on a file system with locks (see `sslshift.storage`). A process that dies releases its locks, and
so does a machine that vanishes, after the lease of the file system (NFS 4: 90 s); a process that hangs must be ended.

A study without shards has its folder alone. Shards of several numbers n can run beside each other.
"""

import contextlib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.storage import LockedError, lock

# Lock of a study without shards, and folder of all other locks, in the study's folder.
LOCK = ".lock"
LOCKS = ".locks"
# Seconds for which another process may write the files that all shards write. A report takes longer.
_WRITING = 300.0
_REPORTING = 3600.0


class StudyShard(NamedTuple):
    """Part of a study's grid.

    Attributes:
      number: number of the shard, from 1.
      count: number of shards.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> StudyShard | None:
    """Returns the shard that `--shard` names; None without one.

    Example:
      >>> parse_shard("2/3")
      StudyShard(number=2, count=3)

    Raises:
      ValueError: the text has another form, or there is no such shard.
    """
    if not text.strip():
        return None
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
    shard = StudyShard(int(match[1]), int(match[2])) if match else None
    if shard is None or not 1 <= shard.number <= shard.count:
        raise ValueError(f"Expected --shard=i/n with whole numbers and i from 1 to n, e.g. 1/4 to 4/4, got {text!r}.")
    return shard


def deal(kinds: Sequence[tuple[Hashable, Hashable]], count: int) -> list[int]:
    """Returns the number of the shard of each run, from 1.

    Runs are dealt out one by one: to a shard with the fewest runs of the same method and encoder, among these to one with the
    fewest runs, and among these to one with the fewest runs of the same candidate. Each shard therefore has its share of cheap
    and of costly runs, whatever the period of the grid. Further runs do not change the shards of earlier ones.

    Example:
      >>> deal([("simclr", "few"), ("mae", "few"), ("simclr", "few"), ("mae", "few")], 2)
      [1, 2, 2, 1]

    Args:
      kinds: method with encoder, and candidate, of each run.
      count: number of shards.
    """
    total = np.zeros(count, np.int64)
    of_kind: dict[tuple[int, Hashable], np.ndarray] = {}
    found = []
    for kind in kinds:
        first, second = (of_kind.setdefault((place, each), np.zeros(count, np.int64)) for place, each in enumerate(kind))
        # The last key of `lexsort` is compared first; equal shards keep their order.
        chosen = np.lexsort((second, total, first))[0]
        for each in (total, first, second):
            each[chosen] += 1
        found.append(int(chosen) + 1)
    return found


@contextlib.contextmanager
def occupied(out: Path, shard: StudyShard | None) -> Iterator[None]:
    """Keeps a study's folder for one process, or for shards; makes the folder if it does not exist.

    Raises:
      RuntimeError: another process uses the folder in a way that excludes this one.
      ValueError: the file system has no locks.
    """
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        # Without this lock, a study and a shard that start at the same moment could each miss the other.
        with lock(out / LOCKS / "start.lock", wait=_WRITING):
            alone = held.enter_context(contextlib.ExitStack())
            try:
                alone.enter_context(lock(out / LOCK))
            except LockedError as error:
                raise RuntimeError(
                    f"{out} is in use by {error.holder}: two studies cannot write to one folder. Wait until it is done, or "
                    "give another --out."
                ) from error
            if shard:
                alone.close()
                _take(held, out, shard)
            else:
                _require_no_shards(out)
        yield


def _take(held: contextlib.ExitStack, out: Path, shard: StudyShard) -> None:
    try:
        held.enter_context(lock(out / LOCKS / f"shard-{shard.number}-of-{shard.count}.lock"))
    except LockedError as error:
        raise RuntimeError(f"--shard={shard} of {out} is being run by {error.holder}; give another shard.") from error


def _require_no_shards(out: Path) -> None:
    for file in sorted((out / LOCKS).glob("shard-*.lock")):
        try:
            with lock(file):
                pass
        except LockedError as error:
            raise RuntimeError(
                f"{out} is in use by {error.holder}, which runs a shard of a study. Wait until all shards are done, or give "
                "--shard here too."
            ) from error


@contextlib.contextmanager
def editing(out: Path) -> Iterator[None]:
    """Keeps other processes from the files that every process of a study adds to: its table, plan, timings and leaks.

    Whoever changes such a file reads it inside of the block, so that nothing of another process is lost.
    """
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with lock(out / LOCKS / "files.lock", wait=_WRITING):
        yield


@contextlib.contextmanager
def reporting(out: Path, *, wait: bool) -> Iterator[None]:
    """Keeps other processes from the report of a study.

    Raises:
      LockedError: another process writes it: with `wait`, for a long time.
    """
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with lock(out / LOCKS / "report.lock", wait=_REPORTING if wait else 0.0):
        yield
