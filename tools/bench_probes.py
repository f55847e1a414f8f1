"""Benchmarks of probes against scikit-learn."""

import functools
import statistics
import warnings
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np
import scipy.optimize

from sslshift.transfer.evaluation import Split, Splits, fit_standardiser
from sslshift.transfer.few_shot import FewShot
from sslshift.transfer.linear_probe import LinearProbe, fit_probe
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.sgd_probe import SGDProbe

from .bench_knn import CLASSES, DIM, IMAGES, KINDS, TESTED, correlated, seconds_of

# scikit-learn stops when its loss exceeds ours by at most this value.
CLOSE = 1e-5


def loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, penalty: float) -> float:
    """Returns the probe's objective, in float64."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1)
    partition = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return float((partition - logits[np.arange(len(labels)), labels]).mean() + penalty / 2 * np.square(weights).sum())


def to_loss(features: np.ndarray, labels: np.ndarray, penalty: float, wanted: float) -> tuple[float, float]:
    """Returns the time in seconds that scikit-learn needs to reach a loss, and its final loss."""
    from sklearn.linear_model import LogisticRegression

    minimise = scipy.optimize.minimize

    def stopping(*arguments, **settings):
        def stop(intermediate_result):
            if intermediate_result.fun <= wanted:
                raise StopIteration

        return minimise(*arguments, **settings | {"callback": stop})

    model = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=100_000)
    # scikit-learn's tolerance applies to the gradient, not to the loss, so a callback stops it by the objective.
    with mock.patch("scipy.optimize.minimize", stopping), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        took = seconds_of(lambda: model.fit(features, labels))
    return took, loss(model.decision_function(features), labels, model.coef_, penalty)


def probe(show: Callable[..., None], repeats: int) -> None:
    """Prints the time of the linear probe beside that of scikit-learn for the same losses."""
    penalties = LinearProbe().strengths
    for kind, make in KINDS.items():
        features, labels = make(IMAGES, 1)
        fit = functools.partial(fit_probe, features, labels, classes=CLASSES, l2_penalties=penalties)
        jax.clear_caches()
        cold = seconds_of(fit)
        fitted = fit()
        standardised = np.asarray(fit_standardiser(features)(features))
        losses = [
            loss(standardised @ w + b, labels, w, s) for w, b, s in zip(fitted.weights, fitted.bias, penalties, strict=True)
        ]
        ours = []
        theirs = []
        apart = []
        # Only one timing where scikit-learn takes minutes.
        for _ in range(repeats if kind == "Gaussian" else 1):
            ours.append(seconds_of(fit))
            found = [to_loss(standardised, labels, s, wanted + CLOSE) for s, wanted in zip(penalties, losses, strict=True)]
            theirs.append(sum(took for took, _ in found))
            apart += [abs(ended - own) for (_, ended), own in zip(found, losses, strict=True)]
        ours, theirs = (statistics.median(each) for each in (ours, theirs))
        show(
            "linear probe",
            of=f"{len(penalties)} l2 penalties, {IMAGES:,} x {DIM} {kind}",
            cold_seconds=cold,
            seconds=ours,
            scikit_learn_seconds=theirs,
            cold_speedup=theirs / cold,
            speedup=theirs / ours,
            largest_difference_of_losses=max(apart),
        )


def other_probes(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float]) -> None:
    """Prints the time of the few-shot and SGD probes."""
    splits = Splits(*(Split(*correlated(count, seed)) for seed, count in enumerate((IMAGES, 5000, TESTED), 1)), CLASSES)
    for evaluation in (FewShot(), SGDProbe()):
        took = seconds(lambda each=evaluation: each(splits, METRICS["accuracy"]))
        show(type(evaluation).__name__, of=f"{IMAGES:,} x {DIM}, {CLASSES} classes", seconds=took)


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], repeats: int) -> None:
    """Prints the times of all probes, and the time of the linear probe relative to scikit-learn."""
    probe(show, repeats)
    other_probes(show, seconds)
