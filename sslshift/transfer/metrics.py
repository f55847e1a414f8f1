"""Metrics of predictions. They accept weights of images, so that a bootstrap needs only a few matrix products."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

# Number of elements of a weight matrix that are processed at a time: 8 MiB of float64.
_AT_ONCE = 2**20

# Maps weights float64 [n, B], one column for each of B resamples, to the metric of each resample, [B].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric in [0, 1], larger is better.

    Example:
      >>> import numpy as np
      >>> metric = METRICS["accuracy"]
      >>> labels, predictions = np.array([0, 1, 1, 2]), metric.decide(np.eye(3)[[0, 1, 2, 2]])
      >>> metric.value(predictions, labels)
      0.75
      >>> metric.value(predictions, labels, weights=np.array([[1, 1, 1, 1], [2, 2, 0, 0]])).tolist()
      [0.75, 1.0]

    Attributes:
      name: key in `METRICS`.
      text: name in tables.
      axes: number of axes of one run's predictions: 1 for predicted classes `[n]`, 2 for scores `[n, classes]`.
      decide: function from scores `[n, classes]` to the predictions that are kept.
      prepare: function from checked predictions and labels to a `Statistic`; it does the work that does not depend on weights.
      by_class: whether the metric is a mean over classes, so that an image of a small class counts more than another.
      prepare_several: `prepare` for several encoders at once, with results `[encoders, B]`; None: one encoder after the other.
    """

    name: str
    text: str
    axes: int
    decide: Callable[[np.ndarray], np.ndarray]
    prepare: Callable[[np.ndarray, np.ndarray], Statistic]
    by_class: bool = True
    prepare_several: Callable[[Sequence[np.ndarray], np.ndarray], Statistic] | None = None

    def value(self, predictions: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
        """Returns the metric, or with weights the metric of each resample.

        A weight is the number of times that an image counts. A class without images in a resample is excluded from the mean of
        that resample. Memory beyond the arguments is bounded.

        Args:
          predictions: result of `decide` for one run.
          labels: int `[n]`, or 0/1 `[n, classes]` (only for average precision).
          weights: non-negative weights `[R, n]`.

        Returns:
          A float; with weights, float64 `[R]`, which is nan for a resample without any class.

        Raises:
          ValueError: shapes or labels do not fit each other or the metric.
        """
        statistic = self.statistic(predictions, labels)
        if weights is None:
            return float(statistic(np.ones((len(labels), 1)))[0])
        weights = np.asarray(weights)
        if weights.ndim != 2 or weights.shape[1] != len(labels):
            raise ValueError(f"{self.name}: expected weights [resamples, {len(labels)}], got shape {list(weights.shape)}.")
        if weights.size and weights.min() < 0:
            raise ValueError(
                f"{self.name}: expected weights of at least 0, got {weights.min()}; a weight counts draws of an image."
            )
        # Resamples are processed in blocks, because all at once would need a second copy of the weights.
        block = columns_at_once(len(labels))
        parts = [weights[start : start + block].T for start in range(0, len(weights), block)]
        return np.concatenate([np.empty(0), *(statistic(np.ascontiguousarray(part, np.float64)) for part in parts)])

    def statistic(self, predictions: np.ndarray, labels: np.ndarray) -> Statistic:
        """Returns the metric of these predictions as a function of weights float64 `[n, B]`, with one column for each resample.

        Raises:
          ValueError: shapes or labels do not fit each other or the metric.
        """
        return self.prepare(*self._fitting(predictions, labels))

    def statistics(self, several: Sequence[np.ndarray], labels: np.ndarray) -> Statistic:
        """Returns the metric of the predictions of several encoders, `[encoders, B]`, as a function of weights `[n, B]`.

        Raises:
          ValueError: shapes or labels do not fit each other or the metric.
        """
        fitting = [self._fitting(each, labels) for each in several]
        if self.prepare_several is not None:
            return self.prepare_several([predictions for predictions, _ in fitting], np.asarray(labels))
        statistics = [self.prepare(*each) for each in fitting]
        return lambda weights: np.stack([statistic(weights) for statistic in statistics])

    def _fitting(self, predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predictions = np.asarray(predictions)
        labels = np.asarray(labels)
        _require_fitting(self.name, self.axes, labels)
        if not len(labels):
            raise ValueError(f"{self.name}: expected at least one test image, got none.")
        if predictions.ndim != self.axes or len(predictions) != len(labels):
            expected = "classes [n]" if self.axes == 1 else "scores [n, classes]"
            raise ValueError(
                f"{self.name}: expected predicted {expected} for {len(labels)} labels, got shape {list(predictions.shape)}."
            )
        return predictions, labels

    def effective_images(self, labels: np.ndarray, groups: np.ndarray | None = None) -> float:
        """Returns the number of independent images, all of equal weight, that would determine the metric equally well.

        For a mean over classes, each class counts by the inverse of its number of images. In groups, such as the frames of a
        video, the images of one group are counted as one, and unequal groups by their share of the images (Kish).

        Example:
          >>> import numpy as np
          >>> METRICS["accuracy"].effective_images(np.array([0, 0, 0, 0, 0, 1]))
          6.0
          >>> METRICS["macro_f1"].effective_images(np.array([0, 0, 0, 1]))  # 2^2 / (1/3 + 1/1)
          3.0
          >>> METRICS["accuracy"].effective_images(np.zeros(6, int), np.array([7, 7, 8, 8, 9, 9]))
          3.0

        Args:
          labels: labels of the test images, int `[n]`, or 0/1 `[n, classes]`.
          groups: group of each image, `[n]`; None: images are independent.
        """
        labels = np.asarray(labels)
        images = float(len(labels))
        if self.by_class:
            sizes = np.unique(labels, return_counts=True)[1] if labels.ndim == 1 else labels.sum(axis=0, dtype=np.int64)
            sizes = sizes[sizes > 0]
            # An image with several labels is still one image.
            images = min(images, len(sizes) ** 2 / float((1 / sizes).sum()))
        if groups is not None:
            images *= len(labels) / float(np.square(np.unique(groups, return_counts=True)[1]).sum())
        return images


def columns_at_once(images: int) -> int:
    """Returns the number of resamples that are processed at a time."""
    return max(1, _AT_ONCE // images)


def metric_for(name: str, labels: np.ndarray) -> Metric:
    """Returns the metric of this name.

    Raises:
      ValueError: there is no such metric, or the metric needs one label for each image and images have several.
    """
    if name not in METRICS:
        # With a cutoff of 0, there is always a closest name.
        near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.0)[0]
        raise ValueError(f"Expected one of {', '.join(METRICS)} for the metric, got {name!r}. Did you mean {near}?")
    _require_fitting(name, METRICS[name].axes, np.asarray(labels))
    return METRICS[name]


def default_metric(labels: np.ndarray) -> str:
    """Returns the name of the usual metric: `accuracy`, or `average_precision` if images may have several labels."""
    return "accuracy" if np.ndim(labels) == 1 else "average_precision"


def _require_fitting(name: str, axes: int, labels: np.ndarray) -> None:
    if labels.ndim not in (1, 2):
        raise ValueError(f"{name}: expected labels int [n] or 0/1 [n, classes], got shape {list(labels.shape)}.")
    if labels.ndim == 2 and axes == 1:
        raise ValueError(f"{name} needs one label for each image, but these images may have several; use average_precision.")


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2 or np.isnan(scores).any():
        found = "nan among them" if scores.ndim == 2 else f"an array of shape {list(scores.shape)}"
        raise ValueError(f"Expected scores [n, classes] without nan, got {found}.")
    return scores


def _top_class(scores: np.ndarray) -> np.ndarray:
    return _checked(scores).argmax(axis=1)


def _scores(scores: np.ndarray) -> np.ndarray:
    return _checked(scores).astype(np.float32)


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> Statistic:
    statistic = _accuracies([predictions], labels)
    return lambda weights: statistic(weights)[0]


def _accuracies(several: Sequence[np.ndarray], labels: np.ndarray) -> Statistic:
    # All matrices here are sparse: for such thin matrices, a dense product is slower, because it starts the threads of BLAS.
    correct = sparse.csr_array(np.stack([predictions == labels for predictions in several])).astype(np.float64)
    # The weights are summed once for all encoders, since a sum takes as long as the product of one encoder.
    return lambda weights: _ratio(correct @ weights, weights.sum(axis=0))


def _mean_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> Statistic:
    label, _, correct = _members(predictions, labels)
    return lambda weights: _mean_over_classes(correct @ weights, label @ weights)


def _macro_f1(predictions: np.ndarray, labels: np.ndarray) -> Statistic:
    label, predicted, correct = _members(predictions, labels)
    # F1 = 2 TP / (images of the class + images predicted as it).
    return lambda weights: _mean_over_classes(2 * (correct @ weights), label @ weights + predicted @ weights)


def _members(predictions: np.ndarray, labels: np.ndarray) -> list[sparse.csr_array]:
    """Returns matrices `[classes, n]` of 0 and 1: images of a class by label, by prediction, and by both."""
    # Classes that occur only in predictions count in macro F1 with 0.
    classes, codes = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    label, predicted = np.split(codes, 2)
    every = np.arange(len(labels))
    hits = np.flatnonzero(label == predicted)
    return [
        sparse.csr_array((np.ones(len(columns)), (rows, columns)), shape=(len(classes), len(labels)))
        for rows, columns in ((label, every), (predicted, every), (label[hits], hits))
    ]


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> Statistic:
    """Returns the mean over classes of the area under the curve of precision against recall."""
    positive = _positives(labels, _checked(scores).shape[1])
    curves = [_curve(scores[:, i], positive[:, i]) for i in np.flatnonzero(positive.any(axis=0))]

    def statistic(weights):
        areas = np.array([_area(*curve, weights) for curve in curves])
        return _mean_over_classes(areas[:, 0], areas[:, 1])

    return statistic


def _positives(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns the classes of each image, bool `[n, classes]`; raises ValueError if labels and scores do not fit."""
    if labels.ndim == 1:
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"average_precision: expected labels from 0 to {classes - 1}, as the scores have, got up to {labels.max()}."
            )
        return labels[:, None] == np.arange(classes)
    if labels.shape[1] != classes:
        raise ValueError(f"average_precision: expected labels of {classes} classes, as the scores have, got {labels.shape[1]}.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "average_precision: expected labels [n, classes] of 0 and 1, where 1 marks a class that an image shows."
        )
    if not labels.any():
        raise ValueError("average_precision: no image has any label; give labelled test images.")
    return labels.astype(bool)


def _curve(scores: np.ndarray, positive: np.ndarray) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Returns matrices `[thresholds, n]` that sum weights from one threshold to the next: of all images, and of positive ones.

    Only thresholds at which recall increases are kept, because the others add no area.
    """
    # A stable sort keeps equal scores in the same order on every machine.
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    positive = positive[order]
    # Equal scores share one threshold, because their order would depend on the order of the images.
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1) + 1
    reached = np.concatenate([[0], np.cumsum(positive)[ends - 1]])
    kept = np.diff(reached) > 0
    every = np.concatenate([[0], ends[kept]])
    among_positive = np.concatenate([[0], reached[1:][kept]])
    return _sums(order, every), _sums(order[positive], among_positive)


def _sums(columns: np.ndarray, bounds: np.ndarray) -> sparse.csr_array:
    columns = columns[: bounds[-1]].astype(np.int32)
    shape = (len(bounds) - 1, int(columns.max()) + 1)
    return sparse.csr_array((np.ones(len(columns)), columns, bounds.astype(np.int32)), shape=shape)


def _area(every: sparse.csr_array, positive: sparse.csr_array, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the area under the precision-recall curve times the weight of the positive images, and that weight, `[B]`."""
    found = positive @ weights[: positive.shape[1]]
    precision = _ratio(np.cumsum(found, axis=0), np.cumsum(every @ weights[: every.shape[1]], axis=0), empty=0.0)
    return (found * precision).sum(axis=0), found.sum(axis=0)


def _mean_over_classes(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Returns the mean of the ratios `[classes, B]` over the classes whose denominator is not 0."""
    return _ratio(_ratio(numerators, denominators, empty=0.0).sum(axis=0), (denominators > 0).sum(axis=0))


def _ratio(numerators: np.ndarray, denominators: np.ndarray, empty: float = np.nan) -> np.ndarray:
    # The output is filled first, because NumPy does not write it where a denominator is 0.
    out = np.full(np.shape(numerators), empty)
    return np.divide(numerators, denominators, out=out, where=denominators > 0)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", 1, _top_class, _accuracy, by_class=False, prepare_several=_accuracies),
        Metric("mean_class_accuracy", "mean per-class accuracy", 1, _top_class, _mean_class_accuracy),
        Metric("macro_f1", "macro F1", 1, _top_class, _macro_f1),
        Metric("average_precision", "mean average precision", 2, _scores, _average_precision),
    )
}
