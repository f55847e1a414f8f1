"""Removal of metadata: no metadata make an image unreadable, what determines pixels stays, and damaged pixels are refused."""

import contextlib
import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from sslshift.data import open_source
from sslshift.data.decode import BrokenImageError, check, decode
from sslshift.data.formats import FORMATS
from sslshift.data.metadata import strip_metadata

PIXELS = np.full((20, 30, 3), 90, np.uint8)
PIXELS[:10, :, 0] = 200
TURNED = np.rot90(PIXELS, -1)
BOMB = zlib.compress(bytes(100 << 20), 9)


def stored(form, image=PIXELS, **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **options)
    return out.getvalue()


def exif(orientation=6, **others):
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


PNG = stored("PNG")
JPEG = stored("JPEG", quality=100, subsampling=0)


def chunk(kind, data, checksum=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum or zlib.crc32(kind + data))


def png(*chunks, after=False):
    place = PNG.index(b"IEND" if after else b"IDAT") - 4
    return PNG[:place] + b"".join(chunks) + PNG[place:]


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def require_whole(content, expected=PIXELS):
    assert np.abs(decode(content).astype(int) - expected).max() <= 2
    assert check(content) is None


PNG_CHUNKS = {
    "long text": [(b"tEXt", b"Comment\0" + b"x" * (65 << 20))],
    "text bomb": [(b"zTXt", b"Comment\0\0" + BOMB)],
    "EXIF bomb": [(b"zTXt", b"Raw profile type exif\0\0" + BOMB)],
    "many texts": [(b"zTXt", b"C\0\0" + zlib.compress(bytes(1 << 20)))] * 70,
    "text of unknown compression": [(b"zTXt", b"Comment\0\1x")],
    "international text bomb": [(b"iTXt", b"C\0\1\0\0\0" + BOMB)],
    "international text of bad compression": [(b"iTXt", b"C\0\1\0\0\0x")],
    "XMP bomb": [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)],
    "large profile": [(b"iCCP", b"p\0\0" + zlib.compress(np.random.default_rng(0).bytes(3 << 20), 0))],
    "broken profile": [(b"iCCP", b"p\0\7x")],
    "empty profile": [(b"iCCP", b"")],
    "broken EXIF": [(b"eXIf", b"junk")],
    "EXIF that points outside": [(b"eXIf", b"II*\0\xff\xff\xff\xff")],
    "wrong checksum": [(b"tIME", b"1234567", 5)],
    "EXIF of wrong checksum": [(b"eXIf", exif(), 5)],
    "short resolution": [(b"pHYs", b"\0")],
    "short gamma": [(b"gAMA", b"\0")],
    "short chromaticities": [(b"cHRM", bytes(5))],
    "empty rendering intent": [(b"sRGB", b"")],
    "short animation": [(b"acTL", b"\0")],
    "broken animation": [(b"acTL", struct.pack(">II", 3, 0)), (b"fcTL", bytes(26))],
}


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_a_png_is_read_whatever_its_ancillary_chunks_hold(name, after):
    require_whole(png(*(chunk(*each) for each in PNG_CHUNKS[name]), after=after))


@pytest.mark.parametrize("after", [False, True])
def test_a_png_is_turned_as_it_says_beside_broken_metadata(after):
    turn = chunk(b"eXIf", exif())
    require_whole(png(turn, chunk(b"iCCP", b"p\0\7x"), chunk(b"tEXt", b"C\0" + b"x" * (65 << 20)), after=after), TURNED)
    require_whole(png(chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'), after=after), TURNED)
    profile = b"\nexif\n  10\n" + (b"Exif\0\0" + exif().removeprefix(b"Exif\0\0")).hex().encode()
    require_whole(png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)), after=after), TURNED)


def all_to_one_place(entries, length):
    """EXIF of many entries, each of which is the same long text."""
    each = (struct.pack("<HHII", 1000 + number, 2, length, 8) for number in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + b"".join(each) + bytes(4 + length)


def gif(*extensions):
    out = io.BytesIO()
    Image.fromarray(PIXELS).quantize(4).save(out, "GIF")
    content = out.getvalue()
    place = 13 + (3 << (content[10] & 7) + 1)
    return content[:place] + b"".join(extensions) + content[place:]


COMMENT = b"!\xfe" + (b"\xff" + b"x" * 255) * 20_000 + b"\0"


@pytest.mark.parametrize(
    "content",
    [
        png(*[chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)] * 3, *[chunk(b"zTXt", b"C\0\0" + BOMB)] * 3),
        png(chunk(b"eXIf", all_to_one_place(20_000, 100_000))),
        jpeg(*[segment(0xE1, b"Exif\0\0" + all_to_one_place(3000, 20_000))] * 16),
        stored("WEBP", lossless=True, exif=all_to_one_place(20_000, 100_000)),
        gif(COMMENT),
        gif(*[b"!\xfe\1x\0"] * 50_000),
        gif(b"garbage", COMMENT),
    ],
    ids=["text", "EXIF of PNG", "EXIF of JPEG", "EXIF of WebP", "comment", "comments", "comment behind garbage"],
)
def test_metadata_take_little_memory_and_time(content):
    started = time.process_time()
    require_whole(content)
    assert time.process_time() - started < 5
    tracemalloc.start()
    decode(content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Pillow takes gigabytes, or half a minute, for some of these.
    assert most < 64 << 20


def test_a_png_ends_where_its_pixels_end():
    require_whole(PNG + b"garbage" * 1000)
    require_whole(PNG[:-12])
    require_whole(png(chunk(b"tEXt", b"C\0" + b"x" * 1000), after=True)[:-600])
    animation = io.BytesIO()
    Image.fromarray(PIXELS).save(animation, "PNG", save_all=True, append_images=[Image.fromarray(255 - PIXELS)] * 2)
    require_whole(animation.getvalue())
    damaged = bytearray(animation.getvalue())
    damaged[damaged.index(b"fdAT") + 9] ^= 255
    require_whole(bytes(damaged))


def flipped(content, kind, place):
    damaged = bytearray(content)
    damaged[content.index(kind) + place] ^= 4
    return bytes(damaged)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (flipped(PNG, b"IDAT", 12), "'IDAT' is damaged: its checksum is wrong"),
        (flipped(PNG, b"IHDR", 6), "'IHDR' is damaged"),
        (flipped(stored("PNG", PIXELS[..., 0]), b"IDAT", 9), "'IDAT' is damaged"),
        (PNG[: PNG.index(b"IDAT") + 30], "'IDAT' is cut short"),
        (PNG[: PNG.index(b"IDAT") - 4], "OSError"),
        (JPEG[:-60], "truncated"),
        (stored("WEBP", lossless=True)[:-10], "OSError"),
    ],
)
def test_pixels_that_are_damaged_or_cut_short_are_refused(content, message):
    for read in (decode, check):
        with pytest.raises(BrokenImageError, match=message):
            read(content)


def test_palettes_and_transparency_of_wrong_checksums_are_refused():
    out = io.BytesIO()
    Image.fromarray(PIXELS).quantize(4).save(out, "PNG", transparency=1)
    assert decode(out.getvalue()).shape == (20, 30, 3)
    for kind in (b"PLTE", b"tRNS"):
        with pytest.raises(BrokenImageError, match=f"'{kind.decode()}' is damaged"):
            decode(flipped(out.getvalue(), kind, 4))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_one_gray_of_few_bits_may_be_transparent(bits):
    grays = np.tile(np.arange(16, dtype=np.uint8) % 2**bits, (3, 1))
    rows = np.packbits((grays[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(3, -1), axis=1)
    header = struct.pack(">IIBBBBB", 16, 3, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = (b"IHDR", header), (b"tRNS", b"\0\0"), (b"IDAT", pixels), (b"IEND", b"")
    image = decode(PNG[:8] + b"".join(chunk(*each) for each in chunks))[..., 0]
    assert (image == np.where(grays, grays * (255 // (2**bits - 1)), 255)).all()


MPF = b"MPF\0II*\0\x08\0\0\0\2\0\x01\xb0\4\0\1\0\0\0\5\0\0\0\x02\xb0\7\0\4\0\0\0abcd\0\0\0\0"
SEGMENTS = {
    "broken EXIF": [(0xE1, b"Exif\0\0junk")],
    "empty EXIF": [(0xE1, b"Exif\0\0")],
    "EXIF that points outside": [(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")],
    "broken XMP": [(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe")],
    "large segments": [(0xE4, bytes(65_533))] * 100,
    "broken profile": [(0xE2, b"ICC_PROFILE\0"), (0xE2, b"ICC_PROFILE\0\1\3x")],
    "broken index of images": [(0xE2, b"MPF\0junk")],
    "short index of images": [(0xE2, MPF)],
    "broken Photoshop block": [(0xED, b"Photoshop 3.0\x008BIM\3\xed")],
    "short JFIF": [(0xE0, b"JFIF\0")],
    "short Adobe": [(0xEE, b"Adobe")],
    "comment": [(0xFE, b"x" * 60_000)],
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_is_read_whatever_its_segments_hold(name):
    require_whole(jpeg(*(segment(*each) for each in SEGMENTS[name])))
    require_whole(jpeg(segment(0xE1, b"Exif\0\0" + exif().removeprefix(b"Exif\0\0")), segment(*SEGMENTS[name][-1])), TURNED)


def test_a_jpeg_keeps_its_colour_transform_and_first_image():
    require_whole(JPEG + b"garbage" * 100)
    require_whole(jpeg(segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')), TURNED)
    cmyk = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(cmyk, "JPEG", quality=100)
    require_whole(cmyk.getvalue())
    several = stored("MPO", save_all=True, append_images=[Image.fromarray(255 - PIXELS)], quality=100, subsampling=0)
    require_whole(several)
    place = several.index(b"MPF\0")
    require_whole(several[: place + 12] + b"\xff" * 60 + several[place + 72 :])


def test_webp_and_avif_are_read_with_broken_metadata():
    junk = {"exif": b"Exif\0\0junk", "icc_profile": b"junk", "xmp": b"<x"}
    require_whole(stored("WEBP", lossless=True, **junk))
    require_whole(stored("WEBP", lossless=True, exif=exif(), icc_profile=b"junk"), TURNED)
    # Cut short, or longer, behind its pixels.
    require_whole(stored("WEBP", lossless=True, exif=exif())[:-20])
    require_whole(stored("WEBP", lossless=True) + b"garbage")
    if "AVIF" in FORMATS:
        whole = stored("AVIF", quality=100, subsampling="4:4:4", exif=exif(1))
        require_whole(whole)
        tags = exif(1).removeprefix(b"Exif\0\0")
        require_whole(whole.replace(tags, b"x" * len(tags)))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("tag", [270, 305, 700, 33723, 34377, 34665, 34675, 34853, 40965, 65000])
def test_a_tiff_is_read_whatever_its_other_tags_point_to(tag, compression):
    texts = dict.fromkeys((270, 305, 65000), "x" * 99) | dict.fromkeys((700, 33723, 34377, 34675), b"x" * 99)
    content = bytearray(stored("TIFF", compression=compression, tiffinfo=texts | {274: 6}))
    (first,) = struct.unpack_from("<I", content, 4)
    entries = [first + 2 + 12 * entry for entry in range(struct.unpack_from("<H", content, first)[0])]
    tags = {struct.unpack_from("<H", content, entry)[0]: entry for entry in entries}
    # A directory of EXIF, GPS or interoperability takes the place of the private tag.
    place = tags.get(tag, tags[65000])
    struct.pack_into("<H", content, place, tag)
    for target in (0xFFFFFFF0, 3, len(content) - 2):
        struct.pack_into("<I", content, place + 8, target)
        require_whole(bytes(content), TURNED)


def test_the_first_image_of_a_tiff_is_read_whatever_follows_it():
    several = bytearray(stored("TIFF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)] * 2))
    require_whole(bytes(several))
    (first,) = struct.unpack_from("<I", several, 4)
    (count,) = struct.unpack_from("<H", several, first)
    struct.pack_into("<I", several, first + 2 + 12 * count, first)
    require_whole(bytes(several))


def test_what_is_left_of_a_file_is_a_file_of_the_same_pixels(random):
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        content = stored(form)
        again = strip_metadata(content).content
        assert strip_metadata(again).content == again
        assert (decode(again) == decode(content)).all()
        for trial in range(60):
            damaged = bytearray(content[: random.integers(1, len(content))] if trial % 2 else content)
            for place in random.integers(0, len(damaged), 4):
                damaged[place] = random.integers(256)
            with contextlib.suppress(*[BrokenImageError] * (form == "PNG")):
                assert isinstance(strip_metadata(bytes(damaged)).content, bytes)


def test_a_source_counts_images_of_broken_metadata(tmp_path):
    for name, content in (("a.png", png(chunk(b"eXIf", b"junk"))), ("b.jpg", jpeg(segment(0xE2, MPF)))):
        (tmp_path / name).write_bytes(content)
    source = open_source(f"folder:{tmp_path}")
    assert (len(source), source.refused) == (2, [])
