"""Mean and scatter of features, accumulated in float64, mergeable: memory is dim^2, whatever the number of images."""

import dataclasses

import numpy as np

from sslshift.shift._features import blocks, matrix, require_one_dimension, require_one_encoder
from sslshift.shift._storage import Stored


@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Stored):
    """Count, mean `[dim]` and centred scatter `[dim, dim]` of features seen so far.

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
        """Moments of an array `[n, dim]` of any real dtype, read block by block.

        Raises:
          ValueError: not a matrix, empty, or not finite.
        """
        features = matrix(features)
        mean = sum(block.sum(axis=0) for block in blocks(features)) / len(features)
        scatter = np.zeros((len(mean), len(mean)))
        for block in blocks(features):
            centred = block - mean
            scatter += centred.T @ centred
        return cls(len(features), mean, scatter, encoder)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan, Golub & LeVeque, 1979)."""
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
        """Divided by count - 1."""
        if self.count < 2:
            raise ValueError("A covariance needs at least two images.")
        return self.scatter / (self.count - 1)

    @property
    def second_moment(self) -> np.ndarray:
        """Mean outer product of the features, not centred, `[dim, dim]`."""
        return self.scatter / self.count + np.outer(self.mean, self.mean)


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureMoments(Stored):
    """Moments of a mixture of distributions in planned shares: what `mixture_moments` gives, for the same distances.

    It has no scatter, and merges with nothing: the shares of a plan are not those of the images that were counted.

    Attributes:
      count: images of one distribution whose mean would be known as well as the mixture's, 1 / sum(share^2 / images).
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
