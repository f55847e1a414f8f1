"""Writes lists for the import of well-known datasets in the form that their authors publish."""

import csv
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sslshift import storage
from sslshift.data.sources.walk import is_hidden

# The images of a split, relative to the folder of the dataset, each with the name of its class.
Rows = list[tuple[str, str]]


def write_lists(layout: str, folder: Path) -> dict[str, int]:
    """Writes `SPLIT.csv` (columns path, label) for each split of a dataset into its folder.

    Args:
      layout: one of `LAYOUTS`.
      folder: the folder into which the published archives were unpacked.

    Returns:
      The number of images in each split.

    Raises:
      ValueError: the folder does not hold the files that the authors publish.
    """
    if not folder.is_dir():
        raise ValueError(f"Expected the folder of a published dataset, got {folder}, which does not exist.")
    try:
        splits = LAYOUTS[layout](folder)
    except FileNotFoundError as error:
        raise ValueError(
            f"Expected {layout} as published in {folder}: there is no {error.filename}; unpack all its archives there."
        ) from error
    except (KeyError, IndexError) as error:
        raise ValueError(f"Expected {layout} as published in {folder}, got {error!r}.") from error
    for split, rows in splits.items():
        if not rows:
            raise ValueError(f"{folder} holds no image of the {split} split.")
        _require_images(folder, rows)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("path", "label"), *rows])
        # Each list is written completely or not at all: a truncated list would be a smaller dataset.
        storage.write(folder / f"{split}.csv", text.getvalue())
    return {split: len(rows) for split, rows in splits.items()}


def _require_images(folder: Path, rows: Rows) -> None:
    """Raises ValueError if an image is missing, and FileNotFoundError if a folder of images is missing."""
    names = functools.cache(lambda parent: frozenset(os.listdir(folder / parent)))
    # Each folder is listed once, which is faster than a million calls that look for single files.
    missing = [path for path, _ in rows if os.path.basename(path) not in names(os.path.dirname(path))]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing):,} of {len(rows):,} images that are listed, e.g. {missing[0]}; unpack all its "
            "archives there."
        )


def _cifar(folder: Path, hundred: bool) -> dict[str, Rows]:
    """Lists CIFAR-10 or CIFAR-100 in the binary version (the python version is pickles), and writes its images below `png/`.

    A record is the label of an image (in CIFAR-100 the coarse label and the fine label) and its red, green and blue plane.
    """
    archive = "cifar-100-binary.tar.gz" if hundred else "cifar-10-binary.tar.gz"
    parts = {"train": ["train.bin"], "test": ["test.bin"]}
    if not hundred:
        parts = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    missing = next((folder / file for files in parts.values() for file in files if not (folder / file).exists()), None)
    if missing:
        raise ValueError(f"There is no {missing}; expected the binary version of the dataset ({archive}).")
    labels = 2 if hundred else 1
    names = _lines(folder / ("fine_label_names.txt" if hundred else "batches.meta.txt"))
    if len(set(names)) < len(names):
        raise ValueError(f"{folder} names a class twice; unpack {archive} again.")
    splits: dict[str, Rows] = {}
    for split, files in parts.items():
        (folder / "png" / split).mkdir(parents=True, exist_ok=True)
        splits[split] = rows = []
        for file in files:
            content = np.fromfile(folder / file, np.uint8)
            if not content.size or content.size % (labels + 3072):
                raise ValueError(f"{folder / file} is truncated; unpack {archive} again.")
            records = content.reshape(-1, labels + 3072)
            # The last label is the fine label in CIFAR-100, and the only label in CIFAR-10.
            for label, image in zip(records[:, labels - 1], records[:, labels:].reshape(-1, 3, 32, 32), strict=True):
                rows.append((f"png/{split}/{len(rows):05d}.png", names[label]))
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(folder / rows[-1][0])
    return splits


def _tiny_imagenet(folder: Path) -> dict[str, Rows]:
    """Lists Tiny ImageNet: class folders for training, and a file for the validation images, which become the test split."""
    train = [
        (image.relative_to(folder).as_posix(), name)
        for name in _lines(folder / "wnids.txt")
        for image in _images(folder / "train" / name / "images")
    ]
    # A class without images would shift no label, but would be missing from the results.
    empty = set(_lines(folder / "wnids.txt")) - {name for _, name in train}
    if empty:
        raise ValueError(f"{folder / 'train'} holds no image of the class {min(empty)}; unpack the archive again.")
    listed = [line.split("\t") for line in _lines(folder / "val" / "val_annotations.txt")]
    return {"train": train, "test": [(f"val/images/{columns[0]}", columns[1]) for columns in listed]}


def _imagenet(folder: Path) -> dict[str, Rows]:
    """Lists ImageNet (ILSVRC 2012): class folders below `train`, and `val`, whose classes are in the development kit.

    Also writes `classes.txt`, a prompt for each class, as `tools.generate_images` reads it.
    """
    train = [(image.relative_to(folder).as_posix(), image.parent.name) for image in _images(folder / "train", "*/*")]
    kit = next(iter(sorted(folder.glob("ILSVRC2012_devkit*"))), folder / "ILSVRC2012_devkit_t12") / "data"
    synsets = _matlab(kit / "meta.mat")["synsets"].ravel()
    names = {int(synset["ILSVRC2012_ID"].item()): str(synset["WNID"].item()) for synset in synsets}
    truth = [names[int(line)] for line in _lines(kit / "ILSVRC2012_validation_ground_truth.txt")]
    test = [image.relative_to(folder).as_posix() for image in _images(folder / "val")]
    if len(test) != len(truth):
        raise ValueError(f"{folder / 'val'} holds {len(test):,} images, but the development kit lists {len(truth):,}.")
    # Line n of the kit is the class of image n. If one image is missing and another is added, those between get wrong classes.
    wanted = [f"val/ILSVRC2012_val_{number:08d}" for number in range(1, len(truth) + 1)]
    other = next((pair for pair in zip(test, wanted, strict=True) if os.path.splitext(pair[0])[0] != pair[1]), None)
    if other:
        raise ValueError(f"Expected {other[1]}.JPEG in {folder}, got {other[0]}; each image must occur once.")
    words = {str(synset["WNID"].item()): str(synset["words"].item()).partition(",")[0] for synset in synsets}
    prompts = [f"{name}|a photo of a {words[name]}\n" for name in sorted({label for _, label in train})]
    storage.write(folder / "classes.txt", "".join(prompts))
    return {"train": train, "test": list(zip(test, truth, strict=True))}


def _flowers(folder: Path) -> dict[str, Rows]:
    """Lists Oxford Flowers 102: `jpg/`, and files with the class of each image and the images of each split."""
    labels = _matlab(folder / "imagelabels.mat")["labels"].ravel()
    splits = _matlab(folder / "setid.mat")
    # Classes and splits refer to images by number: an additional or a missing image would shift them all.
    images = len(_images(folder / "jpg"))
    numbers = np.concatenate([splits[name].ravel() for name in ("trnid", "valid", "tstid")])
    if images != len(labels) or not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise ValueError(
            f"{folder / 'jpg'} holds {images:,} images, imagelabels.mat lists {len(labels):,}, and setid.mat numbers them from "
            f"{numbers.min():,} to {numbers.max():,}; unpack all archives again."
        )
    return {
        # MATLAB counts from 1.
        split: [(f"jpg/image_{number:05d}.jpg", str(labels[number - 1])) for number in splits[name].ravel().tolist()]
        for split, name in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))
    }


def _pets(folder: Path) -> dict[str, Rows]:
    """Lists Oxford-IIIT Pets: `images/`, named by breed and number, and lists of the splits in `annotations/`."""

    def rows(file: str) -> Iterator[tuple[str, str]]:
        for line in _lines(folder / "annotations" / file):
            name = line.split()[0]
            # Names of breeds may contain underscores, as in american_bulldog_12.
            yield f"images/{name}.jpg", name.rpartition("_")[0]

    return {"train": list(rows("trainval.txt")), "test": list(rows("test.txt"))}


def _cars(folder: Path) -> dict[str, Rows]:
    """Lists Stanford Cars: `cars_train/`, `cars_test/`, and annotations in `devkit/` (for the test images also beside it)."""
    labelled = "cars_test_annos_withlabels.mat"
    beside = folder / labelled
    files = {"train": folder / "devkit" / "cars_train_annos.mat", "test": beside}
    if not beside.exists():
        files["test"] = folder / "devkit" / labelled
    return {
        split: [
            (f"cars_{split}/{car['fname'].item()}", str(car["class"].item())) for car in _matlab(file)["annotations"].ravel()
        ]
        for split, file in files.items()
    }


def _food(folder: Path) -> dict[str, Rows]:
    """Lists Food-101: `images/CLASS/NUMBER.jpg`, and lists of the splits in `meta/`."""
    return {
        split: [(f"images/{line}.jpg", line.partition("/")[0]) for line in _lines(folder / "meta" / f"{split}.txt")]
        for split in ("train", "test")
    }


def _lines(path: Path) -> list[str]:
    """Returns the lines of a file. Their numbers matter, so an empty line is refused unless it is at the end."""
    lines = path.read_text(encoding="utf-8").rstrip().split("\n")
    if not all(line.strip() for line in lines):
        raise ValueError(f"Line {next(n for n, line in enumerate(lines, 1) if not line.strip()):,} of {path} is empty.")
    return lines


def _images(folder: Path, pattern: str = "*") -> list[Path]:
    found = (path for path in folder.glob(pattern) if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return sorted(path for path in found if not any(map(is_hidden, path.relative_to(folder).parts)))


def _matlab(path: Path) -> dict[str, np.ndarray]:
    import scipy.io

    with open(path, "rb") as file:
        return scipy.io.loadmat(file)


# The function that lists the folder of a dataset, by the name of the dataset.
LAYOUTS: dict[str, Callable[[Path], dict[str, Rows]]] = {
    "cars": _cars,
    "cifar10": functools.partial(_cifar, hundred=False),
    "cifar100": functools.partial(_cifar, hundred=True),
    "flowers": _flowers,
    "food": _food,
    "imagenet": _imagenet,
    "pets": _pets,
    "tiny_imagenet": _tiny_imagenet,
}
