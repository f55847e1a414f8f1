"""The proxy A-distance, against scikit-learn and the best classifier there is."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from sslshift.shift import proxy_a_distance
from sslshift.shift.distances.proxy_a import _chosen, _folds, classifier_two_sample

KEY = jax.random.key(0)
OTHER_KEY = jax.random.key(1)


def test_proxy_a_of_two_gaussians_is_that_of_the_best_classifier(random):
    for shift in (0.5, 1.5):
        x = random.normal(size=(6000, 2))
        y = random.normal(size=(6000, 2)) + np.array([shift, 0.0])
        best = norm.cdf(-shift / 2)
        result = classifier_two_sample(x, y, key=KEY)
        # Four standard errors of a share among 12,000.
        assert result.error == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / 12_000))
        assert result.distance == pytest.approx(2 * (1 - 2 * result.error))
        assert proxy_a_distance(x, y, key=KEY) == result.distance
        assert result.images == 6000


@pytest.mark.parametrize(("folds", "strength"), [(2, 0.1), (3, 0.01)])
def test_proxy_a_against_scikit_learn_on_the_same_folds(folds, strength, random):
    x = random.normal(size=(90, 4)) * [1, 5, 1, 0] + 3
    y = random.normal(size=(120, 4)) * [1, 5, 1, 0] + [4, 3, 3, 3]
    (x_kept, x_tags), (y_kept, y_tags) = _chosen(x, y, KEY)
    assert len(x_kept) == len(y_kept) == 90
    fold_of = _folds(x_tags, y_tags, folds)
    errors = []
    losses = []
    for fold in range(folds):
        assert [np.sum(each == fold) for each in fold_of] == [90 // folds] * 2
        fitted, held = (
            (np.concatenate([x_kept[chosen[0]], y_kept[chosen[1]]]), np.repeat([0, 1], [each.sum() for each in chosen]))
            for chosen in ([each != fold for each in fold_of], [each == fold for each in fold_of])
        )
        scaler = StandardScaler().fit(fitted[0])
        # Two columns of weights, -w / 2 and w / 2, have half the penalty of the one column w.
        model = LogisticRegression(C=2 / (strength * len(fitted[1])), tol=1e-9, max_iter=2000)
        model.fit(scaler.transform(fitted[0]), fitted[1])
        probabilities = model.predict_proba(scaler.transform(held[0]))
        errors.append(np.mean(probabilities.argmax(axis=1) != held[1]))
        losses.append(log_loss(held[1], probabilities))
    result = classifier_two_sample(x, y, key=KEY, folds=folds, strength=strength)
    assert result.error == pytest.approx(np.mean(errors), abs=0.5 / 180)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-3)


def test_proxy_a_learns_nothing_of_what_it_is_judged_on(random):
    # 40 images on each side, each 20 times, in many dimensions: a split between copies would tell all of them apart.
    x, y = np.repeat(random.normal(size=(2, 40, 200)), 20, axis=1)
    result = classifier_two_sample(x, y, key=KEY)
    assert result.error > 0.3
    split = np.arange(800) % 2 == 0
    leaky = LogisticRegression(C=100.0).fit(np.concatenate([x[split], y[split]]), np.repeat([0, 1], 400))
    assert leaky.score(np.concatenate([x[~split], y[~split]]), np.repeat([0, 1], 400)) == 1.0
    # Images on both sides are in one fold too, or a classifier would learn to misclassify them.
    z = random.normal(size=(60, 200))
    assert classifier_two_sample(z, z, key=KEY).error == 0.5


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint64, 12, elements=st.integers(0, 30)), arrays(np.uint64, 9, elements=st.integers(0, 30)), st.integers(2, 4))
def test_folds_keep_equal_images_together_and_are_dealt_evenly(x, y, folds):
    if min(len(set(x)), len(set(y))) < folds:
        with pytest.raises(ValueError, match="different images a side"):
            _folds(x, y, folds)
        return
    fold_of = {}
    for tags, dealt in zip((x, y), _folds(x, y, folds), strict=True):
        for tag, fold in zip(tags.tolist(), dealt.tolist(), strict=True):
            assert fold_of.setdefault(tag, fold) == fold
        sizes = [len(set(tags[dealt == fold])) for fold in range(folds)]
        assert max(sizes) - min(sizes) <= 1


def test_proxy_a_minds_neither_imbalance_nor_chance(random):
    values = [
        proxy_a_distance(random.normal(size=(1000, 3)), random.normal(size=(100, 3)), key=jax.random.key(seed))
        for seed in range(20)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(20)
    assert min(values) < 0 < max(values)


def test_proxy_a_depends_on_its_key_alone(random):
    x = random.normal(size=(50, 3))
    y = random.normal(size=(70, 3)) + 0.5
    first = classifier_two_sample(x, y, key=KEY)
    assert classifier_two_sample(random.permutation(x), random.permutation(y), key=KEY) == first
    assert classifier_two_sample(x, y, key=OTHER_KEY) != first
    assert classifier_two_sample(x + 10, y, key=KEY)._replace(loss=0) == (2.0, 0.0, 0, 50)


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 1e6), (1.0, 1e9), (1e45, 0.0), (1e-45, 0.0)])
def test_proxy_a_sees_what_float32_does_not_hold(scale, offset, random):
    x = random.normal(size=(300, 5))
    y = random.normal(size=(300, 5)) + 0.6
    x[:, 4] = y[:, 4] = 0.1
    expected = classifier_two_sample(x, y, key=KEY)
    # Folds are drawn by content: they are others.
    found = classifier_two_sample(x * scale + offset, y * scale + offset, key=KEY)
    assert found.loss == pytest.approx(expected.loss, rel=0.03)
    assert found.error == pytest.approx(expected.error, abs=0.05)


def test_proxy_a_takes_no_rounding_for_a_difference(random):
    x, y = np.full((2, 50, 3), 5.0, np.float32)
    x[:, 1:], y[:, 1:] = random.normal(size=(2, 50, 2))
    expected = classifier_two_sample(x, y, key=KEY)
    # The last digit of a dead neuron, as another size of batch leaves it.
    moved = y.copy()
    moved[:, 0] = np.nextafter(np.float32(5), np.float32(6))
    assert classifier_two_sample(x, moved, key=KEY).error == pytest.approx(expected.error, abs=0.2)


def test_proxy_a_refuses_what_it_cannot_split(random):
    x = random.normal(size=(10, 3))
    for call, message in (
        (lambda: proxy_a_distance(x, x[:2], key=KEY, folds=3), "at least 3 images on each side, got 10 and 2"),
        (lambda: proxy_a_distance(x, np.ones((9, 3)), key=KEY), "2 different images a side, not 1 on the second"),
        (lambda: proxy_a_distance(x, x, key=KEY, folds=1), "at least 2 folds"),
        (lambda: proxy_a_distance(x, x, key=KEY, strength=0.0), "strength above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
