"""Removes from image files what is not needed for their pixels, before they are decoded.

Metadata are large, compressed, broken or hostile more often than pixels are, and Pillow refuses an image for them. What decides
pixels stays: the image data, palettes, transparency, colour transforms, and how the image is turned (EXIF and XMP).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from sslshift.data.broken import BrokenImageError

_PNG, _JPEG, _RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"
# How an image is turned is said in a few bytes; more may be kept beside it, and no more than this is read.
_LARGEST_ORIENTATION = 1 << 20


def pixels_only(content: bytes) -> bytes:
    """Returns the file without metadata; a file of another format, or of no sound structure, is returned as it is.

    Args:
      content: of a PNG, JPEG, WebP or TIFF file, or of any other.

    Raises:
      BrokenImageError: a checksum of a PNG's pixels, palette or transparency is wrong, or they are cut short.
    """
    if content.startswith(_PNG):
        return _PNG + b"".join(content[chunk.start : chunk.end] for chunk in _kept_chunks(content)) + _END
    if content.startswith(_JPEG):
        return _without_segments(content)
    if content.startswith(_RIFF) and content[8:12] == b"WEBP":
        return _without_riff_chunks(content)
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _without_tags(content)
    return content


class Chunk(NamedTuple):
    """A chunk of a PNG file: its kind, where its data are, and where it starts and ends with length and checksum."""

    kind: bytes
    data: bytes
    start: int
    end: int
    whole: bool


_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def png_chunks(content: bytes) -> Iterator[Chunk]:
    """Yields the chunks of a PNG file before its end; the last may be cut short, and is not `whole` then or if damaged."""
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


def _kept_chunks(content: bytes) -> Iterator[Chunk]:
    turned = set()
    for chunk in png_chunks(content):
        # A capital letter: no reader may ignore it.
        if chunk.kind in _PIXELS or chunk.kind[:1].isupper():
            if not chunk.whole:
                what = "is cut short" if chunk.end > len(content) else "is damaged: its checksum is wrong"
                raise BrokenImageError(f"the PNG chunk {chunk.kind.decode('latin-1')!r} {what}")
            yield chunk
        elif chunk.whole and (chunk.kind == b"sBIT" or (chunk.kind not in turned and _says_orientation(chunk))):
            turned.add(chunk.kind)
            yield chunk


def _says_orientation(chunk: Chunk) -> bool:
    """Returns whether Pillow may find in it how the image is turned, and can read it in little memory."""
    if len(chunk.data) > _LARGEST_ORIENTATION:
        return chunk.kind == b"eXIf"
    if chunk.kind == b"zTXt" and chunk.data.startswith(b"Raw profile type exif\0\0"):
        text = zlib.decompressobj()
        try:
            text.decompress(chunk.data[23:], _LARGEST_ORIENTATION)
        except zlib.error:
            return False
        return not text.unconsumed_tail
    starts = {b"tEXt": b"Raw profile type exif\0", b"iTXt": b"XML:com.adobe.xmp\0\0"}
    return chunk.kind == b"eXIf" or (chunk.kind in starts and chunk.data.startswith(starts[chunk.kind]))


def _without_segments(content: bytes) -> bytes:
    """Removes a JPEG's application segments and comments before its image data, but for those that decide pixels."""
    kept, position = [content[:2]], 2
    while content[position : position + 1] == b"\xff":
        if content[position + 1 : position + 2] == b"\xff":
            position += 1
            continue
        marker = content[position + 1 : position + 2]
        if marker in b"\xda\xd9" or position + 4 > len(content):
            break
        end = position + 2 + struct.unpack_from(">H", content, position + 2)[0]
        if end > len(content) or end < position + 4:
            break
        if _decides_pixels(marker[0], content[position + 4 : end]):
            kept.append(content[position:end])
        position = end
    return b"".join([*kept, content[position:]])


def _decides_pixels(marker: int, data: bytes) -> bool:
    if marker == 0xE0:
        return data.startswith(b"JFIF\0") and len(data) >= 14
    if marker == 0xE1:
        return data.startswith((b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"))
    if marker == 0xEE:
        return data.startswith(b"Adobe") and len(data) >= 12
    return marker != 0xFE and not 0xE0 <= marker <= 0xEF


def _without_riff_chunks(content: bytes) -> bytes:
    """Removes a WebP file's profile and anything after its image; EXIF and XMP stay, since they may turn it."""
    kept, position = [], 12
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length + length % 2
        if kind == b"VP8X" and length >= 10:
            flags = content[position + 8] & ~0x20
            kept.append(content[position : position + 8] + bytes([flags]) + content[position + 9 : end])
        elif kind != b"ICCP" and (end <= len(content) or kind in (b"VP8 ", b"VP8L", b"ANMF", b"ALPH")):
            kept.append(content[position:end])
        position = end
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# Of a TIFF file's directory: sizes, places and compression of the pixels, their colours, and how the image is turned.
_PIXEL_TAGS = {
    *(
        254,
        255,
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        320,
        322,
        323,
        324,
        325,
        332,
        338,
        339,
    ),
    *(347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532, 50674),
}


def _without_tags(content: bytes) -> bytes:
    """Keeps of a TIFF file the first directory, and of that what decides pixels; other tags may point anywhere."""
    order = "<" if content.startswith(b"II") else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    place, count_format, entry_size = (8, "Q", 20) if big else (4, "H", 12)
    try:
        (first,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, place)
        (count,) = struct.unpack_from(f"{order}{count_format}", content, first)
    except struct.error:
        return content
    start = first + struct.calcsize(count_format)
    entries = [content[start + entry_size * i : start + entry_size * (i + 1)] for i in range(min(count, 1 << 16))]
    if not entries or len(entries[-1]) < entry_size:
        return content
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _PIXEL_TAGS]
    directory = struct.pack(f"{order}{count_format}", len(kept)) + b"".join(kept) + bytes(8 if big else 4)
    return content[:first] + directory + content[first + len(directory) :]
