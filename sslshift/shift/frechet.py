"""The Frechet distance between two sets of features."""

import numpy as np

from sslshift.shift.moments import Moments


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features; on Inception features: FID.

    It is biased upwards for few images, by about 1/n: compare at equal n, or use `shift_index`, which does.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(500, 4))
      >>> round(frechet_distance(x, x + 1.0), 6)  # equal covariances: the squared distance of the means
      4.0

    Args:
      x: features `[n, dim]`, n at least 2.
      y: features `[m, dim]`, m at least 2.

    Returns:
      |mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), computed in float64.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Heusel et al., `GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
      <https://arxiv.org/abs/1706.08500>`_, 2017
    """
    return frechet_distance_of_moments(Moments.of(x), Moments.of(y))


def frechet_distance_of_moments(x: Moments, y: Moments) -> float:
    """`frechet_distance` from streamed moments."""
    if x.mean.shape != y.mean.shape:
        raise ValueError(f"Features of {len(x.mean)} and {len(y.mean)} dimensions cannot be compared.")
    covariance_x, covariance_y = x.covariance, y.covariance
    root_x = _root(covariance_x)
    # tr (S_x S_y)^(1/2) = tr (S_x^(1/2) S_y S_x^(1/2))^(1/2), which is symmetric: no general matrix root is needed.
    product = np.linalg.eigvalsh(root_x @ covariance_y @ root_x)
    cross = np.sqrt(np.maximum(product, 0.0)).sum()
    means = np.square(x.mean - y.mean).sum()
    return float(means + np.trace(covariance_x) + np.trace(covariance_y) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
