"""Files that are whole or absent, locks, and folders that remember.

Everything that the package keeps passes through here, so that it survives being stopped at any moment:

- `write` and `whole_file` replace a file in one step. A process that is killed, or a disk that is full, leaves the old file; a
  kill also leaves `NAME.part`, which the next write replaces.
- `lock` keeps a second process out of a folder. The operating system releases the lock when the process ends, however it ends.
- `Store` keeps results in folders. Each folder holds `record.json`, which says what was asked, and `result.json`, the answer. A
  folder without `result.json` is work in progress: the next process that asks for the same record continues it.

Paths are local ones or those of an object store (`gs://...`), as `etils.epath` takes them.
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from etils import epath

RECORD = "record.json"
RESULT = "result.json"
# Files that a failed computation leaves for people. They do not bind a folder to the record that failed.
FAILED = "failed.json"
ERROR_LOG = "error.log"

_PART = ".part"


class NotStoredError(RuntimeError):
    """A result was requested that is not stored, from a store that is open for reading only."""


class OtherRecordError(ValueError):
    """A folder holds work for another record."""


class LockedError(RuntimeError):
    """Another process holds a lock.

    Attributes:
      holder: that process in words: its number, its machine, and since when it holds the lock.
    """

    def __init__(self, file: epath.PathLike, holder: str):
        super().__init__(f"{file} is locked by {holder}.")
        self.holder = holder


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Yields a binary file whose content replaces that of `path` once the block has ended without an error.

    Example:
      >>> import tempfile
      >>> path = epath.Path(tempfile.mkdtemp()) / "sums.txt"
      >>> with whole_file(path) as file:
      ...     _ = file.write(b"1 + 1 = 2")
      >>> path.read_text()
      '1 + 1 = 2'

    Args:
      path: of the file. Its folder must exist.

    Raises:
      OSError: the file cannot be written; an earlier one stays as it is.
    """
    path = epath.Path(path)
    part = path.with_name(path.name + _PART)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        # On a full disk an unfinished file would take the space that its owner needs to go on.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write(path: epath.PathLike, content: str | bytes) -> None:
    """Replaces a file's content in one step; text is encoded as UTF-8.

    Raises:
      OSError: the file cannot be written; an earlier one stays as it is.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: epath.PathLike, value: Any, indent: int = 2) -> None:
    """Writes a value as JSON, see `write`."""
    write(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: epath.PathLike) -> Any:
    """Returns the value in a JSON file that this package wrote.

    Raises:
      ValueError: the file holds no JSON, as can happen when a machine loses its power.
    """
    try:
        return json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, and the same command makes it again.") from error


def digest(value: Any, letters: int = 8) -> str:
    """Returns a digest of a value that JSON can hold; the order of names in its objects does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:letters]


def slug(name: str) -> str:
    """Returns a folder's name for a source, mixture or task: readable, and unlike the folder's name of any other.

    Example:
      >>> slug("folder:/data/parts of cars?labels=folder")
      'data_parts_of_cars-85321501'
    """
    # Forty letters are readable, and short enough for every file system with the rest of a path.
    words = re.sub(r"[^A-Za-z0-9]+", "_", (name.partition(":")[2] or name).partition("?")[0]).strip("_")
    return f"{words[-40:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def lock(file: epath.PathLike) -> Iterator[None]:
    """Holds a lock while the block runs. The lock goes with the process, also when it is killed.

    Args:
      file: the lock; its folder must exist. The file stays when the lock is released, and a file beside it names the holder.

    Raises:
      LockedError: another process, or another block of this one, holds the lock.
      ValueError: the file system has no locks, as object stores have none.
    """
    # Imported here: those who only load encoders have no use for locks.
    import filelock

    file = os.fspath(file)
    if "://" in file:
        raise ValueError(f"Expected a local folder, got {file}: object stores have no locks.")
    # The lock's own file is emptied by every process that tries it, and can hold no name.
    name = epath.Path(f"{file}.holder")
    held = filelock.FileLock(file, timeout=0)
    # No waiting: a second command says at once who works there.
    try:
        held.acquire()
    except filelock.Timeout as error:
        holder = name.read_text().strip() if name.exists() else ""
        raise LockedError(file, holder or "another process") from error
    except NotImplementedError as error:
        raise ValueError(f"{file}: the file system has no locks. Use a folder on another file system.") from error
    try:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        write(name, f"process {os.getpid()} on {platform.node()} since {now}\n")
        yield
    finally:
        held.release()


class Store:
    """Folders that remember results, open for reading and writing or for reading only.

    Example:
      >>> import tempfile
      >>> folder = epath.Path(tempfile.mkdtemp()) / "sum"
      >>> Store().remembered(folder, {"a": 1, "b": 2}, lambda: {"sum": 3})
      {'sum': 3}
      >>> Store(read_only=True).remembered(folder, {"a": 1, "b": 2}, lambda: 1 / 0)
      {'sum': 3}

    Attributes:
      read_only: a store that is read only computes and writes nothing.
    """

    def __init__(self, *, read_only: bool = False):
        self.read_only = read_only

    def recalled(self, folder: epath.PathLike, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the result in a folder, None if it holds none.

        Args:
          folder: of the result.
          record: everything that the result depends on, as JSON can hold it.

        Raises:
          OtherRecordError: the folder holds work for another record; the message names the difference.
          ValueError: a file in the folder is damaged.
        """
        folder = epath.Path(folder)
        if not (folder / RECORD).exists() or not _holds_work(folder):
            return None
        # Through JSON and back: a tuple and the list that it was written as are equal.
        difference = _difference(read_json(folder / RECORD), json.loads(json.dumps(record)))
        # Never silently: results of two configurations in one table would be compared with each other.
        if difference:
            raise OtherRecordError(
                f"{folder} was made by another configuration ({difference}); give another --out, or delete that folder."
            )
        return read_json(folder / RESULT) if (folder / RESULT).exists() else None

    def remembered(
        self, folder: epath.PathLike, record: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the result in a folder; computes and keeps it if the folder holds none.

        The record is written before the computation starts, so that a process that continues the work is sure of its settings,
        and the result after it has ended, so that every result is whole.

        Args:
          folder: of the result; it is made if it does not exist.
          record: everything that the result depends on, as JSON can hold it.
          compute: returns the result, as JSON can hold it. It may keep its own work in progress in the folder.

        Raises:
          NotStoredError: the folder holds no result, and the store is open for reading only.
          OtherRecordError: the folder holds work for another record; the message names the difference.
          ValueError: a file in the folder is damaged.
        """
        known = self.recalled(folder, record)
        if known is not None:
            return known
        self.begin(folder, record)
        return self.finish(folder, compute())

    def begin(self, folder: epath.PathLike, record: Mapping[str, Any]) -> None:
        """Makes a folder and writes down what is asked, for work whose result `finish` keeps; see `remembered`.

        Raises:
          NotStoredError: the store is open for reading only.
        """
        self.require_writable(folder)
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)

    def finish(self, folder: epath.PathLike, result: dict[str, Any]) -> dict[str, Any]:
        """Keeps the result of a folder that `begin` made, and returns it as later calls of `recalled` will."""
        folder = epath.Path(folder)
        write_json(folder / RESULT, result)
        return read_json(folder / RESULT)

    def require_writable(self, folder: epath.PathLike) -> None:
        """Raises NotStoredError if the store is open for reading only.

        Args:
          folder: that lacks the result, for the message.
        """
        if self.read_only:
            raise NotStoredError(f"{folder} holds no result yet.")


def _holds_work(folder: epath.Path) -> bool:
    """Returns whether a folder holds more than a record and the traces of a failure.

    A record alone binds to nothing: its computation failed before anything was kept, perhaps for a setting corrected since.
    """
    return any(path.name not in (RECORD, FAILED, ERROR_LOG) for path in folder.iterdir())


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns the settings that differ, with both values; empty if none do."""
    old = _flat(old)
    new = _flat(new)
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested objects, and lists of them, as one level of dotted names, so that a difference names one setting."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat
