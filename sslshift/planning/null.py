"""The law that assumes least: accuracy does not fall with more unique images, and its gains do not grow.

Within the pilots' range, the accuracy of a source at a budget is the isotonic regression of its means on their unique images,
interpolated in the logarithm of both numbers. Beyond it, the accuracy may stay where it is or go on as it did: a draw goes on with
a share of the last slope that is uniform between 0 and 1. A mixture is the mean of its sources, weighted by their samples.
"""

import dataclasses

import numpy as np
from scipy.optimize import isotonic_regression

from sslshift.planning.fitting import Data
from sslshift.planning.laws import Floats, Training

NAME = "monotone"
# Standard deviation of a source that has no pilots around the mean of those that have.
_UNSEEN = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class NullFit:
    """Isotonic curves through draws of the pilots' means.

    Attributes:
      data: the pilots.
      means: their means with noise added [draws, means].
      shares: share of the last slope with which each draw goes on, beyond the budgets and beyond the images [draws, 2].
      others: deviations of sources without pilots [draws].
    """

    data: Data
    means: Floats
    shares: Floats
    others: Floats

    def predict(self, training: Training, draws: int | None = None) -> Floats:
        """Returns draws of the accuracy [draws, trainings], without the noise of a run."""
        parts = self._of_parts(training)[:draws]
        return training.add(parts * training.share)

    def _of_parts(self, training: Training) -> Floats:
        budgets = training.add(training.seen)[training.row]
        known = {source: self._of_source(source, training.unique, budgets) for source in np.unique(self.data.training.source)}
        average = np.mean(list(known.values()), axis=0) + self.others[:, None]
        return np.stack([known.get(source, average)[:, i] for i, source in enumerate(training.source)], axis=1)

    def _of_source(self, source: int, unique: Floats, budgets: Floats) -> Floats:
        """Returns the accuracy of a source [draws, parts] at numbers of unique images and budgets."""
        pilots = self.data.training
        cells = pilots.source == source
        levels = np.unique(pilots.seen[cells])
        curves = np.stack([self._curve(np.flatnonzero(cells & (pilots.seen == level)), unique) for level in levels], axis=1)
        return _interpolate(np.log(levels), curves, np.log(budgets), self.shares[:, 0])

    def _curve(self, cells: Floats, unique: Floats) -> Floats:
        order = cells[np.argsort(self.data.training.unique[cells], kind="stable")]
        weights = 1 / np.diag(self.data.covariance)[order]
        rising = np.array([isotonic_regression(means[order], weights=weights).x for means in self.means])
        levels = np.log(self.data.training.unique[order])
        return _interpolate(levels, np.repeat(rising[:, :, None], len(unique), axis=2), np.log(unique), self.shares[:, 1])


def fit_null(data: Data, draws: int, seed: int) -> NullFit:
    """Draws isotonic curves from the distribution of the pilots' means."""
    random = np.random.default_rng(seed)
    scale = np.sqrt(data.degrees / random.chisquare(data.degrees, draws)) if np.isfinite(data.degrees) else np.ones(draws)
    noise = random.standard_normal((draws, len(data.accuracy))) @ np.linalg.cholesky(data.covariance).T
    means = data.accuracy + scale[:, None] * noise
    return NullFit(data, means, random.uniform(size=(draws, 2)), _UNSEEN * random.standard_normal(draws))


def _interpolate(levels: Floats, values: Floats, points: Floats, share: Floats) -> Floats:
    """Interpolates values [draws, levels, points], each of which is known at its levels, at the points [points].

    Beyond the last level, a draw goes on with its share [draws] of the mean slope, which never falls; below the first one, with
    the whole of it.
    """
    if len(levels) == 1:
        return values[:, 0]
    right = np.clip(np.searchsorted(levels, points), 1, len(levels) - 1)
    width = levels[right] - levels[right - 1]
    place = np.clip((points - levels[right - 1]) / width, 0, 1)
    index = np.arange(len(points))
    inside = values[:, right - 1, index] * (1 - place) + values[:, right, index] * place
    slope = np.maximum(values[:, -1] - values[:, 0], 0) / (levels[-1] - levels[0])
    beyond = np.maximum(points - levels[-1], 0)
    below = np.minimum(points - levels[0], 0)
    return np.clip(inside + slope * (share[:, None] * beyond + below), 0, 1)
