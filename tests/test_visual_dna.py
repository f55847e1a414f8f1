"""The VisualDNA distance and its histograms, against SciPy and NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from sslshift.shift import visual_dna_distance
from sslshift.shift.distances.frechet import Moments, frechet_distance_of_moments
from sslshift.shift.distances.visual_dna import Histograms, Ranges, visual_dna_distance_of_histograms, visual_dna_distances


def naive_visual_dna(x, y, low, high, bins):
    distances = []
    for a, b, minimum, maximum in zip(x.T, y.T, low, high, strict=True):
        edges = np.linspace(minimum, maximum, bins + 1)
        places = [np.clip(np.searchsorted(edges, side, "right") - 1, 0, bins - 1) for side in (a, b)]
        distances.append(wasserstein_distance(*places))
    return distances


@pytest.mark.parametrize(("n", "m", "bins"), [(300, 300, 1000), (50, 170, 1000), (1, 3, 10), (40, 40, 1)])
def test_visual_dna_against_scipys_earth_movers_distance(n, m, bins, random):
    x = random.normal(size=(n, 4)) * [1, 5, 0.1, 1]
    y = random.exponential(size=(m, 4))
    both = np.concatenate([x, y])
    expected = naive_visual_dna(x, y, both.min(axis=0), both.max(axis=0), bins)
    assert visual_dna_distance(x, y, bins=bins) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    # Ranges in which a third of the values does not lie.
    ranges = Ranges(np.full(4, -0.2), np.full(4, 0.5))
    expected = naive_visual_dna(x, y, ranges.minimum, ranges.maximum, bins)
    assert visual_dna_distance(x, y, ranges=ranges, bins=bins) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    by_neuron = visual_dna_distances(*(Histograms.of(side, ranges, bins=bins) for side in (x, y)))
    np.testing.assert_allclose(by_neuron, expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 300),
    st.sampled_from([1.0, 0.01, 1 / 3, 0.7]),
    st.sampled_from([-7, 0, 10**6]),
    st.sampled_from([10, 256, 1000]),
)
def test_values_on_edges_count_where_numpy_counts_them(steps, step, first, bins):
    # Whole numbers, hundredths, and 8-bit pixels often lie on edges, where rounding would send them either way.
    values = (np.arange(steps + 1.0) + first) * step
    expected = np.histogram(values, bins, (values[0], values[-1]))[0]
    column = values[:, None]
    assert Histograms.of(column, Ranges.of(column), bins=bins).counts[0].tolist() == expected.tolist()


def test_visual_dna_times_two_over_bins_is_wasserstein_1_on_minus_1_to_1(random):
    x, y = random.normal(size=(2, 500, 1))
    low = np.concatenate([x, y]).min()
    high = np.concatenate([x, y]).max()
    ranges = Ranges(np.array([low]), np.array([high + 0.3]))
    width = 2 / (high + 0.3 - low)
    expected = wasserstein_distance(*((side[:, 0] - low) * width - 1 for side in (x, y + 0.3)))
    assert visual_dna_distance(x, y + 0.3, ranges=ranges, bins=20_000) * 2 / 20_000 == pytest.approx(expected, abs=2e-4)


def test_constant_neurons_add_nothing_and_ends_are_the_last_bins():
    x = np.array([[0.0, 3.0], [1.0, 3.0]])
    y = np.array([[0.0, 3.0]])
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
        (lambda: Ranges(np.ones(3), np.zeros(3)), "Expected finite minima"),
        (lambda: Ranges(np.ones(3), np.ones(2)), "Expected finite minima"),
        (lambda: Ranges(np.zeros(2), np.array([1.0, np.inf])), "Expected finite minima"),
        (lambda: Histograms(np.ones((2, 5), np.int64), ranges), "int64 counts .* for 3 neurons"),
        (lambda: Histograms(np.ones((3, 5)), ranges), "int64 counts"),
        (lambda: visual_dna_distance(x, x, ranges=Ranges.of(x[:, :2])), "2 neurons do not fit"),
        (lambda: Ranges.of(x, encoder="a1").merge(Ranges.of(x)), "different encoders"),
        (lambda: frechet_distance_of_moments(Moments.of(x, encoder="a1"), Moments.of(x, encoder="b2")), "different encoders"),
        (lambda: Moments.of(x, encoder="a1").merge(Moments.of(x)), "different encoders"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
