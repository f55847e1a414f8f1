"""The correction for many tests."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> np.ndarray:
    """Returns p-values adjusted by Holm's method, which bounds the probability of any false finding among all tests.

    With weights, a test has the part of the allowed errors that its weight is of the sum. What a finding does not need passes
    on to the other tests, in proportion to their weights.

    Example:
      >>> holm([0.01, 0.04, 0.03]).tolist()  # 3 * 0.01; 2 * 0.03; 0.04 must not be smaller than the previous one
      [0.03, 0.06, 0.06]
      >>> holm([0.02, 0.02, 0.02], [2, 1, 1]).tolist()  # 0.02 * 4 / 2; then 2 * 0.02
      [0.04, 0.04, 0.04]

    Args:
      p_values: p-values of all tests, which may be dependent. nan marks a test that was not possible; it stays nan and is not
        counted.
      weights: positive weights; None: all are equal.

    Returns:
      The adjusted p-values, float64 in the same order.

    Raises:
      ValueError: the weights are not positive, or there is not one for each p-value.

    References:
      Holm, `A Simple Sequentially Rejective Multiple Test Procedure <https://www.jstor.org/stable/4615733>`_, 1979
    """
    adjusted = np.array(p_values, np.float64)
    weights = np.ones(len(adjusted)) if weights is None else np.array(weights, np.float64)
    if weights.shape != adjusted.shape or not (weights > 0).all():
        raise ValueError(f"Expected a positive weight for each of {len(adjusted)} p-values, got {weights.tolist()}.")
    # Impossible comparisons are not counted, because they would increase the other p-values.
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known] / weights[known], kind="stable")]
    # The weight of this test and of all tests after it.
    left = np.cumsum(weights[order][::-1])[::-1]
    stepwise = adjusted[order] * (left / weights[order])
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepwise))
    return adjusted
