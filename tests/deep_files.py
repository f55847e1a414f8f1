"""Image files of more than 8 bits, written by hand where Pillow cannot write them, and the values that they hold."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RAMP = np.linspace(0, 4095, 20 * 30).reshape(20, 30)


def stored(image, form="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **options)
    return out.getvalue()


def png16(values, colour_type, *chunks):
    """Returns a PNG of 16 bits, which Pillow writes for grey only; the five row filters are used in turn."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    step = 2 * values[0, 0].size
    left = np.pad(rows, ((0, 0), (step, 0)))[:, :-step]
    filtered = [bytes([y % 2]) + (row - left[y] * (y % 2)).astype(np.uint8).tobytes() for y, row in enumerate(rows)]
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), 16, colour_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(filtered)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*each) for each in chunks) + body + chunk(b"IEND", b"")
    )


def tiff(values, *, order="<", bits=None, sample_format=None, photometric=1, compression=1, planar=1):
    """A TIFF file of one strip, or of one for each plane."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    samples = 1 if values.ndim == 2 else values.shape[2]
    planes = [values] if planar == 1 else [values[..., plane] for plane in range(samples)]
    strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if compression == 8 else strips
    fields = {
        256: (4, [values.shape[1]]),
        257: (4, [values.shape[0]]),
        258: (3, [bits or values.dtype.itemsize * 8] * samples),
        259: (3, [compression]),
        262: (3, [2 if samples >= 3 else photometric]),
        273: (4, None),
        277: (3, [samples]),
        278: (4, [values.shape[0]]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [planar]),
        339: (3, [sample_format or kind] * samples),
    }
    if samples == 4:
        fields[338] = (3, [2])
    extra = data = b""
    start = 8 + 2 + 12 * len(fields) + 4
    sizes = sum(4 * len(strips) if tag in (273, 279) else 2 * samples for tag in (258, 273, 279, 339))
    places = np.cumsum([start + sizes, *map(len, strips)])[:-1].tolist()
    entries = b""
    for tag, (type_, numbers) in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(numbers or places)}{'HI'[type_ == 4]}", *(numbers or places))
        if len(packed) > 4:
            place = struct.pack(f"{order}I", start + len(extra))
            extra = extra + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, type_, len(numbers or places)) + place
    data = (extra.ljust(sizes, b"\0")) + b"".join(strips)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + data


def eight_bits(values, low, high):
    image = np.clip((np.asarray(values, np.float64) - low) * 255 / (high - low) + 0.5, 0, 255).astype(np.uint8)
    return image if image.ndim == 3 else image[..., None]


GRAY = RAMP.astype(np.uint16)
COLOUR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], -1)
OPAQUE = np.concatenate([COLOUR, np.full((20, 30, 1), 65535, np.uint16)], -1)
