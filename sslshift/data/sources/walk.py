"""The files below a folder: the one listing that a `folder:` source, an import and a task read, so that all see the same."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sslshift.data.decode import EXTENSIONS
from sslshift.data.sources.base import printable

# Names, in lower case, of what systems, storage devices and unpackers add to a collection; some hold thumbnails of it.
_FOLDERS = ("__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information")
_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini")


class Files(NamedTuple):
    """Files below a folder.

    Attributes:
      paths: the files, folder by folder, names in the order of their bytes.
      links: (path, reason) of links to files that are listed by another name.
      unreadable: (path as text, reason) of folders that may not be read, and of links to folders that are not followed.
      hidden: files and folders that were left alone.
    """

    paths: list[Path]
    links: list[tuple[Path, str]]
    unreadable: list[tuple[str, str]]
    hidden: list[Path]


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is left alone: it begins with a dot, or a system or an unpacker made it.

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

    Links are followed, also to files and folders outside. A file or folder that has several names counts once, by its own name
    rather than that of a link to it. A link from below the folder to one that contains the folder is refused.
    """
    walk = _Walk(folder)
    walk.enter(folder)
    while walk.linked_folders:
        links = sorted(walk.linked_folders, key=_order)
        walk.linked_folders = []
        for link in links:
            walk.follow_folder(link)
    for link in sorted(walk.linked_files, key=_order):
        walk.follow_file(link)
    return Files(sorted(walk.paths, key=_order), walk.links, sorted(walk.unreadable), sorted(walk.hidden, key=_order))


def _order(path: str | Path) -> list[bytes]:
    # By the folders and then the name: 'a/z' before 'a-b/c', as a walk from folder to folder has it.
    return os.fsencode(path).split(b"/")


class _Walk:
    """A listing in progress."""

    def __init__(self, folder: Path):
        self.paths: list[Path] = []
        self.links: list[tuple[Path, str]] = []
        self.unreadable: list[tuple[str, str]] = []
        self.hidden: list[Path] = []
        self.linked_folders: list[str] = []
        self.linked_files: list[str] = []
        self._root = os.path.realpath(folder)
        # Where the folders and files that are listed really are.
        self._folders: set[str] = set()
        self._files: set[str] = set()

    def enter(self, top: str | Path) -> None:
        """Lists a folder and those in it; links wait until all that has a name of its own is listed."""
        waiting = [str(top)]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
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
                    self._add(entry.path, os.path.join(real, entry.name))

    def follow_folder(self, link: str) -> None:
        real = os.path.realpath(link)
        if real not in self._folders and f"{self._root}/".startswith(f"{real.rstrip('/')}/"):
            self.unreadable.append((printable(link), "it is a link to a folder that contains it"))
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
            self.unreadable.append((printable(folder), error.strerror or str(error)))
            return []

    def _add(self, path: str, real: str) -> None:
        self.paths.append(Path(path))
        self._files.add(real)


def _leads_to_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # Links in a circle; reading the file says so.
        return False
