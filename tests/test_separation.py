"""The shift index by separation: a share of the differences between images, which needs no reference images."""

import jax
import numpy as np
import pytest

from sslshift.shift import ShiftScale, index_difference, shift_index
from sslshift.shift._base import signed_root
from sslshift.shift.distances import DISTANCES, INDEX_DISTANCES, kernel
from sslshift.shift.index import FAR_ENDS
from sslshift.simulation.features import WORLDS, index_coverage, true_indices

KEY = jax.random.key(3)
SCALES = np.array([1.0, 2.0, 0.5, 1.5, 1.0, 1.0])


def drawn(random, count, shift=0.0):
    return random.normal(size=(count, 6)) * SCALES + shift


def cubic(x, y):
    return (x @ y.T / x.shape[-1] + 1) ** 3


def test_the_index_is_the_share_of_the_distance_in_all_differences(random):
    """Recomputed with every pair of images, for sets that are their own halves."""
    target, source = drawn(random, 40), drawn(random, 40, 0.7)
    found = ShiftScale(target, None, KEY, "kernel_root", repeats=40).index(source)
    numbers = {}
    for name, x, y in (("target", target, target), ("source", source, source), ("between", source, target)):
        values = cubic(x, y)
        off = values.sum() - np.trace(values)
        numbers[name] = (off / (40 * 39), np.trace(values) / 40, values.mean())
    square = numbers["target"][0] + numbers["source"][0] - 2 * numbers["between"][2]
    spread = sum(2 * (numbers[side][1] - numbers[side][0]) for side in ("target", "source"))
    # Means over halves are those over all pairs, up to the choice of halves.
    assert found.value == pytest.approx(np.sqrt(square / (square + spread)), rel=0.05)
    assert found.ceiling**2 == pytest.approx(square + spread, rel=0.05)


@pytest.mark.parametrize("name", INDEX_DISTANCES)
def test_spreads_are_the_mean_number_between_two_images(random, name):
    """By hand: every pair of single images, through the distance itself."""
    x = drawn(random, 9) / 3
    parts = np.array([[0, 1, 2, 3], [4, 2, 6, 8]])
    kind = DISTANCES[name]
    found = kind.spread(KEY, [x])(x, parts)
    if kind.of_parts:
        # Unbiased kernel distances have no value for single images; two copies of an image have the value of one.
        def number(a, b):
            both = np.array([[0, 1]])
            return kind.of_parts(np.tile(a, (2, 1)), np.tile(b, (2, 1)), both, both)[0]
    else:
        number = (kind.squared or kind.bind)(KEY, [x])
    for part, value in zip(parts, found, strict=True):
        pairs = [number(x[[i]], x[[j]]) for i in part for j in part if i != j]
        assert value == pytest.approx(np.mean(pairs), rel=1e-6)


def test_the_diagonal_of_a_kernel_needs_no_whole_matrix(random, monkeypatch):
    monkeypatch.setattr(kernel, "tiles", lambda rows, size=7: [slice(start, start + 7) for start in range(0, rows, 7)])
    x = drawn(random, 30)
    parts = np.stack([random.permutation(30)[:11] for _ in range(3)])
    expected = [
        np.mean(
            [cubic(x[[i]], x[[i]]) + cubic(x[[j]], x[[j]]) - 2 * cubic(x[[i]], x[[j]]) for i in part for j in part if i != j]
        )
        for part in parts
    ]
    np.testing.assert_allclose(kernel.kernel_spreads(x, parts), expected, rtol=1e-9)


@pytest.mark.parametrize("name", INDEX_DISTANCES)
def test_0_for_the_same_more_for_farther_and_1_for_complete_separation(random, name):
    scale = ShiftScale(drawn(random, 240), None, KEY, name, repeats=8)
    same, near, far = (scale.index(drawn(random, 240, shift)) for shift in (0.0, 0.5, 2.0))
    apart = scale.index(np.tile(drawn(random, 1, 1000.0), (240, 1)) + 1e-3 * drawn(random, 240))
    assert abs(same.value) < 0.1 > same.low
    assert same.value < near.value < far.value < apart.value <= apart.high <= 1
    assert index_difference(far, near).shown
    assert not index_difference(same, same).shown
    if name != "rbf_mmd":
        # On unit vectors the spread of the target is a part of every distance.
        assert apart.value > 0.9


def test_the_index_does_not_change_with_the_unit_of_features(random):
    target, source = drawn(random, 200), drawn(random, 200, 1.0)
    values = [
        shift_index(source * unit, target * unit, key=KEY, distance=name).value
        for name in ("visual_dna", "sliced_wasserstein", "rbf_mmd")
        for unit in (1.0, 50.0)
    ]
    assert values[::2] == pytest.approx(values[1::2], rel=1e-6)


def test_noise_changes_nothing_but_ranges(random):
    target, source, noise = drawn(random, 100), drawn(random, 100, 1.0), drawn(random, 60, 9.0)
    without, beside = (ShiftScale(target, each, KEY).index(source) for each in (None, noise))
    assert without == beside
    # Noise in smaller numbers does not reduce the number of images.
    assert beside.sample_size == 50
    by_dna = ShiftScale(target, noise, KEY, "visual_dna").index(source)
    assert 0 < by_dna.value < 1


def test_a_target_of_equal_images_has_no_scale_and_a_source_of_equal_images_has_an_index(random):
    alike = np.ones((40, 3))
    with pytest.raises(ValueError, match="since they are all alike: there is no scale"):
        shift_index(alike * 5, alike, key=KEY)
    assert 0.9 < shift_index(alike * 1000, alike + 0.1 * random.normal(size=alike.shape), key=KEY).value <= 1


def test_a_far_end_that_cannot_be_is_refused_in_one_sentence(random):
    x = drawn(random, 60)
    with pytest.raises(ValueError, match="Expected one of separation, noise as the far end of the shift index, got 'far'"):
        ShiftScale(x, None, KEY, far_end="far")
    with pytest.raises(ValueError, match="needs the features of noise images"):
        ShiftScale(x, None, KEY, far_end="noise")
    with pytest.raises(ValueError, match=r"only a distance by name has. Expected one of kernel, .*, got a function"):
        ShiftScale(x, None, KEY, lambda a, b: 1.0)
    assert set(FAR_ENDS) == {"separation", "noise"}


def test_an_index_below_0_is_that_of_a_set_nearer_than_halves(random):
    """Every image of the source is also in the target: the unbiased distance is below 0."""
    target = drawn(random, 60)
    found = shift_index(target, target, key=KEY)
    assert found.value < 0
    assert found.distance == pytest.approx(signed_root(-(found.distance**2)))


@pytest.mark.parametrize(
    "name",
    ["kernel_root", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rbf_mmd", "visual_dna", "sliced_wasserstein"))],
)
def test_intervals_cover_the_separation_of_very_many_images(name):
    """A short run of `python -m tools.bench --what=statistics --world='shift index'`: no interval covers far too little."""
    world = WORLDS["clusters"]()
    found = index_coverage(world, name, true_indices(world, name, images=4000), images=200, replicates=25, repeats=10)
    for place, each in found.items():
        # At a coverage of 95%, fewer than 20 of 25 have a probability of 2 in 1,000.
        assert each.covered >= 0.8, (place, each)
        assert abs(each.bias) < max(0.03, each.width / 2), (place, each)
    assert found["same"].above_0 <= 0.12
