"""How an encoder is judged downstream: hyperparameters are chosen on a validation split, the test split is reported once."""

import copy
import dataclasses

import jax.numpy as jnp
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.permutation import permute
from sslshift.data.sources import Source
from sslshift.losses import effective_rank
from sslshift.transfer.features import Encoder, source_features
from sslshift.transfer.knn import knn_scores
from sslshift.transfer.linear_probe import fit_probe

NEIGHBOURS = (5, 20, 50)
TEMPERATURES = (0.02, 0.07, 0.2)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)

# The effective rank grows with the number of images: always this many, if there are as many.
_RANK_IMAGES = 1000

# Which seeded order draws the labelled images: the same for every run and every seed, so that scores are comparable.
_SPLIT_KEY = 3


@dataclasses.dataclass(frozen=True)
class Task:
    """A downstream task: labelled images in three splits that share no image.

    Attributes:
      train, validation, test: the source and the indices of each split.
      classes: number of classes.
      canvas: what images are brought to.
    """

    train: tuple[Source, np.ndarray]
    validation: tuple[Source, np.ndarray]
    test: tuple[Source, np.ndarray]
    classes: int
    canvas: Canvas


def make_task(source: Source, test: Source | None, canvas: Canvas, *, labelled: int) -> Task:
    """The splits of a task: a fifth of the labelled images is the validation split.

    Args:
      source: labelled images to learn from.
      test: labelled images of the test split; None: a fifth of `source`, drawn first.
      canvas: what images are brought to.
      labelled: training and validation images together, at most; 0: all there are.

    Raises:
      ValueError: no labels, fewer than two classes, or a split that lacks a class to learn.
    """
    if test is not None:
        if test.fingerprint == source.fingerprint:
            raise ValueError(
                f"{test.name} holds the images of {source.name}: a test split needs others (or none: it is held out)."
            )
        test = _with_classes_of(source, test)
    for each in filter(None, (source, test)):
        if each.labels is None:
            raise ValueError(f"{each.name} has no labels, which a downstream task needs (for folders: ?labels=folder).")
    held_out = len(source) // 5 if test is None else 0
    wanted = min(len(source), held_out + labelled) if labelled else len(source)
    order = permute(np.arange(wanted), len(source), _SPLIT_KEY)
    test_split = (source, np.sort(order[:held_out])) if test is None else (test, np.arange(len(test)))
    order = order[held_out:]
    validation, train = np.sort(order[: len(order) // 5]), np.sort(order[len(order) // 5 :])
    known = set(source.labels[train].tolist())
    if len(known) < 2:
        raise ValueError(f"{source.name}: the training split holds {len(known)} class; a task needs at least two.")
    for name, (each, indices) in (("validation", (source, validation)), ("test", test_split)):
        unknown = sorted(set(each.labels[indices].tolist()) - known)
        if unknown or not len(indices):
            what = f"classes {unknown} that no training image has" if unknown else "no image"
            raise ValueError(f"{each.name}: the {name} split holds {what}; label more images.")
    classes = max(known) + 1
    return Task((source, train), (source, validation), test_split, classes, canvas)


def _with_classes_of(source: Source, test: Source) -> Source:
    """The test source with its labels counted as the other source counts them, by the names of the classes."""
    if source.classes is None or test.classes is None or source.classes == test.classes:
        return test
    unknown = sorted(set(test.classes) - set(source.classes))
    if unknown:
        raise ValueError(
            f"{test.name}: {source.name} has no class {', '.join(unknown)}; the classes of both must be called alike."
        )
    renamed = copy.copy(test)
    renamed.labels = np.array([source.classes.index(name) for name in test.classes])[test.labels]
    renamed.classes = source.classes
    return renamed


def evaluate(encode: Encoder, task: Task) -> dict[str, float]:
    """Accuracies in [0, 1] of kNN and linear probe on the test split, and what the validation split chose and at which score.

    After the choice the probe is fitted, and neighbours are sought, on the training split alone. With the accuracies comes the
    effective rank of the centred features of up to 1,000 test images: a few where an encoder has collapsed.
    """
    features = {name: source_features(encode, *getattr(task, name), task.canvas) for name in ("train", "validation", "test")}
    labels = {name: getattr(task, name)[0].labels[getattr(task, name)[1]] for name in features}
    some = jnp.asarray(features["test"][:_RANK_IMAGES])
    # Centred: a direction that all features share separates nothing.
    rank = float(effective_rank(some - some.mean(axis=0)))
    return _knn(features, labels, task.classes) | _linear(features, labels, task.classes) | {"effective_rank": rank}


def _accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(scores.argmax(axis=1) == labels))


def _knn(features, labels, classes) -> dict[str, float]:
    def accuracy(split, neighbours, temperature):
        scores = knn_scores(
            features["train"], labels["train"], features[split], neighbours=neighbours, temperature=temperature, classes=classes
        )
        return _accuracy(scores, labels[split])

    grid = [(k, t) for k in sorted({min(k, len(labels["train"])) for k in NEIGHBOURS}) for t in TEMPERATURES]
    validation = {choice: accuracy("validation", *choice) for choice in grid}
    best = max(grid, key=validation.get)
    return {
        "knn": accuracy("test", *best),
        "knn_validation": validation[best],
        "knn_neighbours": best[0],
        "knn_temperature": best[1],
    }


def _linear(features, labels, classes) -> dict[str, float]:
    probe = fit_probe(features["train"], labels["train"], classes=classes, strengths=STRENGTHS)
    validation = [_accuracy(probe.scores(features["validation"], i), labels["validation"]) for i in range(len(STRENGTHS))]
    best = int(np.argmax(validation))
    return {
        "linear": _accuracy(probe.scores(features["test"], best), labels["test"]),
        "linear_validation": validation[best],
        "linear_strength": STRENGTHS[best],
    }
