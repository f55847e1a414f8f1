"""Tasks as data: their text form, their splits, and what is refused or noted."""

import numpy as np
import pytest
from image_folders import class_folders
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import Canvas
from sslshift.transfer.declaration import TaskDeclaration, open_task, own_canvas, parse_task
from sslshift.transfer.tasks import make_task


def test_a_task_out_of_text():
    assert parse_task("bundled:mnist") == TaskDeclaration("bundled:mnist")
    assert parse_task("my parts = csv:/a/b.csv?licence=x=y; metric=macro_f1; labelled=1_000;") == TaskDeclaration(
        "csv:/a/b.csv?licence=x=y", name="my parts", metric="macro_f1", labelled=1000
    )
    assert parse_task("folder:/no/such; test=folder:/other; validation=folder:/v?labels=none") == TaskDeclaration(
        "folder:/no/such?labels=folder", "folder:/v?labels=none", "folder:/other?labels=folder"
    )
    assert parse_task("folder:/a?cost_per_image=2").source == "folder:/a?cost_per_image=2&labels=folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a URI that begins with one of arrayrecord:"),
        ("/data/parts", "a URI that begins with one of arrayrecord:"),
        ("bundled:mnist; tset=bundled:mnist/test", "expected one of validation, test, metric, labelled, got 'tset'"),
        ("bundled:mnist; test", "as 'name=value; name=value', got 'test'"),
        ("bundled:mnist; test=a; test=b", "test is set twice"),
        ("bundled:mnist; labelled=many", "expected a whole number for labelled, got 'many'"),
        ("bundled:mnist; metric=acuracy", "Expected one of accuracy, .* for metric, got 'acuracy'"),
    ],
)
def test_text_that_is_no_task_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_task(text)


def test_split_folders_are_the_splits(tmp_path):
    for split, start in (("train", 0), ("val", 20), ("test", 40)):
        class_folders(tmp_path / split, "ab", start=start)
    declared = parse_task(f"folder:{tmp_path}?licence=mine")
    assert declared == TaskDeclaration(
        *(f"folder:{tmp_path}/{split}?licence=mine&labels=folder" for split in ("train", "val", "test"))
    )
    task = open_task(declared)
    assert [len(part.indices) for part in task.splits.values()] == [20, 20, 20]
    assert task.canvas == Canvas(8, 8, 1)
    assert task.notes == ()


def test_val_alone_is_the_test_split(tmp_path):
    for split, start in (("train", 0), ("val", 20)):
        class_folders(tmp_path / split, "ab", start=start)
    assert parse_task(f"folder:{tmp_path}").test == f"folder:{tmp_path}/val?labels=folder"


def test_a_folder_with_more_than_splits_is_one_of_classes(tmp_path):
    class_folders(tmp_path, ["train", "test", "tram"])
    assert parse_task(f"folder:{tmp_path}") == TaskDeclaration(f"folder:{tmp_path}?labels=folder")
    assert open_task(parse_task(f"folder:{tmp_path}")).classes == 3


def test_missing_splits_are_drawn_by_class_and_noted(tmp_path):
    class_folders(tmp_path, "a", count=40)
    class_folders(tmp_path, ["b", "c"], count=10)
    source = open_source(f"folder:{tmp_path}?labels=folder")
    task = make_task(source, None, Canvas(8, 8, 1), labelled=0)
    # b and c have a place and a half of the twelve, rounded one way or the other.
    assert sum(len(part.indices) for part in task.splits.values()) == 60
    for part in task.splits.values():
        assert set(part.labels.tolist()) == {0, 1, 2}
    assert not set(task.test.indices) & set(task.train.indices)
    assert "12 of 60 labelled images, drawn by class, are held out" in task.notes[0]
    again = make_task(source, None, Canvas(8, 8, 1), labelled=0)
    assert all((a.indices == b.indices).all() for a, b in zip(task.splits.values(), again.splits.values(), strict=True))
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
def test_invalid_tasks_are_refused(train, test, message):
    sources = []
    for name, labels, seed in (("memory:x", train, 0), ("memory:t", test, 1)):
        images = np.random.default_rng(seed).integers(0, 256, (len(labels or [0, 0]), 4, 4, 1), np.uint8)
        sources.append(ArraySource(name, images, None if labels is None else np.array(labels)))
    with pytest.raises(ValueError, match=message):
        make_task(*sources, CANVAS, labelled=0)


def test_one_source_cannot_be_two_splits():
    one = arrays([0, 1] * 20)
    other = arrays([0, 1] * 20, "memory:y", seed=1)
    with pytest.raises(ValueError, match="different images in the test split and the training split"):
        make_task(one, one, CANVAS, labelled=0)
    with pytest.raises(ValueError, match="different images in the test split and the validation split"):
        make_task(one, other, CANVAS, labelled=0, validation=other)


def test_classes_that_a_split_lacks_are_noted():
    train = arrays([0, 1, 2] * 20, classes=("a", "b", "c"))
    test = arrays([0, 1], "memory:t", ("a", "b", "c"), 1)
    task = make_task(train, test, CANVAS, labelled=0)
    assert task.notes == ("no image of the test split is of class c: means over classes exclude it",)


def test_multi_label_tasks_are_evaluated_by_average_precision():
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
    class_folders(tmp_path, "ab")
    Image.new("L", (9, 8)).save(tmp_path / "a" / "odd.png")
    with pytest.raises(ValueError, match="the side to which all are resized"):
        own_canvas(open_source(f"folder:{tmp_path}?labels=folder"))
    (tmp_path / "a" / "odd.png").unlink()
    with pytest.raises(ValueError, match="the first is 8 x 8"):
        own_canvas(open_source(f"folder:{tmp_path}?labels=folder"), largest=4)


def test_classes_are_matched_by_name(tmp_path):
    # The training split has its names composed, the test split decomposed, in another order and less one.
    class_folders(tmp_path / "train", ["10", "9", "\u00e9", "z"])
    class_folders(tmp_path / "test", ["z", "e\u0301", "9"], count=3, start=20)
    task = open_task(parse_task(f"folder:{tmp_path}"))
    names = task.train.source.classes
    assert names == ("10", "9", "z", "\u00e9")
    seen = [task.test.source.origin(int(i)) for i in task.test.indices]
    assert [names[label] for label in task.test.labels] == [
        {"e\u0301": "\u00e9"}.get(path.split("/")[-2], path.split("/")[-2]) for path in seen
    ]
    assert any("no image of the test split is of class 10" in note for note in task.notes)
    class_folders(tmp_path / "test", ["Z"], count=3, start=40)
    with pytest.raises(ValueError, match=r"has no class Z; it has 10, 9, z, é\..*names"):
        open_task(parse_task(f"folder:{tmp_path}"))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1] * 8 + [0], None, "has 17 labels for 18 images; each image needs a label"),
        ([0, 1] * 10, None, "has 20 labels for 18 images"),
        # -1 would be the last class of another split.
        ([0, -1] * 9, ("a", "b"), "has labels from -1 to 0, but names for 2 classes"),
        ([0, 2] * 9, ("a", "b"), "has labels from 0 to 2, but names for 2 classes"),
        ([[0, 1, 0]] * 18, ("a", "b"), "has 3 columns of labels, but names for 2 classes"),
    ],
)
def test_labels_that_are_not_those_of_the_images_are_refused(labels, classes, message):
    images = np.random.default_rng(0).integers(0, 256, (36, 4, 4, 1), np.uint8)
    good = ArraySource("good", images[:18], np.array([0, 1] * 9))
    bad = ArraySource("bad", images[18:])
    good.classes = ("b", "a")
    bad.labels = np.array(labels)
    bad.classes = classes
    for pair in ((good, bad), (bad, good), (bad, None)):
        with pytest.raises(ValueError, match=f"bad {message}"):
            make_task(*pair, CANVAS, labelled=0)
