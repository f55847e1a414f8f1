"""Mean and scatter of features, accumulated in float64, mergeable: memory is dim^2, whatever the number of images."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean `[dim]` and centred scatter `[dim, dim]` of features seen so far.

    Example:
      >>> import numpy as np
      >>> x = np.arange(12.0).reshape(6, 2)
      >>> halves = Moments.of(x[:2]).merge(Moments.of(x[2:]))
      >>> bool(np.allclose(halves.covariance, np.cov(x, rowvar=False)))
      True
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Moments of an array `[n, dim]` of any real dtype.

        Raises:
          ValueError: not a matrix, empty, or not finite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or not features.size:
            raise ValueError(f"Features must be a non-empty matrix [n, dim], not of shape {features.shape}.")
        if not np.isfinite(features).all():
            raise ValueError("Features must be finite; at least one is NaN or infinite.")
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan, Golub & LeVeque, 1979)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"Features of {len(self.mean)} and {len(other.mean)} dimensions cannot be merged.")
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.outer(difference, difference) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Divided by count - 1."""
        if self.count < 2:
            raise ValueError("A covariance needs at least two images.")
        return self.scatter / (self.count - 1)
