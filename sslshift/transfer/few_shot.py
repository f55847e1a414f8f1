"""Few-shot classification: logistic regression on a few labelled images of each class, which are drawn several times."""

import dataclasses

import jax
import numpy as np

from sslshift.data.permutation import Order, permute_each
from sslshift.transfer.evaluation import Outcome, Splits, best_index, fit_standardiser, grid_edge_notes, score
from sslshift.transfer.linear_probe import ITERATIONS, TOLERANCE, convergence_notes, require_penalties
from sslshift.transfer.logistic import fit_regressions
from sslshift.transfer.metrics import Metric

# Seed of the orders that draw the images: the same for every encoder, so that differences of encoders are paired over draws.
_DRAW_KEY = 5


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Logistic regression on a few training images of each class, on features standardised by the whole training split.

    The training images are drawn `draws` times from the labels only, so that every encoder gets the same images. For each
    number of shots, one l2 penalty is chosen by the metric on the validation split, the mean over draws.

    Attributes:
      shots: numbers of images of each class.
      draws: number of draws.
      strengths: l2 penalties above 0 to choose from; the objective is mean loss + penalty / 2 * |weights|^2.

    References:
      Kolesnikov et al., `Big Transfer (BiT): General Visual Representation Learning <https://arxiv.org/abs/1912.11370>`_, 2020
      (fixed few-shot subsets)
    """

    shots: tuple[int, ...] = (1, 5, 10, 50)
    draws: int = 20
    # Not renamed to l2_penalties: records of finished evaluations and --evaluation_options contain the name.
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

    def __post_init__(self):
        require_penalties(self.strengths)
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots) or self.draws < 1:
            raise ValueError(
                f"Expected different numbers of shots of at least 1, and at least 1 draw, got {self.shots} and {self.draws}."
            )

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        """Returns an outcome `few_shot_K` for each number K of shots; with a note instead of predictions if K is too large."""
        return {f"few_shot_{shots}": self._of(shots, splits, metric) for shots in self.shots}

    def _of(self, shots: int, splits: Splits, metric: Metric) -> Outcome:
        train, validation, test, classes = splits
        missing = _missing(shots, train.labels)
        if missing:
            return Outcome.excluded(metric, splits, missing)
        # Standardised by the whole training split (without labels), because a few images give poor deviations.
        standardiser = fit_standardiser(train.features)
        chosen = draw_shots(train.labels, shots, self.draws)
        found = fit_regressions(
            _drawn(train.features, chosen, standardiser),
            train.labels[chosen],
            classes=classes,
            l2_penalties=self.strengths,
            iterations=ITERATIONS,
            tolerance=TOLERANCE,
        )
        grid = found.grid(standardiser(validation.features))
        values = np.array([[score(metric, each, validation) for each in scores] for scores in grid]).mean(axis=1)
        choice = best_index(values)
        penalty = self.strengths[choice]
        notes = grid_edge_notes("l2 penalty", self.strengths, penalty)
        tested, excess = found.solution(standardiser(test.features), choice)
        # The largest excess of all draws is used, because a mean could hide a draw that did not converge.
        notes += convergence_notes(excess.max(), ITERATIONS)
        predictions = np.stack([metric.decide(each) for each in tested])
        return Outcome(predictions, float(values[choice]), {"strength": penalty}, notes)


@jax.jit
def _drawn(features, chosen, standardiser):
    return standardiser(features[chosen])


def draw_shots(labels: np.ndarray, shots: int, draws: int) -> np.ndarray:
    """Returns for each draw the positions of `shots` images of each present class, `[draws, classes * shots]`.

    A draw depends only on its number and the labels. A draw with fewer shots is a subset of the same draw with more shots.
    """
    there, counts = np.unique(labels, return_counts=True)
    # The order of a class is a keyed bijection, and a draw takes its first elements.
    orders = tuple(Order(int(count), (_DRAW_KEY, int(each))) for each, count in zip(there, counts, strict=True))
    which = np.arange(len(there))[:, None]
    draw = np.arange(draws)[:, None, None]
    position = np.broadcast_to(np.arange(shots), (draws, len(there), shots))
    drawn = permute_each(position, which, orders, tweak=draw)
    # Position of the first image of each class in the images sorted by label.
    begins = (np.cumsum(counts) - counts)[:, None]
    return np.argsort(labels, kind="stable")[begins + drawn].reshape(draws, -1)


def _missing(shots: int, labels: np.ndarray) -> str:
    """Returns the reason why this number of shots cannot be drawn; empty if it can."""
    if labels.ndim == 2:
        return "Few-shot draws are not defined where an image may have several labels."
    there, counts = np.unique(labels, return_counts=True)
    if counts.min() >= shots:
        return ""
    return f"Excluded: class {there[counts.argmin()]} has {counts.min():,} training images, fewer than {shots:,}."
