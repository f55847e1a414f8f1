"""Interface and shared functions of evaluations on frozen features.

An evaluation is a frozen dataclass of its settings that is called with features and a metric:
`evaluation(splits, metric) -> {name: Outcome}`. It chooses its hyperparameters by the metric on the validation split (the first
of equal choices) and scores the test split once. This module has its arguments and result, standardises features, checks
labels, and compares choices on the validation split.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.transfer.metrics import Metric


class Split(NamedTuple):
    """Features float32 `[n, dim]`, on the device or the host, and labels.

    Labels are int `[n]`, or 0/1 `[n, classes]` where an image may have several.
    """

    features: np.ndarray | jax.Array
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
    """Mean and standard deviation (1 if constant) of features, float32 `[dim]` on the device; a call standardises features.

    One float32 number is too inexact for the mean, so it is the sum of two: the first image and the mean difference from it.
    """

    first: jax.Array
    rest: jax.Array
    scale: jax.Array

    def __call__(self, features: np.ndarray | jax.Array) -> jax.Array:
        """Returns standardised features, float32 `[n, dim]` on the device."""
        return _standardised(jnp.asarray(features, jnp.float32), self)


def fit_standardiser(features: np.ndarray | jax.Array) -> Standardiser:
    """Returns mean and standard deviation of features `[n, dim]`.

    Raises:
      ValueError: the shape is not `[n, dim]`, there is no image, or a feature is not finite.
    """
    if np.ndim(features) != 2 or not np.size(features):
        raise ValueError(
            f"Expected training features [images, dim] of at least one image, got shape {list(np.shape(features))}."
        )
    standardiser, finite = _fitted(jnp.asarray(features, jnp.float32))
    finite = jax.device_get(finite)
    if not finite.all():
        raise ValueError(f"The features of training image {int(np.argmin(finite)):,} are not finite.")
    return standardiser


@jax.jit
def _standardised(features, standardiser):
    first, rest, scale = (jnp.expand_dims(each, range(features.ndim - 1)) for each in standardiser)
    return (features - first - rest) / scale


@jax.jit
def _fitted(features):
    first = features[:1]
    # The difference has no rounding error if features are close to the first image, so a large mean cancels.
    rest = jnp.mean(features - first, axis=0, keepdims=True)
    away = features - first - rest
    # Squares of huge or tiny numbers exceed the range of float32.
    peak = jnp.max(jnp.abs(away), axis=0, keepdims=True)
    peak = jnp.where(peak > 0, peak, 1)
    deviation = peak * jnp.sqrt(jnp.mean(jnp.square(away / peak), axis=0, keepdims=True))
    # A feature that varies less than rounding error is constant; dividing by its deviation would amplify noise.
    smallest = jnp.maximum(1e-6 * jnp.abs(first + rest), jnp.finfo(jnp.float32).tiny)
    found = Standardiser(first[0], rest[0], jnp.where(deviation > smallest, deviation, 1)[0])
    return found, jnp.isfinite(features).all(axis=1)


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
