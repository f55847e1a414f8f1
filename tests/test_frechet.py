"""The Frechet distance and its moments, against SciPy, singular values and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift.shift import frechet_distance
from sslshift.shift.distances.frechet import Moments


def test_frechet_against_scipys_matrix_root(random):
    x = random.normal(size=(300, 8)) @ random.normal(size=(8, 8))
    y = random.normal(size=(200, 8)) @ random.normal(size=(8, 8)) + 1
    sx = np.cov(x, rowvar=False)
    sy = np.cov(y, rowvar=False)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(sx + sy - 2 * scipy.linalg.sqrtm(sx @ sy).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_diagonal_gaussians_by_hand():
    # Two points at mean +- s have variance 2 s^2 (n - 1): standard deviations 1 and 3, means 0 and 2.
    x, y = (np.array([[m - s / np.sqrt(2)], [m + s / np.sqrt(2)]]) for m, s in ((0.0, 1.0), (2.0, 3.0)))
    assert frechet_distance(x, y) == pytest.approx(2.0**2 + (3.0 - 1.0) ** 2)


def test_frechet_of_a_set_to_itself_is_zero_even_when_singular(random):
    x = random.normal(size=(5, 20))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)


def test_frechet_of_float32_features_keeps_its_digits(random):
    x = (random.normal(size=(400, 16)) + 1000).astype(np.float32)
    y = (random.normal(size=(400, 16)) + 1000.5).astype(np.float32)
    shifted = frechet_distance(x.astype(np.float64) - 1000, y.astype(np.float64) - 1000)
    assert frechet_distance(x, y) == pytest.approx(shifted, rel=1e-9)


def gaussian_like(random, count, mean, covariance):
    """A sample whose mean and covariance are exactly these."""
    x = random.normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_that_share_axes_by_hand(random):
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0]
    a = np.array([4.0, 1, 9, 1e-6, 2, 1])
    b = np.array([1.0, 1, 4, 4e-6, 1e6, 0.25])
    x = gaussian_like(random, 100, np.zeros(6), axes @ np.diag(a) @ axes.T)
    y = gaussian_like(random, 41, np.arange(6.0), axes @ np.diag(b) @ axes.T)
    expected = 55 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def nuclear_frechet(x, y):
    """Computes the distance from singular values of the centred features' inner products, without a covariance or a root."""
    x_means = x.mean(axis=0)
    y_means = y.mean(axis=0)
    left = (x - x_means) / math.sqrt(len(x) - 1)
    right = (y - y_means) / math.sqrt(len(y) - 1)
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return np.square(x_means - y_means).sum() + np.square(left).sum() + np.square(right).sum() - 2 * cross


@pytest.mark.parametrize(("n", "m", "dim"), [(10, 30, 64), (200, 7, 40), (2, 2, 300), (64, 64, 64), (65, 500, 64)])
def test_frechet_of_fewer_images_than_dimensions(n, m, dim, random):
    x = random.normal(size=(n, dim)) + 5
    y = random.normal(size=(m, dim)) * np.linspace(0, 2, dim) + 5.1
    assert frechet_distance(x, y) == pytest.approx(nuclear_frechet(x, y), rel=1e-9)


@pytest.mark.parametrize("n", [5, 100, 400])
def test_frechet_of_nearly_equal_degenerate_sets_keeps_its_digits(n, random):
    x = random.normal(size=(n, 10)) @ random.normal(size=(10, 200))
    y = x * 1.001
    expected = np.square(0.001 * x.mean(axis=0)).sum() + 0.001**2 * x.var(axis=0, ddof=1).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 7), st.floats(-8, 0), st.integers(0, 2**31))
def test_frechet_is_precise_whatever_the_spectrum_and_however_near(decay, nearness, seed):
    # The quick way, by eigenvalues of squares, loses digits where spectra are steep or sets near, and must not be taken there.
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(random.normal(size=(24, 24)))[0] * np.logspace(0, -decay, 24)
    x = random.normal(size=(60, 24)) @ axes.T
    y = x + 10**nearness * random.normal(size=(60, 24)) @ axes.T
    trace = x.var(axis=0).sum() + y.var(axis=0).sum()
    assert frechet_distance(x, y) == pytest.approx(nuclear_frechet(x, y), rel=2e-8, abs=1e-13 * trace)


def test_frechet_takes_the_quick_way_where_it_is_precise(random, monkeypatch):
    x = random.normal(size=(400, 30))
    y = random.normal(size=(300, 30)) * 2
    expected = nuclear_frechet(x, y)
    with monkeypatch.context() as patched:
        patched.delattr(np.linalg, "svd")
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
        with pytest.raises(AttributeError):
            frechet_distance(x, x)


def test_frechet_of_constant_sets_is_the_distance_of_their_points():
    assert frechet_distance(np.ones((4, 3)), np.full((9, 3), 3.0)) == 12
    spread = np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    for sides in ((spread, np.ones((4, 2))), (np.ones((4, 2)), spread)):
        assert frechet_distance(*sides) == pytest.approx(3 + 1)
    spread = spread[:2]
    assert frechet_distance(np.ones((4, 2)), spread) == pytest.approx(1 + 2)


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.integers(0, 2**31))
def test_frechet_scales_with_the_square_and_ignores_a_common_shift(scale, shift, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(8, 5))
    y = random.normal(size=(11, 5)) * 2
    value = frechet_distance(x, y)
    assert frechet_distance(scale * x, scale * y) == pytest.approx(scale**2 * value, rel=1e-9)
    assert frechet_distance(x + shift, y + shift) == pytest.approx(value, rel=1e-6)


def test_moments_merge_in_any_grouping(random):
    x = random.normal(size=(100, 5)) + 3
    parts = [Moments.of(part) for part in np.split(x, [1, 40, 41])]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[0].merge(parts[1].merge(parts[2].merge(parts[3])))
    for merged in (left, right):
        assert merged.count == 100
        np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), rtol=1e-10)


def test_moments_of_many_blocks_are_those_of_the_whole(random):
    x = (random.normal(size=(300_000, 8)) + 100).astype(np.float32)
    moments = Moments.of(x)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False, dtype=np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.second_moment, x.T.astype(np.float64) @ x / len(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((5, 3)), np.ones((5, 4)), "3 and 4 dimensions"),
        (np.ones((1, 3)), np.ones((5, 3)), "at least two"),
        (np.full((5, 3), np.nan), np.ones((5, 3)), "finite"),
        (np.ones(5), np.ones(5), "matrix"),
    ],
)
def test_frechet_refuses_bad_features(x, y, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
