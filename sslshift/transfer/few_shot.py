"""Few-shot classification: logistic regression on a few labelled images of each class, drawn several times."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from sslshift.data.permutation import Order, permute_each
from sslshift.transfer.evaluation import Outcome, Splits, best_index, fit_standardiser, grid_edge_notes, score
from sslshift.transfer.linear_probe import ITERATIONS, TOLERANCE, convergence_notes, require_penalties
from sslshift.transfer.logistic import Regressions, fit_regressions
from sslshift.transfer.metrics import Metric

# Seed of the orders that draw the images: the same for every encoder, so that differences of encoders are paired over draws.
_DRAW_KEY = 5


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Logistic regression on a few training images of each class, on features standardised by the whole training split.

    The training images are drawn `draws` times, by their labels alone: every encoder sees the same images. One l2 penalty is
    chosen for each number of shots, by the mean over draws of the metric on the validation split.

    Attributes:
      shots: numbers of images of each class.
      draws: number of draws.
      strengths: l2 penalties to choose from, above 0: of mean loss + penalty / 2 * |weights|^2.

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
        """Returns an outcome `few_shot_K` for each number K of shots; with a note and no predictions where K is too large."""
        return {f"few_shot_{shots}": self._of(shots, splits, metric) for shots in self.shots}

    def _of(self, shots: int, splits: Splits, metric: Metric) -> Outcome:
        train, validation, test, classes = splits
        missing = _missing(shots, train.labels)
        if missing:
            return Outcome.excluded(metric, splits, missing)
        # By the whole training split: the deviation of one image for each class would be 0. Labels are not used.
        standardiser = fit_standardiser(train.features)
        chosen = draw_shots(train.labels, shots, self.draws)
        found = fit_regressions(
            standardiser(train.features[chosen.ravel()]).reshape(*chosen.shape, -1),
            train.labels[chosen],
            classes=classes,
            l2_penalties=self.strengths,
            iterations=ITERATIONS,
            tolerance=TOLERANCE,
        )
        features = standardiser(validation.features)
        values = np.array(
            [
                [score(metric, each, validation) for each in _scores(found, features, place)]
                for place in range(len(self.strengths))
            ]
        ).mean(axis=1)
        choice = best_index(values)
        penalty = self.strengths[choice]
        notes = grid_edge_notes("l2 penalty", self.strengths, penalty)
        # The worst draw counts: the mean could hide one that did not converge.
        notes += convergence_notes(found.excess[:, choice].max(), ITERATIONS)
        predictions = np.stack([metric.decide(each) for each in _scores(found, standardiser(test.features), choice)])
        return Outcome(predictions, float(values[choice]), {"strength": penalty}, notes)


def draw_shots(labels: np.ndarray, shots: int, draws: int) -> np.ndarray:
    """Returns the places of `shots` images of each class that occurs, for each draw, `[draws, classes * shots]`.

    A draw depends on its number and the labels alone. With fewer shots it is a subset of the same draw with more.
    """
    there, counts = np.unique(labels, return_counts=True)
    # The order of a class is a keyed bijection, of which fewer shots are the beginning.
    orders = tuple(Order(int(count), (_DRAW_KEY, int(each))) for each, count in zip(there, counts, strict=True))
    which = np.arange(len(there))[:, None]
    draw = np.arange(draws)[:, None, None]
    position = np.broadcast_to(np.arange(shots), (draws, len(there), shots))
    drawn = permute_each(position, which, orders, tweak=draw)
    # The first place of each class among the images in order of their labels.
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


def _scores(found: Regressions, features: np.ndarray, place: int) -> Iterator[np.ndarray]:
    """Yields the logits `[n, classes]` of each draw with the penalty at this place."""
    return (features @ weights[place] + bias[place] for weights, bias in zip(found.weights, found.bias, strict=True))
