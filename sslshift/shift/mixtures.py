"""Statistics of planned mixtures from those of their components: no image is read again."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sslshift.shift._features import require_one_dimension, require_one_encoder
from sslshift.shift.histograms import HistogramMixture, Histograms
from sslshift.shift.layer_profile import layer_profile
from sslshift.shift.layers import VisualDna
from sslshift.shift.moments import MixtureMoments, Moments

_ENOUGH = 1e-6


def checked_shares(shares: Sequence[float], parts: int) -> np.ndarray:
    """The shares of a mixture of so many components, float64 `[parts]`, brought to a sum of exactly 1.

    Raises:
      ValueError: there are no components or not as many shares, one is below 0 or not finite, or the sum is not 1 within 1e-6.
    """
    values = np.asarray(shares, np.float64)
    if not parts or values.shape != (parts,):
        raise ValueError(f"A mixture needs one share for each component, not {values.size} shares for {parts} components.")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"Shares of a mixture are finite numbers of at least 0, not {values.tolist()}.")
    if abs(values.sum() - 1) > _ENOUGH:
        raise ValueError(f"Shares of a mixture sum to 1, not to {values.sum():.9g}.")
    return values / values.sum()


def effective_count(counts: Sequence[int], shares: np.ndarray) -> int:
    """Images of one distribution whose mean would be known as well as that of the mixture, whole ones.

    Example:
      >>> effective_count([1000, 10], np.array([0.5, 0.5]))  # the ten images, of which half the mixture would be made
      39
    """
    # A little above, so that whole numbers survive rounding.
    return math.floor((1 + 1e-12) / np.sum(shares**2 / np.asarray(counts)))


def mixture_moments(parts: Sequence[Moments], shares: Sequence[float]) -> MixtureMoments:
    """Moments of the distribution that draws from each component with its share, however many images each was measured on.

    The mean is sum w mean_i, the covariance sum w (S_i + (mean_i - mean)(mean_i - mean)'), with each S_i divided by its own
    count - 1, so that it estimates what an endless sample of the mixture would have, but for the error of the means: that
    adds w (1 - w) S_i / count_i for each component. With covariances divided by count throughout, a sample in which each
    image stands as often as the shares ask has exactly these moments.

    Example:
      >>> import numpy as np
      >>> parts = [Moments.of(np.array(values)[:, None]) for values in ([0.0, 2.0], [10.0, 12.0, 14.0])]
      >>> mixture = mixture_moments(parts, [0.75, 0.25])
      >>> mixture.mean.tolist(), mixture.covariance.tolist()  # 0.75 (2 + 2.75^2) + 0.25 (4 + 8.25^2)
      ([3.75], [[25.1875]])

    Args:
      parts: moments of the components, of one encoder.
      shares: of the mixture, in their order; they sum to 1.

    Raises:
      ValueError: the shares are none, encoders or dimensions differ, or a component has fewer than two images.
    """
    shares = checked_shares(shares, len(parts))
    for part in parts[1:]:
        require_one_encoder(parts[0].encoder, part.encoder)
        require_one_dimension(len(parts[0].mean), len(part.mean))
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    covariance, second = np.zeros((2, len(mean), len(mean)))
    for share, part in zip(shares, parts, strict=True):
        covariance += share * (part.covariance + np.outer(part.mean - mean, part.mean - mean))
        second += share * part.second_moment
    count = effective_count([part.count for part in parts], shares)
    return MixtureMoments(count, mean, covariance, second, parts[0].encoder)


def mixture_histograms(parts: Sequence[Histograms], shares: Sequence[float]) -> HistogramMixture:
    """Histograms of the distribution that draws from each component with its share, for the VisualDNA distances.

    Example:
      >>> import numpy as np
      >>> from sslshift.shift import Ranges, visual_dna_distance_of_histograms
      >>> ranges = Ranges(np.array([0.0]), np.array([1.0]))
      >>> near, far = (Histograms.of(np.array(values)[:, None], ranges, bins=4) for values in ([0.1], [0.9, 0.9]))
      >>> visual_dna_distance_of_histograms(mixture_histograms([near, far], [0.75, 0.25]), near)  # a quarter moves 3 bins
      0.75

    Args:
      parts: histograms of the components over the same ranges.
      shares: of the mixture, in their order; they sum to 1.

    Raises:
      ValueError: the shares are none, or encoders, ranges or bins differ.
    """
    shares = checked_shares(shares, len(parts))
    for part in parts[1:]:
        parts[0].require_comparable(part)
    return HistogramMixture(sum(share * part.shares for share, part in zip(shares, parts, strict=True)), parts[0].ranges)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerMixture:
    """The activations of a planned mixture, from the stored ones of its components: stands wherever a `VisualDna` does.

    Attributes:
      parts: of the components, over the same ranges and in as many groups.
      shares: of the mixture, in their order; they sum to 1.

    Raises:
      ValueError: the shares are none, or encoders, ranges, bins or groups differ.
    """

    parts: Sequence[VisualDna]
    shares: Sequence[float]

    def __post_init__(self):
        checked_shares(self.shares, len(self.parts))
        for part in self.parts[1:]:
            self.parts[0].require_mergeable(part)

    @property
    def groups(self) -> int:
        return self.parts[0].groups

    @property
    def count(self) -> int:
        """Images of one distribution that would be as certain, see `MixtureMoments`."""
        return effective_count([part.count for part in self.parts], checked_shares(self.shares, len(self.parts)))

    def over(self, groups: Sequence[int] | None = None) -> dict[str, HistogramMixture]:
        """Of each layer, over the images of some groups of every component; None: of all."""
        parts = [part.over(groups) for part in self.parts]
        return {name: mixture_histograms([part[name] for part in parts], self.shares) for name in parts[0]}

    def floor(self) -> float:
        """As `VisualDna.floor`: between two disjoint halves of every component's images, mixed."""
        return layer_profile(self, self).overall.floor
