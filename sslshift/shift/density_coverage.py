"""Density and coverage of one set of features against another, and near neighbours of a target in a source."""

from typing import NamedTuple

import numpy as np

from sslshift.shift._balls import inside, squared_radii
from sslshift.shift._features import pair
from sslshift.shift.precision_recall import require_neighbours


class DensityCoverage(NamedTuple):
    """How y lies in the neighbourhoods of a reference x.

    Attributes:
      density: how many of x's neighbourhoods an image of y lies in, over k; about 1 for another sample of x, and not bounded.
      coverage: share of x's neighbourhoods that hold an image of y.
    """

    density: float
    coverage: float


def density_coverage(x: np.ndarray, y: np.ndarray, *, neighbours: int = 5) -> DensityCoverage:
    """Density and coverage: who lies in balls around the reference's images, up to their k-th neighbour among these.

    Between samples of one distribution and equal size, the coverage expected is about 1 - 2^-k: at k = 5, 0.97.

    Example:
      >>> import numpy as np
      >>> x = np.arange(10.0)[:, None]
      >>> density_coverage(x, x[:5], neighbours=2)  # 6 hits: each ball its centre, the first one also 1
      DensityCoverage(density=0.6, coverage=0.5)

    Args:
      x: features `[n, dim]` of the reference, n above k.
      y: features `[m, dim]`.
      neighbours: k.

    Returns:
      Density and coverage.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Naeem et al., `Reliable Fidelity and Diversity Metrics for Generative Models <https://arxiv.org/abs/2002.09797>`_, 2020
    """
    hits, covered, _ = _looked_up(x, y, neighbours, "Density and coverage")
    return DensityCoverage(hits / (neighbours * len(y)), float(covered.mean()))


class Coverage(NamedTuple):
    """How much of either set is near the other.

    Attributes:
      target: share of the target's images that have a near image in the source: what the source can teach about.
      source: share of the source's images that have a near image in the target: what of it is to the point.
    """

    target: float
    source: float


def coverage_of(target: np.ndarray, source: np.ndarray, *, neighbours: int = 5) -> Coverage:
    """Shares of a target with a near image in a source, and of the source with a near image in the target.

    Near is one thing for both: an image of the source is near one of the target if it is nearer to it than the k-th nearest
    other image of the target is. A larger source covers more: give equal numbers to compare kinds of sources, whole sources to
    compare what can be had.

    Example:
      >>> import numpy as np
      >>> target, source = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([[0.5], [1.5], [50.0]])
      >>> covered = coverage_of(target, source, neighbours=1)  # 9 is 7 from its neighbour, 7.5 from the source
      >>> covered.target, round(covered.source, 3)
      (0.75, 0.667)

    Args:
      target: features `[n, dim]` of the downstream images, n above k.
      source: features `[m, dim]` of the images trained on.
      neighbours: k.

    Returns:
      Both shares: the coverage of the target, and the source's precision by it.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.
    """
    _, covered, hit = _looked_up(target, source, neighbours, "Coverage")
    return Coverage(float(covered.mean()), float(hit.mean()))


def _looked_up(x: np.ndarray, y: np.ndarray, neighbours: int, what: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Pairs of a ball of x and an image of y in it; which balls have any `[n]`; which images of y lie in any `[m]`."""
    require_neighbours(neighbours)
    x, y = pair(x, y, f"{what} with {neighbours} neighbours", neighbours + 1, 1)
    hits = 0
    covered = np.zeros(len(x), bool)
    hit = np.zeros(len(y), bool)
    for rows, columns, found in inside(x, squared_radii(x, neighbours), y):
        hits += int(found.sum())
        covered[rows] |= found.any(axis=1)
        hit[columns] |= found.any(axis=0)
    return hits, covered, hit
