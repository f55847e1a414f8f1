"""The kernel distance (KID), its standard error and its blocks, against loops and closed forms."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from sslshift.shift import DISTANCES, ShiftScale, kernel_distance
from sslshift.shift.distances.kernel import KernelBlocks, kernel_distance_estimate, kernel_distances_of_parts
from sslshift.shift.index import FAR_ENDS

KEY = jax.random.key(0)
OTHER_KEY = jax.random.key(1)


def naive_kernel_distance(x, y):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    x = x.tolist()
    y = y.tolist()
    within = [
        sum(kernel(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j) / (len(side) * (len(side) - 1))
        for side in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize(("n", "m", "dim"), [(20, 31, 7), (2, 9, 100), (13, 2, 1)])
def test_kernel_distance_against_a_loop(n, m, dim, random):
    x = random.normal(size=(n, dim)) * 2 + 1
    y = random.normal(size=(m, dim))
    assert kernel_distance(x, y) == pytest.approx(naive_kernel_distance(x, y), rel=1e-9)


@pytest.mark.parametrize("offset", [0, 1000, 10**6])
def test_kernel_distance_keeps_its_digits_far_from_the_origin(offset, random):
    # In whole numbers, of which the loop loses nothing; the kernel itself is up to 1e36, its distance a 1e13th of that.
    x = random.integers(-9, 10, (9, 4)) + offset
    y = random.integers(-9, 10, (12, 4)) + offset
    exact = naive_kernel_distance(*(np.array([[Fraction(v) for v in row] for row in side.tolist()]) for side in (x, y)))
    value, error, _ = kernel_distance_estimate(x, y)
    assert value == pytest.approx(float(exact), rel=1e-9)
    if not offset:
        return
    # As far again: the distance grows by the fourth power, but for what is small against the offset, and its error with it.
    farther = kernel_distance_estimate(x + 1000 * offset, y + 1000 * offset)
    assert farther.standard_error / farther.value == pytest.approx(error / value, rel=0.01)


def test_kernel_distance_is_the_same_over_many_tiles(random):
    x = random.normal(size=(1500, 4)) + 0.2
    y = random.normal(size=(2600, 4))
    within = [np.sum((side @ side.T / 4 + 1) ** 3) - np.sum((np.square(side).sum(axis=1) / 4 + 1) ** 3) for side in (x, y)]
    expected = within[0] / (1500 * 1499) + within[1] / (2600 * 2599) - 2 * np.mean((x @ y.T / 4 + 1) ** 3)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def true_kernel_distance(shift, scale):
    """Between N(0, 1) and N(shift, scale^2): the cube's expectation is a sum over moments, 1 + 3 m1 m1' + 3 m2 m2' + m3 m3'."""
    first = shift
    second = shift**2 + scale**2
    third = shift**3 + 3 * shift * scale**2
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
    x = random.normal(size=(12, 3))
    y = random.normal(size=(9, 3)) + 1
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
    x = random.normal(size=(25, 3))
    y = random.normal(size=(34, 3)) + 1
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
    with pytest.raises(ValueError, match="at least 1000 images on each side, got 25 and 34"):
        KernelBlocks.of(x, y, key=KEY)
    with pytest.raises(ValueError, match="at least 2 images a side, not 1"):
        KernelBlocks.of(x, y, key=KEY, size=1)


@pytest.mark.parametrize("offset", [0, 1000])
def test_distances_of_parts_are_those_of_one_after_the_other_over_many_tiles(offset, random):
    x = random.normal(size=(1300, 5)) + offset + 0.3
    y = random.normal(size=(1100, 5)) + offset
    parts_x = np.stack([random.permutation(1300)[:600] for _ in range(4)])
    parts_y = np.stack([random.permutation(1100)[:3] for _ in range(4)])
    expected = [kernel_distance(x[a], y[b]) for a, b in zip(parts_x, parts_y, strict=True)]
    np.testing.assert_allclose(kernel_distances_of_parts(x, y, parts_x, parts_y), expected, rtol=1e-9)


@pytest.mark.parametrize("far_end", FAR_ENDS)
@pytest.mark.parametrize("name", ["kernel", "kernel_root"])
def test_an_index_by_parts_is_the_index_by_single_distances(name, far_end, random, monkeypatch):
    monkeypatch.setitem(DISTANCES, "singly", DISTANCES[name]._replace(of_parts=None))
    sides = [random.normal(size=(count, 6)) + shift for count, shift in ((90, 0.0), (70, 3.0), (50, 0.5))]
    by_parts, one_by_one = (
        ShiftScale(*sides[:2], KEY, distance, far_end=far_end).index(sides[2]) for distance in (name, "singly")
    )
    np.testing.assert_allclose(by_parts.draws, one_by_one.draws, rtol=1e-9)
    np.testing.assert_allclose(by_parts[:6], one_by_one[:6], rtol=1e-9)
