"""Writes down every image of a container once, so that what is imported is settled before the first image is read."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.decode import EXTENSIONS
from sslshift.data.records.folder import parts_folder
from sslshift.data.records.members import Member, folder_members, forget_archives, tar_members, zip_members
from sslshift.data.records.sidecars import SUFFIXES, describe, first_dot, join, whole_stem
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.labels import class_name, gather_spellings
from sslshift.data.sources.layout import require_no_splits
from sslshift.data.sources.lists import read_list
from sslshift.data.sources.manifest import CLASSES
from sslshift.data.sources.recognise import is_other_archive, kind_of, recognise_file
from sslshift.data.sources.walk import is_hidden, list_files

# An image of a container: where its bytes are (a file's path, or an archive's with what finds the member), and what is known.
_ROW = pa.schema(
    [
        pa.field("origin", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("path", pa.binary()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        # What changes with an archive.
        pa.field("stamp", pa.string()),
        pa.field("class", pa.string()),
        # Null but in multi-label lists.
        CLASSES,
        pa.field("licence", pa.string()),
        pa.field("cost", pa.float64()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
    ]
)
# What each kind of container is listed by, and what its files are joined by: the rule of WebDataset holds in a tar alone.
_MEMBERS = {"folder": (folder_members, whole_stem), "tar": (tar_members, first_dot), "zip": (zip_members, whole_stem)}


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


class Listing(NamedTuple):
    """What a container holds.

    Attributes:
      container: its number.
      groups: of images; each becomes a shard.
      images: how many.
      refused: files that look like images and are not imported, and after them what else was not imported.
      others: numbers of files of other kinds, by extension.
      spellings: how each class is spelled, see `labels.gather_spellings`.
      faults: those of `refused` that are no single image: an archive or a folder that could not be read whole.
      path: of the container; empty where an earlier version listed it.
      digest: of the content of a list; empty of others.
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


def list_container(container: Container, output: Path, group_size: int, labels: str) -> Listing:
    """Writes `parts/listing-NUMBER.parquet`, a row group per shard, or returns what an earlier call wrote.

    Args:
      container: the container.
      output: the source in the making.
      group_size: images in a shard, at most.
      labels: "folder" takes the first folder of an image's name as its label; "none" what lists and sidecars say; "multi" any
        number of labels of a list.

    Raises:
      ValueError: a list is refused, or an earlier call listed another container by this number.
    """
    marker = parts_folder(output) / f"listing-{container.number:05d}.json"
    if marker.exists():
        values = json.loads(marker.read_text(encoding="utf-8"))
        lists = {name: [Refused(*each) for each in values.get(name, ())] for name in ("refused", "faults")}
        listing = Listing(**{"spellings": {}} | values | lists)
        # Numbers are those of a sorted listing: an archive more or less moves them.
        if listing.path not in ("", printable(container.path)):
            raise ValueError(
                f"{listing.path} was listed where {printable(container.path)} is now: archives were added or removed since "
                "this import was begun. Repeat it with another output."
            )
        if listing.digest and listing.digest != _digest(container):
            raise ValueError(f"{listing.path} has changed since this import was begun. Repeat it with another output.")
        return listing
    parts_folder(output).mkdir(parents=True, exist_ok=True)
    forget_archives()
    refused: list[Refused] = []
    faults: list[Refused] = []
    others: Counter[str] = Counter()
    spellings: dict[str, list[str]] = {}
    path = Path(os.fsdecode(container.path))
    if container.kind == "list":
        rows = _list_rows(path, labels, spellings)
    else:
        list_members, key = _MEMBERS[container.kind]
        members = list_members(path, output, container.number, faults)
        rows = _member_rows(members, path, key, labels, refused, faults, others, spellings)
    images = groups = 0
    target = listing_file(output, container.number)
    with pq.ParquetWriter(target, _ROW) as writer:
        for group in _grouped(rows, group_size):
            writer.write_table(pa.Table.from_pylist(group, _ROW))
            images = images + len(group)
            groups = groups + 1
    told = [*refused, *faults]
    listing = Listing(
        container.number, groups, images, told, dict(others), spellings, faults, printable(path), _digest(container)
    )
    marker.with_suffix(".part").write_text(json.dumps(listing._asdict()), encoding="utf-8")
    marker.with_suffix(".part").replace(marker)
    return listing


def _digest(container: Container) -> str:
    path = Path(os.fsdecode(container.path))
    return hashlib.sha256(path.read_bytes()).hexdigest() if container.kind == "list" else ""


def listing_file(output: Path, number: int) -> Path:
    return parts_folder(output) / f"listing-{number:05d}.parquet"


def read_group(output: Path, number: int, group: int) -> list[dict[str, Any]]:
    """The rows of one group of a container's listing."""
    return pq.ParquetFile(listing_file(output, number)).read_row_group(group).to_pylist()


def _grouped(rows: Iterable[dict], size: int) -> Iterator[list[dict]]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _list_rows(path: Path, labels: str, spellings: dict[str, list[str]]) -> Iterator[dict]:
    listed = read_list(path, printable(path), "multi" if labels == "multi" else None)
    spellings |= listed.spellings
    label = [None] * len(listed.paths) if listed.labels is None else listed.labels
    for i, name in enumerate(listed.paths):
        yield {
            "origin": printable(name),
            "kind": "file",
            "path": os.fsencode(path.parent / name),
            "class": None if listed.multi_label else label[i],
            CLASSES.name: label[i] if listed.multi_label else None,
            "licence": listed.licences[i],
            "cost": listed.costs[i],
        }


def _member_rows(
    members: Iterable[Member], container: Path, key, labels: str, refused, faults, others, spellings
) -> Iterator[dict]:
    """Images among the members, each with what its own sidecars say."""
    is_folder = container.is_dir()
    prefix = "" if is_folder else f"{printable(container.name)}/"
    images = []
    sidecars = []
    seen = set()
    twice = set()
    for member in members:
        name = PurePosixPath(member.name)
        suffix = name.suffix.lower()
        hidden = any(is_hidden(part) for part in name.parts)
        # ./a.png and a.png are one name.
        member = member._replace(name=str(name))
        fault = member.fault
        archive = "" if hidden else _archive_fault(name, is_folder)
        if not fault and not hidden:
            fault = "it is a second member of this name" if member.name in seen else ""
            (twice if member.name in seen else seen).add(member.name)
        if fault or archive:
            # Nobody knows how many images an archive holds.
            (faults if archive else refused).append(Refused(prefix + printable(member.name), archive or fault))
        elif suffix in EXTENSIONS and not hidden:
            images.append(member)
        elif suffix in SUFFIXES and not hidden:
            sidecars.append(member)
        elif not (is_folder and kind_of(name.name) in ("tar", "zip")):
            others["hidden" if hidden else suffix or name.name] += 1
    if labels == "folder":
        below = [PurePosixPath(image.name) for image in images]
        require_no_splits(below, printable(container), printable(container) if is_folder else "")
        spellings |= gather_spellings(printable(name.parts[0]) for name in below if len(name.parts) > 1)
    used = set()
    for image, own, fault in join(images, sidecars, twice, key):
        used.update(each.name for each in own.values())
        try:
            about = describe(own, classes=labels != "folder")
        except ValueError as error:
            fault = fault or str(error)
        if fault:
            refused.append(Refused(prefix + printable(image.name), fault))
            continue
        if labels == "folder":
            name = PurePosixPath(image.name)
            about["class"] = class_name(printable(name.parts[0])) if len(name.parts) > 1 else None
        yield {"origin": prefix + printable(image.name), "size": image.size, **image.place, **about}
    for member in sidecars:
        if member.name not in used:
            others[f"{PurePosixPath(member.name).suffix.lower()} of no image"] += 1


def _archive_fault(name: PurePosixPath, is_folder: bool) -> str:
    """Why an archive among the members is not imported; empty if it is, or is none."""
    if is_other_archive(name.name):
        return "it is an archive of a kind that is not read (tar, tar.gz, tar.bz2, tar.xz and zip are); unpack it"
    if not is_folder and kind_of(name.name) in ("tar", "zip"):
        return "it is an archive within an archive; unpack the outer one, and import the folder"
    return ""
