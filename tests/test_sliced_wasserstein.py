"""The sliced Wasserstein distance and its projections, against a loop and closed forms."""

import itertools
import math

import jax
import numpy as np
import pytest

from sslshift.shift import sliced_wasserstein
from sslshift.shift.distances.sliced_wasserstein import (
    Projections,
    random_directions,
    sliced_wasserstein_estimate,
    sliced_wasserstein_of_projections,
)
from sslshift.shift.distances.visual_dna import Ranges

KEY = jax.random.key(0)
OTHER_KEY = jax.random.key(1)


def naive_wasserstein_2(a, b):
    size = math.lcm(len(a), len(b))
    a, b = (sorted(itertools.chain.from_iterable([value] * (size // len(side)) for value in side)) for side in (a, b))
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / size)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 18), (7, 30), (1, 5)])
def test_sliced_wasserstein_against_a_loop(n, m, random):
    x = random.normal(size=(n, 4))
    y = random.exponential(size=(m, 4)) * 2
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
    x = random.normal(size=(300, 5))
    y = random.exponential(size=(170, 5)) + 0.5
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
