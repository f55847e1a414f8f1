"""Slopes with intervals: the trend of a metric in diversity, and the change of that trend with the shift index.

All comparisons are paired: each seed has the same order and weights at all numbers of unique samples of a source, and all
runs have the same test images. A slope is therefore fitted to the runs of each seed, and the bootstrap resamples the images
once for all runs.
"""

from collections.abc import Sequence

import numpy as np

from sslshift.transfer.inference.contrasts import Contrast
from sslshift.transfer.inference.estimation import Bootstrapped, VarianceComponent

# Smallest number of sources for a verdict on any sources: of three or four, the scatter about a line has one or two degrees of
# freedom, and its interval is too wide for any conclusion.
FEWEST_SOURCES = 5


def slopes(x: Sequence[float], values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Returns the least-squares slopes of `values` in `x` along an axis, which is removed.

    Raises:
      ValueError: `x` has fewer than two different values, or a value that is not finite.
    """
    return np.tensordot(slope_weights(x), np.asarray(values, np.float64), (0, axis))


def slope_weights(x: Sequence[float]) -> np.ndarray:
    """Returns the weight of the value at each position in the least-squares slope.

    Raises:
      ValueError: `x` has fewer than two different values, or a value that is not finite.
    """
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all() or np.ptp(x) == 0:
        raise ValueError(f"Expected at least two different finite positions for a slope, got {x.tolist()}.")
    centred = x - x.mean()
    return centred / (centred**2).sum()


def curvature_weights(x: Sequence[float]) -> np.ndarray:
    """Returns the weight of the value at each position in the change of the slope for each unit of x, by least squares.

    Example:
      >>> curvature_weights([0.0, 1.0, 2.0]).round(12).tolist()  # the second difference
      [1.0, -2.0, 1.0]

    Raises:
      ValueError: `x` has fewer than three different values, or a value that is not finite.
    """
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all() or len(np.unique(x)) < 3:
        raise ValueError(f"Expected at least three different finite positions for a curvature, got {x.tolist()}.")
    # Twice the coefficient of the square is the second derivative.
    return 2 * np.linalg.pinv(np.vander(x - x.mean(), 3))[0]


def change_contrast(
    shift: Sequence[float] | np.ndarray, trends: Bootstrapped, images: int, *, scatter: bool = True
) -> Contrast:
    """Returns the change of the trend in diversity for each unit of the shift index: 0 is near the task, 1 far.

    For each seed the slopes of all sources are regressed on the sources' indices. The variance has components of seeds, of the
    scatter of sources about the line (with sources - 2 degrees of freedom), and of the encoders behind the index, whose error
    is common to all sources: the change is computed once for each encoder. The indices of an encoder are treated as exact;
    their errors bias the slope towards 0.

    Example:
      >>> trends = np.array([0.2, 0.1, 0.0]).reshape(3, 1, 1, 1)  # of three sources, of one seed and draw
      >>> round(change_contrast([0.0, 0.5, 1.0], Bootstrapped(trends, np.stack([trends, trends])), 0).value, 3)
      -0.2

    Args:
      shift: index of each source by each encoder, `[encoders, sources]`, or by a single encoder, `[sources]`.
      trends: slopes `[sources, seeds, draws, labelled draws]` with replicates `[R, sources, ...]`.
      images: number of test images; 0 if the replicates do not resample images.
      scatter: whether the variance has the scatter of sources about the line; otherwise it is valid for these sources only.

    Raises:
      ValueError: there are fewer than three sources, or all have the same index.
    """
    by_encoder = np.atleast_2d(np.asarray(shift, np.float64))
    encoders, sources = by_encoder.shape
    if sources < 3:
        raise ValueError(
            "Expected at least 3 sources with a shift index and several numbers of unique samples, got "
            f"{sources}: a line fits two points exactly."
        )
    values = np.array([slopes(x, trends.values) for x in by_encoder])
    replicates = sum(slopes(x, trends.replicates, axis=1) for x in by_encoder) / encoders
    extra = [_source_component(by_encoder.mean(axis=0), trends)] if scatter else []
    if encoders > 1:
        variance = float(values.reshape(encoders, -1).mean(axis=1).var(ddof=1)) / encoders
        extra.append(VarianceComponent("encoders", variance, 0.0, encoders - 1))
    return Contrast.of(Bootstrapped(values.mean(axis=0), replicates), images, extra)


def _source_component(x: np.ndarray, trends: Bootstrapped) -> VarianceComponent:
    """Returns the contribution of the sources' scatter about the line; seeds, draws and images explain a part of it."""
    # Intercept and slope of the line use two degrees of freedom.
    degrees_of_freedom = len(x) - 2
    spread = ((x - x.mean()) ** 2).sum()
    mean = trends.values.mean(axis=(1, 2, 3))
    # Seeds, draws and resamples change the residuals of a source; this part of the scatter is explained.
    explained = np.var(_residuals(x, trends.replicates.mean(axis=(2, 3, 4)).T), axis=1, ddof=1).sum() / degrees_of_freedom
    for axis, others in ((1, (2, 3)), (2, (1, 3)), (3, (1, 2))):
        count = trends.values.shape[axis]
        if count > 1:
            residuals = _residuals(x, trends.values.mean(axis=others))
            explained += np.var(residuals, axis=1, ddof=1).sum() / count / degrees_of_freedom
    variance = (_residuals(x, mean) ** 2).sum() / degrees_of_freedom / spread
    return VarianceComponent("sources", float(variance), float(explained / spread), degrees_of_freedom)


def _residuals(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the residuals of `values`, `[sources, ...]`, about their least-squares lines in `x`."""
    centred = (x - x.mean()).reshape(-1, *[1] * (np.ndim(values) - 1))
    return values - values.mean(axis=0) - centred * slopes(x, values)
