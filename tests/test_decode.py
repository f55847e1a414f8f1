"""Decoding: equal pixels decode equally in every format and with any metadata."""

import io

import jax
import numpy as np
import pytest
from pictures import png_header
from PIL import Image

from sslshift.data import formats
from sslshift.data.decode import BrokenImageError, Canvas, check, decode, decode_onto, fit
from sslshift.data.records.encode import Encoding, store
from sslshift.data.sources.manifest import ImageDescription
from sslshift.shift import proxy_a_distance

EXACT_JPEG = {"quality": 100, "subsampling": 0}


def stored(image, form, **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, form, **options)
    return out.getvalue()


def pattern(kind, size, random):
    """Fine structure, uint8 `[size, size]` or, of "colours", `[size, size, 3]`."""
    y, x = np.mgrid[:size, :size]
    name, _, width = kind.partition(" ")
    if name == "stripes":
        return ((x // int(width)) % 2 * 255).astype(np.uint8)
    if name == "checkerboard":
        return ((x // int(width) + y // int(width)) % 2 * 255).astype(np.uint8)
    if name == "frame":
        return (255 * ((np.minimum(x, y) == 0) | (np.maximum(x, y) == size - 1))).astype(np.uint8)
    if name == "lines":
        return (255 * ((x == size // 3) | (y == size // 2))).astype(np.uint8)
    return random.integers(0, 256, (size, size, 3)[: 3 if name == "colours" else 2], np.uint8)


PATTERNS = [*(f"{name} {width}" for name in ("stripes", "checkerboard") for width in range(1, 6)), "frame", "lines", "noise"]


def difference(a, b):
    """Largest difference of two uint8 images, and that of their standard deviations."""
    a = a.astype(float)
    b = b.astype(float)
    return np.abs(a - b).max(), abs(a.std() - b.std())


@pytest.mark.parametrize("kind", [*PATTERNS, "colours"])
def test_jpeg_of_full_quality_is_seen_like_png(kind, random):
    # What quality 100 itself loses: rounding of coefficients, and of colours where pixels are not averaged.
    limit = {"noise": 2, "colours": 5}.get(kind, 1)
    sizes = range(32, 601) if kind == "frame" else [*range(32, 600, 53), 127, 257, 511, 600]
    for size in sizes:
        image = pattern(kind, size, random)
        jpeg = stored(image, "JPEG", **EXACT_JPEG)
        png = stored(image, "PNG", compress_level=1)
        for canvas in [Canvas(32, 32, 3)] if kind == "frame" else [Canvas(28, 28, 1), Canvas(64, 64, 3), Canvas(33, 47, 3)]:
            largest, spread = difference(decode_onto(canvas, jpeg), decode_onto(canvas, png))
            assert largest <= limit, (size, canvas)
            assert spread <= 0.5, (size, canvas)


@pytest.mark.parametrize("options", [{"exif": 6}, {"exif": 3}, {"progressive": True}, {"mode": "CMYK"}, {"form": "MPO"}])
def test_jpeg_of_every_kind_is_seen_like_a_lossless_file(options, random):
    for size, kind in ((257, "stripes 3"), (500, "frame"), (513, "noise")):
        pixels = pattern(kind, size, random)[: size * 2 // 3]
        image = Image.fromarray(np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3)).copy())
        image = image.convert(options.get("mode", "RGB"))
        exif = Image.Exif()
        exif[0x0112] = options.get("exif", 1)
        jpeg = {"progressive": options.get("progressive", False), "exif": exif, **EXACT_JPEG}
        lossy = stored(image, options.get("form", "JPEG"), **jpeg)
        lossless = stored(image, "TIFF", exif=exif)
        for canvas in (Canvas(32, 32, 3), Canvas(24, 40, 1)):
            largest, spread = difference(decode_onto(canvas, lossy), decode_onto(canvas, lossless))
            assert largest <= 3
            assert spread <= 0.5


def test_a_border_of_257_pixels_keeps_its_brightness_on_a_small_canvas():
    image = np.zeros((257, 257), np.uint8)
    image[-1] = 255
    jpeg, png = (decode_onto(Canvas(32, 32, 1), stored(image, *form)) for form in [("JPEG",), ("PNG",)])
    assert abs(int(png[-1, 16, 0]) - int(jpeg[-1, 16, 0])) <= 2
    assert png[-1, 16, 0] < 50


def test_an_import_shrinks_jpeg_and_png_alike(random):
    for size, kind in ((257, "stripes 3"), (1025, "frame"), (777, "noise")):
        image = pattern(kind, size, random)
        files = stored(image, "JPEG", **EXACT_JPEG), stored(image, "PNG")
        jpeg, png = (decode(store(file, ImageDescription(""), Encoding(128, "png")).content) for file in files)
        largest, spread = difference(jpeg, png)
        assert largest <= 2
        assert spread <= 0.5
        # It is one step of averaging, the same as on the way to a canvas.
        assert difference(png, decode_onto(Canvas(128, 128, 1), files[1]))[0] <= 1


def test_a_classifier_does_not_tell_jpeg_from_png(random):
    def pictures(count):
        for _ in range(count):
            image = np.roll(pattern(f"stripes {random.integers(2, 6)}", 129, random), random.integers(129), axis=1)
            image = np.clip(image.astype(int) + random.integers(-40, 41, image.shape), 0, 255).astype(np.uint8)
            image[0] = image[-1] = image[:, 0] = image[:, -1] = 255
            yield image

    def seen(images, form, **options):
        return np.stack([decode_onto(Canvas(16, 16, 1), stored(image, form, **options)).ravel() for image in images])

    ours, theirs = (list(pictures(100)) for _ in range(2))
    png = seen(ours, "PNG")
    lossless = seen(theirs, "PNG")
    jpeg = seen(theirs, "JPEG", **EXACT_JPEG)
    distances = [proxy_a_distance(png.astype(float), each.astype(float), key=jax.random.key(0)) for each in (lossless, jpeg)]
    # Folds are drawn by content, so these differ by chance: by a standard error of 0.2, from 200 images each.
    assert abs(distances[1] - distances[0]) < 0.5


def test_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_PIXELS", 1000)
    expected = r"40 x 40 are 1,600 pixels; expected at most 1,000 in a file of this kind \(PNG\); --max_pixels=1600"
    with pytest.raises(BrokenImageError, match=expected):
        decode(stored(Image.new("L", (40, 40)), "PNG"))


def test_a_large_jpeg_is_read_at_half_its_sides_and_looks_the_same(monkeypatch):
    y, x = np.mgrid[:600, :900]
    image = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), (x + y) / 6], -1).astype(np.uint8)
    content = stored(image, "JPEG", quality=95)
    whole = decode_onto(Canvas(64, 64, 3), content)
    assert decode(content).shape == (600, 900, 3)
    # 540,000 pixels are more than this limit, and less than four times as many.
    monkeypatch.setattr(formats, "LARGEST_PIXELS", 200_000)
    assert decode(content).shape == (300, 450, 3)
    assert np.array_equal(decode_onto(Canvas(64, 64, 3), content), fit(decode(content), Canvas(64, 64, 3)))
    assert difference(whole, decode_onto(Canvas(64, 64, 3), content))[0] <= 3
    facts = store(content, ImageDescription(""), Encoding(256))
    assert (facts.original_width, facts.original_height, facts.width, facts.height) == (900, 600, 384, 256)


def test_limits_depend_on_the_memory_that_decoding_takes(monkeypatch):
    image = Image.fromarray(np.full((40, 50, 3), 90, np.uint8))
    monkeypatch.setattr(formats, "LARGEST_PIXELS", 500)
    assert decode(stored(image, "JPEG")).shape == (20, 25, 3)
    # The decoder of a progressive file holds all of it, like the decoders of other formats.
    for content in (stored(image, "JPEG", progressive=True), stored(image, "PNG"), stored(image, "BMP")):
        for read in (decode, check):
            with pytest.raises(BrokenImageError, match=r"50 x 40 are 2,000 pixels; expected at most 500 .*max_pixels=2000"):
                read(content)
        assert decode(content, max_pixels=2000).shape[2] == 3
        with pytest.raises(BrokenImageError, match="expected at most 1,999;"):
            decode(content, max_pixels=1999)
    with pytest.raises(BrokenImageError, match="expected at most 1,999;"):
        decode(stored(image, "JPEG"), max_pixels=1999)
    # Beyond half of its sides only if a user allows it.
    larger = stored(Image.new("L", (100, 100)), "JPEG")
    with pytest.raises(BrokenImageError, match=r"expected at most 2,000 in a file of this kind \(JPEG\)"):
        decode(larger)
    assert decode(larger, max_pixels=10_000).shape == (13, 13, 1)


def test_pillow_says_nothing_about_large_images(recwarn):
    # Pillow itself warns above 89 million pixels, and refuses 179 million.
    for side in (9_900, 13_500):
        assert formats.open_image(png_header(side, side)).size == (side, side)
    assert not recwarn.list


def test_heic_needs_its_extra_and_says_so(monkeypatch):
    monkeypatch.setattr(formats, "_heif_reader", lambda: None)
    for brand in (b"heic", b"mif1", b"hevc"):
        with pytest.raises(BrokenImageError, match=r"HEIC or HEIF file, which the extra 'heic' reads: pip install"):
            decode(b"\0\0\0\x18ftyp" + brand + b"\0" * 40)


def test_heic_is_read_and_turned():
    heif = pytest.importorskip("pillow_heif")
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = (200, 40, 40)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(Image.fromarray(image)).save(out, quality=95, exif=exif.tobytes())
    seen = decode(out.getvalue())
    # Turned clockwise by a quarter: the left half is on top.
    assert seen.shape == (64, 48, 3)
    assert np.abs(seen[8, 24].astype(int) - (200, 40, 40)).max() < 12
    assert seen[-8].max() < 12
    with pytest.raises(BrokenImageError, match="expected at most 3,000"):
        decode(out.getvalue(), max_pixels=3000)
    for cut in range(20, len(out.getvalue()), 97):
        with pytest.raises(BrokenImageError):
            decode(out.getvalue()[:cut])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_decodes_to_gray_or_rgb(mode):
    image = Image.new("L", (6, 4), 100).convert(mode) if mode != "I;16" else Image.fromarray(np.full((4, 6), 25_700, np.uint16))
    out = io.BytesIO()
    image.save(out, "TIFF" if mode == "CMYK" else "PNG")
    array = decode(out.getvalue())
    assert array.dtype == np.uint8
    assert array.shape[:2] == (4, 6)
    assert array.shape[2] in (1, 3)
    if mode not in ("1", "CMYK"):
        assert abs(int(array[0, 0, 0]) - 100) <= 1


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (6, 4))
    out = io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(out, "JPEG", exif=exif)
    assert decode(out.getvalue()).shape == (6, 4, 3)


def test_fit_scales_crops_and_converts(random):
    image = random.integers(0, 256, (40, 60, 3), np.uint8)
    assert fit(image, Canvas(40, 60, 3)) is image
    assert fit(image, Canvas(16, 16, 3)).shape == (16, 16, 3)
    gray = fit(image, Canvas(40, 60, 1))
    assert abs(int(gray[0, 0, 0]) - image[0, 0] @ [0.299, 0.587, 0.114]) <= 1
    assert (fit(gray, Canvas(40, 60, 3)) == gray).all()


def test_gray_levels_of_deep_images_do_not_depend_on_the_other_pixels():
    for top in (300, 60_000):
        out = io.BytesIO()
        Image.fromarray(np.array([[25_700, top]], np.uint16)).save(out, "PNG")
        assert decode(out.getvalue())[0, 0, 0] == 100
    out = io.BytesIO()
    Image.fromarray(np.array([[np.nan, 1]], np.float32)).save(out, "TIFF")
    with pytest.raises(BrokenImageError, match="not finite"):
        decode(out.getvalue())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_every_format_decodes(form):
    image = Image.fromarray(np.full((6, 9, 3), (10, 120, 240), np.uint8))
    out = io.BytesIO()
    image.save(out, form)
    assert np.abs(decode(out.getvalue()).astype(int) - (10, 120, 240)).max() < 12


def test_transparency_lies_on_white_and_gray_stays_gray():
    for mode, channels in (("LA", 1), ("RGBA", 3)):
        image = Image.new(mode, (4, 4), 0)
        out = io.BytesIO()
        image.putpixel((1, 2), (50, 255) if mode == "LA" else (50, 50, 50, 255))
        image.save(out, "PNG")
        array = decode(out.getvalue())
        assert array.shape == (4, 4, channels)
        assert (array[0, 0] == 255).all()
        assert (array[2, 1] == 50).all()


def test_canvas_is_covered_by_the_shorter_side_and_cropped_at_the_centre():
    image = np.zeros((10, 40, 1), np.uint8)
    image[:, 15:25] = 200
    out = fit(image, Canvas(10, 10, 1))
    assert (out == 200).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_damaged_files_decode_or_are_refused_and_nothing_else(form, random):
    out = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(out, form)
    reasons = []
    for trial in range(150):
        content = bytearray(out.getvalue())
        for place in random.integers(0, len(content), random.integers(1, 8)):
            content[place] = random.integers(0, 256)
        content = bytes(content[: random.integers(0, len(content))] if trial % 3 == 0 else content)
        try:
            assert decode(content).dtype == np.uint8
        except BrokenImageError as error:
            reasons.append(str(error))
    assert reasons
    assert all(reasons)
