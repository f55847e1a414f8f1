"""Intervals where all is right, or nothing, or two encoders agree on nearly all images; and images in groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sslshift.transfer.inference import bootstrap, bootstrap_interval, compare, mcnemar, runs_interval, tango, wilson
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import EncoderPredictions, PairedScores
from sslshift.transfer.predictions import Predictions

ACCURACY = METRICS["accuracy"]
SQUARE = stats.norm.ppf(0.975) ** 2


def first(wrong, images):
    """Predictions for labels of 0: the first `wrong` of them are wrong."""
    return (np.arange(images) < wrong).astype(int)


def zeros(images):
    return np.zeros(images, int)


def paired(sides, groups=None):
    """Scores of kinds 0, 1, ... whose runs predict these classes for labels of 0."""
    members = []
    for kind, runs in enumerate(sides):
        for seed, each in enumerate(runs):
            found = Predictions("accuracy", zeros(len(each)), np.arange(len(each)), {"linear": each})
            members.append(EncoderPredictions(kind, seed, seed, found if groups is None else found._replace(groups=groups)))
    return PairedScores.of_members(members, "linear")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_inverts_the_score_test(images, data):
    right = data.draw(st.integers(0, images))
    low, high = wilson(right / images, images)
    assert 0 <= low <= right / images <= high <= 1
    reference = stats.binomtest(right, images).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.data())
def test_tango_inverts_the_score_test(images, data):
    only_a = data.draw(st.integers(0, images))
    only_b = data.draw(st.integers(0, images - only_a))
    low, high = tango(only_a, only_b, images)
    assert -1 <= low <= (only_a - only_b) / images <= high <= 1
    assert tango(only_b, only_a, images) == pytest.approx((-high, -low))
    # At a difference of 0, Tango's test is McNemar's without a continuity correction.
    if only_a + only_b:
        shown = (only_a - only_b) ** 2 / (only_a + only_b)
        assert abs(shown - SQUARE) < 1e-6 or (shown > SQUARE) == (low > 0 or high < 0)
    # If every image differs, it is Wilson's interval of the share of a, from -1 to 1.
    share = wilson(only_a / images, images)
    assert tango(only_a, images - only_a, images) == pytest.approx([2 * end - 1 for end in share], abs=1e-6)


def test_tango_of_equal_encoders_in_closed_form():
    for images in (10, 100, 1000):
        assert tango(0, 0, images) == pytest.approx((-SQUARE / (images + SQUARE), SQUARE / (images + SQUARE)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 3), st.sampled_from(["accuracy", "mean_class_accuracy", "macro_f1"]))
def test_perfection_has_wilsons_width_by_every_call(images, runs, name):
    labels = np.arange(images) % 2
    metric = METRICS[name]
    sides = [labels] * runs
    low = 1 / (1 + SQUARE / metric.effective_images(labels))
    assert runs_interval(metric, sides, labels, resamples=20) == pytest.approx((1.0, low, 1.0))
    assert runs_interval(metric, [1 - labels] * runs, labels, resamples=20)[:2] == (0.0, 0.0)
    assert runs_interval(metric, [1 - labels] * runs, labels, resamples=20).high == pytest.approx(1 - low)
    if runs == 1:
        assert bootstrap_interval(metric, labels, labels, resamples=20) == runs_interval(metric, sides, labels, resamples=20)
    equal = compare(metric, sides, sides, labels, resamples=20)
    assert equal[:3] == pytest.approx((0.0, low - 1, 1 - low))
    assert equal.verdict == "no difference shown"
    opposite = compare(metric, sides, [1 - labels] * runs, labels, resamples=20)
    assert opposite.difference == opposite.high == 1
    assert opposite.low < 1


def test_paired_scores_of_perfect_encoders_say_the_same():
    images = 30
    scores = paired([[zeros(images)] * 3, [zeros(images)] * 3])
    assert scores.score(0)[:3] == pytest.approx(runs_interval(ACCURACY, [zeros(images)] * 3, zeros(images)))
    found = scores.difference(0, 1)
    assert found[:3] == compare(ACCURACY, [zeros(images)] * 3, [zeros(images)] * 3, zeros(images), resamples=1000)[:3]
    assert found.p_value == 1.0
    assert found.half_width == pytest.approx(SQUARE / (images + SQUARE))


def test_trends_of_perfect_encoders_have_a_width_in_proportion_to_their_coefficients():
    images = 40
    scores = paired([[zeros(images)] * 3, [zeros(images)] * 3, [zeros(images)] * 3])
    width = SQUARE / (images + SQUARE)
    for coefficients in ([-0.5, 0.0, 0.5], [-2.0, 1.0, 1.0], [0.25, -0.5, 0.25]):
        found = scores.contrast(dict(enumerate(coefficients))).estimate()
        assert found.value == 0
        assert found.half_width == pytest.approx(width * sum(each for each in coefficients if each > 0))
        assert found.p_value == 1.0
    # A sum of scores is no difference.
    assert scores.contrast({0: 1.0, 1: 1.0}).effective == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(12, 200), st.data())
def test_verdicts_do_not_contradict_the_exact_test(images, data):
    both = data.draw(st.integers(0, 12))
    a, b = first(both, images), zeros(images)
    b[: data.draw(st.integers(0, 4))] = 1
    for sides in ((a, b), (b, a)):
        found = compare(ACCURACY, [sides[0]], [sides[1]], zeros(images), resamples=100)
        assert found.p_value == mcnemar(sides[0] == 0, sides[1] == 0)
        assert found.low < found.high
        assert found.verdict == "no difference shown" or found.p_value <= 0.05


@pytest.mark.parametrize(("share", "images"), [(0.999, 100), (0.99, 60), (0.97, 50), (0.98, 200), (0.9, 60)])
def test_intervals_near_perfection_cover_the_truth(share, images):
    random = np.random.default_rng(0)
    times = 300
    found = [
        bootstrap_interval(ACCURACY, (random.random(images) > share).astype(int), zeros(images), resamples=200, seed=i)
        for i in range(times)
    ]
    # The share of right images has few values here, so that no interval covers exactly 95%.
    assert np.mean([each.low <= share <= each.high for each in found]) > 0.93
    assert all(each.low < each.high for each in found)


@pytest.mark.parametrize(("only_a", "only_b"), [(0.0, 0.0), (0.01, 0.01), (0.0, 0.02), (0.05, 0.01)])
@pytest.mark.parametrize("runs", [1, 3])
def test_differences_of_few_images_cover_the_truth(only_a, only_b, runs):
    random = np.random.default_rng(1)
    times = 200
    images = 100
    found = []
    for i in range(times):
        drawn = random.random((runs, images))
        a = (drawn < only_b).astype(int)
        b = ((drawn >= only_b) & (drawn < only_a + only_b)).astype(int)
        found.append(compare(ACCURACY, list(a), list(b), zeros(images), resamples=100, seed=i))
    assert np.mean([each.low <= only_a - only_b <= each.high for each in found]) > 0.92
    if only_a == only_b:
        assert np.mean([each.verdict != "no difference shown" for each in found]) < 0.05


def test_many_wrong_images_are_the_bootstraps_alone():
    # Ten wrong images of 100 and more leave every number as a bootstrap gives it.
    for wrong in (10, 30):
        right = 1 - wrong / 100
        (numbers,) = bootstrap(ACCURACY, [[first(wrong, 100)]], zeros(100))
        ends = np.quantile(numbers.replicates, [0.025, 0.975])
        assert bootstrap_interval(ACCURACY, first(wrong, 100), zeros(100)) == pytest.approx((right, *ends))


def of_groups(random, groups, size, *, of_group=1.0, runs=1):
    """Right or wrong `[runs, images]` of images whose difficulty is mostly that of their group, and the groups."""
    members = np.repeat(np.arange(groups), size)
    latent = 0.8 + random.normal(0, of_group, groups)[members] + random.normal(0, 0.5, (runs, groups * size))
    return (latent <= 0).astype(int), members, stats.norm.cdf(0.8 / np.hypot(of_group, 0.5))


@pytest.mark.parametrize(("groups", "runs"), [(8, 1), (30, 1), (30, 3)])
def test_groups_are_resampled_whole_and_cover_the_truth(groups, runs):
    random = np.random.default_rng(2)
    times = 300
    covered = np.zeros(2)
    for i in range(times):
        wrong, members, truth = of_groups(random, groups, 12, runs=runs)
        labels = zeros(len(members))
        for place, own in enumerate((members, None)):
            found = runs_interval(ACCURACY, list(wrong), labels, groups=own, resamples=200, seed=i)
            covered[place] += found.low <= truth <= found.high
    grouped, alone = covered / times
    # Of eight groups, fewer than ten are wrong: Wilson's interval of eight images is on the safe side.
    assert 0.93 <= grouped <= (1.0 if groups == 8 else 0.99)
    assert alone < 0.8


def test_differences_of_equal_encoders_on_groups_are_shown_in_one_case_of_twenty():
    random = np.random.default_rng(3)
    times = 300
    shown = np.zeros(2)
    for i in range(times):
        members = np.repeat(np.arange(25), 10)
        shared = 0.5 + random.normal(0, 0.7, 250)
        # Each encoder has its own strength on each group.
        a, b = ((shared + random.normal(0, 0.5, 25)[members] <= 0).astype(int) for _ in range(2))
        for place, own in enumerate((members, None)):
            found = compare(ACCURACY, [a], [b], zeros(250), groups=own, resamples=200, seed=i)
            shown[place] += found.verdict != "no difference shown"
            assert np.isnan(found.p_value) == (own is not None)
    assert shown[0] / times < 0.08
    assert shown[1] / times > 0.15


def test_groups_of_one_image_are_images(random):
    wrong = (random.random(80) < 0.3).astype(int)
    alone = bootstrap(ACCURACY, [[wrong]], zeros(80))[0]
    grouped = bootstrap(ACCURACY, [[wrong]], zeros(80), groups=np.arange(80))[0]
    spread = np.sqrt(80 / 79)
    np.testing.assert_allclose(grouped.replicates - grouped.values, spread * (alone.replicates - alone.values), atol=1e-12)
    assert ACCURACY.effective_images(zeros(80), np.arange(80)) == 80


def test_the_name_and_order_of_groups_do_not_matter(random):
    wrong, members, _ = of_groups(random, 10, 6)
    names = np.array([f"video {9 - each}" for each in range(10)])[members]
    order = random.permutation(60)
    numbered = runs_interval(ACCURACY, list(wrong), zeros(60), groups=members)
    named = runs_interval(ACCURACY, [wrong[0][order]], zeros(60), groups=names[order])
    # The resamples are others, but of the same groups.
    assert numbered == pytest.approx(named, abs=0.05)


def test_perfect_encoders_on_groups_have_the_width_of_as_many_groups():
    groups = np.repeat(np.arange(10), 50)
    found = runs_interval(ACCURACY, [zeros(500)] * 2, zeros(500), groups=groups)
    assert found == pytest.approx((1.0, 1 / (1 + SQUARE / 10), 1.0))
    # One group of 450 images and fifty of one: hardly more than one group.
    uneven = np.concatenate([np.zeros(450, int), np.arange(1, 51)])
    assert ACCURACY.effective_images(zeros(500), uneven) == pytest.approx(500**2 / (450**2 + 50))


def test_every_class_counts_alike_in_the_effective_number_of_images():
    labels = np.array([0] * 90 + [1] * 10)
    assert METRICS["mean_class_accuracy"].effective_images(labels) == pytest.approx(4 / (1 / 90 + 1 / 10))
    marks = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    assert METRICS["average_precision"].effective_images(marks) == 4
    # A class that no image shows does not count.
    assert METRICS["average_precision"].effective_images(np.array([[1, 0], [1, 0], [0, 0]])) == 2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(10), "All 10 test images are one group, so that nothing is known of others; expected two or more"),
        (np.arange(9), r"the group of each of 10 images, got groups of shape \[9\]"),
    ],
)
def test_groups_that_do_not_fit_are_one_sentence(groups, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(ACCURACY, zeros(10), zeros(10), groups=groups)
