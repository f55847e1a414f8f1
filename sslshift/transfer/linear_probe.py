"""The linear probe: multinomial logistic regression on frozen, standardised features, solved to convergence.

A whole grid of l2 penalties is solved in one program.
"""

import dataclasses
import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.transfer.evaluation import (
    Outcome,
    Splits,
    Standardiser,
    best_index,
    fit_standardiser,
    grid_edge_notes,
    require_labels,
    score,
)
from sslshift.transfer.logistic import Regressions, fit_regressions
from sslshift.transfer.metrics import Metric

ITERATIONS = 500
# Absolute tolerance of the loss. A much smaller value would be below the rounding error of a float32 loss.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Logistic regression; its l2 penalty is chosen on the validation split.

    Attributes:
      strengths: l2 penalties above 0 to choose from; the objective is mean loss + penalty / 2 * |weights|^2 on standardised
        features. The weakest takes as long as all others together, and is only tried if the next one is the best of the
        others on the validation split.
      iterations: largest number of passes over the training features for each penalty.
    """

    # Not renamed to l2_penalties: records of finished evaluations and --evaluation_options contain the name.
    strengths: tuple[float, ...] = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    iterations: int = ITERATIONS

    def __post_init__(self):
        require_penalties(self.strengths)

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        """Returns one outcome, `linear`."""
        train, validation, test, classes = splits

        # As the solver sees them: in float32, the strongest first.
        falling = sorted(set(np.float32(self.strengths).tolist()), reverse=True)

        def fitted(strongest: int) -> tuple[Standardiser, Regressions, int, float]:
            settings = (self.strengths, self.iterations, TOLERANCE, strongest)
            standardiser, found = _fit(train.features, train.labels, classes, *settings)
            weakest = falling[strongest - 1]
            # A penalty that is not solved is never chosen.
            values = [
                score(metric, scores[0], validation) if np.float32(penalty) >= weakest else -math.inf
                for penalty, scores in zip(self.strengths, found.grid(standardiser(validation.features)), strict=True)
            ]
            choice = best_index(values)
            return standardiser, found, choice, values[choice]

        # Of one or two penalties, all are tried at once.
        first = len(falling) - (len(falling) > 2)
        standardiser, found, choice, value = fitted(first)
        if first < len(falling) and np.float32(self.strengths[choice]) == falling[first - 1]:
            standardiser, found, choice, value = fitted(len(falling))
        penalty = self.strengths[choice]
        notes = grid_edge_notes("l2 penalty", self.strengths, penalty)
        logits, excess = found.solution(standardiser(test.features), choice)
        notes += convergence_notes(excess[0], self.iterations)
        predictions = metric.decide(logits[0])
        return {"linear": Outcome(predictions, value, {"strength": penalty}, notes)}


class Probe(NamedTuple):
    """Logistic regressions with S penalties on standardised features.

    Attributes:
      standardiser: standardiser of the features.
      weights: weights `[S, dim, classes]`.
      bias: bias `[S, classes]`.
      excess: estimated difference of the objective from its minimum, `[S]`.
    """

    standardiser: Standardiser
    weights: np.ndarray
    bias: np.ndarray
    excess: np.ndarray

    def scores(self, features: np.ndarray, place: int) -> np.ndarray:
        """Returns the logits `[n, classes]` of the regression with the penalty at this index."""
        of_set = Regressions(*(jnp.asarray(part)[None] for part in (self.weights, self.bias, self.excess)))
        return of_set.solution(self.standardiser(features), place)[0][0]


def fit_probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    l2_penalties: tuple[float, ...],
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Probe:
    """Returns one logistic regression for each l2 penalty.

    Minimises mean cross-entropy + penalty / 2 * |weights|^2 (the bias is not penalised). If images may have several labels,
    the cross-entropy is the sum of binary cross-entropies over the classes. scikit-learn's `C` is 1 / (penalty * n).

    Example:
      >>> import numpy as np
      >>> probe = fit_probe(np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 1]), classes=2, l2_penalties=(1e-3, 1e-1))
      >>> probe.scores(np.array([[-1.0], [3.0]]), place=0).argmax(axis=1).tolist()
      [0, 1]

    Args:
      features: features `[n, dim]`.
      labels: int `[n]`, or 0/1 `[n, classes]`.
      classes: number of classes.
      l2_penalties: penalties above 0.
      iterations: largest number of passes over the features for each penalty.
      tolerance: the fit stops once each objective is estimated to be within this distance of its minimum.

    Raises:
      ValueError: a penalty is not above 0, labels do not fit, or a feature is not finite.
    """
    require_penalties(l2_penalties)
    standardiser, found = _fit(features, labels, classes, l2_penalties, iterations, tolerance)
    probe = Probe(standardiser, *(part[0] for part in jax.device_get(found)))
    for note in convergence_notes(np.max(probe.excess), iterations, tolerance):
        warnings.warn(note, stacklevel=2)
    return probe


def _fit(features, labels, classes, penalties, iterations, tolerance, strongest=None) -> tuple[Standardiser, Regressions]:
    standardiser = fit_standardiser(features)
    labels = np.asarray(labels)
    require_labels(labels, len(features), classes)
    found = fit_regressions(
        standardiser(features)[None],
        labels[None],
        classes=classes,
        l2_penalties=penalties,
        iterations=iterations,
        tolerance=tolerance,
        strongest=strongest,
    )
    return standardiser, found


def require_penalties(penalties: tuple[float, ...]) -> None:
    """Raises ValueError unless there are penalties, all of them finite and above 0."""
    if not penalties or not min(penalties) > 0 or not np.isfinite(penalties).all():
        raise ValueError(f"Expected finite l2 penalties above 0, got {penalties}.")


def convergence_notes(excess: float, iterations: int, tolerance: float = TOLERANCE) -> tuple[str, ...]:
    """Returns a note if a fit has not converged."""
    # The limit is above the tolerance, because the search may stop early when float32 shows no further decrease.
    if excess <= 6 * tolerance:
        return ()
    return (f"The fit did not converge in {iterations} iterations; its loss is an estimated {excess:.1g} above the minimum.",)
