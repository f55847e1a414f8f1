"""Reading and importing JPEG files beside two baselines on the same files: a bare Pillow loop and torch's DataLoader."""

import functools
import importlib.util
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sslshift.budget import Budget
from sslshift.data.decode import Canvas, decode_onto
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.plan import SamplePlan
from sslshift.data.records.encode import Encoding, store
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources import open_source
from sslshift.data.sources.manifest import ImageDescription

STORED = 256
SIDE = 224
BATCH = 64
CANVAS = Canvas(SIDE, SIDE, 3)


def make_files(folder: Path, count: int) -> list[Path]:
    """JPEG files of 256 x 341 pixels and about 25 KB, as photographs have at that size."""
    random = np.random.default_rng(0)
    for number in range(count):
        blobs = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((341, STORED), Image.Resampling.BICUBIC)
        grain = random.integers(-8, 9, (STORED, 341, 3))
        picture = Image.fromarray(np.clip(np.asarray(blobs, np.int16) + grain, 0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05d}.jpg", quality=90)
    return sorted(folder.iterdir())


def load(path: Path) -> np.ndarray:
    """What anybody would write with Pillow."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC))


def pillow_loop(paths: list[Path]) -> Iterable[np.ndarray]:
    for start in range(0, len(paths), BATCH):
        yield np.stack([load(path) for path in paths[start : start + BATCH]])


class TorchDataset:
    """The same files as torch's DataLoader takes them."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return load(self.paths[index])


def torch_loader(paths: list[Path], workers: int) -> Iterable:
    from torch.utils.data import DataLoader

    return DataLoader(TorchDataset(paths), batch_size=BATCH, shuffle=True, num_workers=workers)


def pillow_encode(paths: list[Path]) -> None:
    """Decoding, resizing and encoding alone: what an import cannot do without."""
    for path in paths:
        with Image.open(path) as image:
            scale = SIDE / min(image.size)
            small = image.convert("RGB").resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        small.save(io.BytesIO(), "JPEG", quality=95, subsampling=0)


def reduced(content: bytes, side: int) -> np.ndarray:
    """What this package read until it was seen to change the image: a JPEG decoded near the canvas's size."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (side, side))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC))


def decoding(show: Callable[..., None], repeats: int) -> None:
    """Prints the time of decoding photographs of several sizes onto a canvas, in full and, in turn with it, at reduced size."""
    for pixels in (256, 512, 1024, 2048):
        content = _photograph(pixels)
        for side in (32, 64, 224):
            canvas = Canvas(side, side, 3)
            times = []
            for _ in range(5 * repeats):
                started = time.perf_counter()
                decode_onto(canvas, content)
                between = time.perf_counter()
                reduced(content, side)
                times.append((between - started, time.perf_counter() - between))
            full, less = (statistics.median(each) for each in zip(*times, strict=True))
            show("data", decodes=pixels, onto=side, full_ms=full * 1e3, reduced_ms=less * 1e3, full_over_reduced=full / less)


def _photograph(pixels: int) -> bytes:
    random = np.random.default_rng(0)
    out = io.BytesIO()
    blobs = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((pixels, pixels), Image.Resampling.BICUBIC)
    grain = random.integers(-8, 9, (pixels, pixels, 3))
    Image.fromarray(np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], count: int, repeats: int) -> None:
    """Prints images per second, each with its ratio to the Pillow loop on one core.

    Args:
      show: prints a line of figures.
      seconds: median time of some work.
      count: files to read, whole batches.
      repeats: timings of which the median is taken, of what starts workers.
    """
    decoding(show, repeats)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "files").mkdir()
        paths = make_files(root / "files", count)
        base = count / seconds(lambda: list(pillow_loop(paths)))
        show("data", reads="Pillow loop, one core", images_per_s=base)
        run_import(Import(root / "files", root / "records", Encoding(STORED)))
        for kind, uri in (("folder", f"folder:{root / 'files'}"), ("arrayrecord", f"arrayrecord:{root / 'records'}")):
            source = open_source(uri)
            plan = SamplePlan(single(uri, count, count), Budget(count), BATCH, seed=0, subset_seed=0)
            reader = BatchReader(plan, {uri: source}, CANVAS)
            steps = count // BATCH
            speed = count / seconds(lambda reader=reader, steps=steps: [reader(step) for step in range(steps)])
            show("data", reads=f"{kind}, one core", images_per_s=speed, over_pillow=speed / base)
            for workers in (0, 1, 2):
                speed = _steady(functools.partial(batches, reader, 0, steps, workers=workers), repeats)
                show("data", reads=f"{kind}, {_workers(workers)}", images_per_s=speed, over_pillow=speed / base)
        if importlib.util.find_spec("torch"):
            for workers in (0, 1, 2):
                speed = _steady(functools.partial(torch_loader, paths, workers), repeats)
                show("data", reads=f"torch DataLoader, {workers} workers", images_per_s=speed, over_pillow=speed / base)
        some = paths[: count // 4]
        base = len(some) / seconds(lambda: pillow_encode(some))
        show("data", imports="Pillow loop, one core", images_per_s=base)
        contents = [path.read_bytes() for path in some]
        speed = len(some) / seconds(lambda: [store(content, ImageDescription(""), Encoding(SIDE)) for content in contents])
        show("data", imports="encoding with digest and hash, one core", images_per_s=speed, over_pillow=speed / base)
        for workers in (1, 2):
            times = [_import_time(root, workers) for _ in range(repeats)]
            speed = count / statistics.median(times)
            show(
                "data",
                imports=f"import_images, {workers} workers, start included",
                images_per_s=speed,
                over_pillow=speed / base,
            )


def _workers(number: int) -> str:
    return f"{number} workers" if number else "2 threads"


def _steady(make: Callable[[], Iterable], repeats: int) -> float:
    """Median images per second from the first batch to the last: neither start nor end of processes counts."""
    speeds = []
    for _ in range(repeats):
        stream = iter(make())
        next(stream)
        times = [time.perf_counter(), *(time.perf_counter() for _ in stream)]
        speeds.append(BATCH * (len(times) - 1) / (times[-1] - times[0]))
    return statistics.median(speeds)


def _import_time(root: Path, workers: int) -> float:
    output = root / "again"
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    run_import(Import(root / "files", output, Encoding(SIDE), shard_size=128), workers=workers)
    return time.perf_counter() - started
