"""Well-known datasets, as published, become lists of images that can be opened and imported."""

import csv

import numpy as np
import pytest
import scipy.io
from PIL import Image

from sslshift.data.records.importing import Import
from sslshift.data.records.prompts import read_prompts
from sslshift.data.records.published import LAYOUTS, write_lists
from sslshift.data.records.running import run_import
from sslshift.data.sources import open_source


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (value, 0, 0)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def struct(rows, names):
    """Returns an array of records as MATLAB stores it."""
    array = np.empty((1, len(rows)), [(name, "O") for name in names])
    array[0] = rows
    return array


def make_cifar(folder, hundred):
    pictures = np.arange(2 * 3072, dtype=np.uint32).reshape(2, 3072).astype(np.uint8)
    for number, file in enumerate(["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        coarse = [[7], [7]] if hundred else [[], []]
        records = np.concatenate([np.array(coarse, np.uint8), np.array([[1], [0]], np.uint8), pictures + np.uint8(number)], 1)
        (folder / f"{file}.bin").write_bytes(records.tobytes())
    # CIFAR-10's file of names ends with an empty line.
    write(folder / ("fine_label_names.txt" if hundred else "batches.meta.txt"), "apple\nbear\n\n")
    return pictures


def make_flowers(folder):
    for number in range(1, 7):
        save(folder / f"jpg/image_{number:05d}.jpg", number)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [[2, 1]], "valid": [[3, 4]], "tstid": [[5, 6]]})


def make_pets(folder):
    for name in ("Abyssinian_1", "yorkshire_terrier_12", "Abyssinian_3", "yorkshire_terrier_2"):
        save(folder / f"images/{name}.jpg")
    write(folder / "annotations/trainval.txt", "Abyssinian_1 1 1 1\nyorkshire_terrier_12 37 2 25\n")
    write(folder / "annotations/test.txt", "Abyssinian_3 1 1 1\nyorkshire_terrier_2 37 2 25\n")


def make_cars(folder, inside):
    for split in ("train", "test"):
        rows = [(1, 2, 3, 4, label, f"0000{label}.jpg") for label in (1, 2)]
        for row in rows:
            save(folder / f"cars_{split}" / row[-1])
        name = "devkit/cars_train_annos.mat" if split == "train" else f"{inside}cars_test_annos_withlabels.mat"
        (folder / name).parent.mkdir(exist_ok=True)
        names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        scipy.io.savemat(folder / name, {"annotations": struct(rows, names)})


def make_food(folder):
    for split, number in (("train", 1), ("test", 2)):
        for name in ("apple_pie", "sushi"):
            save(folder / f"images/{name}/{number}.jpg")
        write(folder / f"meta/{split}.txt", f"apple_pie/{number}\nsushi/{number}")


def make_tiny_imagenet(folder):
    for name in ("n02", "n01"):
        save(folder / f"train/{name}/images/{name}_0.JPEG")
        write(folder / f"train/{name}/{name}_boxes.txt", "")
    for number in (0, 1):
        save(folder / f"val/images/val_{number}.JPEG")
    write(folder / "wnids.txt", "n02\nn01\n")
    write(folder / "val/val_annotations.txt", "val_1.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\n")


def make_imagenet(folder):
    for name in ("n01", "n02"):
        save(folder / f"train/{name}/{name}_5.JPEG")
    for number in (1, 2):
        save(folder / f"val/ILSVRC2012_val_0000000{number}.JPEG")
    kit = folder / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    # The list also has a class of classes, without images.
    rows = [(1, "n02", "crane, lifting device"), (2, "n01", "crane"), (1001, "n00", "animal")]
    scipy.io.savemat(kit / "meta.mat", {"synsets": struct(rows, ("ILSVRC2012_ID", "WNID", "words"))})
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "1\n2\n")


MADE = {
    "cars": lambda folder: make_cars(folder, ""),
    "cifar10": lambda folder: make_cifar(folder, False),
    "cifar100": lambda folder: make_cifar(folder, True),
    "flowers": make_flowers,
    "food": make_food,
    "imagenet": make_imagenet,
    "pets": make_pets,
    "tiny_imagenet": make_tiny_imagenet,
}


def listed(folder, split):
    with open(folder / f"{split}.csv") as file:
        return [(row["path"], row["label"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lists_are_sources_with_the_same_classes_in_every_split(layout, tmp_path):
    MADE[layout](tmp_path)
    # An archive made on a Mac has such a file beside each file.
    for path in [path for path in tmp_path.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    counts = write_lists(layout, tmp_path)
    assert set(counts) - {"validation"} == {"train", "test"}
    sources = {split: open_source(f"csv:{tmp_path / split}.csv") for split in counts}
    assert {split: len(source) for split, source in sources.items()} == counts
    assert len({source.classes for source in sources.values()}) == 1
    assert not any(source.refused for source in sources.values())


def test_what_stands_in_the_lists(tmp_path):
    for layout, make in MADE.items():
        (tmp_path / layout).mkdir()
        make(tmp_path / layout)
        write_lists(layout, tmp_path / layout)
    assert listed(tmp_path / "flowers", "train") == [("jpg/image_00002.jpg", "2"), ("jpg/image_00001.jpg", "1")]
    assert listed(tmp_path / "flowers", "validation") == [("jpg/image_00003.jpg", "1"), ("jpg/image_00004.jpg", "2")]
    assert listed(tmp_path / "pets", "train")[1] == ("images/yorkshire_terrier_12.jpg", "yorkshire_terrier")
    assert listed(tmp_path / "cars", "test")[1] == ("cars_test/00002.jpg", "2")
    assert listed(tmp_path / "food", "test")[0] == ("images/apple_pie/2.jpg", "apple_pie")
    assert listed(tmp_path / "tiny_imagenet", "test")[0] == ("val/images/val_1.JPEG", "n01")
    assert listed(tmp_path / "imagenet", "train")[0] == ("train/n01/n01_5.JPEG", "n01")
    assert listed(tmp_path / "imagenet", "test")[0] == ("val/ILSVRC2012_val_00000001.JPEG", "n02")
    prompts = {"n01": ("a photo of a crane",), "n02": ("a photo of a crane",)}
    assert read_prompts(str(tmp_path / "imagenet/classes.txt")) == prompts


@pytest.mark.parametrize("hundred", [True, False])
def test_cifar_keeps_every_pixel_from_the_archive_to_the_import(hundred, tmp_path):
    (tmp_path / "raw").mkdir()
    pictures = make_cifar(tmp_path / "raw", hundred)
    assert write_lists("cifar100" if hundred else "cifar10", tmp_path / "raw") == {"train": 2 if hundred else 10, "test": 2}
    last = open_source(f"csv:{tmp_path}/raw/train.csv")[-1]
    expected = (pictures[1] + (0 if hundred else 4)).reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(last["image"], expected)
    assert last["label"] == 0
    run_import(Import(tmp_path / "raw/test.csv", tmp_path / "out"), workers=0)
    assert open_source(f"arrayrecord:{tmp_path / 'out'}").classes == ("apple", "bear")


def test_labels_of_test_cars_may_lie_in_the_development_kit(tmp_path):
    make_cars(tmp_path, "devkit/")
    assert write_lists("cars", tmp_path) == {"train": 2, "test": 2}


def test_cifar_is_not_read_from_pickles_nor_from_half_a_file(tmp_path):
    make_cifar(tmp_path, True)
    (tmp_path / "test.bin").write_bytes((tmp_path / "test.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"test\.bin is truncated; unpack cifar-100-binary"):
        write_lists("cifar100", tmp_path)
    (tmp_path / "train.bin").rename(tmp_path / "train")
    with pytest.raises(ValueError, match=r"no .*train\.bin; expected the binary version .*\(cifar-100-binary\.tar\.gz\)"):
        write_lists("cifar100", tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_folder_is_refused_in_a_sentence(layout, tmp_path):
    save(tmp_path / "some.jpg")
    with pytest.raises(ValueError, match=f"Expected {layout} as published|holds no image|binary version"):
        write_lists(layout, tmp_path)
    with pytest.raises(ValueError, match="which does not exist"):
        write_lists(layout, tmp_path / "other")


def test_validation_images_of_imagenet_must_be_complete(tmp_path):
    make_imagenet(tmp_path)
    (tmp_path / "val/ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(ValueError, match="holds 1 images, but the development kit lists 2"):
        write_lists("imagenet", tmp_path)


def test_validation_images_of_imagenet_are_joined_by_their_numbers(tmp_path):
    """The number of images is right: only their numbers show that one is missing and another occurs twice."""
    make_imagenet(tmp_path)
    (tmp_path / "val/ILSVRC2012_val_00000001.JPEG").rename(tmp_path / "val/ILSVRC2012_val_00000002 (1).JPEG")
    with pytest.raises(
        ValueError, match=r"Expected val/ILSVRC2012_val_0+1\.JPEG in .*, got val/ILSVRC2012_val_0+2 \(1\)\.JPEG"
    ):
        write_lists("imagenet", tmp_path)
    (tmp_path / "val/ILSVRC2012_val_00000002 (1).JPEG").rename(tmp_path / "val/ILSVRC2012_val_00000003.JPEG")
    with pytest.raises(ValueError, match="each image must occur once"):
        write_lists("imagenet", tmp_path)


def test_lines_that_are_counted_are_never_skipped(tmp_path):
    make_imagenet(tmp_path)
    truth = tmp_path / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n\n2\n")
    with pytest.raises(ValueError, match=r"Line 2 of .*ground_truth\.txt is empty"):
        write_lists("imagenet", tmp_path)
    make_cifar(tmp_path / "val", True)
    write(tmp_path / "val/fine_label_names.txt", "\napple\nbear\n")
    with pytest.raises(ValueError, match=r"Line 1 of .*fine_label_names\.txt is empty"):
        write_lists("cifar100", tmp_path / "val")
    write(tmp_path / "val/fine_label_names.txt", "apple\napple\n")
    with pytest.raises(ValueError, match="names a class twice"):
        write_lists("cifar100", tmp_path / "val")


@pytest.mark.parametrize("numbers", [[[0, 1]], [[7, 1]]])
def test_numbers_of_flowers_are_those_of_labels(tmp_path, numbers):
    """Number 0 would give the label of the last image."""
    make_flowers(tmp_path)
    scipy.io.savemat(tmp_path / "setid.mat", {"trnid": numbers, "valid": [[3, 4]], "tstid": [[5, 6]]})
    with pytest.raises(ValueError, match=r"imagelabels\.mat lists 6, and setid\.mat numbers them from"):
        write_lists("flowers", tmp_path)


@pytest.mark.parametrize(
    ("layout", "image"),
    [
        ("pets", "images/Abyssinian_3.jpg"),
        ("food", "images/sushi/2.jpg"),
        ("cars", "cars_test/00002.jpg"),
        ("tiny_imagenet", "val/images/val_1.JPEG"),
        ("tiny_imagenet", "train/n01/images/n01_0.JPEG"),
        ("flowers", "jpg/image_00005.jpg"),
    ],
)
def test_images_that_are_listed_must_be_there(tmp_path, layout, image):
    MADE[layout](tmp_path)
    (tmp_path / image).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 images that are listed|holds no image of the class n01|holds 5 images"):
        write_lists(layout, tmp_path)
