"""Diversity scores of a set of images by features: the Vendi score and the effective rank, and their sketch.

The sketch is the triangular factor of the features: it streams, merges, and takes dim^2 of memory.
"""

import dataclasses
import functools
import math

import numpy as np

from sslshift.shift._base import (
    Stored,
    float64,
    matrix,
    normalised,
    require_one_dimension,
    require_one_encoder,
    with_directions,
)


@dataclasses.dataclass(frozen=True, eq=False)
class TriangularFactor(Stored):
    """R of the QR decomposition of features `[n, dim]`, which has their singular values, exact to rounding.

    The eigenvalues of the mean outer product would give the same values, except for small ones: squaring loses half of their
    digits.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(50, 3))
      >>> factor = TriangularFactor.of(x[:20]).merge(TriangularFactor.of(x[20:]))
      >>> bool(np.allclose(factor.singular_values, np.linalg.svd(x, compute_uv=False), rtol=1e-12))
      True

    Attributes:
      count: images.
      triangle: float64 `[min(count, dim), dim]`.
      unit: whether features were divided by their length, which the Vendi score needs.
      encoder: name or fingerprint of the encoder.

    References:
      Demmel et al., `Communication-optimal Parallel and Sequential QR and LU Factorizations
      <https://arxiv.org/abs/0808.2664>`_, 2012
    """

    count: int
    triangle: np.ndarray
    unit: bool = False
    encoder: str = ""

    @classmethod
    def of(cls, features: np.ndarray, *, unit: bool = False, encoder: str = "") -> "TriangularFactor":
        """Returns the factor of an array `[n, dim]`, read block by block.

        Raises:
          ValueError: not a finite matrix, or, if `unit`, a row is all zeros.
        """
        features = matrix(features)
        prepare = normalised if unit else (lambda block: block)
        features = with_directions(features) if unit else features
        # Each block is decomposed together with the triangle so far: lower blocks would mostly decompose that again.
        height = max(256, 4 * features.shape[1])
        starts = range(0, len(features), height)
        parts = (prepare(float64(features, slice(start, start + height))) for start in starts)
        return cls(len(features), functools.reduce(_joined, parts, np.empty((0, features.shape[1]))), unit, encoder)

    def merge(self, other: "TriangularFactor") -> "TriangularFactor":
        """Returns the factor of both sets together."""
        require_one_encoder(self.encoder, other.encoder)
        require_one_dimension(self.triangle.shape[1], other.triangle.shape[1])
        if self.unit != other.unit:
            raise ValueError("Triangular factors of unit vectors and of unscaled features cannot be merged.")
        triangle = _joined(self.triangle, other.triangle)
        return TriangularFactor(self.count + other.count, triangle, self.unit, self.encoder)

    @functools.cached_property
    def singular_values(self) -> np.ndarray:
        """Returns the singular values, the largest first, `[min(count, dim)]`."""
        return np.linalg.svd(self.triangle, compute_uv=False)


def _joined(triangle: np.ndarray, block: np.ndarray) -> np.ndarray:
    # The factor of all rows follows from the factors of any parts, in any order.
    return np.linalg.qr(np.concatenate([triangle, block]), mode="r")


def vendi_score(x: np.ndarray, *, order: float = 1.0) -> float:
    """Returns the effective number of different images: the exponential of the Renyi entropy of the eigenvalues of K / n, K of
    cosines.

    The score is at most dim, so it is not the effective size of a large set. It grows with n: compare sets of equal size.
    A higher order gives frequent kinds more weight and converges at fewer images; infinity depends on the largest eigenvalue
    alone.

    Example:
      >>> import numpy as np
      >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
      >>> [round(vendi_score(x, order=order), 6) for order in (0.5, 1, 2, np.inf)]
      [2.0, 2.0, 2.0, 2.0]

    Args:
      x: features `[n, dim]`.
      order: order of the entropy, above 0: 1 is Shannon's, 2 the collision entropy, infinity the min-entropy.

    Returns:
      A number from 1 (all features have one direction) to min(n, dim), in float64.

    Raises:
      ValueError: features are not a finite matrix, a row is all zeros, or the order is not above 0.

    References:
      Friedman & Dieng, `The Vendi Score: A Diversity Evaluation Metric for Machine Learning
      <https://arxiv.org/abs/2210.02410>`_, 2022
      Pasarkar & Dieng, `Cousins Of The Vendi Score <https://arxiv.org/abs/2310.12952>`_, 2023
    """
    return vendi_score_of_factor(TriangularFactor.of(x, unit=True), order=order)


def vendi_score_of_factor(factor: TriangularFactor, *, order: float = 1.0) -> float:
    """Returns `vendi_score` from a streamed `TriangularFactor` with `unit=True`, exact to rounding.

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
    # The eigenvalues of K / n are the squared singular values of the unit vectors divided by n, the trace of K.
    values = factor.singular_values
    # Values that are 0 up to rounding would count at orders near 0: even 1e-32 to the power of 0.1 is 0.0006.
    nothing = values[0] * max(factor.count, factor.triangle.shape[1]) * np.finfo(np.float64).eps
    # Squares of singular values are the eigenvalues, up to a factor that the shares do not depend on.
    squares = np.square(values[values > nothing])
    shares = squares / squares.sum()
    if math.isinf(order):
        return float(1 / shares.max())
    # Closer to 1, the rounding error of the general form is larger than its difference from the limit.
    if abs(order - 1) < 1e-8:
        return float(np.exp(-np.sum(shares * np.log(shares))))
    # Powers of a high order would all underflow to 0 unless they are divided by the largest one.
    largest = shares.max()
    entropy = (np.log(np.sum((shares / largest) ** order)) + order * np.log(largest)) / (1 - order)
    return float(np.exp(entropy))


def effective_rank(x: np.ndarray) -> float:
    """Returns RankMe: the exponential of the entropy of the singular values of the uncentred features.

    This is `sslshift.losses.effective_rank` in float64, for any number of images in dim^2 of memory. It evaluates a trained
    encoder rather than a set of images, and grows with the number of images: compare sets of equal size.

    Example:
      >>> import numpy as np
      >>> round(effective_rank(np.eye(5)), 3), round(effective_rank(np.ones((9, 5))), 3)
      (5.0, 1.0)

    Args:
      x: features `[n, dim]`.

    Returns:
      A number from 1 to min(n, dim), up to the 1e-7 that the definition adds to each share.

    Raises:
      ValueError: features are not a finite matrix.

    References:
      Garrido et al., `RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank
      <https://arxiv.org/abs/2210.02885>`_, 2023
    """
    return effective_rank_of_factor(TriangularFactor.of(x))


def effective_rank_of_factor(factor: TriangularFactor) -> float:
    """Returns `effective_rank` from a streamed `TriangularFactor`, exact to rounding.

    Example:
      >>> import numpy as np
      >>> round(effective_rank_of_factor(TriangularFactor.of(np.eye(5)[:2]).merge(TriangularFactor.of(np.eye(5)[2:]))), 3)
      5.0
    """
    values = factor.singular_values
    # The published definition adds 1e-7 to every share, which keeps the logarithm finite. Features that are all 0 have no sum
    # to divide by.
    share = values / max(values.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-np.sum(share * np.log(share))))
