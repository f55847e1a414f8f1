"""Benchmark of decoding photographs onto a canvas, in full and at reduced size."""

import statistics
import time
from collections.abc import Callable

from sslshift.data.decode import Canvas, decode_onto

from .bench_baselines import photograph, reduced


def measure(show: Callable[..., None], repeats: int) -> None:
    """Prints the times of decoding photographs of several sizes onto a canvas, alternately in full and at reduced size."""
    for pixels in (256, 512, 1024, 2048):
        content = photograph(pixels)
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
