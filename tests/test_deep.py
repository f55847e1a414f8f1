"""Decoding of images of more than 8 bits: every file is read in full, and unknown values of black and white are refused."""

import contextlib
import struct

import numpy as np
import pytest
from deep_files import COLOUR, GRAY, OPAQUE, RAMP, eight_bits, png16, stored, tiff
from PIL import Image

from sslshift.data.decode import BrokenImageError, check, decode
from sslshift.data.ranges import PixelRange


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (stored(GRAY), GRAY),
        (stored(GRAY, "TIFF"), GRAY),
        (stored(GRAY, "TIFF", compression="tiff_lzw"), GRAY),
        (stored(GRAY, "PPM"), GRAY),
        (stored(GRAY.astype(np.int32), "TIFF"), GRAY),
        (stored(RAMP.astype(np.float32), "TIFF"), RAMP.astype(np.float32)),
        (stored(GRAY, "JPEG2000", irreversible=False), GRAY),
        (png16(COLOUR, 2), COLOUR),
        (png16(OPAQUE, 6), COLOUR),
        (png16(np.stack([GRAY, np.full_like(GRAY, 65535)], -1), 4), GRAY),
        (b"P6 30 20 65535\n" + COLOUR.astype(">u2").tobytes(), COLOUR),
        *(
            (tiff(values, order=order, compression=compression), values)
            for values in (GRAY, COLOUR, GRAY.astype(np.int16), GRAY.astype(np.int32), RAMP.astype(np.float32))
            for order in "<>"
            for compression in (1, 8)
        ),
        (tiff(OPAQUE), COLOUR),
        (tiff(GRAY.astype(np.uint32)), GRAY),
        *((tiff(COLOUR, order=order, planar=2), COLOUR) for order in "<>"),
    ],
)
def test_every_file_of_more_than_8_bits_is_read_in_full(content, values):
    stated = PixelRange(-100, 4000, stated=True)
    assert (decode(content, stated) == eight_bits(values, -100, 4000)).all()
    levels = check(content, stated)
    assert (levels.low, levels.high) == (float(values.min()), float(values.max()))
    assert levels.clipped_pixels == ((values > 4000) if values.ndim == 2 else (values > 4000).any(-1)).sum()
    if values.dtype.kind != "f":
        assert (decode(content, PixelRange(0, 4095)) == eight_bits(values, 0, 4095)).all()
        assert (decode(content) == eight_bits(values, 0, 65535)).all()


def test_a_file_that_states_its_range_is_taken_by_that(random):
    packed = (GRAY[..., None] >> np.arange(11, -1, -1) & 1).astype(np.uint8).reshape(20, -1)
    twelve = np.packbits(packed, axis=1)
    head = b"# its white\n30 20\n4095\n"
    contents = [
        b"P5\n" + head + GRAY.astype(">u2").tobytes(),
        b"P2\n" + head + b" ".join(b"%d" % value for value in GRAY.ravel()),
        tiff(np.zeros((20, 30), np.uint8), bits=12)[: -20 * 30] + twelve.tobytes(),
    ]
    for content in contents:
        assert (decode(content) == eight_bits(GRAY, 0, 4095)).all()
        assert (decode(content, None) == eight_bits(GRAY, 0, 4095)).all()
        assert check(content) is None
        # What the user says goes before it.
        assert (decode(content, PixelRange(0, 2000, stated=True)) == eight_bits(GRAY, 0, 2000)).all()


def test_the_lowest_value_is_white_where_a_tiff_says_so():
    assert (decode(tiff(GRAY, photometric=0), PixelRange(0, 4095)) == 255 - eight_bits(GRAY, 0, 4095)).all()
    assert (decode(tiff((RAMP / 4095).astype(np.float32), photometric=0)) == 255 - eight_bits(RAMP, 0, 4095)).all()


def test_transparency_of_16_bits_lies_on_white():
    alpha = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    share = (alpha / 65535)[..., None]
    expected = eight_bits(COLOUR, 0, 4095) * share + 255 * (1 - share)
    assert np.abs(decode(png16(np.dstack([COLOUR, alpha]), 6), PixelRange(0, 4095)) - expected).max() <= 0.51
    gray = decode(png16(np.stack([GRAY, alpha], -1), 4), PixelRange(0, 4095))
    assert np.abs(gray - (eight_bits(GRAY, 0, 4095) * share + 255 * (1 - share))).max() <= 0.51
    # One grey value is declared transparent.
    keyed = decode(png16(GRAY, 0, (b"tRNS", struct.pack(">H", GRAY[3, 4]))), PixelRange(0, 4095))
    transparent = np.equal(GRAY, GRAY[3, 4])
    assert (keyed[transparent] == 255).all()
    assert (keyed[~transparent] == eight_bits(GRAY, 0, 4095)[~transparent]).all()


def test_exif_turns_images_of_16_bits_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("PNG", "TIFF"):
        content = stored(GRAY, form, exif=exif)
        assert (decode(content, PixelRange(0, 4095)) == np.rot90(eight_bits(GRAY, 0, 4095), -1)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stored((RAMP / 16).astype(np.float32), "TIFF"), r"floating-point values from 0 to 255\.938 are outside of 0..1"),
        (stored((GRAY.astype(np.int32) - 5), "TIFF"), "integer values from -5 to 4090 are outside of 0..65535"),
        (stored((GRAY.astype(np.int32) * 100), "TIFF"), "integer values from 0 to 409500 are outside"),
        (tiff(np.full((4, 5), 3_000_000_000, np.uint32)), r"from 3e\+09 to 3e\+09 are outside"),
        (tiff(np.full((4, 5), -7, np.int8)), "integer values from -7 to -7"),
        (stored(np.full((4, 5), np.inf, np.float32), "TIFF"), "not finite"),
        (tiff(np.zeros((4, 5), np.float16)), "a TIFF file of 1 floating-point value of 16 bits to a pixel"),
        (tiff(np.zeros((4, 5), np.float64)), "a TIFF file of 1 floating-point value of 64 bits to a pixel"),
        (tiff(np.zeros((4, 5, 3), np.float32)), "a TIFF file of 3 floating-point values of 32 bits to a pixel"),
        (tiff(COLOUR, planar=2, compression=8), "compressed separately"),
        (bytes(128) + b"DICM" + bytes(100), "a DICOM file"),
    ],
)
def test_values_without_a_known_black_and_white_are_refused(content, message):
    with pytest.raises(BrokenImageError, match=message):
        decode(content)


def test_colours_of_more_than_8_bits_in_jpeg_2000_are_refused():
    # Pillow brings them to 8 bits with a rounding that turns white into 0; here the header alone is changed to 12 bits.
    content = bytearray(stored(np.zeros((20, 30, 3), np.uint8), "JPEG2000", no_jp2=True))
    for component in range(3):
        content[42 + 3 * component] = 11
    with pytest.raises(BrokenImageError, match="more than 8 bits, which is not supported for JPEG 2000"):
        decode(bytes(content))
    content[42] = 0x87
    with pytest.raises(BrokenImageError, match="signed"):
        decode(bytes(content))


def test_a_png_may_state_its_significant_bits():
    content = png16(GRAY // 8, 0, (b"sBIT", b"\x0c"))
    assert check(content).bits == 12
    assert check(png16(COLOUR, 2, (b"sBIT", b"\x0a\x0c\x0a"))).bits == 12


def test_what_is_transparent_does_not_decide_the_range():
    alpha = np.full((20, 30), 65535, np.uint16)
    alpha[0] = 0
    hidden = COLOUR.copy()
    hidden[0] = 65535
    content = png16(np.dstack([hidden, alpha]), 6)
    assert check(content).high == COLOUR[1:].max()
    image = decode(content, PixelRange(0, 4095))
    assert (image[0] == 255).all()
    assert (image[1:] == eight_bits(COLOUR[1:], 0, 4095)).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content",
    [stored(GRAY), png16(OPAQUE, 6), tiff(COLOUR), tiff(COLOUR, compression=8, order=">"), tiff(RAMP.astype(np.float32)),
     stored(GRAY, "JPEG2000"), b"P6 30 20 65535\n" + COLOUR.astype(">u2").tobytes(), tiff(GRAY, planar=2)],
)  # fmt: skip
def test_damaged_files_of_more_than_8_bits_decode_or_are_refused_and_nothing_else(content, random):
    for trial in range(60):
        damaged = bytearray(content[: random.integers(1, len(content))] if trial % 3 == 0 else content)
        for place in random.integers(0, min(len(damaged), 300 if trial % 2 else len(damaged)), random.integers(1, 6)):
            damaged[place] = random.integers(256)
        for read in (check, lambda each: decode(each, PixelRange(-9, 9000, stated=True))):
            with contextlib.suppress(BrokenImageError):
                read(bytes(damaged))
