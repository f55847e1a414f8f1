"""Few-shot classification: logistic regression on a few labelled images of each class, drawn several times."""

import dataclasses

import numpy as np

from sslshift.data.permutation import Order, permute_each
from sslshift.transfer.evaluation import Outcome, Splits
from sslshift.transfer.inputs import standard_of
from sslshift.transfer.linear_probe import ITERATIONS, TOLERANCE, require_strengths, unfinished
from sslshift.transfer.logistic import Regressions, fit_regressions
from sslshift.transfer.metrics import Metric
from sslshift.transfer.selection import best, end_of_grid, nothing, score

# Which seeded orders draw the images: the same for every encoder, so that all see the same ones.
_DRAW_KEY = 5


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Logistic regression on so many training images of each class, on features standardised by the whole training split.

    The training images are drawn `draws` times, by their labels alone: every encoder sees the same. One strength of the penalty
    is chosen for each number of shots, by the mean over draws of the metric on the validation split.

    Attributes:
      shots: numbers of images of each class.
      draws: how often images are drawn.
      strengths: to choose from, above 0: of mean loss + strength / 2 * |weights|^2.

    References:
      Kolesnikov et al., `Big Transfer (BiT): General Visual Representation Learning <https://arxiv.org/abs/1912.11370>`_, 2020
      (fixed few-shot subsets)
    """

    shots: tuple[int, ...] = (1, 5, 10, 50)
    draws: int = 20
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

    def __post_init__(self):
        require_strengths(self.strengths)
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots) or self.draws < 1:
            raise ValueError(
                f"Few-shot needs different numbers of shots, and of draws, of at least 1, not {self.shots} and {self.draws}."
            )

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        """One outcome, `few_shot_K`, for each number K of shots; without predictions, and with a note, where K is too many."""
        return {f"few_shot_{shots}": self._of(shots, splits, metric) for shots in self.shots}

    def _of(self, shots: int, splits: Splits, metric: Metric) -> Outcome:
        train, validation, test, classes = splits
        missing = _missing(shots, train.labels)
        if missing:
            return nothing(metric, splits, missing)
        standard = standard_of(train.features)
        chosen = draw_shots(train.labels, shots, self.draws)
        found = fit_regressions(
            standard(train.features[chosen.ravel()]).reshape(*chosen.shape, -1),
            train.labels[chosen],
            classes=classes,
            strengths=self.strengths,
            iterations=ITERATIONS,
            tolerance=TOLERANCE,
        )
        features = standard(validation.features)
        values = np.array(
            [
                [score(metric, each, validation) for each in _scores(found, features, place)]
                for place in range(len(self.strengths))
            ]
        ).mean(axis=1)
        choice = best(values)
        strength = self.strengths[choice]
        notes = end_of_grid("strength", self.strengths, strength) + unfinished(found.excess[:, choice].max(), ITERATIONS)
        predictions = np.stack([metric.decide(each) for each in _scores(found, standard(test.features), choice)])
        return Outcome(predictions, float(values[choice]), {"strength": strength}, notes)


def draw_shots(labels: np.ndarray, shots: int, draws: int) -> np.ndarray:
    """Places of so many images of each class that occurs, drawn several times, `[draws, classes * shots]`.

    A draw depends on its number and the labels alone; with fewer shots it is a part of the same draw with more.
    """
    there, counts = np.unique(labels, return_counts=True)
    orders = tuple(Order(int(count), (_DRAW_KEY, int(each))) for each, count in zip(there, counts, strict=True))
    which = np.arange(len(there))[:, None]
    draw = np.arange(draws)[:, None, None]
    position = np.broadcast_to(np.arange(shots), (draws, len(there), shots))
    drawn = permute_each(position, which, orders, tweak=draw)
    # Of the images in order of their labels, where each class begins.
    begins = (np.cumsum(counts) - counts)[:, None]
    return np.argsort(labels, kind="stable")[begins + drawn].reshape(draws, -1)


def _missing(shots: int, labels: np.ndarray) -> str:
    if labels.ndim == 2:
        return "Few-shot draws are not defined where an image may have several labels."
    there, counts = np.unique(labels, return_counts=True)
    if counts.min() >= shots:
        return ""
    return f"Left out: class {there[counts.argmin()]} has {counts.min():,} training images, fewer than {shots:,}."


def _scores(found: Regressions, features: np.ndarray, strength: int):
    """Logits `[n, classes]` of each draw in turn."""
    return (features @ weights[strength] + bias[strength] for weights, bias in zip(found.weights, found.bias, strict=True))
