"""The linear probe: multinomial logistic regression on frozen, standardised features, solved to convergence.

A whole grid of regularisation strengths is solved at once.
"""

import dataclasses
import warnings
from typing import NamedTuple

import numpy as np

from sslshift.transfer.evaluation import Outcome, Splits
from sslshift.transfer.inputs import Standard, require_labels, standard_of
from sslshift.transfer.logistic import fit_regressions
from sslshift.transfer.metrics import Metric
from sslshift.transfer.selection import best, end_of_grid, score

ITERATIONS = 500
TOLERANCE = 3e-6


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Logistic regression; the strength of its penalty is chosen on the validation split.

    Attributes:
      strengths: to choose from, above 0: of mean loss + strength / 2 * |weights|^2 on standardised features.
      iterations: passes over the training features at most.
    """

    strengths: tuple[float, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    iterations: int = ITERATIONS

    def __post_init__(self):
        require_strengths(self.strengths)

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        train, validation, test, classes = splits
        probe = _fit(train.features, train.labels, classes, self.strengths, self.iterations, TOLERANCE)
        values = [score(metric, scores, validation) for scores in probe.grid(validation.features)]
        choice = best(values)
        strength = self.strengths[choice]
        notes = end_of_grid("strength", self.strengths, strength) + unfinished(probe.excess[choice], self.iterations)
        predictions = metric.decide(probe.scores(test.features, choice))
        return {"linear": Outcome(predictions, values[choice], {"strength": strength}, notes)}


class Probe(NamedTuple):
    """Logistic regressions of S strengths on standardised features.

    Attributes:
      mean: of the training features, `[dim]`.
      scale: their standard deviation, 1 where a feature is constant, `[dim]`.
      weights: `[S, dim, classes]`.
      bias: `[S, classes]`.
      excess: how far the objective is estimated to lie above its minimum, `[S]`.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    excess: np.ndarray

    def scores(self, features: np.ndarray, strength: int) -> np.ndarray:
        """Logits `[n, classes]` of the `strength`-th regression."""
        return Standard(self.mean, self.scale)(features) @ self.weights[strength] + self.bias[strength]

    def grid(self, features: np.ndarray):
        """Logits of each regression in turn."""
        standardised = Standard(self.mean, self.scale)(features)
        return (standardised @ weights + bias for weights, bias in zip(self.weights, self.bias, strict=True))


def fit_probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    strengths: tuple[float, ...],
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Probe:
    """Fits one logistic regression per strength.

    Minimises mean cross-entropy + strength / 2 * |weights|^2 (the bias is free); where images may have several labels, the
    cross-entropy is the sum of binary ones over the classes. scikit-learn's `C` is 1 / (strength * n).

    Example:
      >>> import numpy as np
      >>> probe = fit_probe(np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 1]), classes=2, strengths=(1e-3, 1e-1))
      >>> probe.scores(np.array([[-1.0], [3.0]]), strength=0).argmax(axis=1).tolist()
      [0, 1]

    Args:
      features: `[n, dim]`.
      labels: int `[n]`, or 0/1 `[n, classes]`.
      classes: number of classes.
      strengths: of the penalty, above 0.
      iterations: passes over the features at most.
      tolerance: stops where each objective is estimated to lie within this of its minimum.

    Raises:
      ValueError: a strength is not above 0, labels do not fit, or a feature is not finite.
    """
    require_strengths(strengths)
    probe = _fit(features, labels, classes, strengths, iterations, tolerance)
    for note in unfinished(np.max(probe.excess), iterations, tolerance):
        warnings.warn(note, stacklevel=2)
    return probe


def _fit(features, labels, classes, strengths, iterations, tolerance) -> Probe:
    standard = standard_of(features)
    labels = np.asarray(labels)
    require_labels(labels, len(features), classes)
    found = fit_regressions(
        standard(features)[None],
        labels[None],
        classes=classes,
        strengths=strengths,
        iterations=iterations,
        tolerance=tolerance,
    )
    return Probe(*standard, *(part[0] for part in found))


def require_strengths(strengths: tuple[float, ...]) -> None:
    if not strengths or not min(strengths) > 0 or not np.isfinite(strengths).all():
        raise ValueError(f"Strengths of a penalty must be finite and above 0, not {strengths}.")


def unfinished(excess: float, iterations: int, tolerance: float = TOLERANCE) -> tuple[str, ...]:
    """A note where a fit ended short of its optimum."""
    # Twice: where float32 shows no further decrease, the search ends a little short.
    if excess <= 2 * tolerance:
        return ()
    return (f"The fit ended short of its optimum, its loss an estimated {excess:.1g} above (at most {iterations} iterations).",)
