"""Checks of the evaluations: scores on small clusters against NumPy."""

import dataclasses
from pathlib import Path

import numpy as np

from sslshift.doctor.findings import Check, Finding, agreement
from sslshift.doctor.references import logistic_regression, sgd_classifier, standardised, vote_shares
from sslshift.transfer.evaluation import Split, Splits
from sslshift.transfer.few_shot import draw_shots
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import EVALUATIONS
from sslshift.transfer.sgd_probe import order

CLASSES = 4
NEIGHBOURS = 20
_TEMPERATURE = 0.2
# At this l2 penalty, the accuracy of the search for the minimum determines the scores well.
_PENALTY = 0.3
_RATE = 0.1
_EPOCHS = 4
_BATCH = 100
# Predictions of this metric are scores, which are compared in place of classes.
_SCORES = METRICS["average_precision"]


def clusters() -> Splits:
    """Returns overlapping clusters of features, such that no rounding of float32 changes the 20 nearest neighbours."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(CLASSES, 16))
    parts = []
    for count in (400, 100, 100):
        labels = np.arange(count) % CLASSES
        parts.append(Split((centres[labels] + random.normal(size=(count, 16))).astype(np.float32), labels))
    return Splits(*parts, CLASSES)


def _scored(name: str, **settings) -> np.ndarray:
    """Returns the scores of an evaluation on the test split, with settings that leave nothing to choose."""
    (outcome,) = dataclasses.replace(EVALUATIONS[name], **settings)(clusters(), _SCORES).values()
    return outcome.predictions


def _centred(logits: np.ndarray) -> np.ndarray:
    """Returns logits less their mean over classes, which no probability depends on."""
    return logits - logits.mean(axis=-1, keepdims=True)


def check_knn(folder: Path) -> Finding:
    """Returns whether the vote shares of kNN agree with NumPy."""
    del folder
    train, _, test, _ = clusters()
    found = _scored("knn", neighbours=(NEIGHBOURS,), temperatures=(_TEMPERATURE,))
    expected = vote_shares(train.features, train.labels, test.features, CLASSES, NEIGHBOURS, _TEMPERATURE)
    return agreement(found, expected, 1e-4)


def check_linear(folder: Path) -> Finding:
    """Returns whether the logits of the linear probe agree with SciPy."""
    del folder
    train, _, test, _ = clusters()
    weights, bias = logistic_regression(standardised(train.features, train.features), train.labels, CLASSES, _PENALTY)
    expected = standardised(test.features, train.features) @ weights + bias
    return agreement(_centred(_scored("linear", strengths=(_PENALTY,))), _centred(expected), 1e-2)


def check_few_shot(folder: Path) -> Finding:
    """Returns whether the logits of few-shot classification agree with SciPy on the same draws."""
    del folder
    train, _, test, _ = clusters()
    features = standardised(train.features, train.features)
    fits = [logistic_regression(features[draw], train.labels[draw], CLASSES, 1.0) for draw in draw_shots(train.labels, 5, 2)]
    expected = np.stack([standardised(test.features, train.features) @ weights + bias for weights, bias in fits])
    return agreement(_centred(_scored("few_shot", shots=(5,), draws=2, strengths=(1.0,))), _centred(expected), 1e-2)


def check_sgd(folder: Path) -> Finding:
    """Returns whether the logits of the SGD probe agree with NumPy over the same batches."""
    del folder
    train, _, test, _ = clusters()
    batches = [np.asarray(order(epoch, len(train.labels))).reshape(-1, _BATCH) for epoch in range(_EPOCHS)]
    weights, bias = sgd_classifier(train.features, train.labels, CLASSES, np.concatenate(batches), _RATE, 0.9)
    found = _scored("sgd", learning_rates=(_RATE,), batch_size=_BATCH, epochs=_EPOCHS, decay_epochs=())
    return agreement(found, test.features @ weights + bias, 1e-4)


CHECKS: dict[str, Check] = {
    "evaluate/knn": check_knn,
    "evaluate/linear": check_linear,
    "evaluate/few_shot": check_few_shot,
    "evaluate/sgd": check_sgd,
}
