"""Text of numbers with few digits."""

import numpy as np


def signed(value: float) -> str:
    """A difference in percentage points: `+0.45` for 0.0045, never `-0.00`."""
    return f"{round(value * 100, 2) + 0.0:+.2f}"


def two_digits(value: float) -> str:
    """0.45 for 0.447; 0.00, never -0.00, for what rounds to nothing; n/a for nan."""
    return "n/a" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
