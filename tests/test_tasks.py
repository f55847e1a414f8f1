"""Tasks as data: their text form, their splits, and what is refused or told."""

import numpy as np
import pytest
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import Canvas
from sslshift.transfer.tasks import Declaration, make_task, open_task, own_canvas, parse_task


def folder_of(root, kinds, count=10, start=0):
    """Class folders of gray images, no two of them alike."""
    for number, kind in enumerate(kinds):
        for i in range(start, start + count):
            path = root / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.full((8, 8), 40 * number + 10, np.uint8)
            image.ravel()[i] += 1 + start
            Image.fromarray(image).save(path)
    return root


def test_a_task_out_of_text():
    assert parse_task("bundled:mnist") == Declaration("bundled:mnist")
    assert parse_task("my parts = csv:/a/b.csv?licence=x=y; metric=macro_f1; labelled=1_000;") == Declaration(
        "csv:/a/b.csv?licence=x=y", name="my parts", metric="macro_f1", labelled=1000
    )
    assert parse_task("folder:/no/such; test=folder:/other; validation=folder:/v?labels=none") == Declaration(
        "folder:/no/such?labels=folder", "folder:/v?labels=none", "folder:/other?labels=folder"
    )
    assert parse_task("folder:/a?cost_per_image=2").source == "folder:/a?cost_per_image=2&labels=folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a URI begins with arrayrecord:"),
        ("/data/parts", "a URI begins with arrayrecord:"),
        ("bundled:mnist; tset=bundled:mnist/test", "not 'tset=bundled:mnist/test'"),
        ("bundled:mnist; test", "not 'test'"),
        ("bundled:mnist; test=a; test=b", "once each"),
        ("bundled:mnist; labelled=many", "labelled must be a whole number, not 'many'"),
        ("bundled:mnist; metric=acuracy", "metric=acuracy is unknown; there is accuracy"),
    ],
)
def test_text_that_is_no_task_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_task(text)


def test_split_folders_are_the_splits(tmp_path):
    for split, start in (("train", 0), ("val", 20), ("test", 40)):
        folder_of(tmp_path / split, "ab", start=start)
    declared = parse_task(f"folder:{tmp_path}?licence=mine")
    assert declared == Declaration(
        *(f"folder:{tmp_path}/{split}?licence=mine&labels=folder" for split in ("train", "val", "test"))
    )
    task = open_task(declared)
    assert [len(part.indices) for part in task.parts.values()] == [20, 20, 20]
    assert task.canvas == Canvas(8, 8, 1)
    assert task.notes == ()


def test_val_alone_is_the_test_split(tmp_path):
    for split, start in (("train", 0), ("val", 20)):
        folder_of(tmp_path / split, "ab", start=start)
    assert parse_task(f"folder:{tmp_path}").test == f"folder:{tmp_path}/val?labels=folder"


def test_a_folder_with_more_than_splits_is_one_of_classes(tmp_path):
    folder_of(tmp_path, ["train", "test", "tram"])
    assert parse_task(f"folder:{tmp_path}") == Declaration(f"folder:{tmp_path}?labels=folder")
    assert open_task(parse_task(f"folder:{tmp_path}")).classes == 3


def test_missing_splits_are_drawn_by_class_and_told(tmp_path):
    folder_of(tmp_path, "a", count=40)
    folder_of(tmp_path, ["b", "c"], count=10)
    source = open_source(f"folder:{tmp_path}?labels=folder")
    task = make_task(source, None, Canvas(8, 8, 1), labelled=0)
    # b and c have a place and a half of the twelve, rounded one way or the other.
    assert sum(len(part.indices) for part in task.parts.values()) == 60
    for part in task.parts.values():
        assert set(part.labels.tolist()) == {0, 1, 2}
    assert not set(task.test.indices) & set(task.train.indices)
    assert "12 of 60 labelled images, drawn by class, are held out" in task.notes[0]
    again = make_task(source, None, Canvas(8, 8, 1), labelled=0)
    assert all((a.indices == b.indices).all() for a, b in zip(task.parts.values(), again.parts.values(), strict=True))
    # Fewer labelled images leave the test split as it is.
    few = make_task(source, None, Canvas(8, 8, 1), labelled=20)
    assert (few.test.indices == task.test.indices).all()
    assert len(few.train.indices) + len(few.validation.indices) == 20


def arrays(labels, name="memory:x", classes=None, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 1), np.uint8)
    source = ArraySource(name, images, np.asarray(labels))
    source.classes = classes
    return source


CANVAS = Canvas(4, 4, 1)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (None, [0, 1], "memory:x has no labels, which the training split needs"),
        ([0, 1] * 20, None, "memory:t has no labels, which the test split needs"),
        ([0] * 40, [0, 0], "holds 1 class; a task needs at least two"),
        ([0, 1] * 20, [0, 2], "the test split holds classes 2 that no training image has"),
        ([0, -1] * 20, [0, 0], "a label is negative"),
        ([0, 1] * 20, [[0, 1], [1, 0]], "one label each"),
        ([[0, 0]] * 20, [[0, 1], [1, 0]], "no training image has any label"),
        ([0, 1], [0, 1], "holds no image|that no training image has"),
    ],
)
def test_tasks_that_cannot_be_are_refused(train, test, message):
    sources = []
    for name, labels, seed in (("memory:x", train, 0), ("memory:t", test, 1)):
        images = np.random.default_rng(seed).integers(0, 256, (len(labels or [0, 0]), 4, 4, 1), np.uint8)
        sources.append(ArraySource(name, images, None if labels is None else np.array(labels)))
    with pytest.raises(ValueError, match=message):
        make_task(*sources, CANVAS, labelled=0)


def test_one_source_cannot_be_two_splits():
    one, other = arrays([0, 1] * 20), arrays([0, 1] * 20, "memory:y", seed=1)
    with pytest.raises(ValueError, match="a test split needs others than the training split"):
        make_task(one, one, CANVAS, labelled=0)
    with pytest.raises(ValueError, match="a test split needs others than the validation split"):
        make_task(one, other, CANVAS, labelled=0, validation=other)


def test_classes_that_a_split_lacks_are_told():
    train, test = arrays([0, 1, 2] * 20, classes=("a", "b", "c")), arrays([0, 1], "memory:t", ("a", "b", "c"), 1)
    task = make_task(train, test, CANVAS, labelled=0)
    assert task.notes == ("no image of the test split is of class c: means over classes leave it out",)


def test_multi_label_tasks_are_judged_by_average_precision():
    labels = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(np.uint8)
    task = make_task(arrays(labels), None, CANVAS, labelled=0)
    assert (task.metric, task.classes, task.train.labels.shape[1]) == ("average_precision", 3, 3)
    with pytest.raises(ValueError, match="average_precision"):
        make_task(arrays(labels), None, CANVAS, labelled=0, metric="accuracy")
    # Columns are matched by the names of the classes.
    train = arrays(labels, classes=("a", "b", "c"))
    test = arrays(labels[:20, [2, 0]], "memory:t", ("c", "a"), 1)
    task = make_task(train, test, CANVAS, labelled=0)
    np.testing.assert_array_equal(task.test.labels, np.stack([labels[:20, 0], np.zeros(20), labels[:20, 2]], axis=1))


def test_images_of_several_sizes_need_a_canvas(tmp_path):
    folder_of(tmp_path, "ab")
    Image.new("L", (9, 8)).save(tmp_path / "a" / "odd.png")
    with pytest.raises(ValueError, match="say to which side all are brought"):
        own_canvas(open_source(f"folder:{tmp_path}?labels=folder"))
    (tmp_path / "a" / "odd.png").unlink()
    with pytest.raises(ValueError, match="the first is 8 x 8"):
        own_canvas(open_source(f"folder:{tmp_path}?labels=folder"), largest=4)
