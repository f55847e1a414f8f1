"""kNN beside a bare matrix product, the linear probe beside scikit-learn, and the time of few-shot and SGD probes."""

import functools
import statistics
import time
import warnings
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import lax

from sslshift.transfer.evaluation import Split, Splits, fit_standardiser
from sslshift.transfer.few_shot import FewShot
from sslshift.transfer.knn import nearest
from sslshift.transfer.linear_probe import LinearProbe, fit_probe
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.sgd_probe import SGDProbe

IMAGES = 50_000
DIM = 512
CLASSES = 10
TESTED = 10_000
# Test images of one product: as many as `nearest` compares at a time.
BLOCK = 2**25 // IMAGES
# scikit-learn may end so far above our loss.
CLOSE = 1e-5


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternated(repeats: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each, taken in turn, so that what else the machine does meets all of them."""
    times = [[seconds_of(work) for work in works] for _ in range(repeats)]
    return [statistics.median(each) for each in zip(*times, strict=True)]


def gaussian(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of equal variance in all directions around one centre for each class."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, DIM)) * 2.5 / np.sqrt(DIM)
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    return (centres[labels] + random.standard_normal((count, DIM))).astype(np.float32), labels


def correlated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with variance 1 / k in the k-th direction, all turned: about what encoders make."""
    features, labels = gaussian(count, seed)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))
    return ((features / np.sqrt(np.arange(1, DIM + 1))) @ turn).astype(np.float32), labels


KINDS = {"Gaussian": gaussian, "of decaying spectrum": correlated}


def knn(show: Callable[..., None], repeats: int) -> None:
    train = gaussian(IMAGES, 1)[0]
    test = gaussian(TESTED, 2)[0]
    product = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST))

    def bare():
        on_device = jnp.asarray(train)
        for start in range(0, TESTED, BLOCK):
            # The last block is filled up, as `nearest` does.
            rows = np.resize(test[start : start + BLOCK], (BLOCK, DIM))
            jax.block_until_ready(product(jnp.asarray(rows), on_device))

    for neighbours in (50, 200):
        bare(), nearest(train, test[:BLOCK], neighbours)
        ours, theirs = alternated(repeats, lambda k=neighbours: nearest(train, test, k), bare)
        of = f"{TESTED:,} against {IMAGES:,} x {DIM}, k={neighbours}"
        show("knn", of=of, seconds=ours, product_seconds=theirs, ratio=ours / theirs)


def loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, strength: float) -> float:
    """The probe's objective, in float64."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1)
    partition = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return float((partition - logits[np.arange(len(labels)), labels]).mean() + strength / 2 * np.square(weights).sum())


def to_loss(features: np.ndarray, labels: np.ndarray, strength: float, wanted: float) -> tuple[float, float]:
    """Seconds that scikit-learn takes to this loss and no further, and the loss it ends at."""
    from sklearn.linear_model import LogisticRegression

    minimise = scipy.optimize.minimize

    def stopping(*arguments, **settings):
        def stop(intermediate_result):
            if intermediate_result.fun <= wanted:
                raise StopIteration

        return minimise(*arguments, **settings | {"callback": stop})

    model = LogisticRegression(C=1 / (strength * len(labels)), tol=1e-10, max_iter=100_000)
    # A tolerance of the gradient says nothing of the loss: what stops it is its own objective, which is ours.
    with mock.patch("scipy.optimize.minimize", stopping), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        took = seconds_of(lambda: model.fit(features, labels))
    return took, loss(model.decision_function(features), labels, model.coef_, strength)


def probe(show: Callable[..., None], repeats: int) -> None:
    strengths = LinearProbe().strengths
    for kind, make in KINDS.items():
        features, labels = make(IMAGES, 1)
        fit = functools.partial(fit_probe, features, labels, classes=CLASSES, l2_penalties=strengths)
        jax.clear_caches()
        cold = seconds_of(fit)
        fitted = fit()
        standardised = fit_standardiser(features)(features)
        losses = [
            loss(standardised @ w + b, labels, w, s) for w, b, s in zip(fitted.weights, fitted.bias, strengths, strict=True)
        ]
        ours = []
        theirs = []
        apart = []
        # Features that take scikit-learn minutes are given to it once.
        for _ in range(repeats if kind == "Gaussian" else 1):
            ours.append(seconds_of(fit))
            found = [to_loss(standardised, labels, s, wanted + CLOSE) for s, wanted in zip(strengths, losses, strict=True)]
            theirs.append(sum(took for took, _ in found))
            apart += [abs(ended - own) for (_, ended), own in zip(found, losses, strict=True)]
        ours, theirs = (statistics.median(each) for each in (ours, theirs))
        show(
            "linear probe",
            of=f"{len(strengths)} strengths, {IMAGES:,} x {DIM} {kind}",
            cold_seconds=cold,
            seconds=ours,
            scikit_learn_seconds=theirs,
            cold_speedup=theirs / cold,
            speedup=theirs / ours,
            largest_difference_of_losses=max(apart),
        )


def other_probes(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float]) -> None:
    splits = Splits(*(Split(*correlated(count, seed)) for seed, count in enumerate((IMAGES, 5000, TESTED), 1)), CLASSES)
    for evaluation in (FewShot(), SGDProbe()):
        took = seconds(lambda each=evaluation: each(splits, METRICS["accuracy"]))
        show(type(evaluation).__name__, of=f"{IMAGES:,} x {DIM}, {CLASSES} classes", seconds=took)


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], repeats: int) -> None:
    """Prints times, and the ratios to what they are measured by."""
    knn(show, repeats)
    probe(show, repeats)
    other_probes(show, seconds)
