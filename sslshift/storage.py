"""Files that are whole or absent, locks, and folders that keep results.

The package writes all its results with this module, so that a process can be stopped at any moment without damaging them:

- `write` and `whole_file` replace a file in one step. A process that is killed, or a disk that is full, leaves the old file; a
  kill also leaves `NAME.part`, which the next write replaces.
- `lock` keeps a second process out of a folder. The operating system releases the lock when the process ends or crashes.
- `ArrayCache` keeps arrays that take long to compute, up to a number of bytes, for all later commands of the user.
- `Store` keeps results in folders. Each folder holds the request in `record.json` and the answer in `result.json`. A
  folder without `result.json` is work in progress: the next process that asks for the same record continues it.

A path is local or belongs to an object store (`gs://...`), as in `etils.epath`.
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import platform
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from etils import epath

from sslshift.cache import prune

RECORD = "record.json"
RESULT = "result.json"
# Files about a failed computation, which people read. A folder with only these files accepts another record.
FAILED = "failed.json"
ERROR_LOG = "error.log"

_PART = ".part"


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
    path = epath.Path(path)
    part = path.with_name(path.name + _PART)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        # On a full disk, an unfinished file would take space that the user needs.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
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
def lock(file: epath.PathLike) -> Iterator[None]:
    """Holds a lock while the block runs. The lock is released when the process ends, even if it is killed.

    Args:
      file: path of the lock; its folder must exist. The file is kept after the release, and a second file names the holder.

    Raises:
      LockedError: another process, or another block of this process, holds the lock.
      ValueError: the file system has no locks; object stores never have locks.
    """
    # Imported here, because programs that only load encoders need no locks.
    import filelock

    file = os.fspath(file)
    if "://" in file:
        raise ValueError(f"Expected a local folder, got {file}: object stores have no locks.")
    # Every process that tries to take the lock empties its file, so the holder is written to another file.
    name = epath.Path(f"{file}.holder")
    held = filelock.FileLock(file, timeout=0)
    # Without a timeout: a second command fails at once and names the holder.
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


class ArrayCache:
    """Files with arrays that take long to compute. The cache never stops a command: what it does not hold is computed.

    A damaged file is written anew, and a folder that cannot be written is reported once. The files are NumPy's npz without
    pickle, so that none of them can run code.

    Example:
      >>> import tempfile, numpy as np
      >>> cache = ArrayCache(Path(tempfile.mkdtemp()) / "sums", 1 << 20, print)
      >>> cache.remembered(["a", 1], lambda: {"sum": np.array(3)})["sum"].item()
      3
      >>> cache.remembered(["a", 1], lambda: 1 / 0)["sum"].item()
      3

    Args:
      folder: folder of the files; it is made when the first file is written.
      most_bytes: size of all files; beyond it, the files that were not used for longest are deleted.
      note: called at most once, with a sentence about a folder that cannot be written.
    """

    def __init__(self, folder: Path, most_bytes: int, note: Callable[[str], None]):
        self._folder = folder
        self._most_bytes = most_bytes
        self._note: Callable[[str], None] | None = note

    def remembered(self, key: Sequence[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the arrays kept by a key, by name; computes and keeps them if there are none.

        Args:
          key: everything that the arrays depend on, as JSON values.
          compute: function that returns the arrays.
        """
        path = self._folder / f"{digest(key, 32)}.npz"
        known = _read_arrays(path)
        if known is not None:
            return known
        arrays = compute()
        try:
            self._write(path, arrays)
        except OSError as error:
            if self._note:
                self._note(
                    f"{self._folder} cannot be written ({error.strerror or error}): later commands compute its content anew."
                )
            self._note = None
        return arrays

    def _write(self, path: Path, arrays: Mapping[str, Any]) -> None:
        import numpy as np

        self._folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **arrays)
        # An array that would displace all others is not kept.
        if content.tell() > self._most_bytes:
            return
        write(path, content.getvalue())
        prune(self._folder, self._most_bytes)


def _read_arrays(path: Path) -> dict[str, Any] | None:
    """Returns the arrays in an npz file; None if there is no file or it is damaged."""
    import numpy as np

    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None


class Store:
    """Folders that keep results, open for reading and writing or for reading only.

    Example:
      >>> import tempfile
      >>> folder = epath.Path(tempfile.mkdtemp()) / "sum"
      >>> Store().remembered(folder, {"a": 1, "b": 2}, lambda: {"sum": 3})
      {'sum': 3}
      >>> Store(read_only=True).remembered(folder, {"a": 1, "b": 2}, lambda: 1 / 0)
      {'sum': 3}

    Attributes:
      read_only: whether the store only reads; it then computes and writes nothing.
    """

    def __init__(self, *, read_only: bool = False):
        self.read_only = read_only

    def recalled(self, folder: epath.PathLike, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the result in a folder, or None if the folder holds no result.

        Args:
          folder: folder of the result.
          record: everything that the result depends on, as JSON values.

        Raises:
          OtherRecordError: the folder holds work for another record; the message names the difference.
          ValueError: a file in the folder is damaged.
        """
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
        self.begin(folder, record)
        return self.finish(folder, compute())

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
        write_json(folder / RESULT, result)
        return read_json(folder / RESULT)

    def require_writable(self, folder: epath.PathLike) -> None:
        """Raises NotStoredError if the store is open for reading only.

        Args:
          folder: folder without a result, named in the message.
        """
        if self.read_only:
            raise NotStoredError(f"{folder} holds no result yet.")


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
