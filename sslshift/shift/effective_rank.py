"""Effective rank of features (RankMe)."""

import numpy as np

from sslshift.shift.triangular_factor import TriangularFactor


def effective_rank(x: np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values of the uncentred features.

    `sslshift.losses.effective_rank` in float64, for any number of images in dim^2 of memory. It judges a trained encoder more
    than a set of images, and grows with the number of images: compare at equal n.

    Example:
      >>> import numpy as np
      >>> round(effective_rank(np.eye(5)), 3), round(effective_rank(np.ones((9, 5))), 3)
      (5.0, 1.0)

    Args:
      x: features `[n, dim]`.

    Returns:
      From 1 to min(n, dim), but for the 1e-7 that the definition adds to each share.

    Raises:
      ValueError: features are not a finite matrix.

    References:
      Garrido et al., `RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank
      <https://arxiv.org/abs/2210.02885>`_, 2023
    """
    return effective_rank_of_factor(TriangularFactor.of(x))


def effective_rank_of_factor(factor: TriangularFactor) -> float:
    """`effective_rank` from a streamed `TriangularFactor`, exact to rounding.

    Example:
      >>> import numpy as np
      >>> round(effective_rank_of_factor(TriangularFactor.of(np.eye(5)[:2]).merge(TriangularFactor.of(np.eye(5)[2:]))), 3)
      5.0
    """
    values = factor.singular_values
    share = values / max(values.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-np.sum(share * np.log(share))))
