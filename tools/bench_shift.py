"""Time and memory of distances and sketches against the number of images; the Frechet distance beside SciPy's matrix root."""

import functools
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
# Images that reach a sketch at a time.
BATCH = 10_000
# What compares all pairs of images is measured up to so many of them, what sorts them all up to so many.
MOST_PAIRED = 10_000
MOST_SORTED = 100_000
KEY = jax.random.key(0)


def _features(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim), np.float32)


def _peak_mib(work: Callable[[], object]) -> float:
    """Memory beyond what there was before, at the worst moment."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def _streamed(make: Callable[[np.ndarray], object], pool: np.ndarray, count: int):
    """A sketch of so many images, batch by batch; batches repeat, since making new ones would be measured too."""
    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    return functools.reduce(lambda merged, part: merged.merge(part), (make(pool[:size]) for size in sizes))


def sketches(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], counts: list[int]) -> None:
    """Time and memory of each sketch, streamed."""
    pool = _features(BATCH, 0)
    other = _features(BATCH, 1)
    ranges = Ranges.of(pool)
    projected = Projections.ranges(pool, key=KEY)
    makers = {
        "Moments": Moments.of,
        "Histograms": lambda part: Histograms.of(part, ranges),
        "Projections": lambda part: Projections.of(part, projected, key=KEY),
        "TriangularFactor": TriangularFactor.of,
        "KernelBlocks": lambda part: KernelBlocks.of(part, other, key=KEY),
    }
    for name, make in makers.items():
        for count in counts:
            work = functools.partial(_streamed, make, pool, count)
            show("shift", of=name, images=count, dim=DIM, seconds=seconds(work), peak_mib=_peak_mib(work))


def distances(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], counts: list[int]) -> None:
    """Time and memory of what takes all images at once, as many on each side."""
    functions = {
        "kernel_distance": (kernel_distance, MOST_PAIRED),
        "rbf_mmd": (rbf_mmd, MOST_PAIRED),
        "precision_recall": (precision_recall, MOST_PAIRED),
        "density_coverage": (density_coverage, MOST_PAIRED),
        "proxy_a_distance": (functools.partial(proxy_a_distance, key=KEY), MOST_PAIRED),
        "sliced_wasserstein": (functools.partial(sliced_wasserstein, key=KEY), MOST_SORTED),
    }
    for count in (count for count in counts if count <= MOST_SORTED):
        x = _features(count, 0)
        y = _features(count, 1)
        for name, (function, most) in functions.items():
            if count <= most:
                work = functools.partial(function, x, y)
                show("shift", of=name, images=count, dim=DIM, seconds=seconds(work), peak_mib=_peak_mib(work))


def frechet(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float]) -> None:
    """The distance from moments, and what it would take with the root of the covariances' product."""
    x, y = (Moments.of(_features(2 * FRECHET_DIM, seed, FRECHET_DIM)) for seed in range(2))
    ours = seconds(lambda: frechet_distance_of_moments(x, y))
    started = time.perf_counter()
    root = scipy.linalg.sqrtm(x.covariance @ y.covariance)
    took = time.perf_counter() - started
    by_root = np.square(x.mean - y.mean).sum() + np.trace(x.covariance + y.covariance - 2 * root.real)
    difference = abs(frechet_distance_of_moments(x, y) / by_root - 1)
    show(
        "shift",
        of="frechet_distance_of_moments",
        dim=FRECHET_DIM,
        seconds=ours,
        sqrtm_seconds=took,
        speedup=took / ours,
        relative_difference=difference,
    )


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], largest: int) -> None:
    """Prints times and peaks for 1,000 images and ten times as many up to the largest."""
    counts = [10**power for power in range(3, 10) if 10**power <= largest]
    frechet(show, seconds)
    sketches(show, seconds, counts)
    distances(show, seconds, counts)
