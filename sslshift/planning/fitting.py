"""Fits of a law to pilots: the most probable parameters, draws from their distribution, and what the pilots do not identify.

The pilots are cell means with the covariance V of their noise, so that shared test images and seeds count once (generalised
least squares). A fit minimises r' V^-1 r plus the squared distances of the parameters from their priors. It starts from a
grid over the nonlinear parameters, with the linear ones solved exactly at each point, and is refined by a bounded
Levenberg-Marquardt method, which runs for all starts, all left-out blocks, or all draws at once.

A draw of the parameters is a fit to simulated data: the means with noise of V added and priors moved by noise of their own.
For a linear law this is the exact posterior distribution. Each draw has its own V, scaled by the degrees of freedom of the
noise over a chi-squared number, since the noise itself is estimated.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import solve_triangular

from sslshift.planning.laws import Exposure, Floats, Law

# Variance that takes a mean out of a fit: a standard deviation of 1,000 points.
_LEFT_OUT = 1e2
# Share of the prior's standard deviation above which the pilots have said nothing about a parameter.
_UNIDENTIFIED = 0.8
# Multiples of their priors' deviations at which the grid over the nonlinear parameters lies.
_GRID = (-0.8, 0.8)
_STEPS = 40
# Step of a finite difference, as a share of a parameter's range of plausible values.
_DIFFERENCE = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A law fitted to pilots.

    Attributes:
      law: the law.
      theta: most probable parameters [parameters].
      draws: draws of the parameters [draws, parameters].
      lack_of_fit: probability of residuals as large as these if the law holds; NaN if there are too few means to tell.
      notes: one sentence for each parameter that lies on a bound or that the pilots do not identify.
    """

    law: Law
    theta: Floats
    draws: Floats
    lack_of_fit: float
    notes: tuple[str, ...]

    def predict(self, training: Exposure, draws: int | None = None) -> Floats:
        """Returns draws of the accuracy [draws, trainings], without the noise of a run."""
        return 1 - self.law.error(self.draws[:draws], training)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Means to fit, with their noise.

    Attributes:
      training: what was trained [means].
      accuracy: mean accuracies [means].
      covariance: of their noise [means, means].
      degrees: degrees of freedom of the estimated noise; infinite if it is known.
    """

    training: Exposure
    accuracy: Floats
    covariance: Floats
    degrees: float = np.inf


def fit_law(law: Law, data: Data, draws: int, seed: int) -> Fit:
    """Fits a law to pilots and draws from the distribution of its parameters."""
    whitening = _whitening(data.covariance)
    theta, jacobian = _best_of_grid(law, data, whitening[None])
    sample = _sample(law, data, theta[0], draws, seed)
    residuals = whitening @ (1 - data.accuracy - law.error(theta, data.training)[0])
    return Fit(law, theta[0], sample, _lack_of_fit(residuals, jacobian[0], data.degrees), tuple(_notes(law, theta[0], sample)))


def predict_left_out(law: Law, data: Data, blocks: Sequence[Sequence[int]]) -> list[tuple[Floats, Floats]]:
    """Returns the means [held out] and covariances [held out, held out] that a law predicts, with one block held out at a time.

    The covariance is of the prediction, by a linear approximation, and of the noise of the held-out means.
    """
    whitenings = []
    for block in blocks:
        covariance = data.covariance.copy()
        covariance[list(block), list(block)] += _LEFT_OUT
        whitenings.append(_whitening(covariance))
    thetas, jacobians = _best_of_grid(law, data, np.stack(whitenings))
    predicted = []
    for theta, jacobian, whitening, block in zip(thetas, jacobians, whitenings, blocks, strict=True):
        index = np.asarray(block)
        spread = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True)
        # The first rows of the Jacobian are whitened derivatives of the error.
        slopes = np.linalg.solve(whitening, jacobian[: len(data.accuracy)])[index]
        mean = 1 - law.error(theta[None], data.training)[0, index]
        predicted.append((mean, slopes @ spread @ slopes.T + data.covariance[np.ix_(index, index)]))
    return predicted


def _whitening(covariance: Floats) -> Floats:
    """Returns W with W' W = covariance^-1."""
    return solve_triangular(np.linalg.cholesky(covariance), np.eye(len(covariance)), lower=True)


def _best_of_grid(law: Law, data: Data, whitenings: Floats) -> tuple[Floats, Floats]:
    """Returns the best parameters [fits, parameters] and Jacobians for each whitening, from all starts of the grid."""
    starts = _grid(law)
    fits = len(whitenings)
    each = np.repeat(whitenings, len(starts), axis=0)
    problem = _Problem(law, data.training, np.broadcast_to(1 - data.accuracy, (len(each), len(data.accuracy))), each)
    theta, cost, jacobian = _minimise(problem, problem.solve_linear(np.tile(starts, (fits, 1))))
    best = np.argmin(cost.reshape(fits, -1), axis=1) + len(starts) * np.arange(fits)
    return theta[best], jacobian[best]


def _grid(law: Law) -> Floats:
    start = law.means
    points = []
    for moves in itertools.product(_GRID, repeat=len(law.nonlinear)):
        point = start.copy()
        for column, move in zip(law.nonlinear, moves, strict=True):
            prior = law.priors[column]
            point[column] = prior.mean + move * (prior.sd if np.isfinite(prior.sd) else (prior.high - prior.low) / 4)
        points.append(np.clip(point, law.low, law.high))
    return np.array(points)


def _sample(law: Law, data: Data, theta: Floats, draws: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    scale = np.ones(draws)
    if np.isfinite(data.degrees):
        scale = np.sqrt(data.degrees / random.chisquare(data.degrees, draws))
    noise = random.standard_normal((draws, len(data.accuracy))) @ np.linalg.cholesky(data.covariance).T
    sds = np.where(np.isfinite(law.sds), law.sds, 0.0)
    centres = law.means + sds * random.standard_normal((draws, len(sds)))
    error = 1 - data.accuracy + scale[:, None] * noise
    problem = _Problem(law, data.training, error, _whitening(data.covariance)[None], scale[:, None], centres)
    return _minimise(problem, np.tile(theta, (draws, 1)))[0]


class _Problem(NamedTuple):
    """Least-squares problems that are solved at once.

    Attributes:
      law: the law.
      training: trainings of the means.
      error: errors to fit [fits, means].
      whitening: [1 or fits, means, means].
      scale: factor on the standard deviations of the noise [fits, 1].
      centres: means of the priors [fits, parameters]; None for those of the law.
    """

    law: Law
    training: Exposure
    error: Floats
    whitening: Floats
    scale: Floats | float = 1.0
    centres: Floats | None = None

    def take(self, index: NDArray[np.int64]) -> "_Problem":
        """Returns some of the problems."""
        return self._replace(
            error=self.error[index],
            whitening=self.whitening if len(self.whitening) == 1 else self.whitening[index],
            scale=self.scale if np.isscalar(self.scale) else self.scale[index],
            centres=None if self.centres is None else self.centres[index],
        )

    def residuals(self, theta: Floats) -> Floats:
        """Returns whitened residuals of the means and of the priors [fits, means + parameters]."""
        centres = self.law.means if self.centres is None else self.centres
        return np.concatenate(
            [self._whiten(self.law.error(theta, self.training) - self.error), (theta - centres) / self.law.sds], 1
        )

    def jacobian(self, theta: Floats) -> Floats:
        """Returns the derivatives of the residuals [fits, means + parameters, parameters], by finite differences."""
        error = self.law.error(theta, self.training)
        step = _DIFFERENCE * np.minimum(self.law.high - self.law.low, 1.0)
        columns = []
        for column in range(theta.shape[1]):
            # Towards the inside, since a law need not be defined beyond a bound.
            sign = np.where(theta[:, column] + step[column] > self.law.high[column], -1.0, 1.0)
            moved = theta.copy()
            moved[:, column] += sign * step[column]
            columns.append(self._whiten((self.law.error(moved, self.training) - error) / (sign * step[column])[:, None]))
        priors = np.broadcast_to(np.diag(1 / self.law.sds), (len(theta), theta.shape[1], theta.shape[1]))
        return np.concatenate([np.stack(columns, axis=-1), priors], axis=1)

    def solve_linear(self, theta: Floats) -> Floats:
        """Returns theta with the parameters in which the error is linear solved exactly, given the others; then bounded."""
        linear = list(self.law.linear)
        base = theta.copy()
        base[:, linear] = 0
        # Residuals are linear in these parameters, so that their differences are the exact derivatives.
        constant = self.residuals(base)
        columns = []
        for column in linear:
            moved = base.copy()
            moved[:, column] = 1
            columns.append(self.residuals(moved) - constant)
        design = np.stack(columns, axis=-1)
        transposed = np.swapaxes(design, 1, 2)
        normal = transposed @ design + 1e-9 * np.eye(len(linear))
        base[:, linear] = np.linalg.solve(normal, -transposed @ constant[..., None])[..., 0]
        return np.clip(base, self.law.low, self.law.high)

    def _whiten(self, values: Floats) -> Floats:
        return (
            (self.whitening @ values[..., None])[..., 0] / self.scale
            if len(self.whitening) > 1
            else values @ self.whitening[0].T / self.scale
        )


def _minimise(problem: _Problem, theta: Floats) -> tuple[Floats, Floats, Floats]:
    """Refines fits by a Levenberg-Marquardt method within the bounds of the law, all at once.

    Args:
      problem: what is minimised.
      theta: starts [fits, parameters].

    Returns:
      Parameters [fits, parameters], sums of squares [fits], and Jacobians [fits, means + parameters, parameters].
    """
    low = problem.law.low
    high = problem.law.high
    residual = problem.residuals(theta)
    cost = (residual**2).sum(axis=1)
    damping = np.full(len(theta), 1e-2)
    active = np.arange(len(theta))
    for _ in range(_STEPS):
        part = problem.take(active)
        jacobian = part.jacobian(theta[active])
        slope = np.einsum("fmp,fm->fp", jacobian, residual[active])
        # A parameter on a bound that the slope pushes against it stays there.
        held = ((theta[active] <= low) & (slope > 0)) | ((theta[active] >= high) & (slope < 0))
        jacobian = np.where(held[:, None], 0.0, jacobian)
        normal = np.swapaxes(jacobian, 1, 2) @ jacobian
        size = np.einsum("fpp->fp", normal)
        normal += np.eye(len(low)) * (damping[active, None] * size + 1e-12 + held)[:, None]
        step = -np.linalg.solve(normal, np.where(held, 0.0, slope)[..., None])[..., 0]
        moved = np.clip(theta[active] + step, low, high)
        tried = part.residuals(moved)
        found = (tried**2).sum(axis=1)
        better = found < cost[active]
        gained = np.where(better, cost[active] - found, np.inf)
        theta[active[better]] = moved[better]
        residual[active[better]] = tried[better]
        cost[active[better]] = found[better]
        damping[active] = np.where(better, damping[active] / 5, damping[active] * 5)
        # A fit is finished when a step gains nothing that a person could see, or when no step is short enough to gain.
        active = active[(gained > 1e-4) & (damping[active] < 1e6)]
        if not len(active):
            break
    return theta, cost, problem.jacobian(theta)


def _lack_of_fit(residuals: Floats, jacobian: Floats, degrees: float) -> float:
    """Returns the probability of such residuals, by an F test with the degrees of freedom of the noise."""
    slopes = jacobian[: len(residuals)]
    # Parameters count as far as the means and not their priors decide them.
    used = np.trace(np.linalg.pinv(jacobian.T @ jacobian, hermitian=True) @ slopes.T @ slopes)
    left = len(residuals) - used
    if left < 1:
        return float("nan")
    statistic = float(residuals @ residuals) / left
    return float(stats.f.sf(statistic, left, degrees) if np.isfinite(degrees) else stats.chi2.sf(statistic * left, left))


def _notes(law: Law, theta: Floats, draws: Floats) -> Iterator[str]:
    for i, prior in enumerate(law.priors):
        if prior.source is not None:
            continue
        value = np.exp(theta[i]) if prior.log else theta[i]
        if theta[i] <= prior.low or theta[i] >= prior.high:
            if not (prior.mean == prior.low == theta[i]):
                yield f"{law.name}: {prior.name} lies on its bound {value:.3g}: the pilots do not fix it."
        elif np.isfinite(prior.sd) and draws[:, i].std() > _UNIDENTIFIED * prior.sd:
            yield f"{law.name}: {prior.name} = {value:.3g} rests on its prior alone: the pilots do not identify it."
