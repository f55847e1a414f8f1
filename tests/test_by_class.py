"""Scores within classes: small classes are pooled, and the numbers are those of the images or columns of each class."""

import numpy as np
import pytest

from sslshift.transfer.by_class import ClassGroup, class_groups, scores_within
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import EncoderPredictions
from sslshift.transfer.predictions import Predictions


def members(metric, labels, several):
    indices = np.arange(len(labels))
    return [
        EncoderPredictions(kind, None, None, Predictions(metric, labels, indices, {"linear": predictions}))
        for kind, predictions in several.items()
    ]


def test_small_classes_are_pooled_and_named():
    labels = np.repeat(np.arange(6), [40, 3, 19, 20, 1, 2])
    found = class_groups(labels, ("ant", "bee", "cat", "dog", "eel", "fox"))
    assert found[:2] == [ClassGroup("ant", (0,), 40), ClassGroup("dog", (3,), 20)]
    assert found[2] == ("4 classes of fewer than 20 images (bee, cat, eel, ...)", (1, 2, 4, 5), 25)
    # A class without test images has no number, and a single small class has its own name.
    assert class_groups(np.repeat([0, 3], [30, 5]), None) == [("0", (0,), 30), ("3", (3,), 5)]
    several = np.zeros((50, 2), np.uint8)
    several[:30, 0] = several[10:, 1] = 1
    assert class_groups(several, None) == [("0", (0,), 30), ("1", (1,), 40)]


@pytest.mark.parametrize("metric", ["accuracy", "mean_class_accuracy", "macro_f1"])
def test_accuracy_within_a_class_is_the_share_of_its_images(metric):
    labels = np.repeat([0, 1], [40, 60])
    # 30 of the 40 images of class 0 are right by `a`, and 10 by `b`; class 1 differs too.
    a = np.where(np.arange(100) < 30, 0, 1)
    b = np.where(np.arange(100) < 10, 0, 2)
    scores = scores_within(members(metric, labels, {"a": a, "b": b}), "linear", ClassGroup("0", (0,), 40))
    assert scores.score("a").value == 0.75
    difference = scores.difference("a", "b")
    assert difference.value == pytest.approx(0.5)
    assert 0 < difference.low < 0.5 < difference.high
    both = scores_within(members(metric, labels, {"a": a}), "linear", ClassGroup("both", (0, 1), 100))
    assert both.score("a").value == pytest.approx(0.9)


@pytest.mark.parametrize("multi", [False, True])
def test_average_precision_within_a_class_is_that_of_its_column(multi):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    columns = (labels[:, None] == np.arange(3)).astype(np.uint8)
    outputs = random.normal(size=(200, 3)).astype(np.float32) + columns
    given = members("average_precision", columns if multi else labels, {"a": outputs})
    scores = scores_within(given, "linear", ClassGroup("1", (1,), int((labels == 1).sum())))
    expected = METRICS["average_precision"].value(outputs[:, [1]], columns[:, [1]])
    assert scores.score("a").value == pytest.approx(expected)
