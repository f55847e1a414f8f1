"""Formats of image files: which are read, how a file is opened without decoding it, and why others are refused.

Files are opened by Pillow's readers directly. `Image.open` would refuse every image of more than 179 million pixels whatever a
caller allows, and would print warnings of its own; `require_shape` has the limits instead, before any pixel is decoded. A JPEG
file above `LARGEST_PIXELS` is decoded at half its sides (a quarter or an eighth if `max_pixels` allows still larger files),
where the decoder averages blocks of pixels without ever holding the whole image.
"""

import contextlib
import functools
import io
import struct
from collections.abc import Callable

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from sslshift.data.metadata import BrokenImageError

# Pillow registers formats only when it first needs them; without this call, most would be missing from `Image.OPEN`.
Image.init()
# Formats that Pillow decodes by itself. It would hand others, such as EPS, to programs that a hostile file could attack.
FORMATS = tuple(
    name for name in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000") if name in Image.OPEN
)
# Extensions of formats that Pillow does not decode. Such files are refused with a reason, or read by an extra; other files are
# ignored.
_OTHERS = (
    *(".arw", ".cr2", ".cr3", ".dcm", ".dicom", ".dng", ".exr", ".hdr", ".heic", ".heif", ".hif", ".jxl", ".nef", ".psd"),
    ".svg",
)
EXTENSIONS = frozenset(Image.registered_extensions()).union(_OTHERS)
# Largest number of pixels that are decoded at once: 300 MB in colour.
LARGEST_PIXELS = 100_000_000
# Largest number of pixels of a JPEG file without `max_pixels`: at half its sides it has `LARGEST_PIXELS`. A progressive file
# gains nothing, since its decoder holds the whole image.
_JPEG_FACTOR = 4
# Largest ratio of an image's sides. With a larger ratio, a crop to the canvas would show less than a 64th of the image.
LARGEST_ASPECT = 64
# Bytes by which readers recognise their format.
_START = 16
# Brands of HEIF files with pictures of H.265, as cameras and phones write them.
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))


def open_image(content: bytes) -> ImageFile.ImageFile:
    """Opens an image file and reads its size; no pixel is decoded.

    Raises:
      UnidentifiedImageError: the file is not of a known format, or is damaged at its start. Readers raise almost any other
        exception on hostile input.
    """
    start = content[:_START]
    for name in FORMATS:
        reader, accepts = Image.OPEN[name]
        # A reader that cannot work, because its library is missing, returns the reason as text.
        if accepts and accepts(start) is not True:
            continue
        try:
            return reader(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            # The start looked like this format and was not. `Image.open` goes on in these cases too.
            continue
    reader = _heif_reader() if start[4:12] in _HEIF else None
    if reader:
        # The library's own words about a damaged file mean nothing to its owner; `describe_unknown` has better ones.
        with contextlib.suppress(SyntaxError, ValueError, RuntimeError, EOFError, OSError):
            return reader(io.BytesIO(content), "")
    raise UnidentifiedImageError


@functools.cache
def _heif_reader() -> Callable[[io.BytesIO, str], ImageFile.ImageFile] | None:
    try:
        # Imported here, since it is an extra. It is not registered with Pillow, which would change it for the whole process.
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile


def require_shape(image: ImageFile.ImageFile, max_pixels: int | None) -> None:
    """Raises BrokenImageError if an opened image has too many pixels, or extremely different sides.

    Args:
      image: the image, whose pixels are not decoded yet.
      max_pixels: largest number of pixels; None: `LARGEST_PIXELS`, and four times as many in a JPEG file.
    """
    width, height = image.size
    if width * height > (max_pixels or _most(image)):
        kind = "" if max_pixels else f" in a file of this kind ({image.format})"
        raise BrokenImageError(
            f"{width:,} x {height:,} are {width * height:,} pixels; expected at most {max_pixels or _most(image):,}{kind}; "
            f"--max_pixels={width * height} of tools.import_images, or ?max_pixels={width * height} in the URI of a folder or "
            "list, allows so many"
        )
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise BrokenImageError(
            f"{width:,} x {height:,} pixels: expected a longer side of at most {LARGEST_ASPECT} times the shorter side"
        )


def _most(image: ImageFile.ImageFile) -> int:
    reduced = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    return LARGEST_PIXELS * (_JPEG_FACTOR if reduced else 1)


def reduce_large(image: ImageFile.ImageFile) -> None:
    """Makes an opened JPEG image of more than `LARGEST_PIXELS` decode at a half, a quarter or an eighth of its sides."""
    width, height = image.size
    factor = next(each for each in (1, 2, 4, 8) if width * height <= LARGEST_PIXELS * each**2 or each == 8)
    if factor > 1:
        # Other formats have no such method of their own, and stay as they are.
        image.draft(None, (width // factor, height // factor))


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
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 6: "complex"}


def describe_unknown(content: bytes) -> str:
    """Returns the reason why a file cannot be decoded, so that its owner knows what to do."""
    if content[4:12] in _HEIF:
        if _heif_reader():
            return "it is an HEIC or HEIF file that is damaged, or whose pictures are not of H.265"
        return "it is an HEIC or HEIF file, which the extra 'heic' reads: pip install 'sslshift[heic]'"
    for start, signature, name in _SIGNATURES:
        if content[start : start + len(signature)] == signature:
            return f"it is {name}, which cannot be read; write it as PNG or TIFF"
    if content.startswith(_TIFF):
        return _describe_tiff(content)
    return "it is not an image of a known format, or it is cut short at its start"


def _describe_tiff(content: bytes) -> str:
    try:
        # BigTIFF has the version 43, which is a plus sign, in place of 42, and a longer header.
        header = 16 if content[2:3] == b"+" or content[3:4] == b"+" else 8
        directory = TiffImagePlugin.ImageFileDirectory_v2(content[:header])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        bits = directory.get(258, (1,))
        kind = _SAMPLE_FORMATS.get(directory.get(339, (1,))[0], "undefined")
    except Exception:  # The bytes are arbitrary, so reading them can raise any exception.
        return "a TIFF file whose directory cannot be read"
    values = f"{len(bits)} {kind} value{'s' * (len(bits) > 1)} of {bits[0]} bits to a pixel"
    remedy = "write 8 or 16 bits unsigned, or grey of 32 bits floating-point"
    return f"it is a TIFF file of {values}, in a form that cannot be read; {remedy}"
