"""Noise of pilots: how far the mean accuracies of cells vary, and how far they vary together.

A cell is a source with its unique images and budget. The accuracy of a run is that of its cell plus the effect of its seed,
which all cells share (the same initial weights and order), plus the rest, which is its own. The means of cells also share the
test images.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sslshift.planning.laws import Floats

# Correlation of the image noise of two cells on one test set: their difference varies less than each of them. Between the
# cells of four bundled studies, whether an image is right in the mean over seeds correlates by 0.67 to 0.97, with medians of
# 0.80 to 0.87.
SHARED_IMAGES = 0.8


class Noise(NamedTuple):
    """Variance components of the accuracy of a run.

    Attributes:
      seed: variance of the effect of a seed, common to all cells.
      run: variance of what is left of a run.
      degrees: degrees of freedom of `run`.
    """

    seed: float
    run: float
    degrees: int


def estimate_noise(cell: NDArray[np.int64], seed: NDArray[np.int64], accuracy: Floats) -> Noise:
    """Estimates the noise of runs from cells that were trained with several seeds, by Henderson's third method.

    Args:
      cell: cell of each run [runs], from 0.
      seed: seed of each run [runs], from 0.
      accuracy: accuracy of each run [runs].

    Raises:
      ValueError: no cell has two runs with different seeds.
    """
    cells = _indicators(cell)
    seeds = _indicators(seed)
    within = _residuals(cells, accuracy)
    both = np.concatenate([cells, seeds], axis=1)
    rest = _residuals(both, accuracy)
    degrees = len(accuracy) - np.linalg.matrix_rank(both)
    of_seeds = np.linalg.matrix_rank(both) - np.linalg.matrix_rank(cells)
    if degrees < 1:
        if len(accuracy) == cells.shape[1]:
            raise ValueError("No cell has two runs, so that the noise of a run cannot be estimated.")
        # One cell has all repeats: effects of seed and run are not separable, and all of the variance is the run's own.
        degrees = len(accuracy) - cells.shape[1]
        return Noise(0.0, float(within @ within) / degrees, degrees)
    run = float(rest @ rest) / degrees
    freed = seeds - cells @ np.linalg.lstsq(cells, seeds, rcond=None)[0]
    between = float(within @ within - rest @ rest) - of_seeds * run
    return Noise(max(0.0, between / max(np.trace(seeds.T @ freed), 1e-12)), run, int(degrees))


def covariance_of_means(
    noise: Noise, cell: NDArray[np.int64], seed: NDArray[np.int64], means: Floats, test_images: Floats
) -> Floats:
    """Returns the covariance of the mean accuracies of cells [cells, cells].

    Args:
      noise: variance components.
      cell, seed: of each run [runs].
      means: mean accuracy of each cell [cells].
      test_images: number of test images of each cell [cells].
    """
    runs = _indicators(cell)
    counts = runs.sum(axis=0)
    pairs = runs.T @ _indicators(seed)
    together = pairs @ pairs.T / np.outer(counts, counts)
    # Agresti and Coull's estimate, so that a perfect score has a variance too.
    bounded = (means * test_images + 2) / (test_images + 4)
    images = np.sqrt(bounded * (1 - bounded) / test_images)
    shared = SHARED_IMAGES + (1 - SHARED_IMAGES) * np.eye(len(means))
    return noise.seed * together + noise.run * np.diag(1 / counts) + np.outer(images, images) * shared


def _indicators(index: NDArray[np.int64]) -> Floats:
    return (index[:, None] == np.arange(index.max() + 1)).astype(float)


def _residuals(design: Floats, values: Floats) -> Floats:
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
