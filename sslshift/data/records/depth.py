"""The pixel range of an import: decided once for all of its images of more than 8 bits, before the first of them is stored.

A group with such images waits until every group has been read: its values are written down, and the range is a function of
those of all groups. So it is the same after any interruption, and in any number of processes.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from sslshift.data.ranges import Levels, merge_levels
from sslshift.data.records.shards import parts_folder

_ENDING = ".levels.json"


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
