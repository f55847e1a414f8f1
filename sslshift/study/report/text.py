"""Numbers and names of a study as text, for sentences and tables."""

import math

from sslshift.reporting.numbers import points
from sslshift.transfer.inference import Estimate, Trend
from sslshift.transfer.paired import ONE_SEED, Difference

RISES = "rises"
FALLS = "falls"
NO_TREND = "no significant trend"


def percent(value: Estimate | Difference | None, signed: bool = False) -> str:
    """Returns a number in percent, or a difference in points, with half the width of its interval."""
    if value is None:
        return "missing"
    text = f"{value.value * 100:+.1f}" if signed else f"{value.value * 100:.1f}"
    return text if math.isnan(value.half_width) else f"{text} ± {value.half_width * 100:.1f}"


def difference_points(difference: Difference) -> str:
    """Returns a difference in percentage points, with half the width of its interval."""
    text = f"{difference.value * 100:+.1f} points"
    return text if math.isnan(difference.half_width) else f"{text} ± {difference.half_width * 100:.1f}"


def p_text(difference: Difference | None) -> str:
    """Returns an adjusted p-value as text; `n/a` if there is no p-value."""
    if difference is None or math.isnan(difference.adjusted):
        return "n/a"
    return f"{difference.adjusted:.2g}" if difference.adjusted >= 0.001 else "<0.001"


def trend_interval(trend: Trend) -> str:
    """Returns the interval of a slope in points; empty if there is no interval."""
    return "" if math.isnan(trend.low) else f"{points(trend.low)} to {points(trend.high)}"


def trend_points(trend: Trend) -> str:
    """Returns a slope in points with its interval."""
    interval = trend_interval(trend)
    return f"{points(trend.slope)} points" + (f" ({interval})" if interval else "")


def trend_verdict(trend: Trend, p_value: float) -> str:
    """Returns the verdict on a slope: its direction if it differs significantly from 0.

    Args:
      trend: the slope.
      p_value: p-value of the slope, or the adjusted p-value in a table; nan for a single seed.
    """
    if math.isnan(p_value):
        return ONE_SEED
    if p_value >= 0.05:
        return NO_TREND
    return RISES if trend.slope > 0 else FALLS
