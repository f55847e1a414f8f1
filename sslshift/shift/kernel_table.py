"""Kernel distances of any planned mixture of known sets: the kernel is summed once for each pair of sets."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from sslshift.shift._features import matrix, require_one_dimension
from sslshift.shift._kernels import Cubic, sums_between, sums_within
from sslshift.shift._storage import Stored
from sslshift.shift.estimate import Estimate
from sslshift.shift.mixtures import checked_shares


@dataclasses.dataclass(frozen=True, eq=False)
class KernelTable(Stored):
    """Mean kernels between sets of features, from which the kernel distance of every mixture of them follows, and its error.

    With w - v the difference of two mixtures' shares and K this table, the distance is (w - v)' K (w - v). Means within a set
    are over pairs of different rows, so that it is unbiased for any shares fixed beforehand; the best of many mixtures, chosen
    by this very number, looks better than it is, and its standard error does not tell. `save(path)` and
    `KernelTable.load(path)` keep it in a file.

    Example:
      >>> import numpy as np
      >>> sets = {"near": np.array([[0.0], [1.0]]), "far": np.array([[3.0], [4.0]]), "target": np.array([[1.0], [2.0]])}
      >>> table = KernelTable.of(sets)
      >>> table.distance({"near": 1.0}, {"target": 1.0})  # as `kernel_distance`
      9.5
      >>> [round(table.distance({"near": 1 - share, "far": share}, {"target": 1.0})) for share in (0.0, 0.01, 0.5)]
      [10, 5, 276]

    Attributes:
      means: of each set by its name the mean kernel with each set `[sets]`, but for parts that cancel in every distance.
      errors: of each set by its name what leaving out each of its images does to its means, as a jackknife covariance
        `[sets, sets]`; NaN where it has fewer than three.
      encoder: name or fingerprint of the encoder.
    """

    means: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    encoder: str = ""

    @classmethod
    def of(cls, sets: Mapping[str, np.ndarray], *, encoder: str = "") -> "KernelTable":
        """Of sets of features `[n, dim]` by name, the targets among them; block by block, in float64.

        Raises:
          ValueError: a set has fewer than two rows, dimensions differ, or features are not finite.
        """
        features = [matrix(each) for each in sets.values()]
        for name, each in zip(sets, features, strict=True):
            require_one_dimension(features[0].shape[1], each.shape[1])
            if len(each) < 2:
                raise ValueError(f"A kernel distance needs at least 2 images of each set, and {name!r} has {len(each)}.")
        if not features:
            raise ValueError("A table of kernel distances needs at least one set.")
        kernel = Cubic.near(features[0])
        counts = [len(each) for each in features]
        # For each set the sums of the kernel of each of its rows over each set: `[n, sets]`.
        sums = [np.empty((count, len(features))) for count in counts]
        for i, x in enumerate(features):
            sums[i][:, i] = sums_within(x, kernel)
            for j, y in enumerate(features[:i]):
                sums[i][:, j], sums[j][:, i] = sums_between(x, y, kernel)
        means = [_means(each, i, counts) for i, each in enumerate(sums)]
        errors = [_errors(each, i, counts) for i, each in enumerate(sums)]
        return cls(dict(zip(sets, means, strict=True)), dict(zip(sets, errors, strict=True)), encoder)

    def distance(self, x: Mapping[str, float], y: Mapping[str, float]) -> float:
        """The kernel distance between two mixtures, each given by the shares of its sets, which sum to 1.

        Raises:
          ValueError: a set is not in the table, or shares are none.
        """
        difference = self._shares(x) - self._shares(y)
        return float(difference @ np.array(list(self.means.values())) @ difference)

    def estimate(self, x: Mapping[str, float], y: Mapping[str, float]) -> Estimate:
        """`distance` with its standard error over draws of the images of all sets, by the jackknife, as
        `kernel_distance_estimate` gives it: on the safe side where the two are alike, NaN where a set has only two images.

        Example:
          >>> import numpy as np
          >>> near, far, target = np.random.default_rng(0).normal(size=(3, 200, 4))
          >>> table = KernelTable.of({"near": near, "far": far + 1, "target": target})
          >>> value, error, _ = table.estimate({"near": 0.5, "far": 0.5}, {"target": 1.0})
          >>> bool(value > 5 * error > 0)
          True

        Raises:
          ValueError: as `distance` does.
        """
        difference = self._shares(x) - self._shares(y)
        # Leaving out an image of set i moves its row and column of the table alone.
        each = zip(difference, self.errors.values(), strict=True)
        variance = sum(4 * share**2 * (difference @ error @ difference) for share, error in each if share)
        return Estimate(self.distance(x, y), float(np.sqrt(max(variance, 0.0))))

    def _shares(self, mixture: Mapping[str, float]) -> np.ndarray:
        for name in mixture:
            if name not in self.means:
                raise ValueError(f"The table has no set {name!r}; it has {', '.join(self.means)}.")
        shares = checked_shares(list(mixture.values()), len(mixture))
        by_name = dict(zip(mixture, shares, strict=True))
        return np.array([by_name.get(name, 0.0) for name in self.means])


def _means(sums: np.ndarray, own: int, counts: Sequence[int]) -> np.ndarray:
    """Mean kernel of a set with each set `[sets]`, from its rows' sums `[n, sets]`."""
    pairs = np.array(counts, np.float64)
    pairs[own] -= 1
    return sums.sum(axis=0) / (len(sums) * pairs)


def _errors(sums: np.ndarray, own: int, counts: Sequence[int]) -> np.ndarray:
    """Jackknife covariance `[sets, sets]` of a set's means with each set; that with itself is halved, as it stands once."""
    n = len(sums)
    pairs = np.array(counts, np.float64)
    if n < 3:
        return np.full((len(counts), len(counts)), np.nan)
    # Without an image its set loses what it has with the others, and once more what these have with it.
    without = (sums.sum(axis=0) - np.where(np.arange(len(counts)) == own, 2, 1) * sums) / (n - 1)
    pairs[own] = 2 * (n - 2)
    without /= pairs
    without -= without.mean(axis=0)
    return without.T @ without * ((n - 1) / n)


def kernel_distance_of_mixture(parts: Sequence[np.ndarray], shares: Sequence[float], target: np.ndarray) -> float:
    """`kernel_distance` of a planned mixture to a target, unbiased, from the features of its components.

    Planning many mixtures of the same components, make their `KernelTable` once.

    Example:
      >>> import numpy as np
      >>> x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
      >>> kernel_distance_of_mixture([x, y], [1.0, 0.0], y)
      9.5

    Args:
      parts: features of each component, `[n, dim]`, n at least 2.
      shares: of the mixture, in their order; they sum to 1.
      target: features `[m, dim]`, m at least 2.

    Raises:
      ValueError: the shares are none, shapes do not fit, too few rows, or features are not finite.

    References:
      Gretton et al., `A Kernel Two-Sample Test <https://jmlr.org/papers/v13/gretton12a.html>`_, 2012
    """
    shares = checked_shares(shares, len(parts))
    names = [f"component {place}" for place in range(len(parts))]
    table = KernelTable.of(dict(zip(names, parts, strict=True)) | {"target": target})
    return table.distance(dict(zip(names, shares, strict=True)), {"target": 1.0})
