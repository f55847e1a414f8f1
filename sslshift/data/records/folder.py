"""The folder of a source in the making: the settings that it is made with, and that one process at a time writes it."""

import contextlib
import fcntl
import json
import shutil
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sslshift.data.ranges import Levels, merge_levels
from sslshift.data.sources.base import printable
from sslshift.data.sources.manifest import PARTS, SUMMARY, Summary, read_summary

_ENDING = ".levels.json"


def parts_folder(folder: Path) -> Path:
    return folder / PARTS


def find_finished(folder: Path, file: str, settings: Mapping[str, Any], free: Collection[str] = ()) -> Summary | None:
    """The summary of a source that is finished, or None where it is to be made or continued. Changes nothing.

    Args:
      folder: of the source.
      file: in which the folder keeps its settings, by `keep_settings`.
      settings: asked for, as JSON can hold them.
      free: names of settings that may change until the source is finished.

    Raises:
      ValueError: the folder holds something else, or was made with other settings.
    """
    told = printable(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{told} is a file; name a folder, new or of an earlier call.")
    if not (folder / file).exists():
        if folder.exists() and any(path.name != PARTS for path in folder.iterdir()):
            raise ValueError(f"{told} is not empty and holds no {file} of an earlier call; give a new folder.")
        return None
    before = json.loads((folder / file).read_text(encoding="utf-8"))
    finished = (folder / SUMMARY).exists()
    now = json.loads(json.dumps(settings))
    different = [key for key in now if before.get(key) != now[key] and (finished or key not in free)]
    if different:
        changes = "; ".join(f"{key}: {_short(before.get(key))} there, {_short(now[key])} now" for key in different)
        raise ValueError(f"{told} was made with other settings ({changes}); give another output, or delete it.")
    return read_summary(folder, told) if finished else None


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), 80, placeholder=" ...")


def keep_settings(folder: Path, file: str, settings: Mapping[str, Any]) -> None:
    """Writes the settings down for `find_finished` of later calls."""
    part = folder / f"{file}.part"
    part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / file)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps a second writer out of it; the lock goes with the process, however it ends.

    Raises:
      ValueError: another process writes there.
    """
    parts_folder(folder).mkdir(parents=True, exist_ok=True)
    with open(parts_folder(folder) / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"Another process is writing {printable(folder)}; wait for it, or give another output.") from error
        yield


def remove_parts(folder: Path) -> None:
    """Removes the work in progress of a finished source, where a kill left it."""
    shutil.rmtree(parts_folder(folder), ignore_errors=True)


def write_levels(folder: Path, name: str, levels: Iterable[Levels]) -> None:
    """Writes down what values the images of more than 8 bits in a group hold."""
    target = parts_folder(folder) / f"{name}{_ENDING}"
    part = target.with_suffix(".part")
    part.write_text(json.dumps(merge_levels(levels)), encoding="utf-8")
    part.replace(target)


def has_levels(folder: Path, name: str) -> bool:
    """Returns whether a group is known to hold images of more than 8 bits."""
    return (parts_folder(folder) / f"{name}{_ENDING}").exists()


def read_levels(folder: Path) -> list[Levels]:
    """Returns the values of all groups together, as `merge_levels`."""
    files = sorted(parts_folder(folder).glob(f"*{_ENDING}"))
    return merge_levels(Levels(*each) for file in files for each in json.loads(file.read_text(encoding="utf-8")))


def forget_levels(folder: Path) -> None:
    """Removes shards whose images depend on the range, so that they are stored anew with another one."""
    for file in parts_folder(folder).glob(f"*{_ENDING}"):
        # First: without its marker a shard is not there.
        file.with_name(f"{file.name.removesuffix(_ENDING)}.json").unlink(missing_ok=True)
        file.unlink()
