"""Kernel distances of any planned mixture of known sets: the kernel is summed once for each pair of sets."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from sslshift.shift._features import matrix, require_one_dimension
from sslshift.shift._kernels import cubic, sums_between, sums_within
from sslshift.shift._storage import Stored
from sslshift.shift.mixtures import checked_shares


@dataclasses.dataclass(frozen=True, eq=False)
class KernelTable(Stored):
    """Mean kernels between sets of features, from which the kernel distance of every mixture of them follows.

    With w - v the difference of two mixtures' shares and K this table, the distance is (w - v)' K (w - v). Means within a set
    are over pairs of different rows, so that it is unbiased for any shares fixed beforehand; the best of many mixtures, chosen
    by this very number, looks better than it is. `save(path)` and `KernelTable.load(path)` keep it in a file.

    Example:
      >>> import numpy as np
      >>> sets = {"near": np.array([[0.0], [1.0]]), "far": np.array([[3.0], [4.0]]), "target": np.array([[1.0], [2.0]])}
      >>> table = KernelTable.of(sets)
      >>> table.distance({"near": 1.0}, {"target": 1.0})  # as `kernel_distance`
      9.5
      >>> [round(table.distance({"near": 1 - share, "far": share}, {"target": 1.0})) for share in (0.0, 0.01, 0.5)]
      [10, 5, 276]

    Attributes:
      means: for each set its name, and for each set again the mean kernel between the two.
      encoder: name or fingerprint of the encoder.
    """

    means: dict[str, np.ndarray]
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
        table = np.zeros((len(features), len(features)))
        for i, x in enumerate(features):
            kernel = functools.partial(cubic, dim=x.shape[1])
            table[i, i] = sums_within(x, kernel).sum() / (len(x) * (len(x) - 1))
            for j, y in enumerate(features[:i]):
                table[i, j] = table[j, i] = sums_between(x, y, kernel)[0].sum() / (len(x) * len(y))
        return cls(dict(zip(sets, table, strict=True)), encoder)

    def distance(self, x: Mapping[str, float], y: Mapping[str, float]) -> float:
        """The kernel distance between two mixtures, each given by the shares of its sets, which sum to 1.

        Raises:
          ValueError: a set is not in the table, or shares are none.
        """
        difference = self._shares(x) - self._shares(y)
        return float(difference @ np.array(list(self.means.values())) @ difference)

    def _shares(self, mixture: Mapping[str, float]) -> np.ndarray:
        for name in mixture:
            if name not in self.means:
                raise ValueError(f"The table has no set {name!r}; it has {', '.join(self.means)}.")
        shares = checked_shares(list(mixture.values()), len(mixture))
        by_name = dict(zip(mixture, shares, strict=True))
        return np.array([by_name.get(name, 0.0) for name in self.means])


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
