"""Interface and shared functions of evaluations on frozen features.

An evaluation is a frozen dataclass of its settings that is called with features and a metric:
`evaluation(splits, metric) -> {name: Outcome}`. It chooses its hyperparameters by the metric on the validation split (the first
of equal choices) and scores the test split once. This module has its arguments and result, standardises features, checks
labels, and compares choices on the validation split.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sslshift.transfer.metrics import Metric

# Number of images that are standardised at a time: a float64 block of 512 features (2 MiB) fits into the cache of a processor.
_BLOCK = 512


class Split(NamedTuple):
    """Features float32 `[n, dim]`, and labels: int `[n]`, or 0/1 `[n, classes]` where an image may have several."""

    features: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """The three splits of a task under one encoder, and the number of classes."""

    train: Split
    validation: Split
    test: Split
    classes: int


class Outcome(NamedTuple):
    """Result of an evaluation.

    Attributes:
      predictions: predictions for the test split from `Metric.decide`, `[n]` or `[n, classes]`. If the labelled images were
        drawn several times, an additional first axis holds the draws.
      validation: the metric on the validation split for the chosen hyperparameters (the mean over draws).
      chosen: the chosen hyperparameters by name.
      notes: sentences for readers, such as what was excluded and why.
    """

    predictions: np.ndarray
    validation: float
    chosen: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def excluded(cls, metric: Metric, splits: Splits, why: str) -> "Outcome":
        """Returns an outcome without predictions, `[0, n]` or `[0, n, classes]`, and the reason as its note."""
        shape = (0, len(splits.test.labels), splits.classes)[: 1 + metric.axes]
        return cls(np.zeros(shape, np.int64 if metric.axes == 1 else np.float32), float("nan"), {}, (why,))


class Standardiser(NamedTuple):
    """Mean and standard deviation (1 if constant) of features, float64 `[dim]`; a call standardises features."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns standardised features, float32 `[n, dim]`, without a copy of all features in float64."""
        out = np.empty(features.shape, np.float32)
        # One float32 number is too inexact for the mean, so it is split into two. The first difference has no rounding error
        # if features are close to the mean.
        near = self.mean.astype(np.float32)
        parts = (near, (self.mean - near).astype(np.float32)) if features.dtype == np.float32 else (self.mean,)
        scale = self.scale.astype(parts[0].dtype)
        for start in range(0, len(features), _BLOCK):
            block = features[start : start + _BLOCK]
            for part in parts:
                block = block - part
            # Other dtypes are computed in float64, and NumPy must be told to cast the result to float32.
            np.divide(block, scale, out=out[start : start + _BLOCK], casting="same_kind")
        return out


def fit_standardiser(features: np.ndarray) -> Standardiser:
    """Returns mean and standard deviation of features `[n, dim]`.

    Raises:
      ValueError: the shape is not `[n, dim]`, there is no image, or a feature is not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"Expected training features [images, dim] of at least one image, got shape {list(features.shape)}.")
    count = 0
    mean = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].astype(np.float64)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise ValueError(f"The features of training image {start + int(np.argmin(finite)):,} are not finite.")
        # Deviations from each block's mean are combined (Chan et al., 1979), which avoids cancellation if the mean is large.
        centre = block.mean(axis=0)
        block -= centre
        squares += np.einsum("nd,nd->d", block, block) + np.square(centre - mean) * (count * len(block) / (count + len(block)))
        count += len(block)
        mean += (centre - mean) * (len(block) / count)
    deviation = np.sqrt(squares / count)
    # A feature that varies less than rounding error is constant; dividing by its deviation would amplify noise.
    smallest = np.maximum(1e-6 * np.abs(mean), np.finfo(np.float32).tiny)
    return Standardiser(mean, np.where(deviation > smallest, deviation, 1.0))


def require_labels(labels: np.ndarray, images: int, classes: int) -> None:
    """Raises ValueError unless labels are int `[images]` below `classes`, or 0/1 `[images, classes]`."""
    shape = labels.shape
    several = labels.ndim == 2
    if shape != ((images, classes) if several else (images,)):
        raise ValueError(
            f"Expected labels [{images:,}] or [{images:,}, {classes:,}] for these features, got shape {list(shape)}."
        )
    if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() >= (2 if several else classes):
        allowed = "0 and 1" if several else f"whole numbers from 0 to {classes - 1:,}"
        raise ValueError(f"Expected labels that are {allowed}, got {labels.dtype} from {labels.min()} to {labels.max()}.")


def score(metric: Metric, scores: np.ndarray, split: Split) -> float:
    """Returns the metric of scores `[n, classes]` on a split; nan if a score is not finite, because a model diverged."""
    return metric.value(metric.decide(scores), split.labels) if np.isfinite(scores).all() else float("nan")


def best_index(values: Sequence[float]) -> int:
    """Returns the index of the largest value, or of the first of equal values; nan counts as the smallest value."""
    return int(np.argmax(np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf)))


def grid_edge_notes(name: str, grid: Sequence[float], chosen: float) -> tuple[str, ...]:
    """Returns a note if the chosen value is at an end of its grid, which may then be too narrow."""
    # In a grid with a single value, there is no choice.
    if len(grid) == 1 or min(grid) < chosen < max(grid):
        return ()
    side, further = ("smallest", "smaller") if chosen == min(grid) else ("largest", "larger")
    return (f"The chosen {name} {chosen:g} is the {side} of the grid; a {further} one might be better.",)
