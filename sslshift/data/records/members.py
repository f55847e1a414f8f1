"""Files of a container: what a folder, a tar or a zip archive holds, and the bytes of each; what is not seen is a fault."""

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sslshift.data.decode import LARGEST_FILE, BrokenImageError, read_file
from sslshift.data.records.folder import parts_folder
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.walk import is_image, list_files

# Images hardly compress: an archive that grows by more, and beyond a size, is made to fill disks.
_LARGEST_GROWTH = 100
_SMALL_ARCHIVE = 1 << 30
_CHUNK = 1 << 16
# A stream that asks for more memory than any setting of xz is hostile.
_MEMORY = 1 << 30


class Member(NamedTuple):
    """A file of a container: its name there, what finds its bytes, and why it is refused if it is."""

    name: str
    size: int
    place: dict[str, Any]
    fault: str = ""


def folder_members(folder: Path, output: Path, number: int, faults: list[Refused]) -> Iterator[Member]:
    """Yields the files below a folder, except those below `output`; what cannot be looked into is added to `faults`."""
    del number
    inside = os.path.realpath(output) + os.sep
    files = list_files(folder)
    faults += [Refused(*each) for each in files.unreadable]
    # Hidden files are counted among those of other kinds.
    yield from (Member(path.relative_to(folder).as_posix(), 0, {}) for path in files.hidden)
    # A second name of an image is no second image, but one of a class or caption may describe another image.
    linked = {path: reason for path, reason in files.links if is_image(path)}
    yield from (Member(path.relative_to(folder).as_posix(), 0, {}, reason) for path, reason in linked.items())
    for path in (*(path for path, _ in files.links if path not in linked), *files.paths):
        # An output below the input would be imported into itself.
        if os.path.realpath(path).startswith(inside):
            continue
        name = path.relative_to(folder).as_posix()
        try:
            yield Member(name, path.stat().st_size, {"kind": "file", "path": os.fsencode(path)})
        except OSError as error:
            yield Member(name, 0, {}, error.strerror or str(error))


def tar_members(path: Path, output: Path, number: int, faults: list[Refused]) -> Iterator[Member]:
    """Yields the members of a tar archive, of every one where several were joined by cat.

    Args:
      path: of the archive, compressed or not, whatever its name says.
      output: the source in the making: a compressed archive is expanded there, since it has no random access.
      number: of the container.
      faults: to which is added what keeps members from being seen.
    """
    plain = path
    stamp = _stamp(path)
    try:
        with open(path, "rb") as file:
            expand = next((expand for magic, expand in _EXPAND.items() if file.peek(8).startswith(magic)), None)
        if expand:
            # Nothing but this import writes it, and no second time: it needs no stamp.
            plain = parts_folder(output) / f"archive-{number:05d}.tar"
            stamp = None
            _expand(expand(path), path.stat().st_size, plain)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, BrokenImageError) as error:
        faults.append(Refused(printable(path), f"the archive cannot be read to its end: {error}"))
    try:
        with open(plain, "rb") as file:
            for member in _tar_infos(file):
                if member.isdir():
                    continue
                fault = member_fault(member.name)
                if not fault and not member.isreg():
                    fault = "it is a link" if member.islnk() or member.issym() else "it is no regular file"
                if not fault and member.issparse():
                    fault = "it is a sparse file"
                place = {"kind": "tar", "path": os.fsencode(plain), "offset": member.offset_data, "stamp": stamp}
                yield Member(member.name, member.size, place, fault)
    except (tarfile.TarError, OSError, EOFError) as error:
        faults.append(Refused(printable(path), f"the archive cannot be read to its end: {error}"))


def _tar_infos(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of the archives that a file consists of; tarfile itself ends at the first block that is no header, silently.

    Raises:
      tarfile.TarError: something else follows, or the end mark is missing.
    """
    position = 0
    ended = False
    while block := file.read(tarfile.BLOCKSIZE):
        if not block.strip(b"\0"):
            position = position + len(block)
            ended = True
            continue
        file.seek(position)
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                yield member
                # The archive's own list of members would hold all of them.
                archive.members = []
        if archive.offset == position:
            raise tarfile.ReadError(f"what follows from byte {position:,} on is no tar archive, and is left out")
        position = archive.offset
        ended = False
        file.seek(position)
    if not ended:
        raise tarfile.ReadError("it lacks its end mark, and may be cut short")


def _gunzipped(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as packed:
        while chunk := packed.read1(_CHUNK):
            yield chunk


def _decompressed(new: Callable, path: Path) -> Iterator[bytes]:
    """What all the bz2 or xz streams of a file hold; bz2.open and lzma.open end silently at what is no further stream."""
    decompressor = new()
    with open(path, "rb") as packed:
        while content := packed.read(_CHUNK):
            while content:
                if decompressor.eof:
                    # Streams may be padded with zeros.
                    content = content.lstrip(b"\0")
                    if not content:
                        break
                    decompressor = new()
                yield decompressor.decompress(content, _CHUNK)
                while not (decompressor.eof or decompressor.needs_input):
                    yield decompressor.decompress(b"", _CHUNK)
                content = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise EOFError("it is cut short")


# By what a file starts with: names of archives are often wrong.
_EXPAND: dict[bytes, Callable[[Path], Iterator[bytes]]] = {
    b"\x1f\x8b": _gunzipped,
    b"BZh": functools.partial(_decompressed, bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": functools.partial(_decompressed, functools.partial(lzma.LZMADecompressor, memlimit=_MEMORY)),
}


def _expand(chunks: Iterator[bytes], size: int, target: Path) -> None:
    limit = _SMALL_ARCHIVE + _LARGEST_GROWTH * size
    written = 0
    with open(target, "wb") as plain:
        for chunk in chunks:
            written += len(chunk)
            if written > limit:
                raise BrokenImageError(f"it expands to more than {_LARGEST_GROWTH} times its size")
            plain.write(chunk)


def zip_members(path: Path, output: Path, number: int, faults: list[Refused]) -> Iterator[Member]:
    """Yields the members of a zip archive; what the file holds beside it is added to `faults`."""
    del output, number
    try:
        with zipfile.ZipFile(path) as archive:
            faults += [Refused(printable(path), reason) for reason in _zip_faults(archive, path)]
            stamp = _stamp(path)
            for index, member in enumerate(archive.infolist()):
                name = _zip_name(member)
                if name.endswith("/"):
                    continue
                fault = member_fault(member.orig_filename)
                mode = member.external_attr >> 16
                if not fault and stat.S_ISLNK(mode):
                    fault = "it is a link"
                if not fault and member.flag_bits & 1:
                    fault = "it is encrypted"
                if not fault and member.file_size > LARGEST_FILE:
                    fault = f"its {member.file_size:,} bytes are too many for an image"
                place = {"kind": "zip", "path": os.fsencode(path), "offset": index, "stamp": stamp}
                yield Member(name, member.file_size, place, fault)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        faults.append(Refused(printable(path), f"the archive cannot be read: {error}"))


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name as it is meant: macOS writes UTF-8 and does not say so, and some programs of Windows write backslashes."""
    name = member.filename
    if not member.flag_bits & 0x800:
        # zipfile took the bytes for code page 437, of which hardly any text happens to be UTF-8.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/") if member.create_system == 0 else name


def _zip_faults(archive: zipfile.ZipFile, path: Path) -> Iterator[str]:
    """Why a zip archive may hold more than its members; the format lets readers ignore all of this."""
    members = archive.infolist()
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        # The end record, of 22 bytes and a comment of up to 64 KiB, is sought from behind.
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    before = min((member.header_offset for member in members), default=archive.start_dir)
    after = len(tail) - end - 22 - len(archive.comment)
    for count, where in ((before, "before its first"), (after, "after its last")):
        if count > 0:
            yield f"{count:,} bytes {where} member are not read, as in zip files joined by cat; unzip each apart"
    announced = int.from_bytes(tail[end + 10 : end + 12], "little")
    # The largest number says that another record has the number.
    if announced not in (len(members) & 0xFFFF, 0xFFFF):
        yield f"it announces {announced:,} members, and its directory holds {len(members):,}"


def member_fault(name: str) -> str:
    """Why an archive's member of this name is refused; empty if it is not."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "its name is absolute"
    return "its name leaves the archive" if ".." in parts else ""


def read_entry(row: dict[str, Any]) -> bytes:
    """Returns the bytes of a listed file.

    Args:
      row: a member's `place` and `size`.

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


def require_unchanged(rows: Iterable[dict[str, Any]]) -> None:
    """Raises ValueError where an archive is another than the one that was listed: an image's place may be another's by now."""
    for path, stamp in {(row["path"], row.get("stamp")) for row in rows}:
        if stamp is not None and stamp != _stamp(os.fsdecode(path)):
            raise ValueError(
                f"{printable(path)} has changed since the import listed its members; repeat the import with another output."
            )


def _stamp(path: Path | str) -> str:
    """What changes with a file's content, as far as its folder tells."""
    try:
        info = os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    return f"{info.st_size} bytes, {info.st_mtime_ns}"


# A worker reads a container's members one after another: the archive stays open.
@functools.lru_cache(maxsize=4)
def _open_zip(path: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(os.fsdecode(path))


@functools.lru_cache(maxsize=4)
def _open_tar(path: bytes) -> BinaryIO:
    return open(path, "rb")


def forget_archives() -> None:
    """Closes what is open: a file of the same name may be another one by now."""
    _open_zip.cache_clear()
    _open_tar.cache_clear()
