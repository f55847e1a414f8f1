"""Files that are whole or absent, locks, and folders that keep results.

The package writes all its results with this module, so that a process can be stopped at any moment without damaging them:

- `write` and `whole_file` replace a file in one step. A process that is killed, or a disk that is full, leaves the old file; a
  kill also leaves `NAME.part`, which the next write replaces.
- `lock` keeps a second process out of a folder. The operating system releases the lock when the process ends or crashes, on
  shared file systems also when its machine does: NFS with its lock service, and Lustre mounted with `-o flock` (not
  `-o localflock`, whose locks hold on one machine only).
- `Store` keeps results in folders. Each folder holds the request in `record.json` and the answer in `result.json`. A
  folder without `result.json` is work in progress: the next process that asks for the same record continues it. With a
  folder of locks, several processes share a store, on one machine or on many: each result is computed by one of them.

A path is local or belongs to an object store (`gs://...`), as in `etils.epath`.

If a command runs as several processes, process 0 alone writes: in the others, `write` and `whole_file` discard what is written,
and `lock` holds nothing. A `Store` that writes gives all processes what process 0 has read or computed.
"""

import contextlib
import datetime
import errno
import hashlib
import io
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from etils import epath

from sslshift import cluster

RECORD = "record.json"
RESULT = "result.json"
# Files about a failed computation, which people read. A folder with only these files accepts another record.
FAILED = "failed.json"
ERROR_LOG = "error.log"

_PART = ".part"
# Errors of a file system without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# Seconds between two looks at a result that another process computes, at first and at most.
_LOOKS = (0.05, 2.0)


class NotStoredError(RuntimeError):
    """A requested result is not stored, and the store is open for reading only."""


class OtherRecordError(ValueError):
    """A folder holds work for another record."""


class LockedError(RuntimeError):
    """Another process holds a lock.

    Attributes:
      holder: description of that process: its number, its machine, and the time when it took the lock.
    """

    def __init__(self, file: epath.PathLike, holder: str):
        super().__init__(f"{file} is locked by {holder}.")
        self.holder = holder


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Yields a binary file whose content replaces the content of `path` when the block ends without an error.

    Example:
      >>> import tempfile
      >>> path = epath.Path(tempfile.mkdtemp()) / "sums.txt"
      >>> with whole_file(path) as file:
      ...     _ = file.write(b"1 + 1 = 2")
      >>> path.read_text()
      '1 + 1 = 2'

    Args:
      path: path of the file. Its folder must exist.

    Raises:
      OSError: the file cannot be written; an earlier file is not changed.
    """
    if not cluster.is_first():
        yield io.BytesIO()
        return
    path = epath.Path(path)
    part = path.with_name(path.name + _PART)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException as error:
        # On a full disk, an unfinished file would take space that the user needs.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            # The system names no file when a write fails.
            error.filename = str(path)
        raise


def write(path: epath.PathLike, content: str | bytes) -> None:
    """Replaces a file's content in one step; text is encoded as UTF-8.

    Raises:
      OSError: the file cannot be written; an earlier file is not changed.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: epath.PathLike, value: Any, indent: int = 2) -> None:
    """Writes a value as JSON, see `write`."""
    write(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: epath.PathLike) -> Any:
    """Returns the value in a JSON file that this package wrote.

    Raises:
      ValueError: the file is not valid JSON, for example after a power failure.
    """
    try:
        return json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, and the same command makes it again.") from error


def digest(value: Any, letters: int = 8) -> str:
    """Returns a digest of a JSON value; the order of the names in its objects has no effect."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:letters]


def slug(name: str) -> str:
    """Returns a readable and unique folder name for a source, mixture or task.

    Example:
      >>> slug("folder:/data/parts of cars?labels=folder")
      'data_parts_of_cars-85321501'
    """
    # With forty letters the name is readable, and the whole path is short enough for every file system.
    words = re.sub(r"[^A-Za-z0-9]+", "_", (name.partition(":")[2] or name).partition("?")[0]).strip("_")
    return f"{words[-40:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def lock(file: epath.PathLike, *, wait: float = 0.0, remove: bool = False) -> Iterator[None]:
    """Holds a lock while the block runs. The lock is released when the process ends, even if it is killed.

    Args:
      file: path of the lock; its folder must exist. While the lock is held, a second file names the holder.
      wait: seconds to wait for another holder.
      remove: whether the file is removed after the block, unless the block raises an error. Whoever takes the lock next must
        then find out that the work is done.

    Raises:
      LockedError: another process, or another block of this process, holds the lock.
      ValueError: the file system has no locks; object stores never have locks.
    """
    if not cluster.is_first():
        yield
        return
    # Imported here, because programs that only load encoders need no locks.
    import filelock

    file = os.fspath(file)
    if "://" in file:
        raise ValueError(f"Expected a local folder, got {file}: object stores have no locks.")
    # Every process that tries to take the lock empties its file, so the holder is written to another file.
    name = epath.Path(f"{file}.holder")
    # The lock may be released by another thread. A soft lock would outlive its process.
    held = filelock.FileLock(file, timeout=wait, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire()
    except filelock.Timeout as error:
        holder = ""
        # The holder may release the lock at this moment.
        with contextlib.suppress(OSError):
            holder = name.read_text().strip()
        raise LockedError(file, holder or "another process") from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise ValueError(
            f"{file}: the file system has no locks. Use a folder on another file system; NFS needs its lock service, and "
            "Lustre the mount option flock."
        ) from error
    try:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        write(name, f"process {os.getpid()} on {platform.node()} since {now}\n")
        yield
        if remove:
            with contextlib.suppress(OSError):
                os.unlink(file)
    finally:
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)
        held.release()


class Store:
    """Folders that keep results, open for reading and writing or for reading only, by one process or by several at once.

    Example:
      >>> import tempfile
      >>> folder = epath.Path(tempfile.mkdtemp()) / "sum"
      >>> Store().remembered(folder, {"a": 1, "b": 2}, lambda: {"sum": 3})
      {'sum': 3}
      >>> Store(read_only=True).remembered(folder, {"a": 1, "b": 2}, lambda: 1 / 0)
      {'sum': 3}

    Args:
      read_only: whether the store only reads; it then computes and writes nothing.
      locks: folder of locks, beside or above the results; None: no other process computes the same results.
      wait: whether to wait for a result that another process computes.
      note: called with a sentence when such a wait begins.
    """

    def __init__(
        self,
        *,
        read_only: bool = False,
        locks: Path | None = None,
        wait: bool = True,
        note: Callable[[str], None] = lambda text: None,
    ):
        self.read_only = read_only
        self._locks = locks
        self._wait = wait
        self._note = note

    def without_waiting(self) -> "Store":
        """Returns this store, which raises LockedError for a result that another process computes."""
        return Store(read_only=self.read_only, locks=self._locks, wait=False)

    def recalled(self, folder: epath.PathLike, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the result in a folder, or None if the folder holds no result.

        Args:
          folder: folder of the result.
          record: everything that the result depends on, as JSON values.

        Raises:
          OtherRecordError: the folder holds work for another record; the message names the difference.
          ValueError: a file in the folder is damaged.
        """
        if self.read_only:
            return self._recalled(folder, record)
        return cluster.first(f"the result in {folder}", lambda: self._recalled(folder, record))

    def _recalled(self, folder: epath.PathLike, record: Mapping[str, Any]) -> dict[str, Any] | None:
        folder = epath.Path(folder)
        if not (folder / RECORD).exists() or not _holds_work(folder):
            return None
        # Converted to JSON and back, because JSON turns tuples into lists.
        difference = _difference(read_json(folder / RECORD), json.loads(json.dumps(record)))
        # An error, because one table must not mix the results of two configurations.
        if difference:
            raise OtherRecordError(
                f"{folder} was made by another configuration ({difference}); give another --out, or delete that folder."
            )
        return read_json(folder / RESULT) if (folder / RESULT).exists() else None

    def remembered(
        self, folder: epath.PathLike, record: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the result in a folder; computes and keeps it if the folder holds no result.

        The record is written before the computation starts, so that a process that continues the work can check its
        settings. The result is written after the computation has ended, so that every result is complete.

        Args:
          folder: folder of the result; it is made if it does not exist.
          record: everything that the result depends on, as JSON values.
          compute: function that returns the result as JSON values. It may keep work in progress in the folder.

        Raises:
          NotStoredError: the folder holds no result, and the store is open for reading only.
          OtherRecordError: the folder holds work for another record; the message names the difference.
          ValueError: a file in the folder is damaged.
        """
        known = self.recalled(folder, record)
        if known is not None:
            return known
        self.require_writable(folder)
        with self.locked(folder):
            known = self.recalled(folder, record)
            if known is not None:
                return known
            self.begin(folder, record)
            return self.finish(folder, compute())

    @contextlib.contextmanager
    def locked(self, folder: epath.PathLike) -> Iterator[None]:
        """Keeps other processes from computing the results in a folder while the block runs; waits until no other does.

        The block calls `recalled` first: the result that was missing may have been computed in the meantime.

        Raises:
          LockedError: another process computes them, and the store does not wait.
          ValueError: the file system has no locks.
        """
        if self._locks is None:
            yield
            return
        self._locks.mkdir(parents=True, exist_ok=True)
        # A study's folder may have another path on each machine.
        name = os.path.relpath(os.fspath(folder), self._locks.parent)
        with contextlib.ExitStack() as held:
            holder = cluster.first(f"the lock of {name}", lambda: self._take(held, name))
            if holder:
                raise LockedError(folder, holder)
            _look_again(self._locks.parent, Path(name))
            yield

    def _take(self, held: contextlib.ExitStack, name: str) -> str:
        """Takes the lock of a folder and returns an empty text; returns the other holder if the store does not wait."""
        pause = _LOOKS[0]
        while True:
            try:
                held.enter_context(lock(self._locks / f"{slug(name)}.lock", remove=True))
                return ""
            except LockedError as error:
                holder = error.holder
            if not self._wait:
                return holder
            time.sleep(pause)
            if pause < _LOOKS[1] <= 2 * pause:
                self._note(f"Waiting for {name}, which is computed by {holder}")
            pause = min(2 * pause, _LOOKS[1])

    def begin(self, folder: epath.PathLike, record: Mapping[str, Any]) -> None:
        """Makes a folder and writes the record of work whose result `finish` keeps; see `remembered`.

        Raises:
          NotStoredError: the store is open for reading only.
        """
        self.require_writable(folder)
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)

    def finish(self, folder: epath.PathLike, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result to a folder that `begin` made, and returns the value that `recalled` will return."""
        folder = epath.Path(folder)

        def kept() -> dict[str, Any]:
            write_json(folder / RESULT, result)
            return read_json(folder / RESULT)

        return cluster.first(f"the new result in {folder}", kept)

    def require_writable(self, folder: epath.PathLike) -> None:
        """Raises NotStoredError if the store is open for reading only.

        Args:
          folder: folder without a result, named in the message.
        """
        if self.read_only:
            raise NotStoredError(f"{folder} holds no result yet.")


def _look_again(top: Path, name: Path) -> None:
    """Lists the folders on a path, so that a network file system shows what other machines have written there."""
    for each in reversed([name, *name.parents]):
        with contextlib.suppress(OSError):
            os.listdir(top / each)


def _holds_work(folder: epath.Path) -> bool:
    """Returns whether a folder holds other files than a record and those of a failure.

    A folder with only a record may be reused: its computation kept nothing, perhaps because a setting was wrong.
    """
    return any(path.name not in (RECORD, FAILED, ERROR_LOG) for path in folder.iterdir())


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns the settings that differ, with both values, or an empty text."""
    old = _flat(old)
    new = _flat(new)
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested objects and lists of objects as one dict with dotted names, so that a difference names one setting."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat
