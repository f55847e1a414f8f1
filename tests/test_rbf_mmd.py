"""The MMD under a Gaussian kernel (CMMD) and its form from moments, against a loop in extended precision."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift.shift import frechet_distance, rbf_mmd, unit_rows
from sslshift.shift.distances.frechet import Moments
from sslshift.shift.distances.rbf_mmd import rbf_mmd_of_moments


def naive_rbf(x, y, sigma=10.0, dtype=np.longdouble):
    x, y = (np.asarray(side, dtype) for side in (x, y))
    x, y = (side / np.sqrt(np.square(side).sum(axis=1, keepdims=True)) for side in (x, y))

    def mean_kernel(a, b):
        return np.mean([[np.exp(-np.square(p - q).sum() / (2 * dtype(sigma) ** 2)) for q in b] for p in a], dtype=dtype)

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


@pytest.mark.parametrize("sigma", [10.0, 0.5])
def test_rbf_against_a_loop(sigma, random):
    x = random.normal(size=(17, 6)) * 100
    y = random.normal(size=(23, 6)) + 1
    assert rbf_mmd(x, y, sigma=sigma) == pytest.approx(float(naive_rbf(x, y, sigma)), rel=1e-9)
    assert rbf_mmd(x * random.uniform(0.1, 10, (17, 1)), y, sigma=sigma) == pytest.approx(rbf_mmd(x, y, sigma=sigma), rel=1e-9)


def test_rbf_keeps_its_digits_where_the_means_of_the_kernel_nearly_cancel(random):
    x = random.normal(size=(30, 5)) + 3
    y = x + 1e-4 * random.normal(size=5)
    expected = float(naive_rbf(x, y))
    assert 0 < expected < 1e-6
    # Means of the kernel are 1: in float64 their differences would keep 4 digits of this.
    assert rbf_mmd(x, y) == pytest.approx(expected, rel=1e-6)


def test_rbf_of_equal_sets_is_never_below_0(random):
    for _ in range(20):
        x = random.normal(size=(30, 5))
        assert 0 <= rbf_mmd(x, random.permutation(x)) < 1e-9


@pytest.mark.parametrize("sigma", [10.0, 3.0])
def test_rbf_of_moments_keeps_its_bound(sigma, random):
    for mean in (0.0, 0.5, 4.0):
        x = random.normal(size=(60, 4)) + mean
        y = -random.exponential(size=(90, 4))
        value, error, bound = rbf_mmd_of_moments(*(Moments.of(unit_rows(side)) for side in (x, y)), sigma=sigma)
        exact = rbf_mmd(x, y, sigma=sigma)
        assert abs(value - exact) <= bound
        assert bound < 4e-4 * (10 / sigma) ** 6
        assert math.isnan(error)
    parts = [Moments.of(unit_rows(part)) for part in (x[:7], x[7:])]
    merged = rbf_mmd_of_moments(parts[0].merge(parts[1]), Moments.of(unit_rows(y)), sigma=sigma)
    assert merged.value == pytest.approx(value, rel=1e-9)
    with pytest.raises(ValueError, match="rows of length 1"):
        rbf_mmd_of_moments(Moments.of(x), Moments.of(y))


@settings(deadline=None, max_examples=60)
@given(st.floats(-3, 5), st.floats(-1, 1), st.sampled_from([10.0, 3.0, 1.0, 0.4]), st.integers(0, 2**31))
def test_rbf_of_moments_is_the_surer_the_nearer_all_vectors_are(offset, shift, sigma, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(20, 4)) + 10**offset
    y = random.normal(size=(30, 4)) + 10**offset + shift
    value, _, bound = rbf_mmd_of_moments(*(Moments.of(unit_rows(side)) for side in (x, y)), sigma=sigma)
    assert abs(value - rbf_mmd(x, y, sigma=sigma)) <= bound
    if sigma == 10.0:
        assert bound < min(3.4e-4, 10 ** (-3 - 2 * offset) + 1e-13)


def test_rbf_is_nearly_blind_to_covariance_as_it_says(random):
    # Directions all around against two opposite ones: equal means, another world.
    around = unit_rows(random.normal(size=(500, 2)))
    around = np.concatenate([around, -around])
    line = np.concatenate([np.tile([1.0, 0.0], (500, 1)), np.tile([-1.0, 0.0], (500, 1))])
    moved = around + np.array([0.77, 0.0])
    assert frechet_distance(around, line) == pytest.approx(frechet_distance(around, moved), rel=0.1)
    assert rbf_mmd(around, line) < rbf_mmd(around, moved) / 20


def test_rbf_refuses_zeros_and_widths():
    x = np.eye(3)
    with pytest.raises(ValueError, match="image 1 are all 0"):
        rbf_mmd(x, np.array([[1.0, 0, 0], [0, 0, 0]]))
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma"):
            rbf_mmd(x, x, sigma=sigma)
