"""Folders as tasks: splits, classes, and folders that can be read as both."""

import contextlib
import dataclasses
import shutil
import zipfile
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import class_folders
from PIL import Image

from sslshift.data import open_source
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources.layout import find_splits, require_no_splits
from sslshift.data.sources.uri import Uri
from sslshift.study.declare import Study
from sslshift.study.design import parse_study
from sslshift.transfer.declaration import open_task, parse_task


def layout(root, *names):
    """Small images of these names, no two of them alike."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((8, 8), number, np.uint8)
        image[number % 8, number // 8 % 8] = 255
        Image.fromarray(image).save(path)
    return root


def split_names(*splits, classes=("a", "b"), count=3, form="{split}/{kind}/{number}.png"):
    return [form.format(split=split, kind=kind, number=n) for split in splits for kind in classes for n in range(count)]


def declared(root, *, ignore=""):
    """The folders of the splits, relative to the root, that a task has."""
    found = parse_task(f"folder:{root}")
    for uri in filter(None, (found.source, found.validation, found.test)):
        assert uri.endswith("?labels=folder")
    return [
        uri.removeprefix(f"folder:{root}").removesuffix("?labels=folder").strip("/")
        for uri in (found.source, found.validation, found.test)
    ]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (split_names("train", "valid", "test"), ["train", "valid", "test"]),
        (split_names("Train", "VALIDATION", "Testing"), ["Train", "VALIDATION", "Testing"]),
        (split_names("training", "dev", "holdout"), ["training", "dev", "holdout"]),
        (split_names("train", "hold-out"), ["train", "", "hold-out"]),
        (split_names("train", "eval"), ["train", "", "eval"]),
        (split_names("train", "val"), ["train", "", "val"]),
        (split_names("trainval", "test"), ["trainval", "", "test"]),
        (split_names("training_set", "test_set"), ["training_set", "", "test_set"]),
        (split_names("TrainData", "TestData"), ["TrainData", "", "TestData"]),
        (split_names("train2017", "val2017"), ["train2017", "", "val2017"]),
        (split_names("images/train", "images/val", "images/test"), ["images/train", "images/val", "images/test"]),
        (split_names("set 1/data/train", "set 1/data/test"), ["set 1/data/train", "", "set 1/data/test"]),
        (split_names("seg_train/seg_train", "seg_test/seg_test"), ["seg_train/seg_train", "", "seg_test/seg_test"]),
        (split_names("train/images", "test/images"), ["train/images", "", "test/images"]),
        (split_names("train"), ["train", "", ""]),
        # Classes that are called like splits, where nothing else is possible.
        (split_names("train", "test", "tram", form="{split}/{number}.png"), ["", "", ""]),
        (split_names("valid", "invalid", form="{split}/{number}.png"), ["", "", ""]),
        (split_names("train_station", "test_tube"), ["", "", ""]),
        (split_names("cat", "dog"), ["", "", ""]),
        (split_names("cat", "dog", form="{split}/{number}.png"), ["", "", ""]),
    ],
)
def test_split_folders_are_known_by_their_names_and_what_they_hold(tmp_path, names, found):
    layout(tmp_path, *names)
    # What is beside them changes nothing.
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text("{}")
    layout(tmp_path, ".ipynb_checkpoints/a.png", "__MACOSX/train/._a.png", "@eaDir/b.png")
    assert declared(tmp_path) == found


def test_a_file_beside_split_folders_does_not_make_them_classes(tmp_path):
    for split, start in (("train", 0), ("valid", 20), ("test", 40)):
        class_folders(tmp_path / split, "ab", start=start)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    task = open_task(parse_task(f"folder:{tmp_path}"))
    assert (task.classes, task.train.source.classes, task.notes) == (2, ("a", "b"), ())
    layout(tmp_path, "sample.png")
    task = open_task(parse_task(f"folder:{tmp_path}"))
    assert "1 images beside the split folders test, train, valid are in no split, and are not used" in task.notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        # Both readings are possible.
        ([*split_names("train"), *split_names("cat", "dog")], r"train can be splits, or classes like cat, dog beside them"),
        (
            [*split_names("train", "test"), *split_names("unlabelled", form="{split}/{number}.png")],
            r"'folder:.*/train; test=folder:.*/test'. If all of these folders are classes, write folder:.*\?labels=folder",
        ),
        (
            split_names("train", "test", form="{split}/{number}.png"),
            r"no class folders\. If test, train are the classes, write",
        ),
        (split_names("train", "valid", "test", form="{split}/{number}.png"), r"If they are splits, sort the images of each"),
        (
            [*split_names("train", classes=["ice"]), *split_names("test", classes=["passed"])],
            r"train has the folders ice, and test has passed\. If train and test are splits",
        ),
        # Splits that make no task.
        (
            [*split_names("train", "val"), *split_names("test", form="{split}/{number}.png")],
            r"the images directly in test are in no class folder and have no labels, but train, val have class folders",
        ),
        (split_names("train", "val", "valid", "test"), r"the folders val, valid can each be the validation split"),
        (split_names("val", "test"), r"there is no training split beside test, val"),
        (
            split_names("train_a", "test_a", "train_b", "test_b"),
            r"several groups of split folders \(test_a, train_a; test_b, train_b\)",
        ),
        # Classes first.
        (
            split_names("train", "test", form="{kind}/{split}/{number}.png"),
            r"a, b contain split folders \(test, train\).*move the split folders above them \(test/a/...\)",
        ),
        # Whoever follows the advice is understood.
        (
            [
                *split_names("seg_train/seg_train", "seg_test/seg_test"),
                *split_names("seg_pred/seg_pred", form="{split}/{number}.png"),
            ],
            r"as in 'folder:.*/seg_train/seg_train; test=folder:.*/seg_test/seg_test'",
        ),
        (
            [*split_names("Train"), *split_names("Test", "Meta", form="{split}/{number}.png")],
            r"name each as in 'folder:[^;]*/Train'\.",
        ),
        (split_names("train", "training", "test"), r"as in 'folder:.*/train; test=folder:.*/test'"),
        # Names of splits that share no further part.
        (split_names("train", "test1", form="{split}/{number}.png"), r"test1, train hold images that are in no class folders"),
        # No classes at all.
        (
            split_names("flowers"),
            r"all images are in the single folder flowers, .*\(a, b\) are the classes, name it: folder:.*flowers",
        ),
        (split_names("data/raw"), r"in the single folder data/raw, .*\(a, b\) are the classes, name it: folder:.*/data/raw"),
        ([*split_names("data/train", "data/test"), "docs/figure.png"], r"If data holds the task, name it: folder:.*/data\."),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path, names, message):
    layout(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        parse_task(f"folder:{tmp_path}")
    # An explicit setting that they are classes is followed.
    assert parse_task(f"folder:{tmp_path}?labels=folder").source == f"folder:{tmp_path}?labels=folder"


@pytest.mark.parametrize("folders", [("fold1", "fold2"), ("photo", "sketch"), ("train_2018", "val_2019")])
def test_folders_that_hold_the_same_ones_are_classes_with_a_note(tmp_path, folders):
    layout(tmp_path, *split_names(*folders))
    (note,) = parse_task(f"folder:{tmp_path}").notes
    one, other = folders
    assert note.startswith(
        f"the classes are {one}, {other}, the first folders, but each of them holds the folders a, b; if a, b"
    )
    assert f"name one folder, as in folder:{tmp_path}/{one}, or" in note


def test_named_splits_replace_those_of_the_folder_with_a_note(tmp_path):
    layout(tmp_path / "a", *split_names("train", "test")), layout(tmp_path / "b", *split_names("x"))
    found = parse_task(f"folder:{tmp_path / 'a'}; test=folder:{tmp_path / 'b/x'}")
    assert found.test == f"folder:{tmp_path / 'b/x'}?labels=folder"
    assert found.notes == ("the images in test are not used, because the task names other images",)


def test_splits_are_no_classes_of_a_source(tmp_path):
    layout(tmp_path, *split_names("train", "valid", "test"))
    with pytest.raises(
        ValueError, match=r"the folders test, train, valid are splits with .*\(a, b\).*as in folder:.*/train, or name the root"
    ):
        open_source(f"folder:{tmp_path}?labels=folder")
    job = Import(tmp_path, tmp_path / "records", labels="folder")
    with pytest.raises(ValueError, match=r"--input=.*: the folders test, train, valid are splits"):
        run_import(job, workers=0)
    assert not job.output.exists()
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "train")
    with zipfile.ZipFile(tmp_path / "set.zip", "a") as archive:
        archive.write(tmp_path / "test/a/0.png", "test/a/0.png")
    with pytest.raises(ValueError, match=r"set.zip: the folders test, train are splits .* Unpack the archive, and import the"):
        run_import(Import(tmp_path / "set.zip", tmp_path / "unpacked", labels="folder"), workers=0)
    # Without class folders in them they are classes, and the source says so.
    other = layout(tmp_path / "other", *split_names("train", "test", form="{split}/{number}.png"))
    source = open_source(f"folder:{other}?labels=folder")
    assert source.classes == ("test", "train")
    assert source.notes == [
        "the classes are test, train, the first folders; if these are splits, name each split's folder as a source"
    ]
    third = layout(tmp_path / "third", *split_names("seg_train", "seg_test"), "seg_pred/0.png")
    (note,) = open_source(f"folder:{third}?labels=folder").notes
    assert "the first folders; if seg_test, seg_train are splits, name each" in note


def test_a_test_split_that_is_named_apart_is_one_split(tmp_path):
    layout(tmp_path / "a", *split_names("x", "y")), layout(tmp_path / "b", *split_names("train", "test"))
    study = Study(
        sources="bundled:mnist", downstream=f"folder:{tmp_path / 'a'}", downstream_test=f"folder:{tmp_path / 'b/test'}"
    )
    assert parse_study(study).tasks[0].test == f"folder:{tmp_path / 'b/test'}?labels=folder"
    # Of a folder with splits it is unknown which one is meant.
    study = dataclasses.replace(study, downstream_test=f"folder:{tmp_path / 'b'}")
    with pytest.raises(ValueError, match="the folders test, train are splits"):
        open_task(parse_study(study).tasks[0])


NAMES = st.sampled_from(["train", "test", "val", "valid", "a", "b", "images", "seg_train", "seg_test", "hold-out", "train_val"])
TREES = st.lists(st.lists(NAMES, max_size=3).map(lambda folders: PurePath(*folders, "x.png")), max_size=7, unique=True)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_whatever_folders_there_are_they_are_read_or_refused(paths):
    # Anything but a ValueError is a fault.
    with contextlib.suppress(ValueError):
        require_no_splits(paths, "folder:/parts?labels=folder", "folder:/parts")
    with contextlib.suppress(ValueError):
        found = find_splits(paths, Uri("folder", "/parts"))
        assert not found.folders or "train" in found.folders
        assert len(set(found.folders.values())) == len(found.folders)
        assert all(any(PurePath(each) in path.parents for path in paths) for each in found.folders.values())
