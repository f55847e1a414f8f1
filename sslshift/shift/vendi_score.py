"""The Vendi score: how many different images there are, by features."""

import math

import numpy as np

from sslshift.shift.triangular_factor import TriangularFactor


def vendi_score(x: np.ndarray, *, order: float = 1.0) -> float:
    """Effective number of different images: the exponential of the Renyi entropy of the eigenvalues of K / n, K of cosines.

    It is at most dim, so that it is no effective size of a large set, and grows with n: compare at equal n. A higher order
    weighs frequent kinds more and settles at fewer images; infinity looks at the largest eigenvalue alone.

    Example:
      >>> import numpy as np
      >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
      >>> [round(vendi_score(x, order=order), 6) for order in (0.5, 1, 2, np.inf)]
      [2.0, 2.0, 2.0, 2.0]

    Args:
      x: features `[n, dim]`.
      order: of the entropy, above 0: 1 is Shannon's, 2 the collision entropy, infinity the min-entropy.

    Returns:
      From 1 (all point one way) to min(n, dim), in float64; dim^2 of memory.

    Raises:
      ValueError: features are not a finite matrix, a row of zeros has no direction, or the order is not above 0.

    References:
      Friedman & Dieng, `The Vendi Score: A Diversity Evaluation Metric for Machine Learning
      <https://arxiv.org/abs/2210.02410>`_, 2022
      Pasarkar & Dieng, `Cousins Of The Vendi Score <https://arxiv.org/abs/2310.12952>`_, 2023
    """
    return vendi_score_of_factor(TriangularFactor.of(x, unit=True), order=order)


def vendi_score_of_factor(factor: TriangularFactor, *, order: float = 1.0) -> float:
    """`vendi_score` from a streamed `TriangularFactor` with `unit=True`, exact to rounding.

    Example:
      >>> import numpy as np
      >>> parts = [TriangularFactor.of(np.eye(3)[chosen], unit=True) for chosen in ([0, 0], [1, 2])]
      >>> round(vendi_score_of_factor(parts[0].merge(parts[1]), order=2), 6)  # shares 1/2, 1/4, 1/4
      2.666667

    Raises:
      ValueError: the factor is not of unit vectors, or the order is not above 0.
    """
    if not order > 0:
        raise ValueError(f"The order of a Vendi score must be above 0, not {order}.")
    if not factor.unit:
        raise ValueError("A Vendi score needs a triangular factor of unit vectors: TriangularFactor.of(features, unit=True).")
    # The eigenvalues of K / n are the squared singular values of the unit vectors, of which the trace is n.
    values = factor.singular_values
    # What is 0 but for rounding would count at orders near 0, where a share of 1e-32 is still 0.0006 to the power of 0.1.
    nothing = values[0] * max(factor.count, factor.triangle.shape[1]) * np.finfo(np.float64).eps
    squares = np.square(values[values > nothing])
    shares = squares / squares.sum()
    if math.isinf(order):
        return float(1 / shares.max())
    # Closer to 1 the general form loses more digits than the limit is off.
    if abs(order - 1) < 1e-8:
        return float(np.exp(-np.sum(shares * np.log(shares))))
    # The largest share is taken out first: of a high order nothing else would be left above 0.
    largest = shares.max()
    entropy = (np.log(np.sum((shares / largest) ** order)) + order * np.log(largest)) / (1 - order)
    return float(np.exp(entropy))
