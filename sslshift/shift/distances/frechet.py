"""The Frechet distance between two sets of features, and its sketch: mean and scatter, mergeable in dim^2 of memory."""

import dataclasses
import functools

import jax
import numpy as np
from scipy.linalg import blas, lapack

from sslshift.shift._base import Distance, Stored, blocks, generator, matrix, require_one_dimension, require_one_encoder

# Relative error that is allowed to the faster of two methods.
_ENOUGH = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Stored):
    """Count, mean `[dim]` and centred scatter `[dim, dim]` of a set of features.

    `save(path)` and `Moments.load(path)` keep them in a file.

    Example:
      >>> import numpy as np
      >>> x = np.arange(12.0).reshape(6, 2)
      >>> halves = Moments.of(x[:2]).merge(Moments.of(x[2:]))
      >>> bool(np.allclose(halves.covariance, np.cov(x, rowvar=False)))
      True

    Attributes:
      count: images.
      mean: float64 `[dim]`.
      scatter: float64 `[dim, dim]`, the sum of the outer products of centred features.
      encoder: name or fingerprint of the encoder; those of different encoders are not merged or compared.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray
    encoder: str = ""

    @classmethod
    def of(cls, features: np.ndarray, *, encoder: str = "") -> "Moments":
        """Returns the moments of an array `[n, dim]` of any real dtype, read block by block.

        Raises:
          ValueError: not a matrix, empty, or not finite.
        """
        features = matrix(features)
        # Two passes: sums of squares around 0 would lose the digits of features that are far from the origin.
        mean = sum(block.sum(axis=0) for block in blocks(features)) / len(features)
        scatter = np.zeros((len(mean), len(mean)))
        for block in blocks(features):
            centred = block - mean
            scatter += centred.T @ centred
        return cls(len(features), mean, scatter, encoder)

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets together (Chan, Golub & LeVeque, 1979)."""
        require_one_encoder(self.encoder, other.encoder)
        require_one_dimension(len(self.mean), len(other.mean))
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.outer(difference, difference * (self.count * other.count / count))
        # Summed in place: at thousands of dimensions each temporary matrix is tens of megabytes.
        between += self.scatter
        between += other.scatter
        return Moments(count, mean, between, self.encoder)

    @property
    def covariance(self) -> np.ndarray:
        """Returns the scatter divided by count - 1."""
        if self.count < 2:
            raise ValueError("A covariance needs at least two images.")
        return self.scatter / (self.count - 1)

    @property
    def second_moment(self) -> np.ndarray:
        """Returns the mean outer product of the features, not centred, `[dim, dim]`."""
        return self.scatter / self.count + np.outer(self.mean, self.mean)


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureMoments(Stored):
    """Moments of a mixture of distributions in planned shares, as `mixture_moments` returns them, for the same distances.

    It has no scatter and cannot be merged: the shares of a plan differ from those of the images that were counted.

    Attributes:
      count: number of images of one distribution whose mean would have the same error, 1 / sum(share^2 / images).
      mean: float64 `[dim]`.
      covariance: float64 `[dim, dim]`, from the components' own divided by count - 1.
      second_moment: mean outer product of the features, not centred, `[dim, dim]`.
      encoder: name or fingerprint of the encoder.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    second_moment: np.ndarray
    encoder: str = ""


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features; on Inception
    features: FID.

    The distance is biased upwards for few images, by about 1/n: compare sets of equal size, or use `shift_index`, which does.
    It depends on means and covariances alone.

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
    """Returns `frechet_distance` from streamed moments: dim^2 of memory for any number of images.

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
        raise ValueError(f"A Frechet distance needs at least two images on each side, got {x.count} and {y.count}.")
    means = np.square(x.mean - y.mean).sum()
    # The trace of the root of a product needs no root of a matrix, which would take most of the time.
    apart = means + np.trace(x.covariance) + np.trace(y.covariance)
    # With S_x = A A' and S_y = B B', tr (S_x S_y)^(1/2) is the sum of the singular values of A' B.
    factor, order = _cholesky(x)
    cross, error = _from_squares(factor, y.covariance[np.ix_(order, order)])
    # If the rounding error of the squares is too large relative to the distance, the slower decomposition is used.
    if error > _ENOUGH * (apart - 2 * cross):
        other, other_order = _cholesky(y)
        product = factor[np.argsort(order)].T @ other[np.argsort(other_order)]
        cross = np.linalg.svd(product, compute_uv=False).sum()
    # Rounding can leave a tiny negative number for equal sets.
    return max(0.0, float(apart - 2 * cross))


def _from_squares(factor: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """Returns the sum of the singular values in a third of the time, and twice the error that rounding may have caused.

    The values are the roots of the eigenvalues of A' S_y A: small ones keep half of their digits, and one that is 0 becomes
    1e-8 of the largest. With a covariance of lower rank the error would be too large, so that the method is not tried.
    """
    dim, rank = factor.shape
    if rank < dim:
        return 0.0, np.inf
    # The factor is triangular, which halves the work. A symmetric matrix equals its transpose, which BLAS does not copy.
    half = blas.dtrmm(1.0, factor, covariance.T, side=1, lower=1, overwrite_b=1)
    squares = np.linalg.eigvalsh(blas.dtrmm(1.0, factor, half, lower=1, trans_a=1, overwrite_b=1))
    limits = np.finfo(np.float64)
    doubt = max(dim * limits.eps * squares[-1], limits.tiny)
    roots = np.sqrt(np.maximum(squares, doubt))
    return roots.sum(), 2 * np.sum(doubt / roots)


def _cholesky(moments: Moments | MixtureMoments) -> tuple[np.ndarray, np.ndarray]:
    """Returns a lower factor `[dim, rank]` of the covariance, and the order of the dimensions in which it is one."""
    # Pivoting finds the rank: with fewer images than dimensions the covariance is singular.
    triangle, pivots, rank, _ = lapack.dpstrf(moments.covariance, lower=1)
    # By columns, as BLAS takes a matrix without copying it. LAPACK counts dimensions from 1.
    return np.asfortranarray(np.tril(triangle[:, :rank])), pivots - 1


def frechet_extrapolated(x: np.ndarray, y: np.ndarray, *, key: jax.Array) -> float:
    """Returns the Frechet distance without the part of its bias that is proportional to 1 / n: 2 d(n) - d(n / 2).

    Args:
      x, y: features `[n, dim]` of equal numbers, at least 4.
      key: PRNG key of the halves.

    References:
      Chong & Forsyth, `Effectively Unbiased FID and Inception Score <https://arxiv.org/abs/1911.07023>`_, 2020
    """
    random = generator(key)
    x, y = (np.asarray(each)[random.permutation(len(each))] for each in (x, y))
    # Every second image after a permutation: both halves are random, and of equal size up to one image.
    parts = [frechet_distance(x[half::2], y[half::2]) for half in (0, 1)]
    return 2 * frechet_distance(x, y) - sum(parts) / 2


_NO_INDEX = "its bias by few images depends on the covariances of both sides, so that halves of each do not show it"

FRECHET = Distance(
    "Frechet (FID)",
    2,
    "too large by a part that falls with 1 / n, and at n below the number of features by more; squared",
    lambda key, pool: frechet_distance,
    no_index=_NO_INDEX,
)


FRECHET_EXTRAPOLATED = Distance(
    "Frechet, n to infinity",
    8,
    "less what falls with 1 / n, which is its bias where n is well above the number of features; noisier; squared",
    lambda key, pool: functools.partial(frechet_extrapolated, key=key),
    # A reader of two Frechet distances would not know which one to compare.
    beside=False,
    no_index=_NO_INDEX,
)
