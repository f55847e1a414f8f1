"""The same pixels decode alike, whatever format and metadata they are stored with."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from sslshift.data.decode import Canvas, decode, decode_onto
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
