"""Well-known data sets as their authors publish them, written down as lists of images that an import takes."""

import csv
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sslshift.data.sources.walk import is_hidden

# A split's images, relative to the data set's folder, each with the name of its class.
Rows = list[tuple[str, str]]


def write_lists(layout: str, folder: Path) -> dict[str, int]:
    """Writes `SPLIT.csv` (columns path, label) for each split of a data set into its folder.

    Args:
      layout: one of `LAYOUTS`.
      folder: what the published archives unpack to.

    Returns:
      The number of images in each split.

    Raises:
      ValueError: the folder does not hold what the authors publish.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    try:
        splits = LAYOUTS[layout](folder)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} does not look as {layout} is published: there is no {error.filename}; unpack all its archives there."
        ) from error
    except (KeyError, IndexError) as error:
        raise ValueError(f"{folder} does not look as {layout} is published: {error!r}.") from error
    for split, rows in splits.items():
        if not rows:
            raise ValueError(f"{folder} holds no image of the {split} split.")
        _require_images(folder, rows)
        # Whole or not at all: a list cut short would be a smaller data set.
        unfinished = folder / f"{split}.csv.part"
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "label"), *rows])
        unfinished.replace(folder / f"{split}.csv")
    return {split: len(rows) for split, rows in splits.items()}


def _require_images(folder: Path, rows: Rows) -> None:
    """Raises ValueError where an image is missing, FileNotFoundError where a folder of images is."""
    names = functools.cache(lambda parent: frozenset(os.listdir(folder / parent)))
    missing = [path for path, _ in rows if os.path.basename(path) not in names(os.path.dirname(path))]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing):,} of {len(rows):,} images that are listed, e.g. {missing[0]}; unpack all its "
            "archives there."
        )


def _cifar(folder: Path, hundred: bool) -> dict[str, Rows]:
    """CIFAR-10 and CIFAR-100, the binary version (the python one is pickles), of which PNG files are made below `png/`.

    A record is the image's label (CIFAR-100: the coarse one, then the fine one) and its red, green and blue plane.
    """
    archive = "cifar-100-binary.tar.gz" if hundred else "cifar-10-binary.tar.gz"
    parts = {"train": ["train.bin"], "test": ["test.bin"]}
    if not hundred:
        parts = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    missing = next((folder / file for files in parts.values() for file in files if not (folder / file).exists()), None)
    if missing:
        raise ValueError(f"There is no {missing}; the binary version of the data set is read ({archive}).")
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
                raise ValueError(f"{folder / file} is cut short; unpack {archive} again.")
            records = content.reshape(-1, labels + 3072)
            for label, image in zip(records[:, labels - 1], records[:, labels:].reshape(-1, 3, 32, 32), strict=True):
                rows.append((f"png/{split}/{len(rows):05d}.png", names[label]))
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(folder / rows[-1][0])
    return splits


def _tiny_imagenet(folder: Path) -> dict[str, Rows]:
    """Tiny ImageNet: class folders for training; the validation images, which serve as the test split, are listed in a file."""
    train = [
        (image.relative_to(folder).as_posix(), name)
        for name in _lines(folder / "wnids.txt")
        for image in _images(folder / "train" / name / "images")
    ]
    empty = set(_lines(folder / "wnids.txt")) - {name for _, name in train}
    if empty:
        raise ValueError(f"{folder / 'train'} holds no image of the class {min(empty)}; unpack the archive again.")
    listed = [line.split("\t") for line in _lines(folder / "val" / "val_annotations.txt")]
    return {"train": train, "test": [(f"val/images/{columns[0]}", columns[1]) for columns in listed]}


def _imagenet(folder: Path) -> dict[str, Rows]:
    """ImageNet (ILSVRC 2012): class folders below `train`; flat images below `val`, whose classes the development kit lists.

    `classes.txt` is written as well: a prompt for each class, as `tools.generate_images` reads it.
    """
    train = [(image.relative_to(folder).as_posix(), image.parent.name) for image in _images(folder / "train", "*/*")]
    kit = next(iter(sorted(folder.glob("ILSVRC2012_devkit*"))), folder / "ILSVRC2012_devkit_t12") / "data"
    synsets = _matlab(kit / "meta.mat")["synsets"].ravel()
    names = {int(synset["ILSVRC2012_ID"].item()): str(synset["WNID"].item()) for synset in synsets}
    truth = [names[int(line)] for line in _lines(kit / "ILSVRC2012_validation_ground_truth.txt")]
    test = [image.relative_to(folder).as_posix() for image in _images(folder / "val")]
    if len(test) != len(truth):
        raise ValueError(f"{folder / 'val'} holds {len(test):,} images, but the development kit lists {len(truth):,}.")
    # Line n of the kit is the class of image n: with an image more and another less, all between would get others' classes.
    wanted = [f"val/ILSVRC2012_val_{number:08d}" for number in range(1, len(truth) + 1)]
    other = next((pair for pair in zip(test, wanted, strict=True) if os.path.splitext(pair[0])[0] != pair[1]), None)
    if other:
        raise ValueError(f"{folder} holds {other[0]} where {other[1]}.JPEG is expected; each image must be there once.")
    words = {str(synset["WNID"].item()): str(synset["words"].item()).partition(",")[0] for synset in synsets}
    prompts = [f"{name}|a photo of a {words[name]}\n" for name in sorted({label for _, label in train})]
    (folder / "classes.txt").write_text("".join(prompts), encoding="utf-8")
    return {"train": train, "test": list(zip(test, truth, strict=True))}


def _flowers(folder: Path) -> dict[str, Rows]:
    """Oxford Flowers 102: `jpg/`, and the numbers of each image's class and of each split's images."""
    labels = _matlab(folder / "imagelabels.mat")["labels"].ravel()
    splits = _matlab(folder / "setid.mat")
    images = len(_images(folder / "jpg"))
    numbers = np.concatenate([splits[name].ravel() for name in ("trnid", "valid", "tstid")])
    if images != len(labels) or not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise ValueError(
            f"{folder / 'jpg'} holds {images:,} images, imagelabels.mat lists {len(labels):,}, and setid.mat counts them from "
            f"{numbers.min():,} to {numbers.max():,}; unpack all archives again."
        )
    return {
        split: [(f"jpg/image_{number:05d}.jpg", str(labels[number - 1])) for number in splits[name].ravel().tolist()]
        for split, name in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))
    }


def _pets(folder: Path) -> dict[str, Rows]:
    """Oxford-IIIT Pets: `images/`, whose names are the breed and a number, and lists of the splits in `annotations/`."""

    def rows(file: str) -> Iterator[tuple[str, str]]:
        for line in _lines(folder / "annotations" / file):
            name = line.split()[0]
            yield f"images/{name}.jpg", name.rpartition("_")[0]

    return {"train": list(rows("trainval.txt")), "test": list(rows("test.txt"))}


def _cars(folder: Path) -> dict[str, Rows]:
    """Stanford Cars: `cars_train/`, `cars_test/`, and annotations, those of the test images beside or in the `devkit/`."""
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
    """Food-101: `images/CLASS/NUMBER.jpg`, and lists of the splits in `meta/`."""
    return {
        split: [(f"images/{line}.jpg", line.partition("/")[0]) for line in _lines(folder / "meta" / f"{split}.txt")]
        for split in ("train", "test")
    }


def _lines(path: Path) -> list[str]:
    """The lines of a file, in which the number of a line matters: none may be empty but at its end."""
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


# What a data set is called here, and what reads its folder.
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
