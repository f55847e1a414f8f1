"""What every evaluation on frozen features takes and returns.

An evaluation is a frozen dataclass of its settings that is called with features and a metric:
`evaluation(splits, metric) -> {name: Outcome}`. It chooses what it has to choose by the metric on the validation split, of
equal choices the first, and scores the test split once.
"""

from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Features float32 `[n, dim]`, and labels: int `[n]`, or 0/1 `[n, classes]` where an image may have several."""

    features: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """The three splits of a task under one encoder; `classes` is their number."""

    train: Split
    validation: Split
    test: Split
    classes: int


class Outcome(NamedTuple):
    """What an evaluation found.

    Attributes:
      predictions: of the test split, as `Metric.decide` gives them: `[n]` or `[n, classes]`. Where the labelled images were
        drawn several times, one of these for each draw: a further first axis.
      validation: the metric on the validation split of what was chosen (the mean over draws).
      chosen: the hyperparameters that were chosen, by name.
      notes: sentences for people: what was left out, and why.
    """

    predictions: np.ndarray
    validation: float
    chosen: dict[str, Any]
    notes: tuple[str, ...] = ()
