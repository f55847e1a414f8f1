"""Means and intervals over seeds, and what may be said of a difference."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean over seeds and half the width of its 95% interval (Student's t; nan for a single seed)."""

    mean: float
    half: float

    @property
    def points(self) -> str:
        """A difference of accuracies in percentage points, as text."""
        return f"{self.mean * 100:+.1f} points" + ("" if np.isnan(self.half) else f" ± {self.half * 100:.1f}")

    @property
    def verdict(self) -> str:
        """What a difference shows: `better`, `worse`, `no difference shown`, or that a single seed shows nothing."""
        if np.isnan(self.half):
            return "one seed, nothing shown"
        if not abs(self.mean) > self.half:
            return "no difference shown"
        return "better" if self.mean > 0 else "worse"


def interval(values) -> Interval:
    values = np.asarray(values, float)
    if len(values) < 2:
        return Interval(float(values.mean()), float("nan"))
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(half))


def two_digits(value: float) -> str:
    """0.45 for 0.447; 0.00, never -0.00, for what rounds to nothing; n/a for nan."""
    return "n/a" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
