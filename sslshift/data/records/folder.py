"""The folder of an unfinished source: its settings, the lock of its one writer, and its work in progress.

Work in progress is in `parts/`: a marker for every finished shard, and the range of values for every shard with images of more
than 8 bits. The pixel range of such images is decided once for the whole source, before the first of them is stored: a shard
with such images waits until all shards have been read. The pixel range is a function of the values of all shards, so it is the
same after any interruption and for any number of processes.
"""

import contextlib
import json
import shutil
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sslshift import storage
from sslshift.data.ranges import Levels, merge_levels
from sslshift.data.sources.base import printable
from sslshift.data.sources.manifest import PARTS, SUMMARY, Summary, read_summary

_LEVELS = ".levels.json"


def parts_folder(folder: Path) -> Path:
    """Returns the folder of the work in progress."""
    return folder / PARTS


def find_finished(folder: Path, file: str, settings: Mapping[str, Any], free: Collection[str] = ()) -> Summary | None:
    """Returns the summary of a finished source, or None if the source must be made or continued. No file is changed.

    Args:
      folder: folder of the source.
      file: name of the file with the settings, as `keep_settings` wrote it.
      settings: the settings of this call, as JSON values.
      free: names of settings that may change until the source is finished.

    Raises:
      ValueError: the folder holds something else, or was made with other settings.
    """
    name = printable(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name} is a file; name a new folder, or one of an earlier call.")
    if not (folder / file).exists():
        # A folder that holds only a lock (in the folder of the work in progress) can be used with any settings.
        if folder.exists() and any(path.name != PARTS for path in folder.iterdir()):
            raise ValueError(f"{name} is not empty and holds no {file} of an earlier call; name a new folder.")
        return None
    before = json.loads((folder / file).read_text(encoding="utf-8"))
    finished = (folder / SUMMARY).exists()
    # The settings are converted to JSON and back, since a tuple is written as a list.
    now = json.loads(json.dumps(settings))
    # Settings of earlier versions that no longer exist do not count.
    different = [key for key in now if before.get(key) != now[key] and (finished or key not in free)]
    if different:
        changes = "; ".join(f"{key}: {_short(before.get(key))} there, {_short(now[key])} now" for key in different)
        raise ValueError(f"{name} was made with other settings ({changes}); name another output, or delete it.")
    return read_summary(folder, name) if finished else None


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), 80, placeholder=" ...")


def keep_settings(folder: Path, file: str, settings: Mapping[str, Any]) -> None:
    """Writes the settings for `find_finished` of later calls."""
    storage.write_json(folder / file, settings, indent=1)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and prevents a second process from writing to it while the block runs.

    Raises:
      ValueError: another process is writing to the folder.
    """
    parts_folder(folder).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(parts_folder(folder) / "lock"))
        except storage.LockedError as error:
            raise ValueError(
                f"Another process is writing {printable(folder)} ({error.holder}); wait until it ends, or name another output."
            ) from error
        yield


def remove_parts(folder: Path) -> None:
    """Removes the work in progress of a source that is finished, or that must be listed again."""
    shutil.rmtree(parts_folder(folder), ignore_errors=True)


def write_levels(folder: Path, name: str, levels: Iterable[Levels]) -> None:
    """Writes the ranges of the values in a shard's images of more than 8 bits.

    Args:
      folder: folder of the source.
      name: name of the shard.
      levels: the ranges of values of one or more images.
    """
    storage.write(parts_folder(folder) / f"{name}{_LEVELS}", json.dumps(merge_levels(levels)))


def has_levels(folder: Path, name: str) -> bool:
    """Returns whether a shard is known to have images of more than 8 bits."""
    return (parts_folder(folder) / f"{name}{_LEVELS}").exists()


def read_levels(folder: Path) -> list[Levels]:
    """Returns the ranges of values of all shards, merged by `merge_levels`."""
    files = sorted(parts_folder(folder).glob(f"*{_LEVELS}"))
    return merge_levels(Levels(*each) for file in files for each in json.loads(file.read_text(encoding="utf-8")))


def forget_levels(folder: Path) -> None:
    """Removes the shards whose images depend on the pixel range, so that they are stored again with another range."""
    for file in parts_folder(folder).glob(f"*{_LEVELS}"):
        # The marker goes first: a shard without a marker does not count, even if this process is killed now.
        file.with_name(f"{file.name.removesuffix(_LEVELS)}.json").unlink(missing_ok=True)
        file.unlink()
