"""Distances between sets of features, against naive loops, SciPy, scikit-learn and closed forms."""

import itertools
import math
import tracemalloc

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from sslshift.shift import (
    Histograms,
    KernelBlocks,
    Moments,
    Projections,
    Ranges,
    classifier_two_sample,
    frechet_distance,
    frechet_distance_of_moments,
    kernel_distance,
    kernel_distance_estimate,
    proxy_a_distance,
    rbf_mmd,
    rbf_mmd_of_moments,
    sliced_wasserstein,
    sliced_wasserstein_estimate,
    sliced_wasserstein_of_projections,
    unit_rows,
    visual_dna_distance,
    visual_dna_distance_of_histograms,
    visual_dna_distances,
)
from sslshift.shift.proxy_a_distance import _chosen, _folds
from sslshift.shift.sliced_wasserstein import random_directions

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)

# Every distance with the fewest images that it takes on each side.
DISTANCES = {
    "frechet": (frechet_distance, 2),
    "kernel": (kernel_distance, 2),
    "kernel_estimate": (lambda x, y: kernel_distance_estimate(x, y).value, 3),
    "rbf": (rbf_mmd, 1),
    "visual_dna": (visual_dna_distance, 1),
    "sliced": (lambda x, y: sliced_wasserstein(x, y, key=KEY, directions=16), 1),
    "proxy_a": (lambda x, y: proxy_a_distance(x, y, key=KEY), 2),
}
each_distance = pytest.mark.parametrize(("distance", "least"), DISTANCES.values(), ids=DISTANCES)


# All distances


@each_distance
def test_order_of_rows_and_of_sides_does_not_matter(distance, least, random):
    del least
    x, y = random.normal(size=(37, 5)), random.normal(size=(53, 5)) * 1.5 + 0.3
    value = distance(x, y)
    assert distance(random.permutation(x), random.permutation(y)) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert distance(y, x) == pytest.approx(value, rel=1e-9, abs=1e-12)


@each_distance
def test_a_set_is_no_farther_from_itself_than_rounding(distance, least, random):
    del least
    x = random.normal(size=(30, 4)) @ random.normal(size=(4, 50)) + 3
    # The unbiased one has no diagonal: on equal sets it is below 0.
    value = distance(x, x.copy())
    assert value < 0 if distance in (kernel_distance, DISTANCES["kernel_estimate"][0]) else value == pytest.approx(0, abs=1e-9)


@each_distance
def test_float32_and_whole_numbers_are_taken_at_their_value(distance, least, random):
    del least
    x, y = random.integers(-9, 9, (2, 40, 3))
    value = distance(x.astype(np.float64), y.astype(np.float64) + 1)
    for dtype in (np.float32, np.float16, np.int16):
        assert distance(x.astype(dtype), (y + 1).astype(dtype)) == value


@each_distance
def test_bad_features_are_refused_in_one_sentence(distance, least, random):
    x = random.normal(size=(10, 3))
    holed, endless = x.copy(), x.copy()
    holed[7, 1], endless[2, 0] = np.nan, -np.inf
    for bad, message in (
        (holed, "must be finite; those of image 7"),
        (endless, "must be finite; those of image 2"),
        (x[:, :2], "dimensions"),
        (x[0], "matrix"),
        (x[:0], "non-empty matrix"),
        (x[:, :0], "non-empty matrix"),
        (x * 1j, "real numbers"),
        (x.astype(str), "real numbers"),
    ):
        for sides in ((x, bad), (bad, x)):
            with pytest.raises(ValueError, match=message) as raised:
                distance(*sides)
            assert "\n" not in str(raised.value)
    if least > 1:
        with pytest.raises(ValueError, match=rf"at least ({least}|two) images on each side, not {least - 1} and 10"):
            distance(x[: least - 1], x)
    assert math.isfinite(distance(x[:least], x))


# Frechet


def gaussian_like(random, count, mean, covariance):
    """A sample whose mean and covariance are exactly these."""
    x = random.normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_that_share_axes_by_hand(random):
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0]
    a, b = np.array([4.0, 1, 9, 1e-6, 2, 1]), np.array([1.0, 1, 4, 4e-6, 1e6, 0.25])
    x = gaussian_like(random, 100, np.zeros(6), axes @ np.diag(a) @ axes.T)
    y = gaussian_like(random, 41, np.arange(6.0), axes @ np.diag(b) @ axes.T)
    expected = 55 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def nuclear_frechet(x, y):
    """From the singular values of the centred features' inner products: no covariance, no root."""
    x_means, y_means = x.mean(axis=0), y.mean(axis=0)
    left, right = (x - x_means) / math.sqrt(len(x) - 1), (y - y_means) / math.sqrt(len(y) - 1)
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
    x, y = random.normal(size=(400, 30)), random.normal(size=(300, 30)) * 2
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
    x, y = random.normal(size=(8, 5)), random.normal(size=(11, 5)) * 2
    value = frechet_distance(x, y)
    assert frechet_distance(scale * x, scale * y) == pytest.approx(scale**2 * value, rel=1e-9)
    assert frechet_distance(x + shift, y + shift) == pytest.approx(value, rel=1e-6)


# Kernel distance


def naive_kernel_distance(x, y):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    x, y = x.tolist(), y.tolist()
    within = [
        sum(kernel(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j) / (len(side) * (len(side) - 1))
        for side in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize(("n", "m", "dim"), [(20, 31, 7), (2, 9, 100), (13, 2, 1)])
def test_kernel_distance_against_a_loop(n, m, dim, random):
    x, y = random.normal(size=(n, dim)) * 2 + 1, random.normal(size=(m, dim))
    assert kernel_distance(x, y) == pytest.approx(naive_kernel_distance(x, y), rel=1e-9)


def test_kernel_distance_is_the_same_over_many_tiles(random):
    x, y = random.normal(size=(1500, 4)) + 0.2, random.normal(size=(2600, 4))
    within = [np.sum((side @ side.T / 4 + 1) ** 3) - np.sum((np.square(side).sum(axis=1) / 4 + 1) ** 3) for side in (x, y)]
    expected = within[0] / (1500 * 1499) + within[1] / (2600 * 2599) - 2 * np.mean((x @ y.T / 4 + 1) ** 3)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def true_kernel_distance(shift, scale):
    """Between N(0, 1) and N(shift, scale^2): the cube's expectation is a sum over moments, 1 + 3 m1 m1' + 3 m2 m2' + m3 m3'."""
    first, second, third = shift, shift**2 + scale**2, shift**3 + 3 * shift * scale**2
    return 3 * first**2 + 3 * (second - 1) ** 2 + third**2


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.4, 1.3)])
def test_kernel_distance_is_unbiased_even_for_few_images(shift, scale, random):
    true = true_kernel_distance(shift, scale)
    values = [kernel_distance(random.normal(size=(5, 1)), random.normal(shift, scale, (8, 1))) for _ in range(4000)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - true) < 4 * error
    # The biased form, with the diagonal, would be off by (E k(x, x) - E k(x, x')) / 5 = 24 / 5 for x alone.
    assert 4 * error < 24 / 5


def test_the_standard_error_is_the_jackknife_and_near_the_truth(random):
    x, y = random.normal(size=(12, 3)), random.normal(size=(9, 3)) + 1
    variance = 0.0
    for side in (0, 1):
        values = []
        for left_out in range(len((x, y)[side])):
            sides = [x, y]
            sides[side] = np.delete(sides[side], left_out, axis=0)
            values.append(naive_kernel_distance(*sides))
        variance += (len(values) - 1) * np.var(values)
    value, error, bound = kernel_distance_estimate(x, y)
    assert value == pytest.approx(kernel_distance(x, y), rel=1e-12)
    assert error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert bound == 0

    draws = [kernel_distance_estimate(random.normal(size=(80, 2)), random.normal(size=(120, 2)) + 0.7) for _ in range(300)]
    spread = np.std([draw.value for draw in draws])
    assert np.sqrt(np.mean([draw.standard_error**2 for draw in draws])) == pytest.approx(spread, rel=0.2)


def test_kernel_blocks_are_unbiased_with_a_true_standard_error(random):
    true = true_kernel_distance(0.5, 1.2)
    estimates = [
        KernelBlocks.of(random.normal(size=(400, 1)), random.normal(0.5, 1.2, (460, 1)), key=KEY, size=20).estimate
        for _ in range(100)
    ]
    values, errors = np.array([(estimate.value, estimate.standard_error) for estimate in estimates]).T
    assert abs(values.mean() - true) < 4 * values.std() / 10
    assert math.sqrt(np.square(errors).mean()) == pytest.approx(values.std(), rel=0.3)


def test_kernel_blocks_by_hand_and_merged(random):
    x, y = random.normal(size=(25, 3)), random.normal(size=(34, 3)) + 1
    blocks = KernelBlocks.of(x, y, key=KEY, size=25)
    # One block holds all of x; of y it holds 25.
    assert blocks.blocks == 1
    assert math.isnan(blocks.estimate.standard_error)
    parts = [KernelBlocks.of(x, y, key=jax.random.key(seed), size=size) for seed, size in ((1, 5), (2, 5), (3, 12), (4, 12))]
    values = [[part.blocks, part.mean, part.scatter] for part in parts]
    assert [value[0] for value in values] == [5, 5, 2, 2]
    merged = parts[0].merge(parts[1])
    assert merged.mean == pytest.approx((parts[0].mean + parts[1].mean) / 2)
    between = 2.5 * (parts[0].mean - parts[1].mean) ** 2
    assert merged.scatter == pytest.approx(parts[0].scatter + parts[1].scatter + between)
    assert merged.estimate.standard_error == pytest.approx(math.sqrt(merged.scatter / 9 / 10))
    with pytest.raises(ValueError, match="blocks of 5 and of 12"):
        parts[0].merge(parts[2])
    with pytest.raises(ValueError, match="at least 1000 images on each side, not 25 and 34"):
        KernelBlocks.of(x, y, key=KEY)
    with pytest.raises(ValueError, match="at least 2 images a side, not 1"):
        KernelBlocks.of(x, y, key=KEY, size=1)


# RBF MMD


def naive_rbf(x, y, sigma=10.0, dtype=np.longdouble):
    x, y = (np.asarray(side, dtype) for side in (x, y))
    x, y = (side / np.sqrt(np.square(side).sum(axis=1, keepdims=True)) for side in (x, y))

    def mean_kernel(a, b):
        return np.mean([[np.exp(-np.square(p - q).sum() / (2 * dtype(sigma) ** 2)) for q in b] for p in a], dtype=dtype)

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


@pytest.mark.parametrize("sigma", [10.0, 0.5])
def test_rbf_against_a_loop(sigma, random):
    x, y = random.normal(size=(17, 6)) * 100, random.normal(size=(23, 6)) + 1
    assert rbf_mmd(x, y, sigma=sigma) == pytest.approx(float(naive_rbf(x, y, sigma)), rel=1e-9)
    assert rbf_mmd(x * random.uniform(0.1, 10, (17, 1)), y, sigma=sigma) == pytest.approx(rbf_mmd(x, y, sigma=sigma), rel=1e-9)


def test_rbf_keeps_its_digits_where_the_means_of_the_kernel_nearly_cancel(random):
    x = random.normal(size=(30, 5)) + 3
    y = x + 1e-4 * random.normal(size=5)
    expected = float(naive_rbf(x, y))
    assert 0 < expected < 1e-6
    # Means of the kernel are 1: in float64 their differences would keep 4 digits of this.
    assert rbf_mmd(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sigma", [10.0, 3.0])
def test_rbf_of_moments_keeps_its_bound(sigma, random):
    for mean in (0.0, 0.5, 4.0):
        x, y = random.normal(size=(60, 4)) + mean, -random.exponential(size=(90, 4))
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


# VisualDNA


def naive_visual_dna(x, y, low, high, bins):
    distances = []
    for a, b, minimum, maximum in zip(x.T, y.T, low, high, strict=True):
        edges = np.linspace(minimum, maximum, bins + 1)
        places = [np.clip(np.searchsorted(edges, side, "right") - 1, 0, bins - 1) for side in (a, b)]
        distances.append(wasserstein_distance(*places))
    return distances


@pytest.mark.parametrize(("n", "m", "bins"), [(300, 300, 1000), (50, 170, 1000), (1, 3, 10), (40, 40, 1)])
def test_visual_dna_against_scipys_earth_movers_distance(n, m, bins, random):
    x, y = random.normal(size=(n, 4)) * [1, 5, 0.1, 1], random.exponential(size=(m, 4))
    both = np.concatenate([x, y])
    expected = naive_visual_dna(x, y, both.min(axis=0), both.max(axis=0), bins)
    assert visual_dna_distance(x, y, bins=bins) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    # Ranges in which a third of the values does not lie.
    ranges = Ranges(np.full(4, -0.2), np.full(4, 0.5))
    expected = naive_visual_dna(x, y, ranges.minimum, ranges.maximum, bins)
    assert visual_dna_distance(x, y, ranges=ranges, bins=bins) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    by_neuron = visual_dna_distances(*(Histograms.of(side, ranges, bins=bins) for side in (x, y)))
    np.testing.assert_allclose(by_neuron, expected, rtol=1e-9, atol=1e-12)


def test_visual_dna_times_two_over_bins_is_wasserstein_1_on_minus_1_to_1(random):
    x, y = random.normal(size=(2, 500, 1))
    low, high = np.concatenate([x, y]).min(), np.concatenate([x, y]).max()
    ranges = Ranges(np.array([low]), np.array([high + 0.3]))
    width = 2 / (high + 0.3 - low)
    expected = wasserstein_distance(*((side[:, 0] - low) * width - 1 for side in (x, y + 0.3)))
    assert visual_dna_distance(x, y + 0.3, ranges=ranges, bins=20_000) * 2 / 20_000 == pytest.approx(expected, abs=2e-4)


def test_constant_neurons_add_nothing_and_ends_are_the_last_bins():
    x, y = np.array([[0.0, 3.0], [1.0, 3.0]]), np.array([[0.0, 3.0]])
    assert visual_dna_distance(x, y, bins=100) == (0.5 * 99) / 2
    ranges = Ranges(np.array([0.0, 3.0]), np.array([1.0, 3.0]))
    counts = Histograms.of(np.array([[-5.0, 9.0], [1.0, -9.0], [99.0, 3.0]]), ranges, bins=3).counts
    assert counts.tolist() == [[1, 0, 2], [3, 0, 0]]
    # The narrowest range there is.
    ranges = Ranges(np.array([0.0]), np.array([5e-324]))
    assert Histograms.of(np.array([[0.0], [5e-324], [9.0], [-9.0]]), ranges, bins=3).counts.tolist() == [[2, 0, 2]]


@settings(deadline=None, max_examples=30)
@given(arrays(np.float64, (12, 3), elements=st.floats(-1e6, 1e6)), st.integers(1, 11), st.integers(1, 50))
def test_histograms_of_parts_are_those_of_the_whole(x, cut, bins):
    ranges = Ranges.of(x[:cut]).merge(Ranges.of(x[cut:]))
    assert ranges.minimum.tolist() == x.min(axis=0).tolist()
    assert ranges.maximum.tolist() == x.max(axis=0).tolist()
    whole = Histograms.of(x, ranges, bins=bins)
    merged = Histograms.of(x[:cut], ranges, bins=bins).merge(Histograms.of(x[cut:], ranges, bins=bins))
    np.testing.assert_array_equal(whole.counts, merged.counts)
    assert whole.count == 12
    assert (whole.counts.sum(axis=1) == 12).all()
    assert visual_dna_distance_of_histograms(whole, merged) == 0


def test_counts_go_beyond_32_bits():
    ranges = Ranges(np.array([0.0]), np.array([1.0]))
    many = Histograms(np.array([[2**33, 0, 2**33]]), ranges)
    merged = many.merge(many)
    assert merged.counts.tolist() == [[2**34, 0, 2**34]]
    assert visual_dna_distance_of_histograms(merged, Histograms.of(np.array([[0.1]]), ranges, bins=3)) == 1.0


def test_histograms_of_other_encoders_ranges_or_bins_are_refused(random):
    x = random.normal(size=(20, 3))
    ranges = Ranges.of(x, encoder="a1")
    ours = Histograms.of(x, ranges, encoder="a1", bins=10)
    with pytest.raises(ValueError, match=r"^Features of different encoders cannot be compared: one is 'b2', the other 'a1'\.$"):
        Histograms.of(x, ranges, encoder="b2", bins=10)
    for theirs, message in (
        (Histograms.of(x, Ranges.of(x, encoder="b2"), bins=10), "different encoders"),
        (Histograms.of(x, Ranges.of(x + 1, encoder="a1"), bins=10), "different ranges"),
        (Histograms.of(x, ranges, bins=11), "10 and 11 bins"),
        (Histograms.of(x[:, :2], Ranges.of(x[:, :2], encoder="a1"), bins=10), "3 and 2 dimensions"),
    ):
        for use in (ours.merge, lambda other: visual_dna_distance_of_histograms(ours, other)):
            with pytest.raises(ValueError, match=message):
                use(theirs)
    for call, message in (
        (lambda: Histograms.of(x[:, :2], ranges), "3 neurons do not fit features of 2"),
        (lambda: Histograms.of(x, ranges, bins=0), "at least one bin"),
        (lambda: Ranges(np.ones(3), np.zeros(3)), "Ranges are minima"),
        (lambda: Ranges(np.ones(3), np.ones(2)), "Ranges are minima"),
        (lambda: Histograms(np.ones((2, 5), np.int64), ranges), "3 neurons are int64 counts"),
        (lambda: Histograms(np.ones((3, 5)), ranges), "int64 counts"),
        (lambda: visual_dna_distance(x, x, ranges=Ranges.of(x[:, :2])), "2 neurons do not fit"),
        (lambda: Ranges.of(x, encoder="a1").merge(Ranges.of(x)), "different encoders"),
        (lambda: frechet_distance_of_moments(Moments.of(x, encoder="a1"), Moments.of(x, encoder="b2")), "different encoders"),
        (lambda: Moments.of(x, encoder="a1").merge(Moments.of(x)), "different encoders"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Sliced Wasserstein


def naive_wasserstein_2(a, b):
    size = math.lcm(len(a), len(b))
    a, b = (sorted(itertools.chain.from_iterable([value] * (size // len(side)) for value in side)) for side in (a, b))
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / size)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 18), (7, 30), (1, 5)])
def test_sliced_wasserstein_against_a_loop(n, m, random):
    x, y = random.normal(size=(n, 4)), random.exponential(size=(m, 4)) * 2
    directions = random_directions(KEY, 4, 20)
    np.testing.assert_allclose(np.square(directions).sum(axis=0), 1)
    distances = [naive_wasserstein_2((x @ axis).tolist(), (y @ axis).tolist()) for axis in directions.T]
    value, error, bound = sliced_wasserstein_estimate(x, y, key=KEY, directions=20)
    assert value == pytest.approx(np.mean(distances), rel=1e-9)
    assert error == pytest.approx(np.std(distances, ddof=1) / math.sqrt(20), rel=1e-9)
    assert bound == 0
    assert sliced_wasserstein(x, y, key=KEY, directions=20) == value
    assert sliced_wasserstein(x, y, key=OTHER_KEY, directions=20) != value


def test_sliced_wasserstein_of_a_shift_is_its_mean_length_on_the_directions(random):
    x = random.normal(size=(50, 3))
    # The mean of |cosine| over the sphere in 3 dimensions is a half.
    value, error, _ = sliced_wasserstein_estimate(x, x + np.array([0.0, 6.0, 8.0]), key=KEY, directions=4000)
    assert abs(value - 5) < 4 * error
    assert error == pytest.approx(10 / math.sqrt(12) / math.sqrt(4000), rel=0.05)
    assert math.isnan(sliced_wasserstein_estimate(x, x, key=KEY, directions=1).standard_error)
    with pytest.raises(ValueError, match="at least one direction"):
        sliced_wasserstein(x, x, key=KEY, directions=0)


@pytest.mark.parametrize("bins", [1, 20, 1000])
def test_projections_merge_to_the_whole_and_keep_their_bound(bins, random):
    x, y = random.normal(size=(300, 5)), random.exponential(size=(170, 5)) + 0.5
    exact = sliced_wasserstein(x, y, key=KEY, directions=32)
    # Once over all values, once over a few, so that many lie outside.
    for reference in (np.concatenate([x, y]), x[:10]):
        parts = [Projections.ranges(part, key=KEY, directions=32, encoder="a1") for part in (reference[:4], reference[4:])]
        ranges = parts[0].merge(parts[1])
        sketch = [Projections.of(side, ranges, key=KEY, bins=bins, encoder="a1") for side in (x, y, x[:100], x[100:])]
        merged = sketch[2].merge(sketch[3])
        np.testing.assert_array_equal(merged.histograms.counts, sketch[0].histograms.counts)
        value, error, bound = sliced_wasserstein_of_projections(sketch[0], sketch[1])
        assert sliced_wasserstein_of_projections(merged, sketch[1]) == pytest.approx((value, error, bound), rel=1e-12)
        assert abs(value - exact) <= bound
    whole = Projections.ranges(np.concatenate([x, y]), key=KEY, directions=32)
    value, _, bound = sliced_wasserstein_of_projections(*(Projections.of(side, whole, key=KEY, bins=1000) for side in (x, y)))
    assert value == pytest.approx(exact, rel=1e-3)
    # Values spread evenly over a bin lie width / sqrt(12) from its middle.
    widths = (whole.maximum - whole.minimum) / 1000
    assert bound == pytest.approx(2 * widths.mean() / math.sqrt(12), rel=0.05)


def test_projections_along_other_directions_are_refused(random):
    x = random.normal(size=(20, 4))
    ranges = Projections.ranges(x, key=KEY, directions=8, encoder="a1")
    for call in (
        lambda: Projections.of(x, ranges, key=OTHER_KEY, encoder="a1"),
        lambda: Projections.of(x, ranges, key=KEY, encoder="b2"),
        lambda: Projections.of(x[:, :3], ranges, key=KEY, encoder="a1"),
        lambda: Projections.of(x, Ranges.of(x), key=KEY),
    ):
        with pytest.raises(ValueError, match="do not fit projections of"):
            call()
    other = Projections.ranges(x, key=OTHER_KEY, directions=8, encoder="a1")
    with pytest.raises(ValueError, match="different encoders"):
        sliced_wasserstein_of_projections(
            Projections.of(x, ranges, key=KEY, encoder="a1"), Projections.of(x, other, key=OTHER_KEY, encoder="a1")
        )


# Proxy A-distance


def test_proxy_a_of_two_gaussians_is_that_of_the_best_classifier(random):
    for shift in (0.5, 1.5):
        x, y = random.normal(size=(6000, 2)), random.normal(size=(6000, 2)) + np.array([shift, 0.0])
        best = norm.cdf(-shift / 2)
        result = classifier_two_sample(x, y, key=KEY)
        # Four standard errors of a share among 12,000.
        assert result.error == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / 12_000))
        assert result.distance == pytest.approx(2 * (1 - 2 * result.error))
        assert proxy_a_distance(x, y, key=KEY) == result.distance
        assert result.images == 6000


@pytest.mark.parametrize(("folds", "strength"), [(2, 0.1), (3, 0.01)])
def test_proxy_a_against_scikit_learn_on_the_same_folds(folds, strength, random):
    x, y = random.normal(size=(90, 4)) * [1, 5, 1, 0] + 3, random.normal(size=(120, 4)) * [1, 5, 1, 0] + [4, 3, 3, 3]
    (x_kept, x_tags), (y_kept, y_tags) = _chosen(x, y, KEY)
    assert len(x_kept) == len(y_kept) == 90
    fold_of = _folds(x_tags, y_tags, folds)
    errors, losses = [], []
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
    # Images on both sides stand in one fold too: else a classifier would learn to call them wrong.
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
    x, y = random.normal(size=(50, 3)), random.normal(size=(70, 3)) + 0.5
    first = classifier_two_sample(x, y, key=KEY)
    assert classifier_two_sample(random.permutation(x), random.permutation(y), key=KEY) == first
    assert classifier_two_sample(x, y, key=OTHER_KEY) != first
    assert classifier_two_sample(x + 10, y, key=KEY)._replace(loss=0) == (2.0, 0.0, 0, 50)


def test_proxy_a_refuses_what_it_cannot_split(random):
    x = random.normal(size=(10, 3))
    for call, message in (
        (lambda: proxy_a_distance(x, x[:2], key=KEY, folds=3), "at least 3 images on each side, not 10 and 2"),
        (lambda: proxy_a_distance(x, np.ones((9, 3)), key=KEY), "2 different images a side, not 1 on the second"),
        (lambda: proxy_a_distance(x, x, key=KEY, folds=1), "at least 2 folds"),
        (lambda: proxy_a_distance(x, x, key=KEY, strength=0.0), "strength above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Files


def sketches(random):
    x = random.normal(size=(40, 3))
    ranges = Ranges.of(x, encoder="a1b2")
    projected = Projections.ranges(x, key=KEY, directions=5, encoder="a1b2")
    return [
        Moments.of(x, encoder="a1b2"),
        ranges,
        Histograms.of(x, ranges, bins=7),
        Projections.of(x, projected, key=KEY, bins=6, encoder="a1b2"),
        KernelBlocks.of(x, x + 1, key=KEY, size=10, encoder="a1b2"),
    ]


def same(a, b):
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return type(a) is type(b) and np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


def test_sketches_come_back_from_files_as_they_were(tmp_path, random):
    for sketch in sketches(random):
        path = tmp_path / "host 7"
        sketch.save(path)
        assert same(type(sketch).load(path), sketch)
        assert [file.name for file in tmp_path.iterdir()] == ["host 7"]
        with np.load(path, allow_pickle=False) as held:
            assert all(held[name].dtype != object for name in held.files)


def test_files_of_something_else_are_refused(tmp_path, random):
    moments, ranges, histograms, *_ = sketches(random)
    path = tmp_path / "sketch.npz"
    histograms.save(path)
    with pytest.raises(ValueError, match="holds Histograms of version 1, not Moments of version 1"):
        Moments.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as Histograms"):
        Histograms.load(path)
    np.savez(path, counts=histograms.counts)
    with pytest.raises(ValueError, match="cannot be read as Histograms"):
        Histograms.load(path)
    np.savez(
        path,
        sslshift=np.array("Ranges of version 1"),
        minimum=ranges.minimum,
        maximum=ranges.maximum.astype(object),
        encoder="",
    )
    with pytest.raises(ValueError, match=r"cannot be read as Ranges of version 1 .*allow_pickle=False"):
        Ranges.load(path)
    with pytest.raises(ValueError, match="cannot be read as Moments"):
        Moments.load(tmp_path / "missing.npz")
    assert moments.encoder == ranges.encoder == "a1b2"


def test_loaded_ranges_of_another_encoder_are_refused(tmp_path, random):
    x = random.normal(size=(40, 3))
    Ranges.of(x, encoder="a1b2").save(tmp_path / "ranges.npz")
    ranges = Ranges.load(tmp_path / "ranges.npz")
    assert Histograms.of(x, ranges, encoder="a1b2").count == 40
    with pytest.raises(ValueError, match="different encoders"):
        Histograms.of(x, ranges, encoder="ffff")


# Memory


def peak(work):
    """Bytes beyond what there was before, at the worst moment."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_of_sketches_does_not_grow_with_the_number_of_images(random):
    x = random.normal(size=(480_000, 16)).astype(np.float32)
    ranges = Ranges(np.full(16, -4.0), np.full(16, 4.0))
    projected = Projections.ranges(x[:1000], key=KEY, directions=8)
    for name, make in {
        "moments": Moments.of,
        "ranges": Ranges.of,
        "histograms": lambda part: Histograms.of(part, ranges),
        "projections": lambda part: Projections.of(part, projected, key=KEY),
    }.items():
        half, whole = peak(lambda make=make: make(x[:240_000])), peak(lambda make=make: make(x))
        assert whole < 1.1 * half, name


def test_memory_of_kernels_is_no_matrix_of_all_pairs(random):
    x = random.normal(size=(6000, 4))
    for distance in (kernel_distance, rbf_mmd):
        # One matrix of all pairs would be 288 MB.
        assert peak(lambda distance=distance: distance(x, x[:3000])) < 50e6


def test_moments_of_many_blocks_are_those_of_the_whole(random):
    x = (random.normal(size=(300_000, 8)) + 100).astype(np.float32)
    moments = Moments.of(x)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False, dtype=np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.second_moment, x.T.astype(np.float64) @ x / len(x), rtol=1e-9)
