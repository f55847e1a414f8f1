"""The triangular factor of features: their singular values without their squares, streamed and merged in dim^2 of memory."""

import dataclasses
import functools

import numpy as np

from sslshift.shift._features import float64, matrix, normalised, require_one_dimension, require_one_encoder, with_directions
from sslshift.shift._storage import Stored


@dataclasses.dataclass(frozen=True, eq=False)
class TriangularFactor(Stored):
    """R of the QR decomposition of features `[n, dim]`: their singular values, exact to rounding.

    The eigenvalues of a second moment would give the same but for the small ones, of which squaring loses half the digits.

    Example:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(50, 3))
      >>> factor = TriangularFactor.of(x[:20]).merge(TriangularFactor.of(x[20:]))
      >>> bool(np.allclose(factor.singular_values, np.linalg.svd(x, compute_uv=False), rtol=1e-12))
      True

    Attributes:
      count: images.
      triangle: float64 `[min(count, dim), dim]`.
      unit: whether features were divided by their length, as the Vendi score needs it.
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
        """Of an array `[n, dim]`, read block by block.

        Raises:
          ValueError: not a finite matrix, or, if `unit`, a row of zeros has no direction.
        """
        features = matrix(features)
        prepare = normalised if unit else (lambda block: block)
        features = with_directions(features) if unit else features
        # Each block is decomposed together with the triangle so far: it should be several times as high.
        height = max(256, 4 * features.shape[1])
        starts = range(0, len(features), height)
        parts = (prepare(float64(features, slice(start, start + height))) for start in starts)
        return cls(len(features), functools.reduce(_joined, parts, np.empty((0, features.shape[1]))), unit, encoder)

    def merge(self, other: "TriangularFactor") -> "TriangularFactor":
        """Of both sets together."""
        require_one_encoder(self.encoder, other.encoder)
        require_one_dimension(self.triangle.shape[1], other.triangle.shape[1])
        if self.unit != other.unit:
            raise ValueError("Triangular factors of unit vectors and of features as they are cannot be merged.")
        triangle = _joined(self.triangle, other.triangle)
        return TriangularFactor(self.count + other.count, triangle, self.unit, self.encoder)

    @functools.cached_property
    def singular_values(self) -> np.ndarray:
        """Falling, `[min(count, dim)]`."""
        return np.linalg.svd(self.triangle, compute_uv=False)


def _joined(triangle: np.ndarray, block: np.ndarray) -> np.ndarray:
    return np.linalg.qr(np.concatenate([triangle, block]), mode="r")
