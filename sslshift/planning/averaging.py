"""Forecasts: the laws averaged by how well they predict pilots that they have not seen.

A block is all pilots of a source at a budget. Each law predicts each block from the others, and the weights maximise the mean
log score of the weighted prediction (stacking). Below fifteen cells the weights are equal, since such scores are noise.
A law that lack of fit rejects has no weight. Beyond the pilots' range, intervals are widened by the error of the average on the
dearest budget, predicted from the cheaper ones.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sslshift.planning import null
from sslshift.planning.fitting import Data, Fit, fit_law, predict_left_out
from sslshift.planning.laws import Exposure, Floats, laws
from sslshift.planning.null import NullFit, fit_null
from sslshift.planning.pilots import Pilots

DRAWS = 400
# Probability of the residuals below which a law is rejected.
_REJECTED = 0.01
_FEWEST_CELLS = 15
_FEWEST_SIZES = 5
_FEWEST_SOURCES = 5
# Blocks that equal weights are worth beside the scores.
_PRIOR_BLOCKS = 4.0
# Standard deviation, as a share, of what a law that holds may miss at a cell: no law is exact.
_INEXACT = 0.002
# Largest factor by which intervals are widened at one step beyond the pilots, and the steps up to which they widen further.
_WIDEST = 8.0
_FURTHEST_STEPS = 2.0
# Cells that the errors of all sources are worth beside those of a source.
_POOLED_CELLS = 3.0


class LawResult(NamedTuple):
    """A law in the average, or the reason why it is not.

    Attributes:
      name: its name.
      weight: its weight in the average; 0 if it is refused.
      parameters: its most probable parameters by name.
      held_out_error: root of the mean squared error on held-out blocks, as a share; NaN if there are too few of them.
      refused: why it has no weight; empty if it has one.
      notes: parameters on a bound or not identified.
    """

    name: str
    weight: float
    parameters: dict[str, float]
    held_out_error: float
    refused: str
    notes: tuple[str, ...]


class PredictedInterval(NamedTuple):
    """Predicted accuracies with the ends of their intervals, each [trainings]."""

    value: Floats
    low: Floats
    high: Floats


@dataclasses.dataclass(frozen=True, eq=False)
class Forecast:
    """An average of laws that predicts accuracies.

    Attributes:
      pilots: what it rests on.
      fits: fitted laws that have a weight, by name.
      results: what became of each law.
      inflation: factor of each source by which intervals are widened at one step beyond the pilots' range, which is the ratio
        of their two largest budgets [sources].
      warnings: sentences about what the pilots do not show.
    """

    pilots: Pilots
    fits: dict[str, Fit | NullFit]
    results: tuple[LawResult, ...]
    inflation: tuple[float, ...]
    warnings: tuple[str, ...]

    def predict(self, training: Exposure) -> Floats:
        """Returns draws of the mean accuracy over seeds [draws, trainings]; each law has draws in proportion to its weight."""
        weights = {result.name: result.weight for result in self.results}
        counts = _shares([weights[name] for name in self.fits], DRAWS)
        draws = np.concatenate(
            [fit.predict(training, count) for fit, count in zip(self.fits.values(), counts, strict=True) if count]
        )
        centre = np.median(draws, axis=0)
        return np.clip(centre + (draws - centre) * self._widening(training), 0, 1)

    def interval(self, training: Exposure, level: float = 0.9) -> PredictedInterval:
        """Returns the accuracies of single runs, with intervals that contain the noise of a run."""
        draws = self.predict(training)
        return interval_of(draws, self.run_noise(len(draws)), level)

    def run_noise(self, draws: int) -> Floats:
        """Returns the noise of a run for each draw [draws], by quantiles in an order that does not depend on the draws."""
        noise = self.pilots.noise
        spread = math.sqrt(noise.seed + noise.run)
        quantiles = stats.t.ppf((np.arange(draws) + 0.5) / draws, noise.degrees) * spread
        return np.random.default_rng(0).permutation(quantiles)

    @property
    def extrapolates(self) -> bool:
        """True if anything is predicted beyond the pilots' range: not from one budget, and not from few numbers of images."""
        return len(self.pilots.budgets) > 1 and len({unique for _, unique, _ in self.pilots.cells}) >= _FEWEST_SIZES

    def outside(self, training: Exposure) -> Floats:
        """Returns how far each training [trainings] lies beyond the pilots, as the log of a ratio; 0 inside their range."""
        budgets = self.pilots.budgets
        total = training.add(training.seen)
        beyond = np.maximum(np.log(total / budgets[-1]), np.log(budgets[0] / total))
        largest = np.array([self.pilots.largest.get(name, 1) for name in self.pilots.sources], float)
        images = training.add(np.maximum(np.log(training.used / largest[training.source]), 0) * training.share)
        return np.maximum(np.maximum(beyond, images), 0)

    def _widening(self, training: Exposure) -> Floats:
        budgets = self.pilots.budgets
        step = math.log(budgets[-1] / budgets[-2]) if len(budgets) > 1 else math.log(4)
        factors = training.add(np.array(self.inflation)[training.source] * training.share)
        return 1 + (factors - 1) * np.minimum(self.outside(training) / step, _FURTHEST_STEPS)


def interval_of(draws: Floats, noise: Floats, level: float) -> PredictedInterval:
    """Returns medians and quantiles of draws [draws, trainings] with noise [draws] added, within 0 and 1."""
    tail = (1 - level) / 2
    low, high = np.clip(np.quantile(draws + noise[:, None], [tail, 1 - tail], axis=0), 0, 1)
    return PredictedInterval(np.clip(np.median(draws, axis=0), low, high), low, high)


def forecast(pilots: Pilots, flat: Sequence[str] = (), seed: int = 0) -> Forecast:
    """Fits all laws to pilots and weighs them.

    Args:
      pilots: results of at least three runs.
      flat: names of parameters whose priors are switched off.
      seed: of the draws.

    Raises:
      ValueError: a source has neither pilots nor a shift index, or `flat` names no parameter.
    """
    data = _inexact(pilots.data)
    used = set(pilots.largest)
    for name, place in zip(pilots.sources, pilots.shift, strict=True):
        if name not in used and not math.isfinite(place.value):
            raise ValueError(f"{name} has neither pilots nor a shift index: train pilots on it, or measure its shift.")
    every = laws(pilots.places, data.training, flat)
    blocks = _blocks(pilots)
    refused, warnings = _screen(pilots, flat)
    fits: dict[str, Fit | NullFit] = {null.NAME: fit_null(pilots.data, DRAWS, seed)}
    notes = {}
    lack = {}
    for i, (name, law) in enumerate(every.items()):
        if name not in refused:
            fit = fit_law(law, data, DRAWS, seed + i + 1)
            fits[name] = fit
            notes[name] = fit.notes
            lack[name] = fit.lack_of_fit
    left_out = {name: _left_out(name, every, pilots, blocks, seed) for name in fits} if len(blocks) > 1 else {}
    for name, probability in lack.items():
        if probability < _REJECTED:
            refused[name] = f"lack of fit rejects it (p = {probability:.2g})"
    kept = [name for name in fits if name not in refused]
    weights = _weigh(kept, left_out, pilots, blocks)
    results = tuple(
        LawResult(
            name,
            weights.get(name, 0.0),
            _parameters(fits.get(name), pilots.sources),
            _error(left_out.get(name), pilots, blocks),
            refused.get(name, ""),
            notes.get(name, ()),
        )
        for name in (null.NAME, *every)
    )
    average = {name: fits[name] for name in kept}
    inflation = _inflation(pilots, every, {name: weights[name] for name in kept}, seed)
    warnings += [note for name in kept for note in notes.get(name, ()) if weights[name] > 0.05]
    return Forecast(pilots, average, results, inflation, tuple(warnings))


def _screen(pilots: Pilots, flat: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Returns the laws that the pilots cannot carry with the reasons, and what else is to be said of the pilots."""
    names = ("discount", "penalty", "floor", "half_life")
    warnings = []
    sizes = {unique for _, unique, _ in pilots.cells}
    if len(sizes) < _FEWEST_SIZES:
        reason = f"it takes {_FEWEST_SIZES} different numbers of unique images, and the pilots have {len(sizes)}"
        return dict.fromkeys(names, reason), [f"No law is fitted: {reason}."]
    if len(pilots.budgets) == 1:
        warnings.append(
            f"All pilots have the budget {pilots.budgets[0]:,}: unique images and epochs cannot be told apart, and nothing is "
            "predicted for other budgets. Train pilots with a fourth of the budget too."
        )
    if len(pilots.largest) < _FEWEST_SOURCES:
        if set(flat) & {"k", "g"}:
            return dict.fromkeys(
                names, f"without the prior of k and g it takes {_FEWEST_SOURCES} sources with pilots"
            ), warnings
        warnings.append(
            "The effect of the shift index rests on its prior (k: 1.5 ± 1.5, g: at most 0.3), since only "
            f"{len(pilots.largest)} sources have pilots; it takes {_FEWEST_SOURCES} to estimate it."
        )
    return {}, warnings


def _inexact(data: Data) -> Data:
    return dataclasses.replace(data, covariance=data.covariance + _INEXACT**2 * np.eye(len(data.accuracy)))


def _blocks(pilots: Pilots) -> list[list[int]]:
    keys = sorted({(source, budget) for source, _, budget in pilots.cells})
    return [[i for i, (source, _, budget) in enumerate(pilots.cells) if (source, budget) == key] for key in keys]


def _left_out(
    name: str, every: dict, pilots: Pilots, blocks: Sequence[Sequence[int]], seed: int
) -> list[tuple[Floats, Floats]]:
    """Returns mean and covariance that a law predicts for each block from the others."""
    data = pilots.data
    if name in every:
        return predict_left_out(every[name], _inexact(data), blocks)
    predicted = []
    for block in blocks:
        rest = np.setdiff1d(np.arange(len(data.accuracy)), block)
        part = Data(data.training.take(rest), data.accuracy[rest], data.covariance[np.ix_(rest, rest)], data.degrees)
        draws = fit_null(part, 100, seed).predict(data.training.take(block))
        covariance = np.cov(draws, rowvar=False).reshape(len(block), len(block))
        predicted.append((draws.mean(axis=0), covariance + data.covariance[np.ix_(block, block)]))
    return predicted


def _weigh(
    kept: Sequence[str], left_out: dict[str, list[tuple[Floats, Floats]]], pilots: Pilots, blocks: Sequence[Sequence[int]]
) -> dict[str, float]:
    equal = np.full(len(kept), 1 / len(kept))
    if len(pilots.cells) < _FEWEST_CELLS or len(blocks) < 2 or len(kept) == 1:
        return dict(zip(kept, equal, strict=True))
    scores = np.array(
        [
            [
                _log_density(pilots.means[block] - mean, covariance)
                for block, (mean, covariance) in zip(blocks, left_out[name], strict=True)
            ]
            for name in kept
        ]
    )
    density = np.exp(scores - scores.max(axis=0))
    weights = equal
    for _ in range(200):
        # The fixed point of expectation and maximisation, with equal weights as a prior of a few blocks.
        share = weights[:, None] * density
        share = share / share.sum(axis=0)
        weights = (share.sum(axis=1) + _PRIOR_BLOCKS * equal) / (len(blocks) + _PRIOR_BLOCKS)
    return dict(zip(kept, weights, strict=True))


def _log_density(residual: Floats, covariance: Floats) -> float:
    return float(stats.multivariate_normal.logpdf(residual, cov=covariance, allow_singular=True))


def _inflation(pilots: Pilots, every: dict, weights: dict[str, float], seed: int) -> tuple[float, ...]:
    """Returns how much larger the errors on the dearest budget are than predicted from the cheaper ones, at least 1.

    Each source has a factor of its own, pooled with that of all: a law may hold near the task and fail far from it.
    """
    budgets = pilots.budgets
    if len(budgets) < 2:
        return (1.0,) * len(pilots.sources)
    dearest = [i for i, (_, _, budget) in enumerate(pilots.cells) if budget == budgets[-1]]
    predicted = [(weight, *_left_out(name, every, pilots, [dearest], seed)[0]) for name, weight in weights.items()]
    mean = sum(weight * mean for weight, mean, _ in predicted)
    variance = sum(weight * (np.diag(covariance) + (mean_of - mean) ** 2) for weight, mean_of, covariance in predicted)
    squared = (pilots.means[dearest] - mean) ** 2 / variance
    names = np.array([pilots.cells[i][0] for i in dearest])
    factors = []
    for name in pilots.sources:
        own = squared[names == name]
        pooled = (_POOLED_CELLS * np.mean(squared) + np.sum(own)) / (_POOLED_CELLS + len(own))
        factors.append(float(np.clip(math.sqrt(float(pooled)), 1.0, _WIDEST)))
    return tuple(factors)


def _error(left_out: list[tuple[Floats, Floats]] | None, pilots: Pilots, blocks: Sequence[Sequence[int]]) -> float:
    if left_out is None:
        return math.nan
    errors = np.concatenate([pilots.means[block] - mean for block, (mean, _) in zip(blocks, left_out, strict=True)])
    return float(np.sqrt(np.mean(errors**2)))


def _parameters(fit: Fit | NullFit | None, sources: Sequence[str]) -> dict[str, float]:
    if not isinstance(fit, Fit):
        return {}
    named = {}
    for prior, value in zip(fit.law.priors, fit.theta, strict=True):
        name = prior.name if prior.source is None else prior.name.replace(f"source {prior.source}", sources[prior.source])
        named[name] = float(np.exp(value) if prior.log else value)
    return named


def _shares(weights: Sequence[float], total: int) -> NDArray[np.int64]:
    """Returns whole numbers that are proportional to weights and sum to the total."""
    exact = np.asarray(weights) / np.sum(weights) * total
    counts = np.floor(exact).astype(int)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
