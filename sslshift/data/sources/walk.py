"""Listing of the files below a folder, shared by `folder:` sources, imports and tasks, so that all use the same files."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sslshift.data.formats import EXTENSIONS
from sslshift.data.sources.base import Refused, printable

# Folders and files that systems, storage devices and unpackers add, in lower case. Some hold thumbnails, which are copies.
_FOLDERS = ("__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information")
_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")


class Files(NamedTuple):
    """Files below a folder.

    Attributes:
      paths: the files, folder by folder, sorted by the bytes of their names.
      links: (path, reason) of links to files that are listed by another name.
      unreadable: folders that cannot be read, and links to folders that are not followed.
      hidden: files and folders that are ignored, see `is_hidden`.
    """

    paths: list[Path]
    links: list[tuple[Path, str]]
    unreadable: list[Refused]
    hidden: list[Path]


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is ignored: its name begins with a dot, or systems and unpackers add this name.

    Example:
      >>> [is_hidden(name) for name in (".ipynb_checkpoints", "._cat.jpg", "__MACOSX", "@eaDir", "cats")]
      [True, True, True, True, False]
    """
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in (*_FOLDERS, *_FILES)


def is_image(path: Path) -> bool:
    """Returns whether a file has an image's extension."""
    return path.suffix.lower() in EXTENSIONS


def list_files(folder: Path) -> Files:
    """Returns the files below a folder that are not hidden.

    Links are followed, including links to files and folders elsewhere. A file or folder with several names is listed once,
    under its own name and not under the name of a link. A link to a folder that contains the listed folder is refused.
    """
    walk = _Walk(folder)
    walk.enter(folder)
    # A linked folder may hold links to further folders.
    while walk.linked_folders:
        # Sorted, so that always the same one of several links to a folder is followed.
        links = sorted(walk.linked_folders, key=_order)
        walk.linked_folders = []
        for link in links:
            walk.follow_folder(link)
    # Files come after all folders, so that a file gets its own name if any folder holds it, even a linked folder.
    for link in sorted(walk.linked_files, key=_order):
        walk.follow_file(link)
    return Files(sorted(walk.paths, key=_order), walk.links, sorted(walk.unreadable), sorted(walk.hidden, key=_order))


def _order(path: str | Path) -> list[bytes]:
    # Compared folder by folder: 'a/z' comes before 'a-b/c', although '-' sorts before '/'.
    return os.fsencode(path).split(b"/")


class _Walk:
    """A listing in progress."""

    def __init__(self, folder: Path):
        self.paths: list[Path] = []
        self.links: list[tuple[Path, str]] = []
        self.unreadable: list[Refused] = []
        self.hidden: list[Path] = []
        self.linked_folders: list[str] = []
        self.linked_files: list[str] = []
        self._root = os.path.realpath(folder)
        # Resolved paths of everything listed so far, so that a second name of the same file or folder is not listed.
        self._folders: set[str] = set()
        self._files: set[str] = set()

    def enter(self, top: str | Path) -> None:
        """Lists a folder and the folders below it. Links are kept for later, so that own names have priority."""
        waiting = [str(top)]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
            # This also ends a walk through links that form a circle.
            if real in self._folders:
                continue
            self._folders.add(real)
            for entry in self._entries(folder):
                if is_hidden(entry.name):
                    self.hidden.append(Path(entry.path))
                elif entry.is_symlink():
                    (self.linked_folders if _leads_to_folder(entry) else self.linked_files).append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    # The folder is resolved and the entry is not a link, so its real path needs no system call.
                    self._add(entry.path, os.path.join(real, entry.name))

    def follow_folder(self, link: str) -> None:
        real = os.path.realpath(link)
        # A link to a parent of the folder would add files that the user did not name.
        # Both paths get a slash at the end, since /data is not a parent of /database.
        if real not in self._folders and f"{self._root}/".startswith(f"{real.rstrip('/')}/"):
            self.unreadable.append(Refused(printable(link), "it is a link to a folder that contains it"))
        else:
            self.enter(link)

    def follow_file(self, link: str) -> None:
        real = os.path.realpath(link)
        if real not in self._files:
            self._add(link, real)
        else:
            self.links.append((Path(link), f"it is a link to {printable(real)}, which is listed already"))

    def _entries(self, folder: str) -> Iterable[os.DirEntry]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            self.unreadable.append(Refused(printable(folder), error.strerror or str(error)))
            return []

    def _add(self, path: str, real: str) -> None:
        self.paths.append(Path(path))
        self._files.add(real)


def _leads_to_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # The link is part of a circle; the error appears when the file is read.
        return False
