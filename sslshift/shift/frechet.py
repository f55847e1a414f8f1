"""The Frechet distance between two sets of features."""

import numpy as np
from scipy.linalg import blas, lapack

from sslshift.shift._features import require_one_dimension, require_one_encoder
from sslshift.shift.moments import MixtureMoments, Moments

# Relative error that the quick way may have.
_ENOUGH = 1e-8


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features; on Inception features: FID.

    It is biased upwards for few images, by about 1/n: compare at equal n, or use `shift_index`, which does. It sees nothing
    beyond mean and covariance.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(500, 4))
      >>> round(frechet_distance(x, x + 1.0), 6)  # equal covariances: the squared distance of the means
      4.0

    Args:
      x: features `[n, dim]`, n at least 2.
      y: features `[m, dim]`, m at least 2.

    Returns:
      |mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), computed in float64, at least 0.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Heusel et al., `GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
      <https://arxiv.org/abs/1706.08500>`_, 2017
    """
    return frechet_distance_of_moments(Moments.of(x), Moments.of(y))


def frechet_distance_of_moments(x: Moments | MixtureMoments, y: Moments | MixtureMoments) -> float:
    """`frechet_distance` from streamed moments: dim^2 of memory for any number of images.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(500, 4))
      >>> halves = Moments.of(x[:200]).merge(Moments.of(x[200:]))
      >>> round(frechet_distance_of_moments(halves, Moments.of(x + 1.0)), 6)
      4.0

    Raises:
      ValueError: encoders or dimensions differ, or a side has fewer than two images.
    """
    require_one_encoder(x.encoder, y.encoder)
    require_one_dimension(len(x.mean), len(y.mean))
    if min(x.count, y.count) < 2:
        raise ValueError(f"A Frechet distance needs at least two images on each side, not {x.count} and {y.count}.")
    means = np.square(x.mean - y.mean).sum()
    apart = means + np.trace(x.covariance) + np.trace(y.covariance)
    # With S_x = A A' and S_y = B B', tr (S_x S_y)^(1/2) is the sum of the singular values of A' B.
    factor, order = _cholesky(x)
    cross, error = _from_squares(factor, y.covariance[np.ix_(order, order)])
    if error > _ENOUGH * (apart - 2 * cross):
        other, other_order = _cholesky(y)
        product = factor[np.argsort(order)].T @ other[np.argsort(other_order)]
        cross = np.linalg.svd(product, compute_uv=False).sum()
    return max(0.0, float(apart - 2 * cross))


def _from_squares(factor: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """Sum of the singular values in a third of the time, and twice how wrong rounding may have made it.

    They are the roots of the eigenvalues of A' S_y A: small ones keep half their digits, and one that is 0 becomes 1e-8 of the
    largest. Where dimensions are missing it is not even tried.
    """
    dim, rank = factor.shape
    if rank < dim:
        return 0.0, np.inf
    # The factor is triangular: half the work. A symmetric matrix and its transpose are one, and the latter is not copied.
    half = blas.dtrmm(1.0, factor, covariance.T, side=1, lower=1, overwrite_b=1)
    squares = np.linalg.eigvalsh(blas.dtrmm(1.0, factor, half, lower=1, trans_a=1, overwrite_b=1))
    limits = np.finfo(np.float64)
    doubt = max(dim * limits.eps * squares[-1], limits.tiny)
    roots = np.sqrt(np.maximum(squares, doubt))
    return roots.sum(), 2 * np.sum(doubt / roots)


def _cholesky(moments: Moments | MixtureMoments) -> tuple[np.ndarray, np.ndarray]:
    """A lower factor `[dim, rank]` of the covariance, and the order of the dimensions in which it is one."""
    triangle, pivots, rank, _ = lapack.dpstrf(moments.covariance, lower=1)
    return np.asfortranarray(np.tril(triangle[:, :rank])), pivots - 1
