"""The kernel distance (KID): an unbiased squared MMD under a cubic polynomial kernel."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from sslshift.shift._features import generator, pair, require_one_encoder
from sslshift.shift._kernels import Cubic, sums_between, sums_within
from sslshift.shift._storage import Stored
from sslshift.shift.estimate import Estimate


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance over all pairs, with the kernel (x.y / dim + 1)^3; on Inception features: KID.

    It is unbiased at any number of images, so that it can be negative where two sets are alike. Time grows with (n + m)^2 dim,
    memory does not: the kernel is summed in tiles. Many print the mean over 100 overlapping subsets of 1,000 images, which
    estimates this same number with more noise; the spread over such subsets is no confidence interval, since they share
    images. For one see `kernel_distance_estimate`; for more images than pairs allow, `KernelBlocks`.

    Example:
      >>> import numpy as np
      >>> x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
      >>> kernel_distance(x, y)  # k(0, 1) + k(1, 2) - 2 * mean(k(0, 1), k(0, 2), k(1, 1), k(1, 2))
      9.5

    Args:
      x: features `[n, dim]`, n at least 2.
      y: features `[m, dim]`, m at least 2.

    Returns:
      mean k(x, x') + mean k(y, y') - 2 mean k(x, y), no row against itself, in float64.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Binkowski et al., `Demystifying MMD GANs <https://arxiv.org/abs/1801.01401>`_, 2018
    """
    return _sums(*pair(x, y, "A kernel distance", 2)).value


def kernel_distance_estimate(x: np.ndarray, y: np.ndarray) -> Estimate:
    """`kernel_distance` with its standard error over draws of images, by the jackknife: each image is left out once.

    Example:
      >>> import numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 4))
      >>> value, error, _ = kernel_distance_estimate(x, y + 1)
      >>> bool(value > 5 * error > 0)
      True

    Args:
      x: features `[n, dim]`, n at least 3.
      y: features `[m, dim]`, m at least 3.

    Returns:
      The distance and its standard error, which is on the safe side where the two sets are alike.

    Raises:
      ValueError: as `kernel_distance` does.

    References:
      Efron & Stein, `The Jackknife Estimate of Variance <https://doi.org/10.1214/aos/1176345462>`_, 1981
    """
    sums = _sums(*pair(x, y, "A standard error of a kernel distance", 3))
    variance = sum(len(without) * without.var() * (1 - 1 / len(without)) for without in (sums.without_x, sums.without_y))
    return Estimate(sums.value, float(np.sqrt(variance)))


class _Sums(NamedTuple):
    """Sums of the kernel for each image: over the others of its set, and over the other set."""

    x: np.ndarray
    y: np.ndarray
    x_to_y: np.ndarray
    y_to_x: np.ndarray

    @property
    def value(self) -> float:
        n = len(self.x)
        m = len(self.y)
        within = self.x.sum() / (n * (n - 1)) + self.y.sum() / (m * (m - 1))
        return float(within - 2 * self.x_to_y.sum() / (n * m))

    @property
    def without_x(self) -> np.ndarray:
        """The distance without each image of x, but for what these all share `[n]`."""
        n = len(self.x)
        m = len(self.y)
        within = (self.x.sum() - 2 * self.x) / ((n - 1) * (n - 2))
        return within - 2 * (self.x_to_y.sum() - self.x_to_y) / ((n - 1) * m)

    @property
    def without_y(self) -> np.ndarray:
        return _Sums(self.y, self.x, self.y_to_x, self.x_to_y).without_x


def _sums(x: np.ndarray, y: np.ndarray) -> _Sums:
    kernel = Cubic.near(x)
    return _Sums(sums_within(x, kernel), sums_within(y, kernel), *sums_between(x, y, kernel))


@dataclasses.dataclass(frozen=True, eq=False)
class KernelBlocks(Stored):
    """Kernel distances of disjoint blocks of images: unbiased, in linear time, and mergeable over hosts.

    No small sketch gives the whole kernel distance: the cubic kernel is an inner product of (dim + 3 choose 3) features, 76
    million of them at 768 dimensions. Blocks are independent, so that the spread of their distances is a valid standard error.
    The mean is unbiased only if every block, and thus every host's share, is a random draw of its set: deal images out to
    hosts at random, or by turns, never class by class.

    Example:
      >>> import jax, numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 1000, 4))
      >>> hosts = [KernelBlocks.of(x[i::2], y[i::2] + 1, key=jax.random.key(i), size=100) for i in range(2)]
      >>> value, error, _ = hosts[0].merge(hosts[1]).estimate
      >>> bool(abs(value - kernel_distance(x, y + 1)) < 3 * error)
      True

    Attributes:
      blocks: how many.
      mean: of their kernel distances.
      scatter: sum of the squared deviations from the mean.
      size: images of each side in a block.
      encoder: name or fingerprint of the encoder.

    References:
      Zaremba et al., `B-tests: Low Variance Kernel Two-Sample Tests <https://arxiv.org/abs/1307.1954>`_, 2013
    """

    blocks: int
    mean: float
    scatter: float
    size: int
    encoder: str = ""

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, *, key: jax.Array, size: int = 1000, encoder: str = "") -> "KernelBlocks":
        """Of two arrays `[n, dim]` and `[m, dim]`, in random order by the key; as many blocks as the smaller one fills.

        Raises:
          ValueError: not one block can be filled, shapes do not fit, or features are not finite.
        """
        if size < 2:
            raise ValueError(f"A block of a kernel distance needs at least 2 images a side, not {size}.")
        x, y = pair(x, y, f"A kernel distance in blocks of {size}", size)
        random = generator(key)
        orders = [random.permutation(len(each)) for each in (x, y)]
        rows = [slice(start, start + size) for start in range(0, min(len(x), len(y)) - size + 1, size)]
        values = np.array([_sums(x[orders[0][each]], y[orders[1][each]]).value for each in rows])
        return cls(len(values), float(values.mean()), float(np.square(values - values.mean()).sum()), size, encoder)

    def merge(self, other: "KernelBlocks") -> "KernelBlocks":
        """Both together."""
        require_one_encoder(self.encoder, other.encoder)
        if self.size != other.size:
            raise ValueError(f"Kernel distances in blocks of {self.size} and of {other.size} images cannot be merged.")
        blocks = self.blocks + other.blocks
        difference = other.mean - self.mean
        mean = self.mean + difference * other.blocks / blocks
        scatter = self.scatter + other.scatter + difference**2 * self.blocks * other.blocks / blocks
        return KernelBlocks(blocks, mean, scatter, self.size, self.encoder)

    @property
    def estimate(self) -> Estimate:
        """The kernel distance and its standard error over draws of images; the latter needs at least two blocks."""
        if self.blocks < 2:
            return Estimate(self.mean)
        return Estimate(self.mean, float(np.sqrt(self.scatter / (self.blocks - 1) / self.blocks)))
