"""Precision, recall, density, coverage and nearness, against loops."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sslshift.shift import coverage_of, density_coverage, precision_recall
from sslshift.shift.neighbourhoods import closest_matches, nearness


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
    x = random.normal(size=(n, dim)) + 100
    y = random.normal(size=(m, dim)) * 0.8 + 100.2
    x_holds = naive_inside(x, y, k)
    y_holds = naive_inside(y, x, k)
    precision, recall = precision_recall(x, y, neighbours=k)
    assert (precision, recall) == (x_holds.any(axis=0).mean(), y_holds.any(axis=0).mean())
    density, coverage = density_coverage(x, y, neighbours=k)
    assert density == pytest.approx(x_holds.sum() / (k * m), rel=1e-12)
    assert coverage == x_holds.any(axis=1).mean()
    near = coverage_of(x, y, neighbours=k)
    assert (near.target, near.source) == (coverage, precision)


def test_neighbourhoods_over_many_tiles(random):
    x = random.normal(size=(1100, 4))
    y = random.normal(size=(2300, 4)) + 0.7
    squares = np.square(x[:, None] - y).sum(axis=2)
    radii = np.sort(np.square(x[:, None] - x).sum(axis=2), axis=1)[:, 5]
    holds = squares < radii[:, None]
    assert density_coverage(x, y) == pytest.approx((holds.sum() / (5 * 2300), holds.any(axis=1).mean()), rel=1e-12)
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
    x = random.normal(size=(60, 5)) * 1e-3 + 1
    y = random.normal(size=(50, 5)) * 1e-3 + 1
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
        (lambda: precision_recall(x, x[:5]), "5 neighbours needs at least 6 images on each side, got 10 and 5"),
        (lambda: density_coverage(x[:5], x), "5 neighbours needs at least 6 and 1 images, got 5 and 10"),
        (lambda: coverage_of(x, x, neighbours=10), "at least 11 and 1 images, got 10 and 10"),
        (lambda: precision_recall(x, x, neighbours=0), "at least one neighbour, not 0"),
        (lambda: density_coverage(x, x[:, :2]), "3 and 2 dimensions"),
        (lambda: coverage_of(x, np.where(x == x[4, 1], np.inf, x)), "finite features, but features of image 4"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert density_coverage(x, x[:1]).coverage > 0


def test_memory_is_no_matrix_of_all_pairs(random):
    x, y = random.normal(size=(2, 4000, 4))
    tracemalloc.start()
    density_coverage(x, y)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One float64 matrix of all pairs would be 128 MB.
    assert most < 80e6


@pytest.mark.parametrize(("n", "m", "k"), [(40, 60, 5), (3, 4, 5), (700, 2500, 1)])
def test_nearness_against_a_loop_and_0_to_itself(n, m, k, random):
    x, reference = (random.normal(size=(count, 3)) + 1e3 for count in (n, m))
    expected = [np.sort(np.linalg.norm(row - reference, axis=1))[:k].mean() for row in x]
    np.testing.assert_allclose(nearness(x, reference, neighbours=k), expected, rtol=1e-9)
    assert (nearness(reference[:50], reference, neighbours=1) == 0).all()
    with pytest.raises(ValueError, match="at least one neighbour, not 0"):
        nearness(x, reference, neighbours=0)


def test_nearness_is_what_a_loop_gives(random):
    x = random.normal(size=(40, 3)) + 100
    y = random.normal(size=(25, 3)) + 100
    distances = np.sort(np.linalg.norm(x[:, None] - y, axis=2), axis=1)
    np.testing.assert_allclose(nearness(x, y, neighbours=4), distances[:, :4].mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(nearness(x, y[:2]), distances_to(x, y[:2]), rtol=1e-9)


def distances_to(x, y):
    return np.linalg.norm(x[:, None] - y, axis=2).mean(axis=1)


def test_blank_images_that_are_near_to_everything_are_not_the_closest_matches(random):
    """Blank images lie close together near the centre of all features, where they are the nearest images of every source."""
    blank = 0.02 * random.normal(size=(60, 48))
    parts = random.normal(size=(200, 48))
    alike = parts[:10] + 0.3 * random.normal(size=(10, 48))
    target = np.concatenate([parts, blank[:30]])
    for other in (2 * random.normal(size=(150, 48)), random.normal(size=(150, 48)) + 0.5):
        source = np.concatenate([other, alike, blank[30:]])
        planted = set(range(150, 160))
        by_distance = np.argsort(nearness(source, target))[:10]
        assert set(by_distance) <= set(range(160, 190))
        matches = closest_matches(target, source)
        assert set(matches.source[:10]) == planted
        assert all(source_row - 150 == row for source_row, row in zip(matches.source[:10], matches.target[:10], strict=True))
        assert sorted(matches.source) == list(range(190))


@pytest.mark.parametrize(("n", "m", "k"), [(30, 50, 5), (2, 2, 5), (40, 700, 1)])
def test_the_closest_matches_are_what_a_loop_gives(n, m, k, random):
    target, source = (random.normal(size=(count, 4)) + 5 for count in (n, m))
    scales = [naive_radii(each, min(k, len(each) - 1)) for each in (target, source)]
    scaled = np.array(
        [
            [math.dist(a, b) / math.sqrt(r * s) for b, r in zip(target, scales[0], strict=True)]
            for a, s in zip(source, scales[1], strict=True)
        ]
    )
    best = scaled.argmin(axis=1)
    used = set()
    first, second = [], []
    for row in sorted(range(m), key=lambda row: scaled[row].min()):
        (second if best[row] in used else first).append(row)
        used.add(best[row])
    found = closest_matches(target, source, neighbours=k)
    assert found.source.tolist() == first + second
    assert found.target.tolist() == best[first + second].tolist()


def test_closest_matches_of_equal_images_and_of_too_few():
    """Equal images have no neighbourhood: an equal pair of them is as near as its neighbours, a copy elsewhere is nearer."""
    target = np.array([[0.0, 0.0]] * 8 + [[5.0, 0.0], [9.0, 0.0], [7.0, 4.0]])
    source = np.array([[0.0, 0.0]] * 8 + [[5.0, 0.0], [30.0, 1.0], [20.0, 2.0]])
    found = closest_matches(target, source, neighbours=2)
    assert (found.source[0], found.target[0]) == (8, 8)
    assert found.source[1] == 0
    assert np.isfinite(closest_matches(target[:8], source[:8]).target).all()
    with pytest.raises(ValueError, match="at least 2 images on each side"):
        closest_matches(target, source[:1])
