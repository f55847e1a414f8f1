"""Means and intervals over seeds, and what may be said of a difference."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean over seeds and half the width of its 95% interval (Student's t; nan for a single seed)."""

    mean: float
    half: float


def interval(values) -> Interval:
    values = np.asarray(values, float)
    if len(values) < 2:
        return Interval(float(values.mean()), float("nan"))
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(half))


class Crossed(NamedTuple):
    """Values of every draw with every training seed: their mean, and the standard deviations of draws and of seeds."""

    mean: Interval
    draws: float
    seeds: float


def crossed(values) -> Crossed:
    """Mean and scatter of `values[draw, seed]`, both being random: a two-way analysis of variance with one value a cell.

    Values that share a draw or a seed are not independent: the interval adds what draws and seeds contribute, with
    Satterthwaite's degrees of freedom. A standard deviation is nan where there is one draw or one seed alone.
    """
    values = np.asarray(values, float)
    draws, seeds = values.shape
    if min(draws, seeds) < 2:
        alone = interval(values.reshape(-1))
        scatter = values.std(ddof=1) if values.size > 1 else float("nan")
        return Crossed(alone, *((scatter, float("nan")) if draws > 1 else (float("nan"), scatter)))
    mean = values.mean()
    by_draw = values.mean(axis=1)
    by_seed = values.mean(axis=0)
    rest = values - by_draw[:, None] - by_seed[None, :] + mean
    freedom = np.array([draws - 1, seeds - 1, (draws - 1) * (seeds - 1)])
    squares = (
        np.array([seeds * np.sum((by_draw - mean) ** 2), draws * np.sum((by_seed - mean) ** 2), np.sum(rest**2)]) / freedom
    )
    # Of the mean: what draws and seeds contribute, each of which holds the rest once; never less than the rest alone.
    variance = max(squares[0] + squares[1] - squares[2], squares[2])
    if variance == 0:
        return Crossed(Interval(float(mean), 0.0), 0.0, 0.0)
    half = stats.t.ppf(0.975, max(1.0, variance**2 / np.sum(squares**2 / freedom))) * np.sqrt(variance / values.size)
    scatters = (float(np.sqrt(max(0.0, squares[i] - squares[2]) / other)) for i, other in ((0, seeds), (1, draws)))
    return Crossed(Interval(float(mean), float(half)), *scatters)


def signed(value: float) -> str:
    """A difference in percentage points: `+0.45` for 0.0045, never `-0.00`."""
    return f"{round(value * 100, 2) + 0.0:+.2f}"


def two_digits(value: float) -> str:
    """0.45 for 0.447; 0.00, never -0.00, for what rounds to nothing; n/a for nan."""
    return "n/a" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
