"""Image sets that ship with the package: one PNG sheet and one label file per split, described in `manifest.json`.

`python -m tools.make_bundled_images` makes these files, and its docstring names their origin.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
# Number of images in a row of a sheet.
_COLUMNS = 100


def read_sheet(path: Path, entry: dict) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[count, height, width, 1]` and labels `[count]`, both uint8, of one sheet.

    Raises:
      ValueError: the digest of the content differs from the digest in the manifest's entry.
    """
    height, width, _ = entry["shape"]
    sheet = np.asarray(Image.open(path))
    images = sheet.reshape(-1, height, entry["columns"], width).swapaxes(1, 2).reshape(-1, height, width, 1)
    labels = np.load(path.with_suffix(".labels.npy"), allow_pickle=False)
    if _digest(images, labels) != entry["sha256"]:
        raise ValueError(f"{path} does not have the content that manifest.json describes; reinstall the package.")
    return images, labels


def write_sheet(path: Path, images: np.ndarray, labels: np.ndarray) -> dict:
    """Writes one split as a PNG sheet and its labels, reads both back, and returns the manifest's entry.

    Args:
      path: path of the sheet.
      images: uint8 `[count, height, width]`, a multiple of 100 images.
      labels: uint8 `[count]`.

    Raises:
      ValueError: the files do not hold the same images and labels.
    """
    count, height, width = images.shape
    sheet = images.reshape(count // _COLUMNS, _COLUMNS, height, width).swapaxes(1, 2).reshape(-1, _COLUMNS * width)
    Image.fromarray(sheet).save(path, optimize=True)
    np.save(path.with_suffix(".labels.npy"), labels)
    entry = {"count": count, "columns": _COLUMNS, "shape": [height, width, 1], "sha256": _digest(images, labels)}
    read_images, read_labels = read_sheet(path, entry)
    if not ((read_images[..., 0] == images).all() and (read_labels == labels).all()):
        raise ValueError(f"{path}: the written images or labels differ from those that are read back.")
    return entry


def manifest() -> dict:
    """Returns the description of the sets by their name: licence, origin, classes and splits."""
    return json.loads((FOLDER / "manifest.json").read_text())


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
