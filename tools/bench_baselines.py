"""Baselines and files for the benchmark of reading: a bare Pillow loop and torch's DataLoader."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sslshift.data.decode import Canvas

STORED = 256
SIDE = 224
BATCH = 64
CANVAS = Canvas(SIDE, SIDE, 3)


def make_files(folder: Path, count: int) -> list[Path]:
    """Writes JPEG files of 256 x 341 pixels and about 25 KB, a usual size for photographs."""
    random = np.random.default_rng(0)
    for number in range(count):
        blobs = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((341, STORED), Image.Resampling.BICUBIC)
        grain = random.integers(-8, 9, (STORED, 341, 3))
        picture = Image.fromarray(np.clip(np.asarray(blobs, np.int16) + grain, 0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05d}.jpg", quality=90)
    return sorted(folder.iterdir())


def load(path: Path) -> np.ndarray:
    """Returns an image that Pillow reads and resizes in the usual way."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC))


def pillow_loop(paths: list[Path]) -> Iterable[np.ndarray]:
    """Yields batches that one thread reads."""
    for start in range(0, len(paths), BATCH):
        yield np.stack([load(path) for path in paths[start : start + BATCH]])


class TorchDataset:
    """Dataset of the same files for torch's DataLoader."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return load(self.paths[index])


def torch_loader(paths: list[Path], workers: int) -> Iterable:
    """Returns torch's DataLoader for the same files."""
    from torch.utils.data import DataLoader

    return DataLoader(TorchDataset(paths), batch_size=BATCH, shuffle=True, num_workers=workers)


def pillow_encode(paths: list[Path]) -> None:
    """Decodes, resizes and encodes the files, which is the least that an import must do."""
    for path in paths:
        with Image.open(path) as image:
            scale = SIDE / min(image.size)
            small = image.convert("RGB").resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        small.save(io.BytesIO(), "JPEG", quality=95, subsampling=0)


def reduced(content: bytes, side: int) -> np.ndarray:
    """Returns a JPEG decoded near the size of the canvas. The package does not do this, because it changes the image."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (side, side))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC))


def photograph(pixels: int) -> bytes:
    """Returns a square JPEG file with the noise and the smooth areas of a photograph."""
    random = np.random.default_rng(0)
    out = io.BytesIO()
    blobs = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((pixels, pixels), Image.Resampling.BICUBIC)
    grain = random.integers(-8, 9, (pixels, pixels, 3))
    Image.fromarray(np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()
