"""Sketches and features of planned mixtures, made from those of their components; no image is read again.

`blend` draws features of a mixture from those of its components; `mixture_moments`, `mixture_histograms`, `LayerMixture` and
`KernelTable` make its sketches.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from sslshift.data.mixture import apportion
from sslshift.data.permutation import permute
from sslshift.shift._base import DistanceEstimate, Stored, matrix, require_one_dimension, require_one_encoder
from sslshift.shift.distances.frechet import MixtureMoments, Moments
from sslshift.shift.distances.kernel import Cubic, sums_between, sums_within
from sslshift.shift.distances.visual_dna import HistogramMixture, Histograms
from sslshift.shift.layers import VisualDna, layer_profile

# Allowed error of a sum of shares: a person may write 0.333333 for 1/3.
_ENOUGH = 1e-6


def checked_shares(shares: Sequence[float], parts: int) -> np.ndarray:
    """Returns the shares of a mixture of `parts` components, float64 `[parts]`, normalised to a sum of exactly 1.

    Raises:
      ValueError: there are no components, their number differs from that of the shares, a share is below 0 or not finite, or
        the sum is not 1 within 1e-6.
    """
    values = np.asarray(shares, np.float64)
    if not parts or values.shape != (parts,):
        raise ValueError(f"A mixture needs one share for each component, not {values.size} shares for {parts} components.")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"Expected finite numbers of at least 0 as shares of a mixture, got {values.tolist()}.")
    if abs(values.sum() - 1) > _ENOUGH:
        raise ValueError(f"Expected shares of a mixture that sum to 1, got a sum of {values.sum():.9g}.")
    # Shares as people type them sum to 1 only up to rounding.
    return values / values.sum()


def effective_count(counts: Sequence[int], shares: np.ndarray) -> int:
    """Returns the whole number of images of one distribution whose mean would have the same error as the mixture's.

    Example:
      >>> effective_count([1000, 10], np.array([0.5, 0.5]))  # the ten images, of which half the mixture would be made
      39
    """
    # Slightly above 1, so that rounding does not turn a whole number into the one below.
    return math.floor((1 + 1e-12) / np.sum(shares**2 / np.asarray(counts)))


def mixture_moments(parts: Sequence[Moments], shares: Sequence[float]) -> MixtureMoments:
    """Returns moments of the distribution that draws from each component with its share; sizes of components have no influence.

    The mean is sum w mean_i, the covariance sum w (S_i + (mean_i - mean)(mean_i - mean)'), with each S_i divided by its own
    count - 1. It thus estimates the covariance of an infinite sample of the mixture, up to the error of the means, which adds
    w (1 - w) S_i / count_i for each component. With covariances divided by count throughout, a sample that repeats each image
    in proportion to its share has exactly these moments.

    Example:
      >>> import numpy as np
      >>> parts = [Moments.of(np.array(values)[:, None]) for values in ([0.0, 2.0], [10.0, 12.0, 14.0])]
      >>> mixture = mixture_moments(parts, [0.75, 0.25])
      >>> mixture.mean.tolist(), mixture.covariance.tolist()  # 0.75 (2 + 2.75^2) + 0.25 (4 + 8.25^2)
      ([3.75], [[25.1875]])

    Args:
      parts: moments of the components, of one encoder.
      shares: share of each component; they sum to 1.

    Raises:
      ValueError: the shares are wrong, encoders or dimensions differ, or a component has fewer than two images.
    """
    shares = checked_shares(shares, len(parts))
    for part in parts[1:]:
        require_one_encoder(parts[0].encoder, part.encoder)
        require_one_dimension(len(parts[0].mean), len(part.mean))
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    covariance, second = np.zeros((2, len(mean), len(mean)))
    for share, part in zip(shares, parts, strict=True):
        # Within the component, and between the component's mean and the mixture's.
        covariance += share * (part.covariance + np.outer(part.mean - mean, part.mean - mean))
        second += share * part.second_moment
    count = effective_count([part.count for part in parts], shares)
    return MixtureMoments(count, mean, covariance, second, parts[0].encoder)


def mixture_histograms(parts: Sequence[Histograms], shares: Sequence[float]) -> HistogramMixture:
    """Returns histograms of the distribution that draws from each component with its share, for the VisualDNA distances.

    Example:
      >>> import numpy as np
      >>> from sslshift.shift.distances.visual_dna import Ranges, visual_dna_distance_of_histograms
      >>> ranges = Ranges(np.array([0.0]), np.array([1.0]))
      >>> near, far = (Histograms.of(np.array(values)[:, None], ranges, bins=4) for values in ([0.1], [0.9, 0.9]))
      >>> visual_dna_distance_of_histograms(mixture_histograms([near, far], [0.75, 0.25]), near)  # a quarter moves 3 bins
      0.75

    Args:
      parts: histograms of the components over the same ranges.
      shares: share of each component; they sum to 1.

    Raises:
      ValueError: the shares are wrong, or encoders, ranges or bins differ.
    """
    shares = checked_shares(shares, len(parts))
    for part in parts[1:]:
        parts[0].require_comparable(part)
    return HistogramMixture(sum(share * part.shares for share, part in zip(shares, parts, strict=True)), parts[0].ranges)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerMixture:
    """Activations of a planned mixture, from the sketches of its components; it can be used in place of a `VisualDna`.

    Attributes:
      parts: sketches of the components, over the same ranges and with the same number of groups.
      shares: share of each component; they sum to 1.

    Raises:
      ValueError: the shares are wrong, or encoders, ranges, bins or groups differ.
    """

    parts: Sequence[VisualDna]
    shares: Sequence[float]

    def __post_init__(self):
        checked_shares(self.shares, len(self.parts))
        for part in self.parts[1:]:
            self.parts[0].require_mergeable(part)

    @property
    def groups(self) -> int:
        """Returns the number of groups."""
        return self.parts[0].groups

    @property
    def count(self) -> int:
        """Returns the number of images of one distribution that would have the same error, see `MixtureMoments`."""
        return effective_count([part.count for part in self.parts], checked_shares(self.shares, len(self.parts)))

    def over(self, groups: Sequence[int] | None = None) -> dict[str, HistogramMixture]:
        """Returns the histograms of each layer over the images of some groups of every component; None: of all groups."""
        parts = [part.over(groups) for part in self.parts]
        return {name: mixture_histograms([part[name] for part in parts], self.shares) for name in parts[0]}

    def floor(self) -> float:
        """Returns the distance between two disjoint halves of every component's images, mixed, as `VisualDna.floor` does."""
        return layer_profile(self, self).overall.floor


@dataclasses.dataclass(frozen=True, eq=False)
class KernelTable(Stored):
    """Mean kernels between sets of features, from which the kernel distance of every mixture of them follows, and its error.

    With w - v the difference of two mixtures' shares and K this table, the distance is (w - v)' K (w - v). Means within a set
    are over pairs of different rows, so that the distance is unbiased for any shares fixed beforehand. The best of many
    mixtures, chosen by this very number, looks better than it is, and its standard error does not account for that.
    `save(path)` and `KernelTable.load(path)` keep the table in a file.

    Example:
      >>> import numpy as np
      >>> sets = {"near": np.array([[0.0], [1.0]]), "far": np.array([[3.0], [4.0]]), "target": np.array([[1.0], [2.0]])}
      >>> table = KernelTable.of(sets)
      >>> table.distance({"near": 1.0}, {"target": 1.0})  # as `kernel_distance`
      9.5
      >>> [round(table.distance({"near": 1 - share, "far": share}, {"target": 1.0})) for share in (0.0, 0.01, 0.5)]
      [10, 5, 276]

    Attributes:
      means: for each set by name its mean kernel with each set `[sets]`, up to parts that cancel in every distance.
      errors: for each set by name the jackknife covariance of its means over its images `[sets, sets]`; NaN for sets of fewer
        than three images.
      encoder: name or fingerprint of the encoder.
    """

    means: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    encoder: str = ""

    @classmethod
    def of(cls, sets: Mapping[str, np.ndarray], *, encoder: str = "") -> "KernelTable":
        """Returns the table of sets of features `[n, dim]` by name, the targets among them; block by block, in float64.

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
        # One centre for all sets: the parts that the kernel omits cancel only then.
        kernel = Cubic.near(features[0])
        counts = [len(each) for each in features]
        # For each set the sums of the kernel of each of its rows over each set: `[n, sets]`.
        sums = [np.empty((count, len(features))) for count in counts]
        for i, x in enumerate(features):
            sums[i][:, i] = sums_within(x, kernel)
            # The kernel is symmetric, so that one pass over two sets gives the sums of both.
            for j, y in enumerate(features[:i]):
                sums[i][:, j], sums[j][:, i] = sums_between(x, y, kernel)
        means = [_means(each, i, counts) for i, each in enumerate(sums)]
        errors = [_errors(each, i, counts) for i, each in enumerate(sums)]
        return cls(dict(zip(sets, means, strict=True)), dict(zip(sets, errors, strict=True)), encoder)

    def distance(self, x: Mapping[str, float], y: Mapping[str, float]) -> float:
        """Returns the kernel distance between two mixtures, each given by the shares of its sets, which sum to 1.

        Raises:
          ValueError: a set is not in the table, or the shares are wrong.
        """
        difference = self._shares(x) - self._shares(y)
        return float(difference @ np.array(list(self.means.values())) @ difference)

    def estimate(self, x: Mapping[str, float], y: Mapping[str, float]) -> DistanceEstimate:
        """Returns `distance` with its standard error over draws of the images of all sets, by the jackknife.

        As with `kernel_distance_estimate`, the error is too large rather than too small where the two mixtures are alike. It is
        NaN where a set has only two images.

        Example:
          >>> import numpy as np
          >>> near, far, target = np.random.default_rng(0).normal(size=(3, 200, 4))
          >>> table = KernelTable.of({"near": near, "far": far + 1, "target": target})
          >>> value, error, _ = table.estimate({"near": 0.5, "far": 0.5}, {"target": 1.0})
          >>> bool(value > 5 * error > 0)
          True

        Raises:
          ValueError: as by `distance`.
        """
        difference = self._shares(x) - self._shares(y)
        # Without an image of set i, only its row and column of the table change.
        each = zip(difference, self.errors.values(), strict=True)
        # The distance is quadratic in the table, so that its derivative by a row is twice the row's term.
        variance = sum(4 * share**2 * (difference @ error @ difference) for share, error in each if share)
        # Rounding can leave a tiny negative number for equal mixtures.
        return DistanceEstimate(self.distance(x, y), float(np.sqrt(max(variance, 0.0))))

    def _shares(self, mixture: Mapping[str, float]) -> np.ndarray:
        for name in mixture:
            if name not in self.means:
                raise ValueError(f"Expected one of the sets {', '.join(self.means)} of this table, got {name!r}.")
        shares = checked_shares(list(mixture.values()), len(mixture))
        by_name = dict(zip(mixture, shares, strict=True))
        return np.array([by_name.get(name, 0.0) for name in self.means])


def _means(sums: np.ndarray, own: int, counts: Sequence[int]) -> np.ndarray:
    """Returns the mean kernel of a set with each set `[sets]`, from its rows' sums `[n, sets]`."""
    pairs = np.array(counts, np.float64)
    # Within its own set, a row is paired with the other rows only.
    pairs[own] -= 1
    return sums.sum(axis=0) / (len(sums) * pairs)


def _errors(sums: np.ndarray, own: int, counts: Sequence[int]) -> np.ndarray:
    """Returns the jackknife covariance `[sets, sets]` of a set's means with each set; the mean with itself is halved, since the
    table has it once.
    """
    n = len(sums)
    pairs = np.array(counts, np.float64)
    if n < 3:
        return np.full((len(counts), len(counts)), np.nan)
    # Within its own set an image takes part in pairs on both sides: removing it removes its sum twice.
    without = (sums.sum(axis=0) - np.where(np.arange(len(counts)) == own, 2, 1) * sums) / (n - 1)
    # Without an image there are (n - 1) (n - 2) ordered pairs of its set, of which n - 1 have been divided by already.
    pairs[own] = 2 * (n - 2)
    without /= pairs
    without -= without.mean(axis=0)
    return without.T @ without * ((n - 1) / n)


def kernel_distance_of_mixture(parts: Sequence[np.ndarray], shares: Sequence[float], target: np.ndarray) -> float:
    """Returns `kernel_distance` of a planned mixture to a target, unbiased, from the features of its components.

    To plan many mixtures of the same components, make their `KernelTable` once.

    Example:
      >>> import numpy as np
      >>> x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
      >>> kernel_distance_of_mixture([x, y], [1.0, 0.0], y)
      9.5

    Args:
      parts: features of each component, `[n, dim]`, n at least 2.
      shares: share of each component; they sum to 1.
      target: features `[m, dim]`, m at least 2.

    Raises:
      ValueError: the shares are wrong, shapes do not fit, too few rows, or features are not finite.

    References:
      Gretton et al., `A Kernel Two-Sample Test <https://jmlr.org/papers/v13/gretton12a.html>`_, 2012
    """
    shares = checked_shares(shares, len(parts))
    names = [f"component {place}" for place in range(len(parts))]
    table = KernelTable.of(dict(zip(names, parts, strict=True)) | {"target": target})
    return table.distance(dict(zip(names, shares, strict=True)), {"target": 1.0})


# Stream of the seeded order of a mixture; 1 to 7 are those of the sample plan, the subsets and the splits.
_MIXED = 8


def blend(features: Mapping[str, np.ndarray], shares: Mapping[str, float], most: int | None = None) -> np.ndarray:
    """Returns features of a mixture: the first rows of each component in exact proportion, in a mixed order.

    Pass the number that is needed as `most`: the first rows of a larger blend have the shares by chance only.

    Example:
      >>> import numpy as np
      >>> parts = {"near": np.zeros((10, 1)), "far": np.ones((3, 1))}
      >>> blend(parts, {"near": 0.5, "far": 0.5}).ravel().tolist()
      [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
      >>> blend(parts, {"near": 0.5, "far": 0.5}, most=4).ravel().tolist()
      [0.0, 1.0, 0.0, 1.0]

    Args:
      features: features `[n, dim]` of each component by name, in random order.
      shares: share of each component by name; they sum to 1.
      most: largest number of images of the mixture; None: the largest number for which all components suffice.

    Returns:
      `[n, dim]`, in an order that depends on n alone.

    Raises:
      ValueError: shares that do not sum to 1, or a component without features.
    """
    unknown = [name for name in shares if name not in features]
    if unknown:
        raise ValueError(
            f"A mixture of {', '.join(shares)} needs features of {', '.join(unknown)}; there are features of "
            f"{', '.join(features)}."
        )
    counts = blend_counts({name: len(features[name]) for name in shares}, shares, most)
    # The first rows of features in random order are a random sample of them.
    parts = np.concatenate([features[name][:count] for name, count in counts.items()])
    # Mixed, since an index draws a part of a sample: components must not come one after the other.
    return parts[permute(np.arange(len(parts)), max(1, len(parts)), _MIXED, 0)] if len(counts) > 1 else parts


def blend_counts(have: Mapping[str, int], shares: Mapping[str, float], most: int | None = None) -> dict[str, int]:
    """Returns the number of images of each component in a blend, in exact proportion.

    Example:
      >>> blend_counts({"near": 10, "far": 3}, {"near": 0.75, "far": 0.25})
      {'far': 3, 'near': 9}

    Args:
      have: number of images of each component.
      shares, most: as for `blend`.

    Raises:
      ValueError: shares that do not sum to 1.
    """
    if min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"Shares of a mixture must be at least 0 and sum to 1, not {dict(shares)}.")
    # Sorted by name, so that the order in which components are written does not change the sample.
    used = {name: shares[name] for name in sorted(shares) if shares[name]}
    total = sum(used.values())

    def counts(count: int) -> dict[str, int]:
        return dict(zip(used, apportion(count, [share / total for share in used.values()]), strict=True))

    if most is not None and all(count <= have[name] for name, count in counts(most).items()):
        return counts(most)
    # A component with too few images for its share reduces the sample, not its share.
    # The small addend keeps rounding of the quotient from losing a whole image.
    return counts(min(int(have[name] / share + 1e-9) for name, share in used.items()))
