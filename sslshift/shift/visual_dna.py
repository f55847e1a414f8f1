"""The VisualDNA distance: how far the distributions of single neurons have moved."""

import numpy as np

from sslshift.shift._features import pair
from sslshift.shift.histograms import HistogramMixture, Histograms, Ranges


def visual_dna_distance(x: np.ndarray, y: np.ndarray, *, ranges: Ranges | None = None, bins: int = 1000) -> float:
    """Earth mover's distance between each neuron's histograms, in bins, averaged over the neurons.

    It scales with the number of bins: times 2 / bins it is the Wasserstein-1 distance of values brought to [-1, 1]. For few
    images it is above 0 even between samples of one distribution, and falls as 1 / sqrt(n): compare at equal n. It is blind to
    what neurons do together.

    Example:
      >>> import numpy as np
      >>> x = np.array([[0.0, 7.0], [1.0, 7.0]])
      >>> visual_dna_distance(x, x[:1], bins=10)  # half of the first neuron's values moves by 9 bins; the second is constant
      2.25

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`.
      ranges: of the neurons, which the bins divide evenly; values outside count in the end bins. None: the joint minimum and
        maximum of the two sets, which makes distances to different sets incomparable.
      bins: of each histogram.

    Returns:
      Sum over the bins of |cumulative share of x - cumulative share of y|, averaged over the neurons. A constant neuron adds 0.

    Raises:
      ValueError: shapes do not fit, or features are not finite.

    References:
      Ramtoula et al., `Visual DNA: Representing and Comparing Images using Distributions of Neuron Activations
      <https://arxiv.org/abs/2304.10036>`_, 2023
    """
    x, y = pair(x, y, "A VisualDNA distance", 1)
    if ranges is None:
        ranges = Ranges.of(x).merge(Ranges.of(y))
    return visual_dna_distance_of_histograms(*(Histograms.of(each, ranges, bins=bins) for each in (x, y)))


def visual_dna_distance_of_histograms(x: Histograms | HistogramMixture, y: Histograms | HistogramMixture) -> float:
    """`visual_dna_distance` from streamed histograms over the same ranges: the same number, however the images were split.

    Example:
      >>> import numpy as np
      >>> ranges = Ranges(np.array([0.0]), np.array([1.0]))
      >>> near, far, other = (Histograms.of(np.array([[value]]), ranges, bins=4) for value in (0.1, 0.9, 0.1))
      >>> visual_dna_distance_of_histograms(near.merge(far), other)  # half of the values moves 3 bins
      1.5

    Raises:
      ValueError: ranges, bins or encoders differ.
    """
    return float(visual_dna_distances(x, y).mean())


def visual_dna_distances(x: Histograms | HistogramMixture, y: Histograms | HistogramMixture) -> np.ndarray:
    """The distance of each neuron, in bins, float64 `[dim]`: which neurons the two sets differ in.

    Example:
      >>> import numpy as np
      >>> ranges = Ranges(np.array([0.0, 0.0]), np.array([1.0, 1.0]))
      >>> x, y = (Histograms.of(np.array([values]), ranges, bins=4) for values in ([0.1, 0.1], [0.1, 0.9]))
      >>> visual_dna_distances(x, y).tolist()
      [0.0, 3.0]

    Raises:
      ValueError: ranges, bins or encoders differ.
    """
    x.require_comparable(y)
    return np.abs(x.shares - y.shares).sum(axis=1)
