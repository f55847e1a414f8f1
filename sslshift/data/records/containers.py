"""What can be imported: a folder of images, tar and zip archives in it or alone, or a CSV or Parquet list."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from sslshift.data.sources.base import printable
from sslshift.data.sources.recognise import recognise_file
from sslshift.data.sources.walk import list_files

_TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_ZIP = re.compile(r"\.zip$", re.IGNORECASE)
# Archives of images that are met, and that the standard library cannot open; parts of split archives among them.
_OTHER = re.compile(
    r"\.(7z|rar|cab|cpio|iso|zst|lz4|tzst|z\d\d|tar\.(lzma|lz|z|br)|(zip|tgz|tar(\.\w+)?)\.(\d{2,}|part\w+|a[a-z]))$",
    re.IGNORECASE,
)
_LIST = re.compile(r"\.(csv|parquet)$", re.IGNORECASE)


class Container(NamedTuple):
    """Something that holds images; containers are imported in the order of their numbers."""

    number: int
    kind: str
    path: bytes


def find_containers(path: Path) -> list[Container]:
    """The containers at a path: a folder itself with the archives below it, or the one file that it is.

    Raises:
      ValueError: there is nothing, or a file of another kind.
    """
    if path.is_dir():
        archives = [each for each in list_files(path).paths if kind_of(each.name) in ("tar", "zip")]
        found = [("folder", path), *((kind_of(each.name), each) for each in archives)]
    elif path.is_file():
        kind = kind_of(path.name)
        if not kind:
            known = recognise_file(path)
            raise ValueError(
                f"{printable(path)} is no folder, no tar or zip archive, and no CSV or Parquet list of images by its name"
                + (f"; it is {known}." if known else ".")
            )
        found = [(kind, path)]
    else:
        raise ValueError(f"There is no folder or file {printable(path)}.")
    return [Container(number, kind, os.fsencode(each)) for number, (kind, each) in enumerate(found)]


def kind_of(name: str) -> str:
    """What a file of this name contains: "tar", "zip" or "list"; empty if it is no container."""
    return next((kind for kind, pattern in (("tar", _TAR), ("zip", _ZIP), ("list", _LIST)) if pattern.search(name)), "")


def is_other_archive(name: str) -> bool:
    """Returns whether a file of this name is an archive that is not opened."""
    return bool(_OTHER.search(name))


def member_fault(name: str) -> str:
    """Why an archive's member of this name is refused; empty if it is not."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "its name is absolute"
    return "its name leaves the archive" if ".." in parts else ""
