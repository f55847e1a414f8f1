"""Removal of metadata from image files before they are decoded, so that only the data that determine the pixels remain.

Metadata are more often large, compressed, broken or hostile than pixels. Because of them Pillow may refuse an image, or take
minutes and gigabytes to open it. Image data, palettes, transparency and colour transforms are kept. The orientation is read by
this file before it is removed: libraries read everything that EXIF data point to, and hostile data point to one place 65,535
times.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

# EXIF tag of the orientation.
_TAG = 0x0112
# Formats of `struct` by type of whole number in EXIF data.
_NUMBERS = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")
# Number of bytes that are read from a text with EXIF data in hexadecimal digits. The orientation is near the start.
_LARGEST_TEXT = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"


class BrokenImageError(ValueError):
    """Raised for a file that is not a usable image; the message states the reason."""


class Bare(NamedTuple):
    """Image file without metadata, and its EXIF orientation, 1 to 8.

    The orientation is 1 for formats whose file keeps it, since Pillow reads it there.
    """

    content: bytes
    orientation: int = 1


def strip_metadata(content: bytes) -> Bare:
    """Returns the file without metadata; a file in another format, or with a broken structure, is returned unchanged.

    Args:
      content: bytes of a PNG, JPEG, WebP, TIFF, GIF or AVIF file, or of any other file.

    Raises:
      BrokenImageError: a PNG's pixels, palette or transparency have a wrong checksum or are cut short.
    """
    found = next((strip for pattern, strip in _FORMATS if re.match(pattern, content, re.DOTALL)), Bare)
    return found(content)


class Chunk(NamedTuple):
    """Chunk of a PNG file: kind, data, start and end including length and checksum; it is `whole` if its checksum is right."""

    kind: bytes
    data: bytes
    start: int
    end: int
    whole: bool


_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def png_chunks(content: bytes) -> Iterator[Chunk]:
    """Yields the chunks of a PNG file before its end chunk; a chunk that is cut short or damaged is not `whole`."""
    position = len(_PNG)
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if kind == b"IEND":
            return
        data = content[position + 8 : end - 4]
        checksum = content[end - 4 : end]
        yield Chunk(kind, data, position, end, checksum == struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
        position = end


def _strip_png(content: bytes) -> Bare:
    kept = [_PNG]
    exif = []
    xmp = []
    for chunk in png_chunks(content):
        # A capital first letter means that no reader may ignore the chunk.
        if chunk.kind in _PIXELS or chunk.kind[:1].isupper():
            if not chunk.whole:
                what = "is cut short" if chunk.end > len(content) else "is damaged: its checksum is wrong"
                raise BrokenImageError(f"the PNG chunk {chunk.kind.decode('latin-1')!r} {what}")
            kept.append(content[chunk.start : chunk.end])
        elif not chunk.whole:
            continue
        elif chunk.kind == b"sBIT":
            # The pixel range of a source depends on the number of significant bits.
            kept.append(content[chunk.start : chunk.end])
        elif chunk.kind == b"eXIf":
            exif.append(chunk.data)
        elif chunk.kind == b"tEXt" and chunk.data.startswith(b"Raw profile type exif\0"):
            exif.append(_exif_of_text(chunk.data[22:], compressed=False))
        elif chunk.kind == b"zTXt" and chunk.data.startswith(b"Raw profile type exif\0\0"):
            exif.append(_exif_of_text(chunk.data[23:], compressed=True))
        elif chunk.kind == b"iTXt" and chunk.data.startswith(b"XML:com.adobe.xmp\0\0"):
            xmp.append(chunk.data)
    return Bare(b"".join(kept) + _END, _find_orientation(exif, xmp))


def _strip_jpeg(content: bytes) -> Bare:
    """Removes the application segments and comments before a JPEG's image data, except those that determine its colours."""
    kept = [content[:2]]
    exif = []
    xmp = []
    position = 2
    while content[position : position + 1] == b"\xff":
        if content[position + 1 : position + 2] == b"\xff":
            # Any number of fill bytes may precede a marker.
            position += 1
            continue
        marker = content[position + 1 : position + 2]
        if marker in b"\xda\xd9" or position + 4 > len(content):
            break
        end = position + 2 + struct.unpack_from(">H", content, position + 2)[0]
        if end > len(content) or end < position + 4:
            # A segment that is cut short is left to Pillow, which reports it.
            break
        data = content[position + 4 : end]
        if marker == b"\xe1" and data.startswith(b"Exif\0\0"):
            exif.append(data)
        elif marker == b"\xe1" and data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp.append(data)
        elif _decides_colours(marker[0], data):
            kept.append(content[position:end])
        position = end
    # The orientation is in the first EXIF segment; others continue it.
    return Bare(b"".join([*kept, content[position:]]), _find_orientation(exif, xmp))


def _decides_colours(marker: int, data: bytes) -> bool:
    # The JFIF and the Adobe segment state whether the colours are YCbCr.
    if marker == 0xE0:
        return data.startswith(b"JFIF\0") and len(data) >= 14
    if marker == 0xEE:
        return data.startswith(b"Adobe") and len(data) >= 12
    return marker != 0xFE and not 0xE0 <= marker <= 0xEF


def _strip_webp(content: bytes) -> Bare:
    kept = []
    exif = []
    xmp = []
    # After "RIFF", the length of the file, and "WEBP".
    position = 12
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        # RIFF pads chunks to an even length.
        end = position + 8 + length + length % 2
        if kind == b"VP8X" and length >= 10:
            # The flags of a colour profile, of EXIF and of XMP are cleared, since their chunks are removed.
            flags = content[position + 8] & ~0x2C
            kept.append(content[position : position + 8] + bytes([flags]) + content[position + 9 : end])
        elif kind == b"EXIF":
            exif.append(content[position + 8 : end])
        elif kind == b"XMP ":
            xmp.append(content[position + 8 : end])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(content[position:end])
        position = end
    body = b"WEBP" + b"".join(kept)
    return Bare(b"RIFF" + struct.pack("<I", len(body)) + body, _find_orientation(exif, xmp))


# Tags of a TIFF file's directory: sizes, places and compression of the pixels, their colours, and the orientation.
_PIXEL_TAGS = {
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325,
    332, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532, 50674,
}  # fmt: skip


def _strip_tiff(content: bytes) -> Bare:
    """Keeps only the first directory of a TIFF file, with the tags that determine pixels; other tags may point anywhere."""
    order = "<" if content.startswith(b"II") else ">"
    big = b"+" in content[2:4]
    place, count_format, entry_size = (8, "Q", 20) if big else (4, "H", 12)
    try:
        (first,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, place)
        (count,) = struct.unpack_from(f"{order}{count_format}", content, first)
    except struct.error:
        return Bare(content)
    start = first + struct.calcsize(f"={count_format}")
    # A hostile BigTIFF can announce 2^64 entries.
    entries = [content[start + entry_size * i : start + entry_size * (i + 1)] for i in range(min(count, 1 << 16))]
    # A directory that is cut short is left to Pillow, which reports it.
    if not entries or len(entries[-1]) < entry_size:
        return Bare(content)
    kept: dict[int, bytes] = {}
    for entry in entries:
        kept.setdefault(struct.unpack_from(f"{order}H", entry)[0], entry)
    kept = {tag: entry for tag, entry in kept.items() if tag in _PIXEL_TAGS}
    # The new directory replaces the old one in place, since tags hold positions in the file, which must not move.
    directory = struct.pack(f"{order}{count_format}", len(kept)) + b"".join(kept.values()) + bytes(8 if big else 4)
    return Bare(content[:first] + directory + content[first + len(directory) :])


def _strip_gif(content: bytes) -> Bare:
    """Removes the blocks before a GIF's first image, except the block that states the transparent colour."""
    flags = content[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept = [content[:position]]
    while content[position : position + 1] not in (b",", b";", b""):
        if content[position : position + 1] != b"!":
            position += 1
            continue
        end = position + 2
        while end < len(content) and content[end]:
            end += 1 + content[end]
        if content[position + 1 : position + 2] == b"\xf9":
            kept = [kept[0], content[position : end + 1]]
        position = end + 1
    return Bare(b"".join([*kept, content[position:]]))


def _strip_avif(content: bytes) -> Bare:
    """Renames the item of an AVIF file that holds EXIF data; the file has separate boxes for the orientation."""
    # The new name has the same length, so that no position in the file moves.
    return Bare(re.sub(rb"(infe.{8}(?:.{2})?)Exif", rb"\1free", content, flags=re.DOTALL))


_FORMATS: tuple[tuple[bytes, Callable[[bytes], Bare]], ...] = (
    (re.escape(_PNG), _strip_png),
    (rb"\xff\xd8\xff", _strip_jpeg),
    (rb"RIFF.{4}WEBP", _strip_webp),
    (rb"II[*+]\0|MM\0[*+]", _strip_tiff),
    (rb"GIF8[79]a.{7}", _strip_gif),
    (rb".{4}ftyp", _strip_avif),
)


def _find_orientation(exif: Iterable[bytes], xmp: Iterable[bytes]) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1, which means upright, if none can be read.

    Args:
      exif: blocks of EXIF data, with or without their header; the first block with an orientation counts.
      xmp: blocks of XMP, which count if no EXIF block has an orientation.
    """
    found = (_in_exif(block) for block in exif)
    found = next((orientation for orientation in found if 1 <= orientation <= 8), 0)
    matches = () if found else (_XMP.search(block) for block in xmp)
    return found or next((int(match[1]) for match in matches if match), 1)


def _in_exif(block: bytes) -> int:
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if not order:
        return 0
    try:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, numbers = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _TAG and numbers == 1 and kind in _NUMBERS:
                return struct.unpack_from(order + _NUMBERS[kind], block, entry + 8)[0]
    except struct.error:
        pass
    return 0


def _exif_of_text(text: bytes, compressed: bool) -> bytes:
    """Returns the EXIF data that ImageMagick writes as hexadecimal digits after three lines; empty if there is none."""
    try:
        text = zlib.decompressobj().decompress(text, _LARGEST_TEXT) if compressed else text[:_LARGEST_TEXT]
        digits = b"".join(text.split(b"\n")[3:]).decode("ascii")
        return bytes.fromhex(digits[: len(digits) // 2 * 2])
    except (zlib.error, ValueError):
        return b""
