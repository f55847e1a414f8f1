"""The members of a container (folder, tar or zip archive), and the bytes of each member.

Everything that may hide an image, such as a truncated archive, is reported as a fault, since the number of images is then
unknown.
"""

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
from typing import BinaryIO, NamedTuple

from sslshift.data.decode import LARGEST_FILE, BrokenImageError, read_file
from sslshift.data.records.folder import parts_folder
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.walk import is_image, list_files

# Images hardly compress. An archive that exceeds both this factor and this size when it is expanded was made to fill disks.
_LARGEST_GROWTH = 100
_SMALL_ARCHIVE = 1 << 30
_CHUNK = 1 << 16
# No setting of xz needs more memory to decompress: a stream that requests more is hostile.
_MEMORY = 1 << 30


class Place(NamedTuple):
    """The place of a file's bytes.

    Attributes:
      kind: "file", or the kind of archive that holds the bytes: "tar" or "zip".
      path: path of the file or archive, as bytes, since it need not be UTF-8.
      size: bytes of the file; None if it is not known.
      offset: position in a tar archive, or number of the member in a zip archive.
      stamp: text that changes when the archive does.
    """

    kind: str
    path: bytes
    size: int | None = None
    offset: int | None = None
    stamp: str | None = None


class Member(NamedTuple):
    """A file of a container.

    Attributes:
      name: its name in the container.
      place: the place of its bytes; None if they are not read.
      fault: the reason why the file is refused; empty if it is not refused.
    """

    name: str
    place: Place | None = None
    fault: str = ""


def folder_members(folder: Path, output: Path, number: int, faults: list[Refused]) -> Iterator[Member]:
    """Yields the files below a folder, except those below `output`; adds folders that cannot be read to `faults`."""
    # Only `tar_members` needs the number.
    del number
    inside = os.path.realpath(output) + os.sep
    files = list_files(folder)
    faults += files.unreadable
    # The listing counts hidden files among the files of other kinds.
    yield from (Member(path.relative_to(folder).as_posix()) for path in files.hidden)
    # A link to an image is not another image. A link to a class or caption may describe another image.
    linked = {path: reason for path, reason in files.links if is_image(path)}
    yield from (Member(path.relative_to(folder).as_posix(), fault=reason) for path, reason in linked.items())
    for path in (*(path for path, _ in files.links if path not in linked), *files.paths):
        # An output below the input must not be imported into itself.
        if os.path.realpath(path).startswith(inside):
            continue
        name = path.relative_to(folder).as_posix()
        try:
            yield Member(name, Place("file", os.fsencode(path), path.stat().st_size))
        except OSError as error:
            yield Member(name, fault=error.strerror or str(error))


def tar_members(path: Path, output: Path, number: int, faults: list[Refused]) -> Iterator[Member]:
    """Yields the members of a tar archive, or of several archives that were joined by cat.

    Args:
      path: path of the archive, which may be compressed regardless of its name.
      output: the unfinished source. A compressed archive is expanded there, since it has no random access.
      number: number of the container.
      faults: list to which every fault that may hide members is added.
    """
    plain = path
    stamp = _stamp(path)
    try:
        with open(path, "rb") as file:
            expand = next((expand for magic, expand in _EXPAND.items() if file.peek(8).startswith(magic)), None)
        if expand:
            # Only this import writes the expanded archive, and only once: it needs no stamp.
            plain = parts_folder(output) / f"archive-{number:05d}.tar"
            stamp = None
            _expand(expand(path), path.stat().st_size, plain)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, BrokenImageError) as error:
        faults.append(Refused(printable(path), f"the archive cannot be read to its end: {error}"))
    # The expanded part is still read; the fault reports that there may be more members.
    try:
        with open(plain, "rb") as file:
            for member in _tar_infos(file):
                if member.isdir():
                    continue
                fault = member_fault(member.name)
                if not fault and not member.isreg():
                    fault = "it is a link" if member.islnk() or member.issym() else "it is not a regular file"
                # Members are read by position and size, and the bytes of a sparse file are not stored in one piece.
                if not fault and member.issparse():
                    fault = "it is a sparse file"
                place = Place("tar", os.fsencode(plain), member.size, member.offset_data, stamp)
                yield Member(member.name, place, fault)
    except (tarfile.TarError, OSError, EOFError) as error:
        faults.append(Refused(printable(path), f"the archive cannot be read to its end: {error}"))


def _tar_infos(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields the members of all archives in a file. tarfile alone stops silently at the first block that is not a header.

    Raises:
      tarfile.TarError: other content follows the archives, or the end mark is missing.
    """
    position = 0
    ended = False
    while block := file.read(tarfile.BLOCKSIZE):
        if not block.strip(b"\0"):
            position = position + len(block)
            ended = True
            continue
        file.seek(position)
        # Names need not be UTF-8.
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                yield member
                # Otherwise the archive would keep all members in memory.
                archive.members = []
        if archive.offset == position:
            raise tarfile.ReadError(f"the content from byte {position:,} on is not a tar archive, and is not imported")
        position = archive.offset
        ended = False
        file.seek(position)
    if not ended:
        raise tarfile.ReadError("its end mark is missing, so that it may be truncated")


def _gunzipped(path: Path) -> Iterator[bytes]:
    # gzip.open needs no further checks: it raises an error if other content follows a stream.
    with gzip.open(path, "rb") as packed:
        while chunk := packed.read1(_CHUNK):
            yield chunk


def _decompressed(new: Callable, path: Path) -> Iterator[bytes]:
    """Yields the content of all bz2 or xz streams in a file. bz2.open and lzma.open stop silently before other content."""
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
                # The output is limited, since a few bytes of a hostile archive may expand to gigabytes.
                yield decompressor.decompress(content, _CHUNK)
                while not (decompressor.eof or decompressor.needs_input):
                    yield decompressor.decompress(b"", _CHUNK)
                content = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise EOFError("it is truncated")


# Functions by the first bytes of a file, since names of archives are often wrong.
_EXPAND: dict[bytes, Callable[[Path], Iterator[bytes]]] = {
    b"\x1f\x8b": _gunzipped,
    b"BZh": functools.partial(_decompressed, bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": functools.partial(_decompressed, functools.partial(lzma.LZMADecompressor, memlimit=_MEMORY)),
}


def _expand(chunks: Iterator[bytes], size: int, target: Path) -> None:
    """Writes the content of a compressed archive of `size` bytes to a file."""
    # Both bounds must be exceeded: a small archive of text may compress well and be harmless.
    limit = _SMALL_ARCHIVE + _LARGEST_GROWTH * size
    written = 0
    with open(target, "wb") as plain:
        for chunk in chunks:
            written += len(chunk)
            if written > limit:
                raise BrokenImageError(f"it expands to more than {_LARGEST_GROWTH} times its size")
            plain.write(chunk)


def zip_members(path: Path, output: Path, number: int, faults: list[Refused]) -> Iterator[Member]:
    """Yields the members of a zip archive; adds other content of the file to `faults`."""
    # Zip archives have random access: nothing is expanded.
    del output, number
    try:
        with zipfile.ZipFile(path) as archive:
            faults += [Refused(printable(path), reason) for reason in _zip_faults(archive, path)]
            stamp = _stamp(path)
            for index, member in enumerate(archive.infolist()):
                name = _zip_name(member)
                if name.endswith("/"):
                    continue
                # The original name, since `filename` ends at a null character.
                fault = member_fault(member.orig_filename)
                mode = member.external_attr >> 16
                if not fault and stat.S_ISLNK(mode):
                    fault = "it is a link"
                if not fault and member.flag_bits & 1:
                    fault = "it is encrypted"
                if not fault and member.file_size > LARGEST_FILE:
                    fault = f"its {member.file_size:,} bytes are too many for an image"
                yield Member(name, Place("zip", os.fsencode(path), member.file_size, index, stamp), fault)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        faults.append(Refused(printable(path), f"the archive cannot be read: {error}"))


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Returns a member's intended name: macOS does not mark UTF-8 names, and some Windows programs write backslashes."""
    name = member.filename
    if not member.flag_bits & 0x800:
        # zipfile decoded the bytes as code page 437. Text in that code page is hardly ever valid UTF-8 by chance.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/") if member.create_system == 0 else name


def _zip_faults(archive: zipfile.ZipFile, path: Path) -> Iterator[str]:
    """Yields the reasons why a zip file may hold more than its members. The format allows readers to ignore other content."""
    members = archive.infolist()
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        # The end record has 22 bytes and a comment of up to 64 KiB, and is found from the end of the file.
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    before = min((member.header_offset for member in members), default=archive.start_dir)
    after = len(tail) - end - 22 - len(archive.comment)
    for count, where in ((before, "before its first"), (after, "after its last")):
        if count > 0:
            yield f"{count:,} bytes {where} member are not read, as in zip files joined by cat; unpack each file by itself"
    announced = int.from_bytes(tail[end + 10 : end + 12], "little")
    # The largest value means that the number is in another record (ZIP64).
    if announced not in (len(members) & 0xFFFF, 0xFFFF):
        yield f"it announces {announced:,} members, and its directory holds {len(members):,}"


def member_fault(name: str) -> str:
    """Returns the reason why a member's name is refused; empty if it is not refused."""
    # Names of members are never used as paths of this machine, but such a name shows a hostile or broken archive.
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "its name is absolute"
    return "its name leaves the archive" if ".." in parts else ""


def read_place(place: Place) -> bytes:
    """Returns the bytes of a file.

    Raises:
      BrokenImageError: the file cannot be read, or has changed since it was listed.
    """
    if place.kind == "file":
        return read_file(Path(os.fsdecode(place.path)))
    try:
        if place.kind == "zip":
            archive = _open_zip(place.path)
            # Members are opened by number: of two members with the same name, opening by name would read the last.
            with archive.open(archive.infolist()[place.offset]) as member:
                # The announced size may be false, so at most the size of the largest image is read.
                content = member.read(LARGEST_FILE + 1)
        else:
            content = os.pread(_open_tar(place.path).fileno(), place.size, place.offset)
    except Exception as error:  # zipfile raises errors of many types on hostile input.
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    if len(content) != place.size:
        raise BrokenImageError(f"expected {place.size:,} bytes, got {len(content):,}")
    return content


def require_unchanged(places: Iterable[Place]) -> None:
    """Raises ValueError if an archive has changed since it was listed, since a place may then hold another image."""
    for path, stamp in {(place.path, place.stamp) for place in places}:
        if stamp is not None and stamp != _stamp(os.fsdecode(path)):
            raise ValueError(
                f"{printable(path)} has changed since the import listed its members; repeat the import with another output."
            )


def _stamp(path: Path | str) -> str:
    """Returns a text that changes with a file's size or time of modification."""
    try:
        info = os.stat(path)
    except OSError as error:
        # The text of the error differs from every stamp, so that a missing archive counts as changed.
        return error.strerror or str(error)
    return f"{info.st_size} bytes, {info.st_mtime_ns}"


# A worker reads the members of a container one after another, so the archive stays open between them.
@functools.lru_cache(maxsize=4)
def _open_zip(path: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(os.fsdecode(path))


@functools.lru_cache(maxsize=4)
def _open_tar(path: bytes) -> BinaryIO:
    return open(path, "rb")


def forget_archives() -> None:
    """Closes the open archives, since another archive may have the same name now."""
    _open_zip.cache_clear()
    _open_tar.cache_clear()
