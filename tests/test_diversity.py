"""Diversity scores and neighbourhoods, against naive loops and closed forms."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sslshift import losses
from sslshift.shift import (
    TriangularFactor,
    coverage_of,
    density_coverage,
    effective_rank,
    effective_rank_of_factor,
    precision_recall,
    vendi_score,
    vendi_score_of_factor,
)

ORDERS = [0.5, 1, 2, math.inf]


# Vendi score and effective rank


def naive_vendi(x, order):
    """From the n x n kernel; eigenvalues that are 0 but for rounding are left out."""
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
    factor, unit = TriangularFactor.of(x), TriangularFactor.of(x, unit=True)
    for call, message in (
        (lambda: vendi_score(holed), "must be finite; those of image 2"),
        (lambda: effective_rank(holed), "must be finite; those of image 2"),
        (lambda: effective_rank(x[0]), "matrix"),
        (lambda: vendi_score(x[:0]), "non-empty"),
        (lambda: vendi_score(np.array([[1.0, 0], [0, 0]])), "image 1 are all 0"),
        (lambda: vendi_score(x, order=0), "order of a Vendi score must be above 0, not 0"),
        (lambda: vendi_score(x, order=math.nan), "above 0, not nan"),
        (lambda: vendi_score_of_factor(factor), "unit=True"),
        (lambda: factor.merge(unit), "unit vectors and of features"),
        (lambda: factor.merge(TriangularFactor.of(x, encoder="a1")), "different encoders"),
        (lambda: factor.merge(TriangularFactor.of(x[:, :2])), "3 and 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Neighbourhoods


def naive_radii(x, k):
    return [sorted(math.dist(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]


def naive_inside(centres, points, k):
    """[centres][points], with open balls that hold their centre."""

    def holds(centre, radius, point):
        return math.dist(centre, point) < radius or math.dist(centre, point) == 0

    balls = list(zip(centres, naive_radii(centres, k), strict=True))
    return np.array([[holds(centre, radius, point) for point in points] for centre, radius in balls])


@pytest.mark.parametrize(("n", "m", "dim", "k"), [(40, 60, 3, 5), (6, 7, 2, 5), (30, 12, 100, 1), (25, 25, 1, 3)])
def test_neighbourhoods_against_loops(n, m, dim, k, random):
    x, y = random.normal(size=(n, dim)) + 100, random.normal(size=(m, dim)) * 0.8 + 100.2
    x_holds, y_holds = naive_inside(x, y, k), naive_inside(y, x, k)
    precision, recall = precision_recall(x, y, neighbours=k)
    assert (precision, recall) == (x_holds.any(axis=0).mean(), y_holds.any(axis=0).mean())
    density, coverage = density_coverage(x, y, neighbours=k)
    assert density == pytest.approx(x_holds.sum() / (k * m), rel=1e-12)
    assert coverage == x_holds.any(axis=1).mean()
    near = coverage_of(x, y, neighbours=k)
    assert (near.target, near.source) == (coverage, precision)


def test_neighbourhoods_over_many_tiles(random):
    x, y = random.normal(size=(1300, 4)), random.normal(size=(4500, 4)) + 0.7
    squares = np.square(x[:, None] - y).sum(axis=2)
    radii = np.sort(np.square(x[:, None] - x).sum(axis=2), axis=1)[:, 5]
    holds = squares < radii[:, None]
    assert density_coverage(x, y) == pytest.approx((holds.sum() / (5 * 4500), holds.any(axis=1).mean()), rel=1e-12)
    radii = np.array([np.sort(np.square(row - y).sum(axis=1))[5] for row in y])
    expected = holds.any(axis=0).mean(), (squares < radii).any(axis=1).mean()
    assert precision_recall(x, y) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float64, (9, 2), elements=st.integers(-2, 2)),
    arrays(np.float64, (7, 2), elements=st.integers(-2, 2)),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e3, 1 / 3]),
)
def test_ties_and_copies_are_decided_exactly(x, y, k, offset):
    # On a grid many images lie exactly on the border of a ball, and are out; copies of a centre are in.
    expected = naive_inside((x * 3).tolist(), (y * 3).tolist(), k), naive_inside((y * 3).tolist(), (x * 3).tolist(), k)
    scale = 3 if offset == 1e3 else 1
    found = density_coverage(x * scale + offset, y * scale + offset, neighbours=k)
    if offset != 1 / 3:
        assert found == pytest.approx((expected[0].sum() / (k * 7), expected[0].any(axis=1).mean()), rel=1e-12)
        shares = precision_recall(x * scale + offset, y * scale + offset, neighbours=k)
        assert shares == (expected[0].any(axis=0).mean(), expected[1].any(axis=0).mean())
    # Off the grid borders are where rounding puts them, the same for both sides: a set holds itself whatever the copies.
    assert precision_recall(x + offset, x + offset, neighbours=k) == (1.0, 1.0)
    assert density_coverage(x + offset, x + offset, neighbours=k).coverage == 1.0


def test_a_set_without_copies_has_density_1_in_itself_and_no_order(random):
    x, y = random.normal(size=(60, 5)) * 1e-3 + 1, random.normal(size=(50, 5)) * 1e-3 + 1
    assert density_coverage(x, x) == (1.0, 1.0)
    assert precision_recall(random.permutation(x), random.permutation(y)) == precision_recall(x, y)
    for scale in (1e-6, 1e6):
        assert density_coverage(x * scale, y * scale) == density_coverage(x, y)
    assert precision_recall(x, y)[::-1] == precision_recall(y, x)


def test_scores_of_samples_of_one_distribution(random):
    found = [density_coverage(*random.normal(size=(2, 400, 3))) for _ in range(20)]
    assert np.mean([each.density for each in found]) == pytest.approx(1, abs=0.02)
    assert np.mean([each.coverage for each in found]) == pytest.approx(1 - 2**-5, abs=0.01)
    far = random.normal(size=(50, 3)) + 100
    x = random.normal(size=(80, 3))
    assert precision_recall(x, far) == (0, 0)
    assert density_coverage(x, far) == (0, 0)


def test_coverage_tells_a_missing_kind_from_useless_images(random):
    clothes, digits, noise = (random.normal(size=(100, 4)) + offset for offset in (0, 50, 500))
    target = np.concatenate([clothes[:50], digits[:50]])
    covered = coverage_of(target, np.concatenate([clothes[50:], noise]))
    assert 0.4 < covered.target <= 0.5
    assert 0.3 < covered.source < 1 / 3 + 0.01


def test_neighbourhoods_refuse_too_few_images(random):
    x = random.normal(size=(10, 3))
    for call, message in (
        (lambda: precision_recall(x, x[:5]), "5 neighbours needs at least 6 images on each side, not 10 and 5"),
        (lambda: density_coverage(x[:5], x), "5 neighbours needs at least 6 and 1 images, not 5 and 10"),
        (lambda: coverage_of(x, x, neighbours=10), "at least 11 and 1 images, not 10 and 10"),
        (lambda: precision_recall(x, x, neighbours=0), "at least one neighbour, not 0"),
        (lambda: density_coverage(x, x[:, :2]), "3 and 2 dimensions"),
        (lambda: coverage_of(x, np.where(x == x[4, 1], np.inf, x)), "must be finite; those of image 4"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert density_coverage(x, x[:1]).coverage > 0


def test_memory_is_no_matrix_of_all_pairs(random):
    x, y = random.normal(size=(6000, 4)), random.normal(size=(6000, 4))
    tracemalloc.start()
    density_coverage(x, y)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One float64 matrix of all pairs would be 288 MB.
    assert most < 120e6


def test_memory_of_diversity_does_not_grow_with_the_number_of_images(random):
    x = random.normal(size=(600_000, 8)).astype(np.float32)
    peaks = []
    for part in (x[:300_000], x):
        tracemalloc.start()
        vendi_score(part)
        effective_rank(part)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
