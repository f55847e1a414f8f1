"""Image sets that ship with the package: one PNG sheet and one label file per split, described in `manifest.json`.

They are made by `python -m tools.make_bundled_images`, which names their origin.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent


def read_sheet(path: Path, entry: dict) -> tuple[np.ndarray, np.ndarray]:
    """Images `[count, height, width, 1]` and labels `[count]`, both uint8, of one sheet; checks their digest."""
    height, width, _ = entry["shape"]
    sheet = np.asarray(Image.open(path))
    images = sheet.reshape(-1, height, entry["columns"], width).swapaxes(1, 2).reshape(-1, height, width, 1)
    labels = np.load(path.with_suffix(".labels.npy"), allow_pickle=False)
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path} does not have the content that manifest.json promises; install the package anew.")
    return images, labels


def manifest() -> dict:
    return json.loads((FOLDER / "manifest.json").read_text())
