"""How an image is to be turned, by its EXIF or XMP.

It is read by hand, since a library reads all that EXIF point to, and hostile ones point to the same place 65,535 times.
"""

import re
import struct
import zlib
from collections.abc import Iterable

_TAG = 0x0112
# Types of whole numbers in EXIF.
_NUMBERS = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")
# Of a text that holds EXIF in hexadecimal digits; it is said near the start.
_LARGEST_TEXT = 1 << 20


def find_orientation(exif: Iterable[bytes], xmp: Iterable[bytes]) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1, as it is stored, where none can be read.

    Args:
      exif: blocks of EXIF data, with or without their header; the first that says it counts.
      xmp: blocks of XMP, if no EXIF block says it.
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


def exif_of_text(text: bytes, compressed: bool) -> bytes:
    """Returns the EXIF data that ImageMagick writes as hexadecimal digits, after three lines; empty where there are none."""
    try:
        text = zlib.decompressobj().decompress(text, _LARGEST_TEXT) if compressed else text[:_LARGEST_TEXT]
        digits = b"".join(text.split(b"\n")[3:]).decode("ascii")
        return bytes.fromhex(digits[: len(digits) // 2 * 2])
    except (zlib.error, ValueError):
        return b""
