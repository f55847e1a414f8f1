"""Benchmarks of distances and sketches: time and memory against the number of images, and the Frechet distance with SciPy."""

import functools
import itertools
import time
import tracemalloc
from collections.abc import Callable

import jax
import numpy as np
import scipy.linalg

from sslshift.shift import density_coverage, kernel_distance, precision_recall, proxy_a_distance, rbf_mmd, sliced_wasserstein
from sslshift.shift.distances.frechet import Moments, frechet_distance_of_moments
from sslshift.shift.distances.kernel import KernelBlocks
from sslshift.shift.distances.sliced_wasserstein import Projections
from sslshift.shift.distances.visual_dna import Histograms, Ranges
from sslshift.shift.diversity import TriangularFactor

DIM = 768
FRECHET_DIM = 2048
# Number of images in a batch for a sketch.
BATCH = 10_000
# Largest numbers of images: for functions of all pairs, and for functions that sort.
MOST_PAIRED = 10_000
MOST_SORTED = 100_000
KEY = jax.random.key(0)
Seconds = Callable[[Callable[[], object]], float]


def measure(show: Callable[..., None], seconds: Seconds, largest: int) -> None:
    """Prints times and peaks of memory for 1,000 images and every power of ten up to the largest number."""
    counts = [10**power for power in range(3, 10) if 10**power <= largest]
    frechet(show, seconds)
    for name, count, work in [*sketches(counts), *distances(counts)]:
        show("shift", of=name, images=count, dim=DIM, seconds=seconds(work), peak_mib=_peak_mib(work))


def sketches(counts: list[int]):
    """Yields the name, number of images and streamed work of each sketch."""
    pool, other = (_features(BATCH, seed) for seed in range(2))
    ranges = Ranges.of(pool)
    projected = Projections.ranges(pool, key=KEY)
    makers = {
        "Moments": Moments.of,
        "Histograms": lambda part: Histograms.of(part, ranges),
        "Projections": lambda part: Projections.of(part, projected, key=KEY),
        "TriangularFactor": TriangularFactor.of,
        "KernelBlocks": lambda part: KernelBlocks.of(part, other, key=KEY),
    }
    for name, count in itertools.product(makers, counts):
        yield name, count, functools.partial(_streamed, makers[name], pool, count)


def distances(counts: list[int]):
    """Yields the name, number of images on each side and work of each function that needs all images at once."""
    functions = {
        "kernel_distance": (kernel_distance, MOST_PAIRED),
        "rbf_mmd": (rbf_mmd, MOST_PAIRED),
        "precision_recall": (precision_recall, MOST_PAIRED),
        "density_coverage": (density_coverage, MOST_PAIRED),
        "proxy_a_distance": (functools.partial(proxy_a_distance, key=KEY), MOST_PAIRED),
        "sliced_wasserstein": (functools.partial(sliced_wasserstein, key=KEY), MOST_SORTED),
    }
    for count in (count for count in counts if count <= MOST_SORTED):
        x, y = (_features(count, seed) for seed in range(2))
        for name, (function, most) in functions.items():
            if count <= most:
                yield name, count, functools.partial(function, x, y)


def frechet(show: Callable[..., None], seconds: Seconds) -> None:
    """Prints the time of the distance from moments, and of the usual matrix square root of the covariances' product."""
    x, y = (Moments.of(_features(2 * FRECHET_DIM, seed, FRECHET_DIM)) for seed in range(2))
    ours = seconds(lambda: frechet_distance_of_moments(x, y))
    started = time.perf_counter()
    root = scipy.linalg.sqrtm(x.covariance @ y.covariance)
    took = time.perf_counter() - started
    about = {"of": "frechet_distance_of_moments", "dim": FRECHET_DIM, "seconds": ours, "sqrtm_seconds": took}
    by_root = np.square(x.mean - y.mean).sum() + np.trace(x.covariance + y.covariance - 2 * root.real)
    show("shift", **about, speedup=took / ours, relative_difference=abs(frechet_distance_of_moments(x, y) / by_root - 1))


def _features(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim), np.float32)


def _streamed(make: Callable[[np.ndarray], object], pool: np.ndarray, count: int):
    # The same batch is used repeatedly, because the time to make new ones would be measured too.
    parts = (make(pool[: min(BATCH, count - start)]) for start in range(0, count, BATCH))
    return functools.reduce(lambda merged, part: merged.merge(part), parts)


def _peak_mib(work: Callable[[], object]) -> float:
    """Returns the peak of memory beyond what was in use before."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20
