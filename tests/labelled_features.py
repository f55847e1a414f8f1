"""Labelled features for tests of evaluations."""

import numpy as np

from sslshift.transfer.evaluation import Split, Splits


def clusters(random, count, dim=12, classes=4, spread=0.7):
    """Features and labels of Gaussian clusters; the centres are the same in every call."""
    centres = np.random.default_rng(7).normal(size=(classes, dim)) * spread
    labels = random.integers(0, classes, count)
    return (centres[labels] + random.normal(size=(count, dim))).astype(np.float32), labels


def several_labels(random, features, classes=3):
    """0/1 labels `[n, classes]` that depend on the features and on noise."""
    directions = np.random.default_rng(8).normal(size=(features.shape[1], classes))
    return (features @ directions + random.normal(size=(len(features), classes)) > 1).astype(np.uint8)


def cluster_splits(random):
    """Splits of 400, 150 and 170 images in four classes."""
    return Splits(*(Split(*clusters(random, count, spread=1.0)) for count in (400, 150, 170)), 4)


def with_several_labels(splits, random):
    """The same images, each with any of three labels."""
    return Splits(*(Split(each.features, several_labels(random, each.features)) for each in splits[:3]), 3)
