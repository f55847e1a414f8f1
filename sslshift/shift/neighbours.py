"""Which images are near which, and where all of them lie on a plane: for pages that show examples."""

from collections.abc import Sequence

import numpy as np

from sslshift.shift._balls import nearest_squares
from sslshift.shift._features import blocks, matrix, require_one_dimension
from sslshift.shift.precision_recall import require_neighbours


def nearness(x: np.ndarray, reference: np.ndarray, *, neighbours: int = 5) -> np.ndarray:
    """Mean distance of each row to its nearest rows of a reference.

    Example:
      >>> import numpy as np
      >>> nearness(np.array([[0.0], [10.0]]), np.array([[1.0], [3.0], [99.0]]), neighbours=2).tolist()
      [2.0, 8.0]

    Args:
      x: features `[n, dim]`.
      reference: features `[m, dim]`.
      neighbours: how many; all, if there are fewer.

    Returns:
      float64 `[n]`, Euclidean.

    Raises:
      ValueError: features are no finite matrices of one dimension, or there is no neighbour.
    """
    require_neighbours(neighbours)
    x = matrix(x)
    reference = matrix(reference)
    require_one_dimension(x.shape[1], reference.shape[1])
    return np.sqrt(nearest_squares(x, reference, min(neighbours, len(reference)))).mean(axis=1)


def plane(sets: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Principal components of several sets of features together, each set counting the same.

    Example:
      >>> import numpy as np
      >>> points, shares = plane([np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([[4.0, 0.0], [4.0, 2.0]])])
      >>> [each.round(9).tolist() for each in points], [round(share, 3) for share in shares]
      ([[[-2.0, -1.0], [-2.0, 1.0]], [[2.0, -1.0], [2.0, 1.0]]], [0.8, 0.2])

    Args:
      sets: features `[n, dim]` of each.

    Returns:
      Coordinates `[n, 2]` of each set (the same sets always give the same, up to rounding), and the share of the variance that
      either axis has.

    Raises:
      ValueError: features are no finite matrices of one dimension.
    """
    sets = [matrix(each) for each in sets]
    for each in sets[1:]:
        require_one_dimension(sets[0].shape[1], each.shape[1])
    dim = sets[0].shape[1]
    mean = np.mean([np.asarray(each, np.float64).mean(axis=0) for each in sets], axis=0)
    scatter = np.zeros((dim, dim))
    for each in sets:
        for block in blocks(each):
            scatter += (block - mean).T @ (block - mean) / (len(each) * len(sets))
    values, vectors = np.linalg.eigh(scatter)
    axes = vectors[:, ::-1][:, :2]
    # An axis has no sign of its own.
    axes *= np.sign(axes[np.argmax(np.abs(axes) > np.abs(axes).max(axis=0) - 1e-9, axis=0), np.arange(axes.shape[1])])
    if dim == 1:
        axes = np.concatenate([axes, np.zeros((1, 1))], axis=1)
    total = max(values.sum(), np.finfo(float).tiny)
    shares = [*(values[::-1][:2] / total).tolist(), 0.0][:2]
    return [np.concatenate([(block - mean) @ axes for block in blocks(each)]) for each in sets], (shares[0], shares[1])
