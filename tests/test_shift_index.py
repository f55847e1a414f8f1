"""The scale behind the shift index: its draws, the coverage of its interval, and what it refuses."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslshift.shift import (
    DISTANCES,
    ShiftScale,
    distance_of,
    frechet_distance,
    index_difference,
    kernel_distance,
    rbf_mmd,
    shift_index,
    visual_dna_distance,
)
from sslshift.shift.distances import INDEX_DISTANCES
from sslshift.shift.distances.visual_dna import Ranges
from sslshift.shift.index import NOISE
from sslshift.shift.mixtures import blend
from sslshift.simulation.features import WORLDS, index_coverage, true_indices

KEY = jax.random.key(3)
SCALES = np.array([1.0, 2.0, 0.5, 1.5, 1.0, 1.0])


# The definition by noise; that of separation, the default, has tests of its own below.
to_noise = functools.partial(ShiftScale, far_end=NOISE)


def drawn(random, count, shift=0.0):
    return random.normal(size=(count, 6)) * SCALES + shift


def noise(random, count):
    return random.normal(size=(count, 6)) * 4 + 3


def test_an_index_is_the_definition_over_halves(random):
    """Recomputed by hand: what few images cause is that of either side's halves, half of each."""
    seen = []

    def distance(x, y):
        seen.append((x, y))
        return float(abs(x.mean() - y.mean()))

    target = drawn(random, 44)
    far = noise(random, 60)
    index = to_noise(target, far, KEY, distance, repeats=4).index(drawn(random, 50, 1.0))
    assert index.sample_size == 22
    assert index.repeats == len(index.draws) == 4
    floors, ceilings, of_noise, sources, of_source = (
        seen[start:stop] for start, stop in ((0, 2), (2, 6), (6, 8), (8, 12), (12, 14))
    )
    assert len(seen) == 14
    assert all(len(x) == len(y) == 22 for x, y in seen)
    for number, (source, ceiling) in enumerate(zip(sources, ceilings, strict=True)):
        # The same half of the target in both, and the other half of the same images in the next draw.
        np.testing.assert_array_equal(source[1], ceiling[1])
        np.testing.assert_array_equal(source[1], floors[number // 2][number % 2])
        np.testing.assert_array_equal(source[0], of_source[number // 2][number % 2])
        np.testing.assert_array_equal(ceiling[0], of_noise[number // 2][number % 2])
    for halves in (*floors, *of_noise, *of_source):
        assert len(np.unique(np.concatenate(halves), axis=0)) == 44

    def gaps(pairs):
        return np.array([abs(a.mean() - b.mean()) for a, b in pairs])

    top = gaps(sources) - (gaps(floors).mean() + gaps(of_source).mean()) / 2
    bottom = gaps(ceilings) - (gaps(floors).mean() + gaps(of_noise).mean()) / 2
    assert index.value == pytest.approx(top.mean() / bottom.mean())
    # Deviations of the ratio, linear in both means; two draws in turn are a pair.
    one, two, three, four = (top - index.value * bottom) / bottom.mean()
    within = ((one - two) ** 2 + (three - four) ** 2) / 4 / 2
    between = ((one + two) / 2 - (three + four) / 2) ** 2 / 2
    # Student's t at 97.5% with two degrees of freedom is 4.303.
    more = 4.302653**2 / 2 * max(0, within - 2 * between) / max(index.value, np.sqrt(within))
    assert index.high - index.value == pytest.approx(more + np.hypot(more, 4.302653 * np.sqrt(within + between / 2)))
    assert index.value - index.low == pytest.approx(4.302653 * np.sqrt(max(within - between, within / 2) + between / 2))
    assert np.mean(index.draws) == pytest.approx(index.value)
    assert np.var(index.draws) == pytest.approx(within + between / 2)
    assert (index.distance, index.floor) == pytest.approx((gaps(sources).mean(), gaps(floors).mean()))


def test_the_index_of_a_squared_distance_is_the_root_of_the_ratio(random):
    """The interval too: both ends are roots of those of the ratio, so that either index covers the truth as often."""
    sides = drawn(random, 120), noise(random, 120)
    source = drawn(random, 120, 0.4)
    squared, root = (to_noise(*sides, KEY, name).index(source) for name in ("kernel", "kernel_root"))
    expected = np.sign(squared[:6]) * np.sqrt(np.abs(squared[:6]))
    np.testing.assert_allclose(root[:6], expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in DISTANCES if name not in INDEX_DISTANCES])
def test_a_distance_without_an_index_says_which_ones_have_one(random, name):
    with pytest.raises(ValueError, match=f"There is no shift index by {name}: .* Use one of kernel, kernel_root, "):
        to_noise(drawn(random, 60), noise(random, 60), KEY, name)


@pytest.mark.parametrize("name", INDEX_DISTANCES)
def test_every_distance_gives_0_for_the_same_1_for_noise_and_more_for_farther(random, name):
    scale = to_noise(drawn(random, 240), noise(random, 240), KEY, name, repeats=8)
    same, near, far, itself = (
        scale.index(each) for each in (drawn(random, 240), drawn(random, 240, 0.5), drawn(random, 240, 2.0), noise(random, 240))
    )
    assert same.low < 0 < same.high
    assert itself.low < 1 < itself.high
    assert same.value < near.value < far.value
    assert index_difference(far, near).shown
    assert not index_difference(same, same).shown
    assert json.loads(json.dumps(far._asdict()))["value"] == far.value


def test_distances_by_name_are_the_public_functions(random):
    x = drawn(random, 60)
    y = drawn(random, 60, 0.3)
    assert distance_of("frechet").on(KEY)(x, y) == frechet_distance(x, y)
    assert distance_of("kernel").on(KEY)(x, y) == kernel_distance(x, y)
    assert distance_of("rbf_mmd").on(KEY)(x, y) == pytest.approx(rbf_mmd(x, y), abs=0.0007)
    shared = distance_of("visual_dna").on(KEY, x, y * 3)
    ranges = Ranges.of(np.concatenate([x, y * 3]))
    assert shared(x, y) == visual_dna_distance(x, y, ranges=ranges) != visual_dna_distance(x, y)
    with pytest.raises(ValueError, match=r"Expected one of kernel, .* as the name of a distance, got 'fid'"):
        distance_of("fid")


def test_extrapolation_takes_off_what_falls_with_the_number_of_images(random):
    """Samples of one Gaussian: the distance is all bias, of which less than a fifth remains."""
    pairs = [random.normal(size=(2, 400, 8)) for _ in range(5)]
    raw = np.mean([frechet_distance(*pair) for pair in pairs])
    rest = np.mean([distance_of("frechet_extrapolated").on(KEY)(*pair) for pair in pairs])
    assert raw > 0.03
    assert abs(rest) < raw / 5


@pytest.mark.parametrize("name", ["kernel", "visual_dna"])
def test_the_interval_covers_what_many_other_samples_say(random, name):
    """Over 40 samples of the same distributions, at least 85% of the 95% intervals hold the mean of all."""
    found = []
    for number in range(40):
        scale = to_noise(drawn(random, 200), noise(random, 200), jax.random.key(number), name, repeats=10)
        found.append(scale.index(drawn(random, 200, 1.0)))
    truth = np.mean([each.value for each in found])
    assert sum(each.low <= truth <= each.high for each in found) >= 34
    # Nor are they far wider than they need be.
    scatter = np.std([each.value for each in found])
    assert np.median([each.high - each.low for each in found]) < 2 * 2.5 * 1.96 * scatter


def test_the_same_pair_at_500_and_at_5000_images_agrees(random):
    target = drawn(random, 5000)
    far = noise(random, 5000)
    source = drawn(random, 5000, 0.7)
    for name in ("kernel", "rbf_mmd"):
        few, many = (to_noise(target[:n], far[:n], KEY, name, repeats=6).index(source[:n]) for n in (500, 5000))
        assert abs(few.value - many.value) <= np.hypot(few.high - few.value, many.high - many.value)
        assert many.high - many.low < few.high - few.low


def test_sources_of_other_sizes_are_measured_at_their_own(random):
    scale = to_noise(drawn(random, 300), noise(random, 300), KEY, repeats=4)
    few = scale.index(drawn(random, 80, 1.0))
    many = scale.index(drawn(random, 1000, 1.0))
    assert (few.sample_size, many.sample_size) == (40, 150)
    assert scale.index(drawn(random, 1000, 1.0), sample_size=40).floor == few.floor
    plenty = np.tile(drawn(random, 300), (20, 1))
    assert to_noise(plenty, plenty + 9, KEY, "rbf_mmd", repeats=4).index(plenty + 1).sample_size == 2500
    with pytest.raises(ValueError, match="one ShiftScale at one sample_size"):
        index_difference(few, many)


def test_features_on_eight_devices_have_the_index_of_those_on_one(random):
    target, far, source = (each.astype(np.float32) for each in (drawn(random, 96), noise(random, 96), drawn(random, 96, 1.0)))
    split = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.sharding.PartitionSpec("data"))
    there = [jax.device_put(each, split) for each in (target, far, source)]
    expected = to_noise(target, far, KEY, repeats=4).index(source)
    assert to_noise(*there[:2], KEY, repeats=4).index(there[2]) == expected
    assert to_noise(target.tolist(), far.tolist(), KEY, repeats=4).index(source.tolist()) == expected


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32])
def test_default_noise_does_not_depend_on_how_features_are_held(random, dtype):
    # Beyond the squares that float16 holds, and in more images than bfloat16 can count.
    target, source = (np.asarray(drawn(random, 600, shift) @ np.triu(np.ones((6, 6))) * 900, dtype) for shift in (0.0, 2.0))
    settings = {"key": KEY, "distance": "sliced_wasserstein", "repeats": 4, "far_end": NOISE}
    expected = shift_index(source.astype(np.float64), target.astype(np.float64), **settings)
    assert shift_index(source, target, **settings) == expected


def test_draws_depend_on_the_key_alone(random):
    target = drawn(random, 100)
    far = noise(random, 100)
    source = drawn(random, 100)
    again = [to_noise(target, far, jax.random.key(seed), repeats=4).index(source) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_a_source_of_one_image_is_far_and_a_constant_target_has_no_scale(random):
    target = drawn(random, 100)
    far = noise(random, 100)
    assert to_noise(target, far, KEY).index(np.tile(target[:1] + 1, (100, 1))).low > 0
    alike = np.tile(target[:1], (100, 1))
    with pytest.raises(ValueError, match="all alike"):
        to_noise(alike, alike, KEY).index(target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: to_noise(x, x[:, :3], KEY), "6 and 3 dimensions"),
        (lambda x: to_noise(x * np.nan, x, KEY), "finite features"),
        (lambda x: to_noise(x, x, KEY, "fid"), "as the name of a distance, got 'fid'"),
        (lambda x: to_noise(x, x, KEY, repeats=5), "even number of draws"),
        (lambda x: to_noise(x, x + 9, KEY).index(x[:, :3]), "3 and 6 dimensions"),
        (lambda x: to_noise(x, x + 9, KEY).index(x * np.inf), "finite features"),
        (
            lambda x: to_noise(x, x + 9, KEY).index(x[:19]),
            "by kernel_root needs at least 20 images .* 19 of the source, 60 of the",
        ),
        (lambda x: to_noise(x, x + 9, KEY).index(x, sample_size=40), "needs at least 80 images"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(random, call, message):
    with pytest.raises(ValueError, match=message):
        call(drawn(random, 60))


def test_a_blend_has_its_components_in_exact_proportion():
    parts = {name: np.full((count, 2), value) for name, count, value in (("a", 100, 0.0), ("b", 30, 1.0), ("c", 50, 2.0))}
    mixed = blend(parts, {"a": 0.5, "b": 0.3, "c": 0.2})
    # b is the scarcest: 30 images are 0.3 of 100.
    assert len(mixed) == 100
    assert np.unique(mixed[:, 0], return_counts=True)[1].tolist() == [50, 30, 20]
    assert len(blend(parts, {"a": 1.0, "b": 0.0})) == 100
    with pytest.raises(ValueError, match=r"needs features of d; there are features of a, b, c"):
        blend(parts, {"a": 0.5, "d": 0.5})
    with pytest.raises(ValueError, match="sum to 1"):
        blend(parts, {"a": 0.5, "b": 0.4})


def test_the_index_of_a_blend_lies_between_its_components_and_rises_with_its_share(random):
    parts = {"near": drawn(random, 400), "far": drawn(random, 400, 2.0)}
    scale = to_noise(drawn(random, 400), noise(random, 400), KEY, "sliced_wasserstein", repeats=8)
    series = [scale.index(blend(parts, {"near": 1 - share, "far": share}), sample_size=200) for share in (0.0, 0.3, 0.6, 1.0)]
    assert np.all(np.diff([each.value for each in series]) > 0)
    assert index_difference(series[1], series[0]).shown
    assert index_difference(series[3], series[2]).shown


# The kernel distance has the coverage of its root, see above.
@pytest.mark.parametrize(
    "name",
    ["kernel_root", "rbf_mmd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("visual_dna", "sliced_wasserstein"))],
)
def test_intervals_cover_the_index_of_very_many_images(name):
    """A short run of `python -m tools.bench --what=statistics --world='shift index'`: no interval covers far too little."""
    world = WORLDS["gaussian"]()
    found = index_coverage(world, name, true_indices(world, name, images=4000), images=200, replicates=25, repeats=10)
    for place, each in found.items():
        # At a coverage of 95%, fewer than 20 of 25 have a probability of 2 in 1,000.
        assert each.covered >= 0.8, (place, each)
        assert abs(each.bias) < max(0.03, each.width / 2), (place, each)
    assert found["same"].above_0 <= 0.12
    assert found["middle"].above_0 == found["far"].above_0 == 1
