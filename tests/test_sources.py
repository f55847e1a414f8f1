import io
import os

import numpy as np
import pytest
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import BrokenImageError, Canvas, decode, fit
from sslshift.data.sources import PartialSource, cached, digests


def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)


@pytest.fixture
def folder(tmp_path, random):
    for name in ("cats/a.png", "cats/b.jpg", "dogs/deep/c.png"):
        save(tmp_path / name, random.integers(0, 256, (20, 30, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "count"),
    [
        ("bundled:fashion_mnist", 20_000),
        ("bundled:fashion_mnist/test", 5000),
        ("bundled:mnist", 4000),
        ("bundled:mnist/test", 1000),
    ],
)
def test_bundled_sets(uri, count):
    source = open_source(uri)
    assert len(source) == count
    sample = source[count - 1]
    assert sample["image"].shape == (28, 28, 1)
    assert sample["image"].dtype == np.uint8
    assert np.bincount(source.labels).min() > count / 12
    assert source.licence != "unknown"
    with pytest.raises(IndexError):
        source[count]


def test_first_fashion_images_are_those_everybody_knows():
    # Ankle boot, T-shirt, T-shirt, dress, T-shirt.
    assert open_source("bundled:fashion_mnist").labels[:5].tolist() == [9, 0, 0, 3, 0]


@pytest.mark.parametrize("name", ["dead_leaves", "noise"])
def test_generated_images_are_a_function_of_seed_and_index(name):
    a, b = (open_source(f"synthetic:{name}?size={size}&seed=5") for size in (10, 1000))
    assert (a[7]["image"] == b[7]["image"]).all()
    assert (a[7]["image"] != a[8]["image"]).any()
    assert (a[7]["image"] != open_source(f"synthetic:{name}?size=10&seed=6")[7]["image"]).any()


def test_dead_leaves_have_structure_and_noise_has_none():
    def neighbour_correlation(uri):
        images = open_source(uri).read(np.arange(50), Canvas(28, 28, 1)).astype(float)
        return np.corrcoef(images[:, :, 1:].ravel(), images[:, :, :-1].ravel())[0, 1]

    assert neighbour_correlation("synthetic:dead_leaves") > 0.6
    assert abs(neighbour_correlation("synthetic:noise")) < 0.02


def test_folder_is_nested_sorted_and_unlabelled_by_default(folder):
    source = open_source(f"folder:{folder}")
    assert len(source) == 3
    assert source.labels is None
    assert "label" not in source[0]
    assert source[0]["image"].shape == (20, 30, 3)
    assert source.read(np.arange(3), Canvas(8, 8, 1)).shape == (3, 8, 8, 1)


def test_folder_with_class_folders(folder):
    source = open_source(f"folder:{folder}?labels=folder&licence=CC0&cost_per_image=0.5")
    assert source.classes == ("cats", "dogs")
    assert source.labels.tolist() == [0, 0, 1]
    assert (source.licence, source.cost_per_image) == ("CC0", 0.5)


def test_folder_fingerprint_follows_the_content(folder, random):
    before = open_source(f"folder:{folder}").fingerprint
    assert open_source(f"folder:{folder}").fingerprint == before
    save(folder / "new.png", random.integers(0, 256, (5, 5), np.uint8))
    assert open_source(f"folder:{folder}").fingerprint != before


def test_broken_files_are_listed_and_not_counted(folder):
    whole = (folder / "cats/b.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a picture")
    source = open_source(f"folder:{folder}")
    assert len(source) == 3
    assert {path.rpartition("/")[2] for path, _ in source.refused} == {"truncated.jpg", "empty.png", "text.jpg"}


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    out = io.BytesIO()
    Image.new("L", (40, 40)).save(out, "PNG")
    with pytest.raises(BrokenImageError, match="decompression bomb"):
        decode(out.getvalue())


def test_file_that_vanishes_is_named(folder):
    source = open_source(f"folder:{folder}")
    (folder / "cats/a.png").unlink()
    with pytest.raises(BrokenImageError, match=r"a\.png could be read when the source was opened"):
        source[0]


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
    image, out = Image.new("RGB", (6, 4)), io.BytesIO()
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


def test_cache_returns_what_the_source_returns():
    source, canvas = open_source("synthetic:dead_leaves?size=30"), Canvas(28, 28, 1)
    kept = cached(source, canvas)
    for indices in (np.array([3, 3, 8]), np.array([8, 29, 0])):
        assert (kept.read(indices, canvas) == source.read(indices, canvas)).all()
    assert kept.fingerprint == source.fingerprint
    assert cached(source, canvas, limit=100) is source


def test_array_source_refuses_other_than_uint8_images():
    with pytest.raises(ValueError, match="must be uint8"):
        ArraySource("memory:x", np.zeros((3, 4, 4, 1)))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("fashion_mnist", "must begin with arrayrecord:, bundled:, csv:, folder:, parquet:, synthetic:, tfds:"),
        ("bundled:cifar", "there is fashion_mnist, mnist"),
        ("bundled:mnist/val", "there is train, test"),
        ("synthetic:leaves", "there is dead_leaves, noise"),
        ("synthetic:noise?size=many", "size must be a whole number, not 'many'"),
        ("synthetic:noise?size=0", "at least 1"),
        ("synthetic:noise?sise=5", "unknown option sise"),
        ("folder:/no/such/place", "there is no folder"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(uri, message):
    with pytest.raises(ValueError, match=message):
        open_source(uri)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no readable image"):
        open_source(f"folder:{tmp_path}")


def test_loose_images_cannot_be_labelled_by_folder(tmp_path):
    save(tmp_path / "loose.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="is in none"):
        open_source(f"folder:{tmp_path}?labels=folder")


def test_gray_levels_of_deep_images_do_not_depend_on_the_other_pixels():
    for top in (300, 60_000):
        out = io.BytesIO()
        Image.fromarray(np.array([[25_700, top]], np.uint16)).save(out, "PNG")
        assert decode(out.getvalue())[0, 0, 0] == 100
    out = io.BytesIO()
    Image.fromarray(np.array([[np.nan, 1]], np.float32)).save(out, "TIFF")
    with pytest.raises(BrokenImageError, match="not finite"):
        decode(out.getvalue())


def test_linked_folders_are_followed_once(folder):
    (folder / "again").symlink_to(folder / "cats")
    (folder / "cats/loop").symlink_to(folder)
    assert len(open_source(f"folder:{folder}")) == 3


def test_names_that_are_not_utf8_can_be_reported(folder):

    broken = os.fsencode(folder) + b"/\xff.png"
    with open(broken, "wb") as file:
        file.write(b"no image")
    ((path, _),) = open_source(f"folder:{folder}").refused
    assert path.encode().endswith(b"\\xff.png")


def test_equal_images_are_known_by_their_digests(folder):
    canvas = Canvas(8, 8, 3)
    (folder / "copy.png").write_bytes((folder / "cats/a.png").read_bytes())
    source = open_source(f"folder:{folder}")
    found = digests(source, np.arange(4), canvas)
    assert len(set(found)) == 3
    part = PartialSource(source, np.array([2, 0]))
    assert digests(part, np.arange(2), canvas) == [found[2], found[0]]


def test_cached_source_is_sent_to_workers_without_its_images():
    kept = cached(open_source("bundled:mnist"), Canvas(14, 14, 1))
    before = kept.read(np.arange(5), Canvas(14, 14, 1))
    state = kept.__getstate__()
    assert not {"_images", "_have"} & state.keys()
    again = kept.__class__.__new__(kept.__class__)
    again.__setstate__(state)
    assert (again.read(np.arange(5), Canvas(14, 14, 1)) == before).all()


@pytest.mark.parametrize("option", ["cost_per_image=cheap", "cost_per_image=-1", "cost_per_image=inf"])
def test_costs_are_numbers(folder, option):
    with pytest.raises(ValueError, match=r"folder:.*cost_per_image must be a number"):
        open_source(f"folder:{folder}?{option}")
