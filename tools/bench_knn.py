"""Benchmark of the search for neighbours against a bare matrix product, and features for this and other benchmarks."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sslshift.transfer.knn import nearest

IMAGES = 50_000
DIM = 512
CLASSES = 10
TESTED = 10_000
# Number of test images in one matrix product, the same as in `nearest`.
BLOCK = 2**25 // IMAGES


def seconds_of(work: Callable[[], object]) -> float:
    """Returns the time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternated(repeats: int, *works: Callable[[], object]) -> list[float]:
    """Returns the median time of each work; works alternate, so that other load on the machine affects all of them equally."""
    times = [[seconds_of(work) for work in works] for _ in range(repeats)]
    return [statistics.median(each) for each in zip(*times, strict=True)]


def gaussian(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of equal variance in all directions around one centre for each class, and labels."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, DIM)) * 2.5 / np.sqrt(DIM)
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    return (centres[labels] + random.standard_normal((count, DIM))).astype(np.float32), labels


def correlated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns features with variance 1 / k in the k-th direction, rotated: similar to those of encoders."""
    features, labels = gaussian(count, seed)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))
    return ((features / np.sqrt(np.arange(1, DIM + 1))) @ turn).astype(np.float32), labels


KINDS = {"Gaussian": gaussian, "of decaying spectrum": correlated}


def measure(show: Callable[..., None], repeats: int) -> None:
    """Prints the time of the search for neighbours beside that of the matrix product that it contains."""
    train = gaussian(IMAGES, 1)[0]
    test = gaussian(TESTED, 2)[0]
    product = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST))

    def bare():
        on_device = jnp.asarray(train)
        for start in range(0, TESTED, BLOCK):
            # The last block is padded, as in `nearest`.
            rows = np.resize(test[start : start + BLOCK], (BLOCK, DIM))
            jax.block_until_ready(product(jnp.asarray(rows), on_device))

    for neighbours in (50, 200):
        bare(), nearest(train, test[:BLOCK], neighbours)
        ours, theirs = alternated(repeats, lambda k=neighbours: nearest(train, test, k), bare)
        of = f"{TESTED:,} against {IMAGES:,} x {DIM}, k={neighbours}"
        show("knn", of=of, seconds=ours, product_seconds=theirs, ratio=ours / theirs)
