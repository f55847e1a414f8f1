"""The Vendi score and the effective rank, against the whole kernel, singular values and closed forms."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sslshift import losses
from sslshift.shift import effective_rank, vendi_score
from sslshift.shift.diversity import TriangularFactor, effective_rank_of_factor, vendi_score_of_factor

ORDERS = [0.5, 1, 2, math.inf]


def naive_vendi(x, order):
    """Computes the score from the n x n kernel, without eigenvalues that are 0 up to rounding."""
    kernel = np.array([[a @ b / math.sqrt((a @ a) * (b @ b)) for b in x] for a in x])
    shares = [share for share in np.linalg.eigvalsh(kernel / len(x)) if share > 1e-13]
    if order == 1:
        return math.exp(-sum(share * math.log(share) for share in shares))
    if math.isinf(order):
        return 1 / max(shares)
    return sum(share**order for share in shares) ** (1 / (1 - order))


@pytest.mark.parametrize("order", [*ORDERS, 0.1, 7.0])
@pytest.mark.parametrize(("n", "dim"), [(60, 7), (9, 50), (20, 20), (1, 4)])
def test_vendi_score_against_the_whole_kernel(n, dim, order, random):
    x = random.normal(size=(n, dim)) * random.uniform(0.1, 10, (n, 1)) + 0.3
    assert vendi_score(x, order=order) == pytest.approx(naive_vendi(x, order), rel=1e-6)


def test_vendi_score_counts_no_rounding_where_features_are_of_low_rank(random):
    x = random.normal(size=(80, 3)) @ random.normal(size=(3, 40))
    for order in (0.01, 0.1, 0.5, 1):
        assert vendi_score(x, order=order) == pytest.approx(naive_vendi(x, order), rel=1e-6)
        assert vendi_score(x, order=order) < 3


@pytest.mark.parametrize("order", ORDERS)
def test_vendi_score_of_kinds_by_hand(order):
    # Kinds that have nothing in common, 1, 1 and 2 images of them: shares 1/4, 1/4, 1/2.
    x = np.array([[3.0, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 5]])
    expected = {
        0.5: (2 * math.sqrt(1 / 4) + math.sqrt(1 / 2)) ** 2,
        1: math.exp(2 / 4 * math.log(4) + math.log(2) / 2),
        2: 1 / (1 / 16 + 1 / 16 + 1 / 4),
        math.inf: 2,
    }[order]
    assert vendi_score(x, order=order) == pytest.approx(expected, rel=1e-12)
    assert vendi_score(np.tile([[1.0, 2.0]], (9, 1)), order=order) == pytest.approx(1, rel=1e-6)
    assert vendi_score(np.eye(6), order=order) == pytest.approx(6, rel=1e-12)


def test_vendi_score_is_continuous_in_its_order_and_falls_with_it(random):
    x = random.normal(size=(30, 5)) + 1
    at_one = vendi_score(x)
    for order in (1 - 1e-5, 1 - 1e-9, 1 + 1e-9, 1 + 1e-5):
        assert vendi_score(x, order=order) == pytest.approx(at_one, rel=1e-4)
    assert vendi_score(x, order=1e4) == pytest.approx(vendi_score(x, order=math.inf), rel=1e-3)
    scores = [vendi_score(x, order=order) for order in (0.1, 0.5, 0.999, 1, 1.001, 2, 10, math.inf)]
    assert np.all(np.diff(scores) < 0)
    assert 1 < scores[-1] < scores[0] < 5


@settings(deadline=None, max_examples=40)
@given(arrays(np.float64, (8, 3), elements=st.integers(-5, 5)), st.sampled_from(ORDERS), st.integers(2, 4))
def test_vendi_score_ignores_copies_lengths_order_and_rotation(x, order, copies):
    x = x + np.array([0.5, 0.0, 0.0])
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    other = random.permutation(np.repeat(x, copies, axis=0)) * random.uniform(0.5, 2, (8 * copies, 1)) @ rotation
    assert vendi_score(other, order=order) == pytest.approx(vendi_score(x, order=order), rel=1e-6)


@pytest.mark.parametrize(("n", "dim"), [(50, 6), (5, 30), (700, 9)])
def test_effective_rank_is_that_of_the_losses_in_float64(n, dim, random):
    x = (random.normal(size=(n, dim)) @ np.diag(np.linspace(1, 10, dim)) + 1).astype(np.float32)
    shares = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    shares = shares / shares.sum() + 1e-7
    assert effective_rank(x) == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)), rel=1e-9)
    assert effective_rank(x) == pytest.approx(float(losses.effective_rank(x)), rel=1e-4)


def test_effective_rank_of_known_spectra(random):
    axes = np.linalg.qr(random.normal(size=(2000, 20)))[0]
    values = np.concatenate([[3.0, 1.0], np.zeros(18)])
    # Zeros count as 1e-7 each, by definition. Squaring would make 1e-8 times the largest of them.
    shares = values / 4 + 1e-7
    assert effective_rank(axes * values) == pytest.approx(math.exp(-np.sum(shares * np.log(shares))), rel=1e-10)
    assert effective_rank(np.zeros((4, 3))) == pytest.approx(1, abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 59), st.integers(0, 2**31))
def test_triangular_factors_of_parts_give_the_whole(cut, seed):
    random = np.random.default_rng(seed)
    # Half of the directions are 1e-7 as long: squares would lose them.
    x = random.normal(size=(60, 8)) * np.repeat([1.0, 1e-7], 4)
    for unit in (False, True):
        whole = TriangularFactor.of(x, unit=unit)
        merged = TriangularFactor.of(x[:cut], unit=unit).merge(TriangularFactor.of(x[cut:], unit=unit))
        assert (merged.count, merged.triangle.shape) == (60, (8, 8))
        np.testing.assert_allclose(merged.singular_values, whole.singular_values, rtol=1e-7)
        assert effective_rank_of_factor(merged) == pytest.approx(effective_rank_of_factor(whole), rel=1e-9)
    assert effective_rank(x) == effective_rank_of_factor(TriangularFactor.of(x))
    for order in ORDERS:
        assert vendi_score_of_factor(merged, order=order) == pytest.approx(vendi_score(x, order=order), rel=1e-9)


def test_triangular_factor_of_many_blocks_and_from_a_file(tmp_path, random):
    x = (random.normal(size=(5000, 6)) + 2).astype(np.float32)
    factor = TriangularFactor.of(x, unit=True, encoder="a1")
    units = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(factor.singular_values, np.linalg.svd(units, compute_uv=False), rtol=1e-10)
    factor.save(tmp_path / "factor.npz")
    loaded = TriangularFactor.load(tmp_path / "factor.npz")
    assert (loaded.count, loaded.unit, loaded.encoder) == (5000, True, "a1")
    np.testing.assert_array_equal(loaded.triangle, factor.triangle)


def test_diversity_refuses_what_it_cannot_score(random):
    x = random.normal(size=(5, 3))
    holed = np.where(np.arange(15).reshape(5, 3) == 7, np.nan, x)
    factor = TriangularFactor.of(x)
    unit = TriangularFactor.of(x, unit=True)
    for call, message in (
        (lambda: vendi_score(holed), "finite features, but features of image 2"),
        (lambda: effective_rank(holed), "finite features, but features of image 2"),
        (lambda: effective_rank(x[0]), "matrix"),
        (lambda: vendi_score(x[:0]), "non-empty"),
        (lambda: vendi_score(np.array([[1.0, 0], [0, 0]])), "image 1 are all 0"),
        (lambda: vendi_score(x, order=0), "order of a Vendi score must be above 0, not 0"),
        (lambda: vendi_score(x, order=math.nan), "above 0, not nan"),
        (lambda: vendi_score_of_factor(factor), "unit=True"),
        (lambda: factor.merge(unit), "unit vectors and of unscaled features"),
        (lambda: factor.merge(TriangularFactor.of(x, encoder="a1")), "different encoders"),
        (lambda: factor.merge(TriangularFactor.of(x[:, :2])), "3 and 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_memory_of_diversity_does_not_grow_with_the_number_of_images(random):
    x = random.normal(size=(70_000, 64)).astype(np.float32)
    peaks = []
    for part in (x[:35_000], x):
        tracemalloc.start()
        vendi_score(part)
        effective_rank(part)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
