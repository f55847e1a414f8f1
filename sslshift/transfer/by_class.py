"""Scores of encoders within classes: which classes a gain comes from, and which ones lose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import EncoderPredictions, PairedScores
from sslshift.transfer.predictions import Predictions

# Test images below which classes are pooled: the interval of fewer images would say nothing.
FEWEST_IMAGES = 20
# Number of pooled classes that are named.
_NAMED = 3


class ClassGroup(NamedTuple):
    """A class, or several small classes together.

    Attributes:
      name: name of the class, or of the pooled classes.
      labels: numbers of the classes.
      images: number of test images of these classes.
    """

    name: str
    labels: tuple[int, ...]
    images: int


def class_groups(labels: np.ndarray, names: Sequence[str] | None) -> list[ClassGroup]:
    """Returns every class of the test images; classes with fewer than 20 images are pooled.

    Example:
      >>> labels = np.repeat([0, 1, 2, 3], [30, 5, 25, 10])
      >>> [tuple(each) for each in class_groups(labels, ("cat", "cow", "dog", "fox"))]
      [('cat', (0,), 30), ('dog', (2,), 25), ('2 classes of fewer than 20 images (cow, fox)', (1, 3), 15)]

    Args:
      labels: labels of the test images, int `[n]`, or 0/1 `[n, classes]`.
      names: names of the classes; None: they have numbers.
    """
    counts = np.bincount(labels) if labels.ndim == 1 else labels.sum(axis=0, dtype=np.int64)
    texts = [str(number) for number in range(len(counts))] if names is None else names
    groups = [
        ClassGroup(texts[number], (number,), int(counts[number])) for number in np.flatnonzero(counts >= FEWEST_IMAGES).tolist()
    ]
    small = np.flatnonzero((counts > 0) & (counts < FEWEST_IMAGES)).tolist()
    if small:
        some = ", ".join(texts[number] for number in small[:_NAMED]) + (", ..." if len(small) > _NAMED else "")
        title = f"{len(small)} classes of fewer than {FEWEST_IMAGES} images ({some})" if len(small) > 1 else some
        groups.append(ClassGroup(title, tuple(small), int(counts[small].sum())))
    return groups


def scores_within(members: Sequence[EncoderPredictions], evaluation: str, group: ClassGroup) -> PairedScores:
    """Returns the scores of encoders within a class: accuracy on its images, or its average precision among all images.

    Args:
      members: encoders with their predictions.
      evaluation: name of the evaluation; encoders without it are missing.
      group: the class.
    """
    known = [each for each in members if evaluation in each.predictions.predictions]
    within = [each._replace(predictions=_within(each.predictions, evaluation, group.labels)) for each in known]
    return PairedScores.of_members(within, evaluation)


def _within(predictions: Predictions, evaluation: str, classes: Sequence[int]) -> Predictions:
    own = predictions._replace(predictions={evaluation: predictions.predictions[evaluation]})
    if METRICS[own.metric].axes == 1:
        # The mean over classes of one class is its accuracy; F1 of one class would need the images of the others.
        return own._replace(metric="accuracy").at(own.indices[np.isin(own.labels, classes)])
    chosen = list(classes)
    labels = own.labels[:, chosen] if own.labels.ndim > 1 else (own.labels[:, None] == chosen).astype(np.uint8)
    return own._replace(labels=labels, predictions={evaluation: own.predictions[evaluation][..., chosen]})
