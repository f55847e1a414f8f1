"""The distances that an index, a table or a page can be made of, by name."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from sslshift.shift._features import generator, unit_rows
from sslshift.shift.frechet import frechet_distance
from sslshift.shift.histograms import Ranges
from sslshift.shift.kernel_distance import kernel_distance
from sslshift.shift.moments import Moments
from sslshift.shift.proxy_a_distance import proxy_a_distance
from sslshift.shift.rbf_mmd import rbf_mmd_of_moments
from sslshift.shift.sliced_wasserstein import sliced_wasserstein
from sslshift.shift.visual_dna import visual_dna_distance

Function = Callable[[np.ndarray, np.ndarray], float]


class Shared(NamedTuple):
    """What all distances of one scale share: a key, which fixes what is drawn at random, and the ranges of the features."""

    key: jax.Array
    ranges: Ranges | None = None


class Distance(NamedTuple):
    """A distance between two sets of features.

    Attributes:
      title: what tables call it.
      function: of `x`, `y` and what is shared.
      least: images that each side needs at least.
      caveat: what a reader of its values must know.
    """

    title: str
    function: Callable[[np.ndarray, np.ndarray, Shared], float]
    least: int
    caveat: str

    def on(self, key: jax.Array, *pool: np.ndarray) -> Function:
        """As a function of two sets of features alone, whose values for different sets can be compared.

        Args:
          key: of what is drawn at random.
          pool: features from which ranges are learned, where the distance needs some; none: each pair's own.
        """
        ranges = functools.reduce(Ranges.merge, map(Ranges.of, pool)) if pool else None
        return functools.partial(self._of, shared=Shared(key, ranges))

    def _of(self, x: np.ndarray, y: np.ndarray, shared: Shared) -> float:
        return self.function(x, y, shared)


def frechet_extrapolated(x: np.ndarray, y: np.ndarray, shared: Shared) -> float:
    """The Frechet distance less the part of its bias that is proportional to 1 / n: 2 d(n) - d(n / 2), halves drawn by the key.

    Args:
      x, y: features `[n, dim]` of equal numbers, at least 4.
      shared: its key draws the halves.

    References:
      Chong & Forsyth, `Effectively Unbiased FID and Inception Score <https://arxiv.org/abs/1911.07023>`_, 2020
    """
    random = generator(shared.key)
    x, y = (np.asarray(each)[random.permutation(len(each))] for each in (x, y))
    parts = [frechet_distance(x[half::2], y[half::2]) for half in (0, 1)]
    return 2 * frechet_distance(x, y) - sum(parts) / 2


def _rbf_mmd(x: np.ndarray, y: np.ndarray, shared: Shared) -> float:
    """From moments, in a tenth of the time: less than 0.0007 is left out, which sets of any distance share."""
    del shared
    found = rbf_mmd_of_moments(*(Moments.of(unit_rows(each)) for each in (x, y)))
    return found.value - found.bound


def kernel_root(x: np.ndarray, y: np.ndarray, shared: Shared) -> float:
    """The root of the kernel distance, which is a squared one, with its sign: an estimate of it below 0 is below 0 here too.

    The root is linear in a mixture: half of the images from elsewhere is half the way there.

    Args:
      x, y: features `[n, dim]`, at least 2 rows each.
      shared: not used.

    References:
      Gretton et al., `A Kernel Two-Sample Test <https://jmlr.org/papers/v13/gretton12a.html>`_, 2012
    """
    del shared
    squared = kernel_distance(x, y)
    return float(np.sign(squared) * np.sqrt(abs(squared)))


DISTANCES: dict[str, Distance] = {
    "kernel": Distance(
        "kernel (KID)",
        lambda x, y, shared: kernel_distance(x, y),
        2,
        "unbiased at any number of images, and so below 0 at times where two sets are alike; squared: halfway is a quarter",
    ),
    "kernel_root": Distance(
        "root of kernel (MMD)",
        kernel_root,
        2,
        "the root of KID with its sign: halfway is half; near 0 a small change of the images moves it much",
    ),
    "frechet": Distance(
        "Frechet (FID)",
        lambda x, y, shared: frechet_distance(x, y),
        2,
        "too large by a part that falls with 1 / n, and at n below the number of features by more; squared",
    ),
    "frechet_extrapolated": Distance(
        "Frechet, n to infinity",
        frechet_extrapolated,
        8,
        "less what falls with 1 / n, which is its bias where n is well above the number of features; noisier; squared",
    ),
    "rbf_mmd": Distance(
        "RBF MMD (CMMD)",
        _rbf_mmd,
        1,
        "on unit vectors nearly 10 times the squared distance of the means: almost blind to a change of spread alone; squared",
    ),
    "visual_dna": Distance(
        "VisualDNA",
        lambda x, y, shared: visual_dna_distance(x, y, ranges=shared.ranges),
        1,
        "in bins, mean over features, each seen alone; its floor falls with the square root of n; halfway is half",
    ),
    "sliced_wasserstein": Distance(
        "sliced Wasserstein",
        lambda x, y, shared: sliced_wasserstein(x, y, key=shared.key),
        1,
        "mean over random directions; its floor falls with the square root of n",
    ),
    "proxy_a": Distance(
        "proxy A",
        lambda x, y, shared: proxy_a_distance(x, y, key=shared.key),
        10,
        "of a linear classifier; at most 2, which distant sources all reach",
    ),
}


def distance_of(name: str) -> Distance:
    """A distance by its name.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in DISTANCES:
        raise ValueError(f"No distance is called {name!r}; there is {', '.join(DISTANCES)}.")
    return DISTANCES[name]
