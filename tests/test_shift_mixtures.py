"""Planned mixtures: their statistics against replicated samples, drawn samples, and loops."""

import math

import numpy as np
import pytest

from sslshift.shift import (
    LayerRanges,
    VisualDna,
    frechet_distance,
    kernel_distance,
    layer_profile,
    unit_rows,
    visual_dna_distance,
)
from sslshift.shift.distances.frechet import MixtureMoments, Moments, frechet_distance_of_moments
from sslshift.shift.distances.kernel import kernel_distance_estimate
from sslshift.shift.distances.rbf_mmd import rbf_mmd_of_moments
from sslshift.shift.distances.visual_dna import (
    HistogramMixture,
    Histograms,
    Ranges,
    visual_dna_distance_of_histograms,
    visual_dna_distances,
)
from sslshift.shift.layers import layer_distances, visual_dna_distance_of_layers
from sslshift.shift.mixtures import (
    KernelTable,
    LayerMixture,
    blend,
    blend_counts,
    kernel_distance_of_mixture,
    mixture_histograms,
    mixture_moments,
)


@pytest.fixture
def parts(random):
    """Features of three components, of different sizes, means and spreads."""
    return [random.normal(size=(10, 4)), random.normal(size=(4, 4)) * 2 + 1, random.exponential(size=(7, 4)) - 2]


# Each component's images so often that the plan's shares are met by counting: 20, 8 and 35 of 63.
TIMES = (2, 2, 5)
COUNTS = (20, 8, 35)
SHARES = [count / 63 for count in COUNTS]


@pytest.fixture
def replicated(parts):
    return np.concatenate([np.tile(part, (times, 1)) for part, times in zip(parts, TIMES, strict=True)])


def test_moments_are_those_of_a_sample_replicated_to_the_shares(parts, replicated):
    mixture = mixture_moments([Moments.of(part) for part in parts], SHARES)
    np.testing.assert_allclose(mixture.mean, replicated.mean(axis=0), rtol=1e-12)
    # Second moments divide by the count: the identity holds without a correction.
    np.testing.assert_allclose(mixture.second_moment, replicated.T @ replicated / 63, rtol=1e-12, atol=1e-12)
    # Covariances divide by each component's own count - 1: what that adds to the replicated sample's is known.
    within = [np.cov(part, rowvar=False) for part in parts]
    added = sum(share * each / len(part) for share, each, part in zip(SHARES, within, parts, strict=True))
    np.testing.assert_allclose(mixture.covariance, np.cov(replicated, rowvar=False, ddof=0) + added, rtol=1e-12, atol=1e-12)


def test_a_mixtures_covariance_is_unbiased_but_for_the_means(random):
    # Two components of few images: each own covariance is unbiased, the means' scatter adds w_i (1 - w_i) / n_i of each.
    values = []
    for _ in range(4000):
        sets = random.normal(size=(3, 1)), random.normal(5, 2, (4, 1))
        values.append(mixture_moments([Moments.of(each) for each in sets], [0.25, 0.75]).covariance.item())
    true = 0.25 * 1 + 0.75 * 4 + 0.25 * 0.75 * (25 + 1 / 3 + 4 / 4)
    assert abs(np.mean(values) - true) < 4 * np.std(values) / math.sqrt(len(values))


def test_shares_of_the_images_themselves_give_the_merged_sets(parts):
    moments = [Moments.of(part) for part in parts]
    whole = moments[0].merge(moments[1]).merge(moments[2])
    mixture = mixture_moments(moments, [len(part) / 21 for part in parts])
    np.testing.assert_allclose(mixture.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(mixture.second_moment, whole.second_moment, rtol=1e-12)
    assert mixture.count == 21
    alone = mixture_moments(moments, [0, 1, 0])
    np.testing.assert_allclose(alone.covariance, moments[1].covariance, rtol=1e-12)
    assert alone.count == 4
    # 1 / (0.5^2 / 10 + 0.5^2 / 4) = 11.4
    assert mixture_moments(moments[:2], [0.5, 0.5]).count == 11


def test_frechet_of_a_mixture_is_that_of_a_big_sample_drawn_from_it(random):
    def draw(count):
        return [random.normal(size=(count, 3)), random.normal(size=(count, 3)) * [1, 2, 0.5] + 2]

    target = random.normal(size=(20_000, 3)) + 0.5
    shares = [0.7, 0.3]
    planned = mixture_moments([Moments.of(each) for each in draw(20_000)], shares)
    value = frechet_distance_of_moments(planned, Moments.of(target))
    drawn = []
    for _ in range(10):
        one, two = draw(20_000)
        first = random.random(20_000) < shares[0]
        drawn.append(frechet_distance(np.where(first[:, None], one, two), target))
    # The plan itself is measured on samples of that size.
    assert abs(value - np.mean(drawn)) < 5 * np.std(drawn)
    assert np.std(drawn) < 0.05 * value
    assert frechet_distance_of_moments(planned, planned) == pytest.approx(0, abs=1e-9)


def test_rbf_of_a_mixture_is_that_of_the_replicated_sample(parts, replicated, random):
    target = Moments.of(unit_rows(random.normal(size=(30, 4))))
    mixture = mixture_moments([Moments.of(unit_rows(part)) for part in parts], SHARES)
    expected = rbf_mmd_of_moments(Moments.of(unit_rows(replicated)), target)
    assert rbf_mmd_of_moments(mixture, target).value == pytest.approx(expected.value, rel=1e-9)
    with pytest.raises(ValueError, match="rows of length 1"):
        rbf_mmd_of_moments(mixture_moments([Moments.of(part) for part in parts], SHARES), target)


def test_histograms_are_those_of_the_replicated_sample(parts, replicated, random):
    target = random.normal(size=(30, 4))
    ranges = Ranges(np.full(4, -3.0), np.full(4, 3.0))
    mixture = mixture_histograms([Histograms.of(part, ranges) for part in parts], SHARES)
    of_target = Histograms.of(target, ranges)
    whole = Histograms.of(replicated, ranges)
    np.testing.assert_allclose(visual_dna_distances(mixture, of_target), visual_dna_distances(whole, of_target), rtol=1e-12)
    expected = visual_dna_distance(replicated, target, ranges=ranges)
    for sides in ((mixture, of_target), (of_target, mixture)):
        assert visual_dna_distance_of_histograms(*sides) == pytest.approx(expected, rel=1e-12)
    assert visual_dna_distance_of_histograms(mixture, whole) == pytest.approx(0, abs=1e-9)


def layers_of(part, groups=4):
    """Returns activations of a made-up encoder with two layers, of which the second has the last neuron."""
    ranges = LayerRanges(
        {"a": Ranges(np.full(3, -3.0), np.full(3, 3.0), "e"), "b": Ranges(np.full(1, -2.0), np.full(1, 2.0), "e")}
    )
    dealt = [part[group::groups] for group in range(groups)]
    columns = {"a": slice(0, 3), "b": slice(3, 4)}
    counts = {
        name: np.stack([Histograms.of(rows[:, columns[name]], each, bins=50).counts for rows in dealt])
        for name, each in ranges.layers.items()
    }
    return VisualDna(counts, np.array([len(rows) for rows in dealt]), ranges)


def test_layers_of_a_mixture_are_those_of_the_replicated_sample(parts, replicated, random):
    target = layers_of(random.normal(size=(40, 4)))
    mixture = LayerMixture([layers_of(part) for part in parts], SHARES)
    whole = layers_of(replicated)
    for name, distances in layer_distances(mixture, target).items():
        np.testing.assert_allclose(distances, layer_distances(whole, target)[name], rtol=1e-12)
    assert visual_dna_distance_of_layers(mixture, whole) == pytest.approx(0, abs=1e-9)
    assert mixture.groups == 4
    assert mixture.count == math.floor(1 / sum(share**2 / len(part) for share, part in zip(SHARES, parts, strict=True)))


def test_a_mixture_of_one_component_has_its_profile(random):
    sets = [layers_of(random.normal(size=(40, 4)) + shift) for shift in (0, 0.5, 1)]
    mixture = LayerMixture(sets[:2], [0.0, 1.0])
    got = layer_profile(mixture, sets[2])
    expected = layer_profile(sets[1], sets[2])
    assert got.images == expected.images == (20, 20)
    for name, level in expected.layers.items():
        assert got.layers[name] == pytest.approx(level, rel=1e-9)
    assert mixture.floor() == pytest.approx(sets[1].floor(), rel=1e-12)
    # Between the two, a mixture is less certain than its components together are.
    assert LayerMixture(sets[:2], [0.5, 0.5]).floor() < sets[1].floor()


def naive_mean(x, y, same):
    values = [(float(a @ b) / len(a) + 1) ** 3 for i, a in enumerate(x) for j, b in enumerate(y) if not (same and i == j)]
    return np.mean(values)


def test_kernel_table_against_a_loop(parts, random):
    target = random.normal(size=(9, 4)) + 0.5
    sets = [*parts, target]
    expected = sum(
        v * w * naive_mean(sets[i], sets[j], i == j)
        for i, v in enumerate([*SHARES, -1.0])
        for j, w in enumerate([*SHARES, -1.0])
    )
    assert kernel_distance_of_mixture(parts, SHARES, target) == pytest.approx(expected, rel=1e-9)
    table = KernelTable.of(dict(zip("abct", sets, strict=True)), encoder="e")
    assert table.distance(dict(zip("abc", SHARES, strict=True)), {"t": 1}) == pytest.approx(expected, rel=1e-9)
    assert table.distance({"t": 1}, {"c": SHARES[2], "a": SHARES[0], "b": SHARES[1]}) == pytest.approx(expected, rel=1e-9)


def test_the_standard_error_of_a_table_is_the_jackknife_over_all_images_of_all_sets(parts, random):
    sets = dict(zip("abct", [*parts, random.normal(size=(9, 4)) + 0.5], strict=True))
    # Component b is on both sides.
    mixture = {"a": 0.5, "b": 0.3, "c": 0.2}
    other = {"t": 0.9, "b": 0.1}
    variance = 0.0
    for name, each in sets.items():
        left = [
            KernelTable.of(sets | {name: np.delete(each, row, axis=0)}).distance(mixture, other) for row in range(len(each))
        ]
        variance += (len(left) - 1) * np.var(left)
    table = KernelTable.of(sets)
    value, error, bound = table.estimate(mixture, other)
    assert (value, bound) == (table.distance(mixture, other), 0)
    assert error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert table.estimate(mixture, mixture)[:2] == (0, 0)


def test_a_table_of_two_sets_has_the_standard_error_of_their_kernel_distance(random):
    x = random.normal(size=(30, 3)) + 1e4
    y = random.normal(size=(20, 3)) + 1e4
    table = KernelTable.of({"x": x, "y": y, "few": y[:2]})
    assert table.estimate({"x": 1}, {"y": 1}) == pytest.approx(kernel_distance_estimate(x, y), rel=1e-9)
    # A set of two images has no distance without one of them: only where it has no share is the error known.
    assert math.isnan(table.estimate({"x": 0.5, "few": 0.5}, {"y": 1}).standard_error)


def test_the_standard_error_of_a_mixture_is_near_the_truth(random):
    draws = []
    for _ in range(300):
        sets = {"a": random.normal(size=(60, 2)), "b": random.normal(size=(40, 2)) + 2, "t": random.normal(size=(80, 2)) + 0.3}
        draws.append(KernelTable.of(sets).estimate({"a": 0.4, "b": 0.6}, {"t": 1}))
    spread = np.std([draw.value for draw in draws])
    assert np.sqrt(np.mean([draw.standard_error**2 for draw in draws])) == pytest.approx(spread, rel=0.2)


def test_one_component_of_share_1_has_the_kernel_distance(parts, random):
    target = random.normal(size=(1100, 4))
    big = random.normal(size=(1300, 4)) + 0.3
    table = KernelTable.of({"a": parts[0], "big": big, "target": target})
    for name, each in (("a", parts[0]), ("big", big)):
        assert table.distance({name: 1.0}, {"target": 1.0}) == pytest.approx(kernel_distance(each, target), rel=1e-9)
    assert kernel_distance_of_mixture([parts[0], big], [0, 1], target) == pytest.approx(kernel_distance(big, target), rel=1e-9)


def test_kernel_distances_of_mixtures_are_unbiased_even_for_few_images(random):
    # Of N(0, 1), N(1, 1.5^2), and the target N(0.4, 1): the cube's expectation is 1 + 3 m1 m1' + 3 m2 m2' + m3 m3'.
    def moments(mean, scale):
        return np.array([mean, mean**2 + scale**2, mean**3 + 3 * mean * scale**2])

    share = 0.6
    apart = share * moments(0, 1) + (1 - share) * moments(1, 1.5) - moments(0.4, 1)
    true = np.square(apart) @ [3, 3, 1]
    values = []
    for _ in range(2000):
        sets = [random.normal(size=(4, 1)), random.normal(1, 1.5, (6, 1))]
        values.append(kernel_distance_of_mixture(sets, [share, 1 - share], random.normal(0.4, 1, (5, 1))))
    assert abs(np.mean(values) - true) < 4 * np.std(values) / math.sqrt(len(values))


def test_files_bring_mixtures_and_tables_back(tmp_path, parts):
    moments = mixture_moments([Moments.of(part, encoder="e") for part in parts], SHARES)
    histograms = mixture_histograms([Histograms.of(part, Ranges.of(parts[0], encoder="e"), bins=9) for part in parts], SHARES)
    table = KernelTable.of({"a.b": parts[0], "ü": parts[1]}, encoder="e")
    for kept in (moments, histograms, table):
        kept.save(tmp_path / "kept.npz")
        loaded = type(kept).load(tmp_path / "kept.npz")
        if isinstance(kept, MixtureMoments):
            assert frechet_distance_of_moments(loaded, kept) == pytest.approx(0, abs=1e-9)
            assert (loaded.count, loaded.encoder) == (kept.count, "e")
        elif isinstance(kept, HistogramMixture):
            assert visual_dna_distance_of_histograms(loaded, kept) == 0
        else:
            assert loaded.estimate({"a.b": 0.5, "ü": 0.5}, {"ü": 1}) == kept.estimate({"a.b": 0.5, "ü": 0.5}, {"ü": 1})
            assert loaded.encoder == "e"


def test_what_is_no_mixture_is_refused_in_one_sentence(parts):
    ranges = Ranges.of(parts[0])
    makers = (
        lambda shares: mixture_moments([Moments.of(part) for part in parts], shares),
        lambda shares: mixture_histograms([Histograms.of(part, ranges) for part in parts], shares),
        lambda shares: kernel_distance_of_mixture(parts, shares, parts[0]),
        lambda shares: LayerMixture([layers_of(part) for part in parts], shares),
    )
    for make in makers:
        for shares, message in (
            ([0.5, 0.5], "one share for each component, not 2 shares for 3 components"),
            ([0.5, 0.4, 0.09], "sum to 1, got a sum of 0.99"),
            ([0.5, 0.7, -0.2], "at least 0"),
            ([0.5, math.nan, 0.5], "finite"),
            ([0.5, 0.5, 1e-4], r"sum to 1, got a sum of 1\.0001"),
        ):
            with pytest.raises(ValueError, match=message) as raised:
                make(shares)
            assert "\n" not in str(raised.value)
        make([0.5, 0.5, 5e-7])
    table = KernelTable.of({"a": parts[0], "b": parts[1]})
    alone = [Moments.of(parts[0], encoder=encoder) for encoder in "ef"]
    for make, message in (
        (lambda: mixture_moments([], []), "not 0 shares for 0 components"),
        (lambda: mixture_moments(alone, [0.5, 0.5]), "different encoders"),
        (lambda: mixture_moments([Moments.of(parts[0]), Moments.of(parts[1][:, :2])], [0.5, 0.5]), "4 and 2 dimensions"),
        (lambda: mixture_moments([Moments.of(parts[0][:1])], [1]), "at least two images"),
        (lambda: mixture_histograms([Histograms.of(parts[0], r) for r in (ranges, Ranges.of(parts[1]))], [0.5, 0.5]), "ranges"),
        (lambda: LayerMixture([layers_of(parts[0]), layers_of(parts[0], 2)], [0.5, 0.5]), "4 groups .* 2 groups"),
        (lambda: table.distance({"a": 1}, {"c": 1}), "one of the sets a, b of this table, got 'c'"),
        (lambda: table.distance({"a": 1}, {"b": 0.9}), "sum to 1, got a sum of 0.9"),
        (lambda: table.distance({"a": 1}, {}), "not 0 shares for 0 components"),
        (lambda: KernelTable.of({}), "at least one set"),
        (lambda: KernelTable.of({"a": parts[0], "one": parts[1][:1]}), "at least 2 images of each set, and 'one' has 1"),
        (lambda: KernelTable.of({"a": parts[0], "b": parts[1][:, :3]}), "4 and 3 dimensions"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            make()
        assert "\n" not in str(raised.value)


def test_a_part_of_a_mixture_holds_all_its_components_and_what_was_asked_for_is_exact(random):
    parts = {"near": np.zeros((300, 2)), "far": np.ones((100, 2))}
    mixed = blend(parts, {"near": 0.75, "far": 0.25})
    assert (len(mixed), mixed[:, 0].sum()) == (400, 100)
    assert 0.1 < mixed[:100, 0].mean() < 0.4
    assert np.array_equal(mixed, blend(parts, {"near": 0.75, "far": 0.25}))
    assert np.array_equal(mixed, blend(parts, {"far": 0.25, "near": 0.75}))
    exact = blend(parts, {"near": 0.75, "far": 0.25}, most=40)
    assert (len(exact), exact[:, 0].sum()) == (40, 10)
    # The scarce one makes it smaller, never another mixture.
    assert blend_counts({"near": 300, "far": 10}, {"near": 0.75, "far": 0.25}, most=200) == {"near": 30, "far": 10}
    # A component alone stays in its order.
    alone = random.normal(size=(30, 2))
    assert np.array_equal(blend({"near": alone}, {"near": 1.0}, most=20), alone[:20])
