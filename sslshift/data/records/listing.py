"""Writes down every image of a container once, so that what is imported is settled before the first image is read."""

import bz2
import functools
import gzip
import json
import lzma
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.decode import EXTENSIONS, LARGEST_FILE, BrokenImageError, read_file
from sslshift.data.records.containers import Container, kind_of, member_fault
from sslshift.data.records.manifest import CLASSES
from sslshift.data.records.shards import Refused, parts_folder
from sslshift.data.sources.base import printable
from sslshift.data.sources.files import walk
from sslshift.data.sources.lists import read_list

# An image of a container: where its bytes are (a file's path, or an archive's with what finds the member), and what is known.
_ROW = pa.schema(
    [
        pa.field("origin", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("path", pa.binary()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("class", pa.string()),
        # Null but in multi-label lists.
        CLASSES,
        pa.field("licence", pa.string()),
        pa.field("cost", pa.float64()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
    ]
)
# Files that WebDataset and img2dataset put beside an image of the same name.
_SIDECARS = (".json", ".txt", ".cls")
_LARGEST_SIDECAR = 1 << 20
# Images hardly compress: an archive that grows by more, and beyond a size, is made to fill disks.
_LARGEST_GROWTH, _SMALL_ARCHIVE = 100, 1 << 30

_OPEN = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".tbz": bz2.open,
    ".tbz2": bz2.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
}


class Listing(NamedTuple):
    """What a container holds: images in groups of which each becomes a shard, what is refused, and files of other kinds."""

    container: int
    groups: int
    images: int
    refused: list[Refused]
    others: dict[str, int]


class _Member(NamedTuple):
    """A file of a container: its name there, what finds its bytes, and why it is refused if it is."""

    name: str
    size: int
    place: dict[str, Any]
    fault: str = ""


def list_container(container: Container, output: Path, group_size: int, labels: str) -> Listing:
    """Writes `parts/listing-NUMBER.parquet`, a row group per shard, or returns what an earlier call wrote.

    Args:
      container: the container.
      output: the source in the making.
      group_size: images in a shard, at most.
      labels: "folder" takes the first folder of an image's name as its label; "none" what lists and sidecars say; "multi" any
        number of labels of a list.
    """
    marker = parts_folder(output) / f"listing-{container.number:05d}.json"
    if marker.exists():
        values = json.loads(marker.read_text(encoding="utf-8"))
        return Listing(**values | {"refused": [Refused(*each) for each in values["refused"]]})
    parts_folder(output).mkdir(parents=True, exist_ok=True)
    # A file of the same name may be another one by now.
    _open_zip.cache_clear()
    _open_tar.cache_clear()
    refused: list[Refused] = []
    others: Counter[str] = Counter()
    path = Path(os.fsdecode(container.path))
    if container.kind == "list":
        rows = _list_rows(path, labels)
    else:
        members = {"folder": _folder_members, "tar": _tar_members, "zip": _zip_members}[container.kind]
        rows = _member_rows(members(path, output, container.number, refused), path, labels, refused, others)
    images = groups = 0
    target = listing_file(output, container.number)
    with pq.ParquetWriter(target, _ROW) as writer:
        for group in _grouped(rows, group_size):
            writer.write_table(pa.Table.from_pylist(group, _ROW))
            images, groups = images + len(group), groups + 1
    listing = Listing(container.number, groups, images, refused, dict(others))
    marker.with_suffix(".part").write_text(json.dumps(listing._asdict()), encoding="utf-8")
    marker.with_suffix(".part").replace(marker)
    return listing


def listing_file(output: Path, number: int) -> Path:
    return parts_folder(output) / f"listing-{number:05d}.parquet"


def read_group(output: Path, number: int, group: int) -> list[dict[str, Any]]:
    """The rows of one group of a container's listing."""
    return pq.ParquetFile(listing_file(output, number)).read_row_group(group).to_pylist()


def read_entry(row: dict[str, Any]) -> bytes:
    """The bytes of a listed image.

    Raises:
      BrokenImageError: it cannot be read (any more).
    """
    if row["kind"] == "file":
        return read_file(Path(os.fsdecode(row["path"])))
    try:
        if row["kind"] == "zip":
            archive = _open_zip(row["path"])
            with archive.open(archive.infolist()[row["offset"]]) as member:
                content = member.read(LARGEST_FILE + 1)
        else:
            content = os.pread(_open_tar(row["path"]).fileno(), row["size"], row["offset"])
    except Exception as error:  # zipfile raises many kinds on hostile input.
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    if len(content) != row["size"]:
        raise BrokenImageError(f"{row['size']:,} bytes were announced and {len(content):,} are there")
    return content


# A worker reads a container's members one after another: the archive stays open.
@functools.lru_cache(maxsize=4)
def _open_zip(path: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(os.fsdecode(path))


@functools.lru_cache(maxsize=4)
def _open_tar(path: bytes) -> BinaryIO:
    return open(path, "rb")


def _grouped(rows: Iterable[dict], size: int) -> Iterator[list[dict]]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _list_rows(path: Path, labels: str) -> Iterator[dict]:
    listed = read_list(path, printable(path), "multi" if labels == "multi" else None)
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


def _text(value: Any) -> str | None:
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _member_rows(members: Iterable[_Member], container: Path, labels: str, refused, others) -> Iterator[dict]:
    """Images among the members, each with what stands in the sidecars of its name."""
    prefix = "" if container.is_dir() else f"{printable(container.name)}/"
    images, sidecars, seen = [], {}, set()
    for member in members:
        name = PurePosixPath(member.name)
        suffix = name.suffix.lower()
        hidden = any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.parts)
        fault = member.fault or ("it is a second member of this name" if member.name in seen and not hidden else "")
        seen.add(member.name)
        if fault:
            refused.append(Refused(prefix + printable(member.name), fault))
        elif suffix in EXTENSIONS and not hidden:
            images.append(member)
        elif suffix in _SIDECARS and member.size <= _LARGEST_SIDECAR:
            sidecars[_key(name), suffix] = member
        elif not (container.is_dir() and kind_of(name.name) in ("tar", "zip")):
            others["hidden" if hidden else suffix or name.name] += 1
    used = set()
    for member in images:
        name = PurePosixPath(member.name)
        found = {suffix: sidecars[_key(name), suffix] for suffix in _SIDECARS if (_key(name), suffix) in sidecars}
        used.update((_key(name), suffix) for suffix in found)
        about = _about(found)
        if labels == "folder":
            about["class"] = printable(name.parts[0]) if len(name.parts) > 1 else None
        yield {"origin": prefix + printable(member.name), **member.place, **about}
    for key in sidecars.keys() - used:
        others[key[1]] += 1


def _key(name: PurePosixPath) -> str:
    """What a sample's files share in WebDataset: the path up to the first dot of the file's name."""
    return f"{name.parent}/{name.name.partition('.')[0]}"


def _about(sidecars: dict[str, _Member]) -> dict[str, Any]:
    """Caption, URL, licence and class that stand beside an image; what cannot be read is left out."""
    texts = {}
    for suffix, member in sidecars.items():
        try:
            texts[suffix] = read_entry({"size": member.size} | member.place).decode(errors="replace").strip()
        except BrokenImageError:
            continue
    try:
        values = json.loads(texts.get(".json", "{}"))
    except (ValueError, RecursionError):
        values = {}
    values = {key.lower(): value for key, value in values.items()} if isinstance(values, dict) else {}

    def said(*keys: str) -> str | None:
        return next((_text(values[key]) for key in keys if isinstance(values.get(key), str | int)), None)

    return {
        "caption": texts.get(".txt") or said("caption", "text"),
        "url": said("url"),
        "licence": said("licence", "license"),
        "class": texts.get(".cls") or said("label", "class", "cls"),
    }


def _folder_members(folder: Path, output: Path, number: int, refused: list[Refused]) -> Iterator[_Member]:
    inside = output.resolve()
    for path in sorted(walk(folder, refused)):
        # An output below the input would be imported into itself.
        if inside in path.resolve().parents:
            continue
        try:
            size = path.stat().st_size
        except OSError as error:
            refused.append(Refused(printable(path), error.strerror or str(error)))
            continue
        place = {"kind": "file", "path": os.fsencode(path)}
        yield _Member(path.relative_to(folder).as_posix(), size, place)


def _tar_members(path: Path, output: Path, number: int, refused: list[Refused]) -> Iterator[_Member]:
    """Members of a tar archive; a compressed one is expanded into the working folder, since it has no random access."""
    plain = path
    if path.suffix.lower() in _OPEN:
        plain = parts_folder(output) / f"archive-{number:05d}.tar"
        try:
            _expand(path, plain)
        except (OSError, EOFError, lzma.LZMAError, BrokenImageError) as error:
            refused.append(Refused(printable(path), f"the archive cannot be read to its end: {error}"))
    try:
        with tarfile.open(plain, "r:", errors="surrogateescape") as archive:
            for member in archive:
                if member.isdir():
                    continue
                fault = member_fault(member.name)
                if not fault and not member.isreg():
                    fault = "it is a link" if member.islnk() or member.issym() else "it is no regular file"
                if not fault and member.issparse():
                    fault = "it is a sparse file"
                place = {"kind": "tar", "path": os.fsencode(plain), "offset": member.offset_data, "size": member.size}
                yield _Member(member.name, member.size, place, fault)
                # The archive's own list of members would hold all of them.
                archive.members = []
    except (tarfile.TarError, OSError, EOFError) as error:
        refused.append(Refused(printable(path), f"the archive cannot be read to its end: {error}"))


def _expand(path: Path, target: Path) -> None:
    limit = _SMALL_ARCHIVE + _LARGEST_GROWTH * path.stat().st_size
    written = 0
    with _OPEN[path.suffix.lower()](path, "rb") as packed, open(target, "wb") as plain:
        while chunk := packed.read1(1 << 16):
            written += len(chunk)
            if written > limit:
                raise BrokenImageError(f"it expands to more than {_LARGEST_GROWTH} times its size")
            plain.write(chunk)


def _zip_members(path: Path, output: Path, number: int, refused: list[Refused]) -> Iterator[_Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for index, member in enumerate(archive.infolist()):
                if member.is_dir():
                    continue
                fault = member_fault(member.orig_filename)
                mode = member.external_attr >> 16
                if not fault and stat.S_ISLNK(mode):
                    fault = "it is a link"
                if not fault and member.flag_bits & 1:
                    fault = "it is encrypted"
                if not fault and member.file_size > LARGEST_FILE:
                    fault = f"its {member.file_size:,} bytes are too many for an image"
                place = {"kind": "zip", "path": os.fsencode(path), "offset": index, "size": member.file_size}
                yield _Member(member.filename, member.file_size, place, fault)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        refused.append(Refused(printable(path), f"the archive cannot be read: {error}"))
