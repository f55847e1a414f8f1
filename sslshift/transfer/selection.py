"""Choosing hyperparameters: by the metric on the validation split, of equal ones the first."""

from collections.abc import Sequence

import numpy as np

from sslshift.transfer.evaluation import Outcome, Split, Splits
from sslshift.transfer.metrics import Metric


def score(metric: Metric, scores: np.ndarray, split: Split) -> float:
    """The metric of scores `[n, classes]` on a split; nan where a score is, as a model's that diverged."""
    return metric.value(metric.decide(scores), split.labels) if np.isfinite(scores).all() else float("nan")


def best(values: Sequence[float]) -> int:
    """Place of the largest value, of equal ones the first; nan is less than everything."""
    return int(np.argmax(np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf)))


def end_of_grid(name: str, grid: Sequence[float], chosen: float) -> tuple[str, ...]:
    """A note where the grid may have been too narrow."""
    if len(grid) == 1 or min(grid) < chosen < max(grid):
        return ()
    side, further = ("smallest", "smaller") if chosen == min(grid) else ("largest", "larger")
    return (f"The chosen {name} {chosen:g} is the {side} of the grid; a {further} one might do better.",)


def nothing(metric: Metric, splits: Splits, why: str) -> Outcome:
    """An outcome without predictions, `[0, n]` or `[0, n, classes]`, and the reason."""
    shape = (0, len(splits.test.labels), splits.classes)[: 1 + metric.axes]
    return Outcome(np.zeros(shape, np.int64 if metric.axes == 1 else np.float32), float("nan"), {}, (why,))
