"""Precision and recall of one set of features against another."""

from typing import NamedTuple

import numpy as np

from sslshift.shift._balls import inside, squared_radii
from sslshift.shift._features import pair


class PrecisionRecall(NamedTuple):
    """How much of each set lies where the other is.

    Attributes:
      precision: share of y within x's neighbourhoods.
      recall: share of x within y's neighbourhoods.
    """

    precision: float
    recall: float


def precision_recall(x: np.ndarray, y: np.ndarray, *, neighbours: int = 5) -> PrecisionRecall:
    """Shares of each set that lie in a ball around an image of the other, up to that image's k-th neighbour in its own set.

    Outliers have large balls, which raise both shares; `density_coverage` minds them less. Both depend on the number of images:
    compare at equal n.

    Example:
      >>> import numpy as np
      >>> x = np.arange(10.0)[:, None]
      >>> precision_recall(x, x[:8] / 2, neighbours=2)  # all of y lies where x is; x from 5 on lies where no y is
      PrecisionRecall(precision=1.0, recall=0.5)

    Args:
      x: features `[n, dim]` of the reference, n above k.
      y: features `[m, dim]`, m above k.
      neighbours: k.

    Returns:
      Precision, of y by x; and recall, of x by y.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Kynkaanniemi et al., `Improved Precision and Recall Metric for Assessing Generative Models
      <https://arxiv.org/abs/1904.06991>`_, 2019
    """
    require_neighbours(neighbours)
    x, y = pair(x, y, f"Precision and recall with {neighbours} neighbours", neighbours + 1)
    return PrecisionRecall(share_inside(x, y, neighbours), share_inside(y, x, neighbours))


def share_inside(centres: np.ndarray, points: np.ndarray, neighbours: int) -> float:
    """Share of the points that lie in any ball."""
    hit = np.zeros(len(points), bool)
    for _, columns, found in inside(centres, squared_radii(centres, neighbours), points):
        hit[columns] |= found.any(axis=0)
    return float(hit.mean())


def require_neighbours(neighbours: int) -> None:
    if neighbours < 1:
        raise ValueError(f"A neighbourhood needs at least one neighbour, not {neighbours}.")
