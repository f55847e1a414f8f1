import dataclasses
import warnings

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from sslshift.transfer import metrics
from sslshift.transfer.metrics import METRICS, Metric, default_metric, metric_for


@st.composite
def labelled(draw, most=30):
    """Labels and predictions of up to 6 classes, several of which usually occur in one of them alone."""
    images = draw(st.integers(1, most))
    return tuple(draw(arrays.arrays(np.int64, images, elements=st.integers(0, 5))) for _ in range(2))


@st.composite
def scored(draw, most=30):
    """0/1 labels with at least one 1, and scores with many ties; some classes have no image."""
    shape = (draw(st.integers(1, most)), draw(st.integers(1, 4)))
    labels = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    labels[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = 1
    return labels, draw(arrays.arrays(np.float32, shape, elements=st.integers(-3, 3)))


def balanced(labels, predictions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of predictions of classes that no label has.
        return sklearn_metrics.balanced_accuracy_score(labels, predictions)


def sklearn_average_precision(labels, scores):
    some = labels.any(axis=0)
    return np.mean([sklearn_metrics.average_precision_score(y, s) for y, s in zip(labels.T[some], scores.T[some], strict=True)])


@settings(max_examples=60, deadline=None)
@given(labelled())
def test_metrics_of_classes_are_scikit_learns(case):
    labels, predictions = case
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predictions),
        "mean_class_accuracy": balanced(labels, predictions),
        "macro_f1": sklearn_metrics.f1_score(labels, predictions, average="macro"),
    }
    assert {name: METRICS[name].value(predictions, labels) for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_average_precision_is_scikit_learns_with_ties_and_absent_classes(case):
    labels, scores = case
    assert METRICS["average_precision"].value(scores, labels) == pytest.approx(
        sklearn_average_precision(labels, scores), abs=1e-12
    )


def test_average_precision_of_single_labels_is_that_of_their_one_hot_rows(random):
    labels = random.integers(0, 4, 50)
    scores = random.normal(size=(50, 5)).astype(np.float32)
    value = METRICS["average_precision"].value(scores, labels)
    assert value == METRICS["average_precision"].value(scores, np.eye(5, dtype=np.uint8)[labels])
    assert value == pytest.approx(sklearn_average_precision(np.eye(5)[labels], scores), abs=1e-12)


def test_metrics_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 3])
    predictions = np.array([0, 0, 1, 1, 2, 3])
    assert METRICS["accuracy"].value(predictions, labels) == 4 / 6
    assert METRICS["mean_class_accuracy"].value(predictions, labels) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # Class 2 is predicted once and never right: it counts in F1, with 0, and has no recall.
    assert METRICS["macro_f1"].value(predictions, labels) == pytest.approx((4 / 5 + 2 / 4 + 0 + 1) / 4)
    # In descending order 1, {0, 1}, 0, 1: precision 1 at recall 1/3, 2/3 at 2/3 (the tie is one threshold), 3/5 at 1.
    scores = np.array([[4], [3], [3], [2], [1]], np.float32)
    marks = np.array([[1], [0], [1], [0], [1]], np.uint8)
    assert METRICS["average_precision"].value(scores, marks) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_infinite_scores_tie_as_others_do():
    labels = np.array([[1], [0], [1], [0]])
    scores = np.array([[np.inf], [np.inf], [-np.inf], [-np.inf]], np.float32)
    assert METRICS["average_precision"].value(scores, labels) == pytest.approx((1 / 2 + 2 / 4) / 2)


@settings(max_examples=60, deadline=None)
@given(labelled(most=12), st.data())
def test_a_weight_is_so_many_copies_of_an_image(case, data):
    labels, predictions = case
    weights = data.draw(arrays.arrays(np.int64, (3, len(labels)), elements=st.integers(0, 3)))
    weights[weights.sum(axis=1) == 0] = 1
    for name in ("accuracy", "mean_class_accuracy", "macro_f1"):
        expected = [METRICS[name].value(np.repeat(predictions, row), np.repeat(labels, row)) for row in weights]
        np.testing.assert_allclose(METRICS[name].value(predictions, labels, weights), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(scored(most=12), st.data())
def test_a_weight_is_so_many_copies_of_an_image_in_average_precision(case, data):
    labels, scores = case
    weights = data.draw(arrays.arrays(np.int64, (3, len(labels)), elements=st.integers(0, 3)))
    weights[:, labels.any(axis=1).argmax()] += 1
    expected = [METRICS["average_precision"].value(*(np.repeat(x, row, axis=0) for x in (scores, labels))) for row in weights]
    np.testing.assert_allclose(METRICS["average_precision"].value(scores, labels, weights), expected, atol=1e-12)


def test_classes_that_a_resample_lacks_are_excluded_from_its_mean():
    labels = np.array([0, 1, 1])
    predictions = np.array([1, 1, 0])
    weights = [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(METRICS["mean_class_accuracy"].value(predictions, labels, weights), [0.5, 0.0, np.nan])
    np.testing.assert_array_equal(METRICS["accuracy"].value(predictions, labels, weights), [0.5, 0.0, np.nan])
    marks = np.array([[1, 0], [0, 1], [0, 0]])
    scores = np.array([[1, 2], [2, 1], [3, 0]], np.float32)
    # Of both classes: 1/3 and 1/2. Without the first image: 1 of the second class alone. With the third alone: nothing.
    values = METRICS["average_precision"].value(scores, marks, [[1, 1, 1], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_allclose(values, [(1 / 3 + 1 / 2) / 2, 1.0, np.nan])


def test_resamples_are_processed_in_blocks_of_bounded_size(monkeypatch, random):
    labels = random.integers(0, 3, 20)
    scores = random.normal(size=(20, 3))
    weights = random.integers(0, 3, (25, 20))
    whole = {name: metric.value(metric.decide(scores), labels, weights) for name, metric in METRICS.items()}
    monkeypatch.setattr(metrics, "_AT_ONCE", 7 * 20)
    widths = []

    def recording(predictions, labels):
        return lambda columns: widths.append(columns.shape) or columns.sum(axis=0)

    metric = dataclasses.replace(METRICS["accuracy"], prepare=recording)
    np.testing.assert_array_equal(metric.value(labels, labels, weights), weights.sum(axis=1))
    assert widths == [(20, 7), (20, 7), (20, 7), (20, 4)]
    for name, metric in METRICS.items():
        np.testing.assert_array_equal(metric.value(metric.decide(scores), labels, weights), whole[name])
        assert metric.value(metric.decide(scores), labels, weights[:0]).shape == (0,)


def test_decisions():
    scores = np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])
    for name in ("accuracy", "mean_class_accuracy", "macro_f1"):
        np.testing.assert_array_equal(METRICS[name].decide(scores), [1, 0])
    kept = METRICS["average_precision"].decide(scores)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, scores)


def test_the_default_metric_suits_its_labels():
    single = np.array([0, 1])
    several = np.array([[0, 1], [1, 1]])
    assert (default_metric(single), default_metric(several)) == ("accuracy", "average_precision")
    for labels in (single, several):
        assert isinstance(metric_for(default_metric(labels), labels), Metric)
    assert metric_for("average_precision", single) is METRICS["average_precision"]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_several_encoders_at_once_are_each_alone(random, metric):
    labels = random.integers(0, 3, 40)
    several = [metric.decide(random.normal(size=(40, 3)).astype(np.float32)) for _ in range(4)]
    weights = random.multinomial(40, np.full(40, 1 / 40), 30).T.astype(np.float64)
    together = metric.statistics(several, labels)(weights)
    assert together.shape == (4, 30)
    np.testing.assert_array_equal(together, [metric.value(each, labels, weights.T) for each in several])
    with pytest.raises(ValueError, match="for 39 labels"):
        metric.statistics(several, labels[1:])


ACCURACY = METRICS["accuracy"]
PRECISION = METRICS["average_precision"]
MARKS = np.array([[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metric_for("acuracy", np.zeros(3, int)), "for the metric, got 'acuracy'. Did you mean accuracy"),
        (lambda: metric_for("map", np.zeros(3, int)), "Did you mean"),
        (lambda: metric_for("macro_f1", MARKS), "macro_f1 needs one label for each image.*use average_precision"),
        (lambda: metric_for("accuracy", np.zeros((2, 2, 2))), r"got shape \[2, 2, 2\]"),
        (lambda: ACCURACY.value(np.zeros(2, int), MARKS), "use average_precision"),
        (lambda: ACCURACY.value(np.zeros(3, int), np.zeros(4, int)), r"predicted classes \[n\] for 4 labels, got shape \[3\]"),
        (lambda: ACCURACY.value(np.zeros((4, 2)), np.zeros(4, int)), r"classes \[n\] for 4 labels"),
        (lambda: ACCURACY.value(np.zeros(0, int), np.zeros(0, int)), "at least one test image"),
        (
            lambda: ACCURACY.value(np.zeros(2, int), np.zeros(2, int), np.ones(2)),
            r"expected weights \[resamples, 2\], got shape \[2\]",
        ),
        (lambda: ACCURACY.value(np.zeros(2, int), np.zeros(2, int), [[1, -1]]), "weights of at least 0, got -1"),
        (lambda: ACCURACY.decide(np.zeros(3)), r"shape \[3\]"),
        (lambda: ACCURACY.decide(np.array([[0.0, np.nan]])), "nan among them"),
        (lambda: PRECISION.decide(np.array([[0.0, np.nan]])), "nan among them"),
        (lambda: PRECISION.value(np.array([[0.0, np.nan], [1, 1]]), MARKS), "nan among them"),
        (lambda: PRECISION.value(np.zeros(2), MARKS), r"scores \[n, classes\] for 2 labels"),
        (lambda: PRECISION.value(np.zeros((2, 3)), MARKS), "labels of 3 classes, as the scores have, got 2"),
        (lambda: PRECISION.value(np.zeros((2, 3)), np.array([0, 3])), "labels from 0 to 2, as the scores have, got up to 3"),
        (lambda: PRECISION.value(np.zeros((2, 2)), MARKS * 2), r"labels \[n, classes\] of 0 and 1"),
        (lambda: PRECISION.value(np.zeros((2, 2)), MARKS * 0), "no image has any label"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
