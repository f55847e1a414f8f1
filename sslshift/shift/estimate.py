"""A number with what is known of its error."""

import math
from typing import NamedTuple


class Estimate(NamedTuple):
    """A distance and its errors.

    Attributes:
      value: the distance.
      standard_error: by chance; the function that gives it says by which. NaN where it is not estimated.
      bound: what was left out can move the value by at most so much; 0 where nothing was.
    """

    value: float
    standard_error: float = math.nan
    bound: float = 0.0
