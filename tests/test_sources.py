"""Sources of folders, lists, arrays and generated images."""

import csv
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import BrokenImageError, Canvas, decode
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


def test_first_fashion_images_are_the_published_ones():
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


def test_file_that_vanishes_is_named(folder):
    source = open_source(f"folder:{folder}")
    (folder / "cats/a.png").unlink()
    with pytest.raises(BrokenImageError, match=r"a\.png could be read when the source was opened"):
        source[0]


def test_cache_returns_what_the_source_returns():
    source = open_source("synthetic:dead_leaves?size=30")
    canvas = Canvas(28, 28, 1)
    kept = cached(source, canvas)
    for indices in (np.array([3, 3, 8]), np.array([8, 29, 0])):
        assert (kept.read(indices, canvas) == source.read(indices, canvas)).all()
    assert kept.fingerprint == source.fingerprint
    assert cached(source, canvas, limit=100) is source


def test_array_source_refuses_other_than_uint8_images():
    with pytest.raises(ValueError, match="expected uint8 images"):
        ArraySource("memory:x", np.zeros((3, 4, 4, 1)))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "fashion_mnist",
            "Expected a source that begins with arrayrecord:, bundled:, csv:, folder:, parquet:, synthetic:, tfds:",
        ),
        ("bundled:cifar", "expected one of fashion_mnist, mnist"),
        ("bundled:mnist/val", "expected one of train, test"),
        ("synthetic:leaves", "expected one of dead_leaves, noise"),
        ("synthetic:noise?size=many", "expected a whole number for size, got 'many'"),
        ("synthetic:noise?size=0", "expected a size from 1"),
        ("synthetic:noise?sise=5", "unknown option sise"),
        ("folder:/no/such/place", "there is no folder"),
        ("folder:/no/such/place?labels=multi", "expected one of none, folder"),
        ("csv:list.csv?labels=folder", "expected one of single, multi"),
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
    with pytest.raises(ValueError, match="is not in one"):
        open_source(f"folder:{tmp_path}?labels=folder")


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
    with pytest.raises(ValueError, match=r"folder:.*expected a number of at least 0 for cost_per_image"):
        open_source(f"folder:{folder}?{option}")


def write_list(file, rows):
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows(rows)
    return f"csv:{file}"


def test_csv_and_parquet_lists_carry_labels_licences_and_costs(folder):
    rows = [("cats/b.jpg", "10", "CC0", "2"), ("dogs/deep/c.png", "9", "", "")]
    uri = write_list(folder / "list.csv", [("path", "label", "license", "cost_per_image"), *rows])
    columns = dict(zip(("path", "label", "licence", "cost"), zip(*rows, strict=True), strict=True))
    columns["cost"] = (2.0, None)
    columns["label"] = (10, 9)
    pq.write_table(pa.table(columns), folder / "list.parquet")
    for source in (
        open_source(f"{uri}?licence=mine&cost_per_image=1"),
        open_source(f"parquet:{folder / 'list.parquet'}?licence=mine&cost_per_image=1"),
    ):
        assert len(source) == 2
        assert source.classes == ("9", "10")
        assert [source[i]["label"] for i in range(2)] == [1, 0]
        assert source.licence == "mixed: CC0 (1), mine (1)"
        assert source.cost_per_image == 1.5
        assert (source[0]["image"] == decode((folder / "cats/b.jpg").read_bytes())).all()
        assert source.origin(0) == str(folder / "cats/b.jpg")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("file",), ("a.png",)], "has no column 'path'; its columns are file"),
        ([("path",)], "lists no image"),
        ([], "has no column 'path'; its columns are none"),
        ([("path",), ("cats/a.png",), ("cats/a.png",)], "names cats/a.png twice"),
        ([("path", "label"), ("cats/a.png", "x"), ("cats/b.jpg", "")], "row 2, column 'label', has no label"),
        ([("path", "cost"), ("cats/a.png", "cheap")], "row 1, column 'cost', holds 'cheap'; expected a number of at least 0"),
        ([("path", "cost"), ("cats/a.png", "-1")], "at least 0"),
        ([("path",), ("nowhere.png",)], "no readable image.*No such file"),
        ([("path", "label"), ("", "x")], "row 1 has no path"),
    ],
)
def test_lists_that_make_no_sense_are_named(folder, rows, message):
    with pytest.raises(ValueError, match=message):
        open_source(write_list(folder / "list.csv", rows))
    (folder / "bad.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="cannot be read as a list"):
        open_source(f"parquet:{folder / 'bad.parquet'}")


def test_listed_files_that_are_broken_are_not_counted(folder):
    (folder / "empty.png").touch()
    source = open_source(write_list(folder / "list.csv", [("path", "label"), ("empty.png", "a"), ("cats/a.png", "b")]))
    assert len(source) == 1
    assert source.refused == [(str(folder / "empty.png"), "the file is empty")]
    assert source.classes == ("b",)


def test_arrays_of_a_library_user_are_a_source(random):
    images = random.integers(0, 256, (4, 5, 6, 3), np.uint8)
    source = ArraySource("mine", images, np.array([1, 0, 1, 0]), licence="MIT", cost_per_image=0.25)
    assert (source[2]["image"] == images[2]).all()
    assert source[2]["label"] == 1
    assert (source.licence, source.cost_per_image) == ("MIT", 0.25)
    assert source.fingerprint != ArraySource("mine", 255 - images).fingerprint
    with pytest.raises(ValueError, match=r"expected labels \[4\], .*got \[3\]"):
        ArraySource("mine", images, np.zeros(3))


@pytest.mark.parametrize("labels", [[0.0, np.nan, 1.0], [0.5, 1.0, 2.0], [0, np.inf, 1], ["a", "b", "c"], [None, 1, 2]])
def test_labels_in_memory_that_are_no_whole_numbers_are_refused(labels):
    images = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="memory: expected a whole number as the label of each image"):
        ArraySource("memory", images, np.asarray(labels))
    assert ArraySource("memory", images, np.array([0.0, 2.0, 1.0])).labels.tolist() == [0, 2, 1]
