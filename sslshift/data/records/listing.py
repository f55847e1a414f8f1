"""Finds the containers of an import, and lists every image of a container before the first image is read.

A container is a folder of images, a tar or zip archive (alone or in such a folder), or a CSV or Parquet list. The listing is
kept, so that an import that was stopped continues with the same images in the same shards.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift import storage
from sslshift.data.formats import EXTENSIONS
from sslshift.data.records.folder import parts_folder
from sslshift.data.records.members import Member, Place, folder_members, forget_archives, tar_members, zip_members
from sslshift.data.records.sidecars import SUFFIXES, describe, first_dot, join, whole_stem
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.labels import class_name, gather_spellings
from sslshift.data.sources.layout import require_no_splits
from sslshift.data.sources.lists import read_list
from sslshift.data.sources.manifest import CLASSES, GROUP, ImageDescription
from sslshift.data.sources.recognise import is_other_archive, kind_of, recognise_file
from sslshift.data.sources.walk import is_hidden, list_files

# Columns for an image of a container: the fields of its place, and the facts that become columns of the manifest.
_ROW = pa.schema(
    [
        pa.field("origin", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("path", pa.binary()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("stamp", pa.string()),
        pa.field("class", pa.string()),
        # Null except in multi-label lists.
        CLASSES,
        # Null except in lists with groups.
        GROUP,
        pa.field("licence", pa.string()),
        pa.field("cost", pa.float64()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
    ]
)


class Container(NamedTuple):
    """A folder, archive or list that holds images. Containers are imported in the order of their numbers."""

    number: int
    kind: str
    path: bytes


class ListedImage(NamedTuple):
    """An image of a container that is to be imported."""

    place: Place
    description: ImageDescription


class Listing(NamedTuple):
    """The content of a container.

    Attributes:
      container: number of the container.
      groups: number of groups of images; each group becomes a shard.
      images: number of images.
      refused: files that look like images and are not imported, followed by `faults`.
      others: numbers of files of other kinds, by extension.
      spellings: the spellings of each class, see `labels.gather_spellings`.
      faults: archives and folders that could not be read completely: they may hold any number of images.
      path: path of the container; empty if an earlier version listed it.
      digest: digest of a list's content; empty for other containers.
    """

    container: int
    groups: int
    images: int
    refused: list[Refused]
    others: dict[str, int]
    spellings: dict[str, list[str]]
    faults: Sequence[Refused] = ()
    path: str = ""
    digest: str = ""


def find_containers(path: Path) -> list[Container]:
    """Returns the containers at a path: a folder and the archives below it, or a single file.

    Raises:
      ValueError: the path does not exist, or is a file of another kind.
    """
    if path.is_dir():
        archives = [each for each in list_files(path).paths if kind_of(each.name) in ("tar", "zip")]
        found = [("folder", path), *((kind_of(each.name), each) for each in archives)]
    elif path.is_file():
        kind = kind_of(path.name)
        if not kind:
            known = recognise_file(path)
            raise ValueError(
                f"Expected a folder, a tar or zip archive, or a CSV or Parquet list of images, got {printable(path)}"
                + (f"; it is {known}." if known else ".")
            )
        found = [(kind, path)]
    else:
        raise ValueError(f"There is no folder or file {printable(path)}.")
    return [Container(number, kind, os.fsencode(each)) for number, (kind, each) in enumerate(found)]


def list_container(container: Container, output: Path, group_size: int, labels: str) -> Listing:
    """Writes `parts/listing-NUMBER.parquet`, with a row group per shard, or returns the listing of an earlier call.

    Args:
      container: the container.
      output: folder of the new source.
      group_size: largest number of images in a shard.
      labels: "folder" makes the first folder of an image's name its label; "none" takes labels from lists and sidecars; "multi"
        takes any number of labels from a list.

    Raises:
      ValueError: a list is refused, or an earlier call listed another container with this number.
    """
    marker = parts_folder(output) / f"listing-{container.number:05d}.json"
    if marker.exists():
        return _listed_before(marker, container)
    parts_folder(output).mkdir(parents=True, exist_ok=True)
    # A worker may have an earlier archive of this name open.
    forget_archives()
    contents = _Contents(container, output, labels)
    images = groups = 0
    # Written group by group, so that listing a container of any size takes little memory.
    with storage.whole_file(_listing_file(output, container.number)) as file, pq.ParquetWriter(file, _ROW) as writer:
        for group in _grouped(contents.images(), group_size):
            writer.write_table(pa.Table.from_pylist([_row(image) for image in group], _ROW))
            images = images + len(group)
            groups = groups + 1
    listing = Listing(
        container.number,
        groups,
        images,
        [*contents.refused, *contents.faults],
        dict(contents.others),
        contents.spellings,
        contents.faults,
        printable(container.path),
        _digest(container),
    )
    # The marker comes last: if it exists, the listing is complete.
    storage.write(marker, json.dumps(listing._asdict()))
    return listing


def _listed_before(marker: Path, container: Container) -> Listing:
    """Returns the listing that an earlier call wrote, after a check that it lists the same container."""
    values = json.loads(marker.read_text(encoding="utf-8"))
    lists = {name: [Refused(*each) for each in values.get(name, ())] for name in ("refused", "faults")}
    # Listings of earlier versions have no spellings.
    listing = Listing(**{"spellings": {}} | values | lists)
    # The numbers are positions in a sorted list of containers, which move if an archive is added or removed.
    if listing.path not in ("", printable(container.path)):
        raise ValueError(
            f"{listing.path} was listed at the position of {printable(container.path)}: archives were added or removed since "
            "this import began. Repeat the import with another output."
        )
    if listing.digest and listing.digest != _digest(container):
        raise ValueError(f"{listing.path} has changed since this import began. Repeat the import with another output.")
    return listing


def _digest(container: Container) -> str:
    path = Path(os.fsdecode(container.path))
    # Archives need no digest: the stamp of each place shows a change, see `members.require_unchanged`.
    return hashlib.sha256(path.read_bytes()).hexdigest() if container.kind == "list" else ""


def _listing_file(output: Path, number: int) -> Path:
    return parts_folder(output) / f"listing-{number:05d}.parquet"


def read_group(output: Path, number: int, group: int) -> list[ListedImage]:
    """Returns the images of one group of a container's listing."""
    rows = pq.ParquetFile(_listing_file(output, number)).read_row_group(group).to_pylist()
    return [_image(row) for row in rows]


def _row(image: ListedImage) -> dict[str, Any]:
    return image.place._asdict() | image.description.columns()


def _image(row: dict[str, Any]) -> ListedImage:
    # Listings of earlier versions lack columns.
    place = Place(**{name: row.get(name) for name in Place._fields})
    names = ("origin", GROUP.name, "licence", "cost", "caption", "url")
    facts = {name: row.get(name) for name in names}
    return ListedImage(place, ImageDescription(class_name=row.get("class"), classes=row.get(CLASSES.name), **facts))


def _grouped(images: Iterable[ListedImage], size: int) -> Iterator[list[ListedImage]]:
    group = []
    for image in images:
        group.append(image)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class _Contents:
    """The images of a container, and other findings of the listing. The attributes have the meaning of those of `Listing`."""

    def __init__(self, container: Container, output: Path, labels: str):
        self.refused: list[Refused] = []
        self.faults: list[Refused] = []
        self.others: Counter[str] = Counter()
        self.spellings: dict[str, list[str]] = {}
        self._container = container
        self._path = Path(os.fsdecode(container.path))
        self._output = output
        self._labels = labels
        self._is_folder = container.kind == "folder"
        # Members of several archives may have the same name.
        self._prefix = "" if self._is_folder else f"{printable(self._path.name)}/"

    def images(self) -> Iterator[ListedImage]:
        """Yields the images; the other attributes are complete when the iteration has ended."""
        number = self._container.number
        if self._container.kind == "list":
            return self._from_list()
        if self._container.kind == "folder":
            return self._joined(folder_members(self._path, self._output, number, self.faults), whole_stem)
        if self._container.kind == "tar":
            # WebDataset, whose files are tar archives, joins files up to the first dot.
            return self._joined(tar_members(self._path, self._output, number, self.faults), first_dot)
        return self._joined(zip_members(self._path, self._output, number, self.faults), whole_stem)

    def _from_list(self) -> Iterator[ListedImage]:
        listed = read_list(self._path, printable(self._path), "multi" if self._labels == "multi" else None)
        self.spellings |= listed.spellings
        labels = [None] * len(listed.paths) if listed.labels is None else listed.labels
        for i, name in enumerate(listed.paths):
            description = ImageDescription(
                printable(name),
                class_name=None if listed.multi_label else labels[i],
                classes=labels[i] if listed.multi_label else None,
                group=None if listed.groups is None else listed.groups[i],
                licence=listed.licences[i],
                cost=listed.costs[i],
            )
            yield ListedImage(Place("file", os.fsencode(self._path.parent / name)), description)

    def _joined(self, members: Iterable[Member], key: Callable[[str], str]) -> Iterator[ListedImage]:
        """Yields the images among the members, each image with the facts that its own sidecars state."""
        images, sidecars, twice = self._sorted(members)
        if self._labels == "folder":
            paths = [PurePosixPath(image.name) for image in images]
            require_no_splits(paths, printable(self._path), printable(self._path) if self._is_folder else "")
            # All spellings of a class are gathered before they become one name, so that the import can report them.
            self.spellings |= gather_spellings(printable(path.parts[0]) for path in paths if len(path.parts) > 1)
        used: set[str] = set()
        for image, own, fault in join(images, sidecars, twice, key):
            used.update(each.name for each in own.values())
            origin = self._prefix + printable(image.name)
            try:
                description = describe(origin, own, classes=self._labels != "folder")
            except ValueError as error:
                fault = fault or str(error)
            if fault:
                self.refused.append(Refused(origin, fault))
                continue
            if self._labels == "folder":
                path = PurePosixPath(image.name)
                label = class_name(printable(path.parts[0])) if len(path.parts) > 1 else None
                description = dataclasses.replace(description, class_name=label)
            yield ListedImage(image.place, description)
        # Sidecars without an image are counted, since they often mean that images are missing.
        for member in sidecars:
            if member.name not in used:
                self.others[f"{PurePosixPath(member.name).suffix.lower()} of no image"] += 1

    def _sorted(self, members: Iterable[Member]) -> tuple[list[Member], list[Member], set[str]]:
        """Returns the images, the sidecars, and the names that occur twice; counts or refuses the other members."""
        images: list[Member] = []
        sidecars: list[Member] = []
        seen: set[str] = set()
        twice: set[str] = set()
        for member in members:
            path = PurePosixPath(member.name)
            suffix = path.suffix.lower()
            hidden = any(is_hidden(part) for part in path.parts)
            # ./a.png and a.png are one name.
            member = member._replace(name=str(path))
            fault = member.fault
            archive = "" if hidden else self._archive_fault(path)
            if not fault and not hidden:
                fault = "it is a second member of this name" if member.name in seen else ""
                (twice if member.name in seen else seen).add(member.name)
            if fault or archive:
                # An archive may hold any number of images; another member is one file.
                (self.faults if archive else self.refused).append(
                    Refused(self._prefix + printable(member.name), archive or fault)
                )
            elif suffix in EXTENSIONS and not hidden:
                images.append(member)
            elif suffix in SUFFIXES and not hidden:
                sidecars.append(member)
            elif not (self._is_folder and kind_of(path.name) in ("tar", "zip")):
                # Archives in a folder are containers of their own.
                self.others["hidden" if hidden else suffix or path.name] += 1
        return images, sidecars, twice

    def _archive_fault(self, path: PurePosixPath) -> str:
        """Returns the reason why a member is an archive that is not imported; empty if it is imported or not an archive."""
        if is_other_archive(path.name):
            return "it is an archive of a kind that cannot be read (tar, tar.gz, tar.bz2, tar.xz and zip can); unpack it"
        if not self._is_folder and kind_of(path.name) in ("tar", "zip"):
            return "it is an archive within an archive; unpack the outer one, and import the folder"
        return ""
