"""Benchmark of reading and importing JPEG files, compared with a bare Pillow loop and torch's DataLoader."""

import functools
import importlib.util
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sslshift.budget import Budget
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.plan import SamplePlan
from sslshift.data.records.encode import Encoding, store
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources import open_source
from sslshift.data.sources.manifest import ImageDescription

from . import bench_baselines as baselines
from . import bench_decoding
from .bench_baselines import BATCH, CANVAS, SIDE


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], count: int, repeats: int) -> None:
    """Prints images per second, each with its ratio to the Pillow loop on one core.

    Args:
      show: function that prints a line of figures.
      seconds: function that returns the median time of some work.
      count: number of files to read, a multiple of the batch size.
      repeats: number of timings for work that starts processes; the result is their median.
    """
    bench_decoding.measure(show, repeats)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "files").mkdir()
        paths = baselines.make_files(root / "files", count)
        base = count / seconds(lambda: list(baselines.pillow_loop(paths)))
        show("data", reads="Pillow loop, one core", images_per_s=base)
        run_import(Import(root / "files", root / "records", Encoding(baselines.STORED)))
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
                speed = _steady(functools.partial(baselines.torch_loader, paths, workers), repeats)
                show("data", reads=f"torch DataLoader, {workers} workers", images_per_s=speed, over_pillow=speed / base)
        some = paths[: count // 4]
        base = len(some) / seconds(lambda: baselines.pillow_encode(some))
        show("data", imports="Pillow loop, one core", images_per_s=base)
        contents = [path.read_bytes() for path in some]
        speed = len(some) / seconds(lambda: [store(content, ImageDescription(""), Encoding(SIDE)) for content in contents])
        show("data", imports="encoding with digest and hash, one core", images_per_s=speed, over_pillow=speed / base)
        for workers in (1, 2):
            times = [_import_time(root, workers) for _ in range(repeats)]
            speed = count / statistics.median(times)
            how = f"import_images, {workers} workers, start included"
            show("data", imports=how, images_per_s=speed, over_pillow=speed / base)


def _workers(number: int) -> str:
    return f"{number} workers" if number else "2 threads"


def _steady(make: Callable[[], Iterable], repeats: int) -> float:
    """Returns the median images per second from the first batch to the last, without the start and end of processes."""
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
