"""Says what a file is that cannot be decoded, so that its owner knows what to do."""

import io

from PIL import TiffImagePlugin

_SIGNATURES = (
    (128, b"DICM", "a DICOM file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"v/1\x01", "an OpenEXR file"),
    (0, b"#?RADIANCE", "a Radiance HDR file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (4, b"ftypheic", "an HEIC file"),
    (4, b"ftypheix", "an HEIC file"),
    (4, b"ftypmif1", "an HEIF file"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 6: "complex"}


def describe_unknown(content: bytes) -> str:
    """Returns why a file is not decoded, as far as its first bytes tell."""
    for start, signature, name in _SIGNATURES:
        if content[start : start + len(signature)] == signature:
            return f"it is {name}, which is not read; write it as PNG or TIFF"
    if content.startswith(_TIFF):
        return _describe_tiff(content)
    return "no image of a known format, or cut short at its start"


def _describe_tiff(content: bytes) -> str:
    try:
        header = 16 if content[2:3] == b"+" or content[3:4] == b"+" else 8
        directory = TiffImagePlugin.ImageFileDirectory_v2(content[:header])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        bits = directory.get(258, (1,))
        kind = _SAMPLE_FORMATS.get(directory.get(339, (1,))[0], "undefined")
    except Exception:  # Whatever stands there, it is no directory.
        return "a TIFF file whose directory cannot be read"
    values = f"{len(bits)} {kind} value{'s' * (len(bits) > 1)} of {bits[0]} bits to a pixel"
    return (
        f"it is a TIFF file of {values}, in a form that is not read; write 8 or 16 bits unsigned, or gray of 32 bits floating"
    )
