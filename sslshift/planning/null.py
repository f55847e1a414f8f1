"""The law that assumes least: accuracy does not fall with more unique images, and its gains do not grow.

Within the pilots' range, the accuracy of a source at a budget is the isotonic regression of its means on their unique images,
interpolated in the logarithm of both numbers. Beyond it, the accuracy may stay where it is or go on as it did: a draw goes on
with a share of the mean slope that is uniform between 0 and 1. Only more images never harm: with a larger budget, the accuracy
of a source may fall, and go on falling. A mixture is the mean of its sources, weighted by their samples.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from sslshift.planning.fitting import Data
from sslshift.planning.laws import Exposure, Floats

NAME = "monotone"
# Standard deviation of a source that has no pilots around the mean of those that have.
_UNSEEN = 0.05


class Curve(NamedTuple):
    """Isotonic curve of a source at a budget.

    Attributes:
      budget: the budget.
      unique: logarithms of its numbers of unique images, ascending [cells].
      accuracy: of each draw [draws, cells].
    """

    budget: int
    unique: Floats
    accuracy: Floats


@dataclasses.dataclass(frozen=True, eq=False)
class NullFit:
    """Isotonic curves through draws of the pilots' means.

    Attributes:
      curves: curves of each source that has pilots, by its index, with ascending budgets.
      shares: share of the last slope with which each draw goes on, beyond the budgets and beyond the images [draws, 2].
      others: deviations of sources without pilots [draws].
    """

    curves: Mapping[int, tuple[Curve, ...]]
    shares: Floats
    others: Floats

    def predict(self, training: Exposure, draws: int | None = None) -> Floats:
        """Returns draws of the accuracy [draws, trainings], without the noise of a run."""
        return training.add(self._of_parts(training)[:draws] * training.share)

    def _of_parts(self, training: Exposure) -> Floats:
        budgets = training.add(training.seen)[training.row]
        found = np.empty((len(self.shares), len(training.source)))
        unknown = ~np.isin(training.source, list(self.curves))
        if unknown.any():
            every = [self._of_source(source, training.unique[unknown], budgets[unknown]) for source in self.curves]
            found[:, unknown] = np.mean(every, axis=0) + self.others[:, None]
        for source in self.curves:
            parts = training.source == source
            if parts.any():
                found[:, parts] = self._of_source(source, training.unique[parts], budgets[parts])
        return found

    def _of_source(self, source: int, unique: Floats, budgets: Floats) -> Floats:
        """Returns the accuracy of a source [draws, parts] at numbers of unique images and budgets."""
        points = np.log(unique)
        levels = np.log([curve.budget for curve in self.curves[source]])
        values = [
            _interpolate(each.unique, each.accuracy[:, :, None], points, self.shares[:, 1]) for each in self.curves[source]
        ]
        return _interpolate(levels, np.stack(values, axis=1), np.log(budgets), self.shares[:, 0])


def fit_null(data: Data, draws: int, seed: int) -> NullFit:
    """Draws isotonic curves from the distribution of the pilots' means."""
    random = np.random.default_rng(seed)
    scale = np.sqrt(data.degrees / random.chisquare(data.degrees, draws)) if np.isfinite(data.degrees) else np.ones(draws)
    noise = random.standard_normal((draws, len(data.accuracy))) @ np.linalg.cholesky(data.covariance).T
    means = data.accuracy + scale[:, None] * noise
    curves: dict[int, list[Curve]] = {}
    pilots = data.training
    for source, budget in sorted(set(zip(pilots.source.tolist(), pilots.seen.tolist(), strict=True))):
        cells = np.flatnonzero((pilots.source == source) & (pilots.seen == budget))
        cells = cells[np.argsort(pilots.unique[cells], kind="stable")]
        weights = 1 / np.diag(data.covariance)[cells]
        rising = np.array([isotonic_regression(each[cells], weights=weights).x for each in means])
        curves.setdefault(source, []).append(Curve(budget, np.log(pilots.unique[cells]), rising))
    every = {source: tuple(each) for source, each in curves.items()}
    return NullFit(every, random.uniform(size=(draws, 2)), _UNSEEN * random.standard_normal(draws))


def _interpolate(levels: Floats, values: Floats, points: Floats, share: Floats) -> Floats:
    """Interpolates values [draws, levels, points or 1], which are known at their levels, at the points [points].

    Beyond the last level, a draw goes on with its share [draws] of the mean slope; below the first one, with the whole of it.
    """
    values = np.broadcast_to(values, (*values.shape[:2], len(points)))
    if len(levels) == 1:
        return values[:, 0]
    right = np.clip(np.searchsorted(levels, points), 1, len(levels) - 1)
    width = levels[right] - levels[right - 1]
    place = np.clip((points - levels[right - 1]) / width, 0, 1)
    index = np.arange(len(points))
    inside = values[:, right - 1, index] * (1 - place) + values[:, right, index] * place
    slope = (values[:, -1] - values[:, 0]) / (levels[-1] - levels[0])
    beyond = np.maximum(points - levels[-1], 0)
    below = np.minimum(points - levels[0], 0)
    return np.clip(inside + slope * (share[:, None] * beyond + below), 0, 1)
