"""Short texts of numbers, for sentences, tables and figures."""

import math
from collections.abc import Sequence


def points(value: float) -> str:
    """Returns a difference of shares in percentage points, never `-0.00`.

    Example:
      >>> points(0.0045), points(-0.00001)
      ('+0.45', '+0.00')
    """
    # Adding 0.0 turns -0.0, which small negative numbers are rounded to, into 0.0.
    return f"{round(value * 100, 2) + 0.0:+.2f}"


def two_digits(value: float) -> str:
    """Returns a number with two digits after its point, never `-0.00`; `n/a` for nan.

    Example:
      >>> two_digits(0.447), two_digits(-0.001), two_digits(float("nan"))
      ('0.45', '0.00', 'n/a')
    """
    # Adding 0.0 turns -0.0 into 0.0.
    return "n/a" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def listed(names: Sequence[str]) -> str:
    """Returns a list of names for a sentence.

    Example:
      >>> listed(["a"]), listed(["a", "b", "c"])
      ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
