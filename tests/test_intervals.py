import itertools

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sslshift.transfer.inference import bootstrap_interval, compare, mcnemar, runs_interval
from sslshift.transfer.metrics import METRICS, Metric

ACCURACY = METRICS["accuracy"]
PRECISION = METRICS["average_precision"]


def predicted(correct):
    """Predictions that are right where `correct` says so, for labels that are all 0."""
    return 1 - np.asarray(correct, int)


def nothing_but_zeros(images):
    return np.zeros(images, int)


def simulated(random, *, images, shape, effects, difficulty, rest, mean):
    """Right or wrong `[*shape, images]` from a latent sum: an effect for each axis, each image's difficulty, and a rest.

    Returns those and the accuracy over all runs, draws and images that could be.
    """
    latent = mean + random.normal(0, difficulty, images) + random.normal(0, rest, (*shape, images))
    for axis, effect in enumerate(effects):
        sizes = [1] * (len(shape) + 1)
        sizes[axis] = shape[axis]
        latent = latent + random.normal(0, effect, sizes)
    deviation = np.sqrt(np.square(effects).sum() + difficulty**2 + rest**2)
    return latent > 0, stats.norm.cdf(mean / deviation)


def binomial_limits(times, level=0.95):
    """Limits that a share of `times` trials of this probability exceeds in 1 case of 500."""
    return stats.binom.ppf([0.001, 0.999], times, level) / times


def test_the_bootstrap_is_that_of_a_proportion():
    found = bootstrap_interval(ACCURACY, predicted(np.arange(1000) < 700), nothing_but_zeros(1000))
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert found == pytest.approx((0.7, 0.7 - half, 0.7 + half), abs=0.003)


def test_bootstrap_intervals_cover_the_true_accuracy():
    random = np.random.default_rng(1)
    times = 300
    found = [
        bootstrap_interval(ACCURACY, predicted(random.random(200) < 0.8), nothing_but_zeros(200), resamples=500, seed=i)
        for i in range(times)
    ]
    low, high = binomial_limits(times)
    assert low <= np.mean([each.low <= 0.8 <= each.high for each in found]) <= high


def test_narrower_levels_cover_less():
    predictions = predicted(np.arange(400) % 3 > 0)
    widths = [
        each.high - each.low
        for each in (bootstrap_interval(ACCURACY, predictions, nothing_but_zeros(400), level=x) for x in (0.5, 0.9, 0.99))
    ]
    expected = [stats.norm.ppf((1 + level) / 2) for level in (0.5, 0.9, 0.99)]
    np.testing.assert_allclose(np.divide(widths, widths[1]), np.divide(expected, expected[1]), rtol=0.1)


def test_resamples_depend_on_seed_and_number_of_images_alone(random):
    seen = []

    def recording(predictions, labels):
        def statistic(weights):
            seen.append(weights.T.copy())
            return weights[0]

        return statistic

    metric = Metric("recording", "recording", 1, np.asarray, recording)
    for predictions, seed in (([0] * 50, 3), ([1] * 50, 3), ([0] * 50, 4)):
        bootstrap_interval(metric, np.array(predictions), nothing_but_zeros(50), resamples=40, seed=seed)
    first, second, other = (each for each in seen if len(each) == 40)
    assert (first.sum(axis=1) == 50).all()
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    # An image is taken Binomial(50, 1/50) times.
    assert first.mean() == 1
    assert first.var() == pytest.approx(0.98, abs=0.1)


def test_the_same_call_gives_the_same_interval(random):
    labels = random.integers(0, 3, 60)
    scores = random.normal(size=(60, 3)).astype(np.float32)
    for metric in METRICS.values():
        calls = [bootstrap_interval(metric, metric.decide(scores), labels, resamples=200) for _ in range(2)]
        assert calls[0] == calls[1]
        assert calls[0].low < calls[0].value < calls[0].high
        assert calls[0].value == metric.value(metric.decide(scores), labels)


def test_the_bias_of_average_precision_in_resamples_is_taken_off():
    random = np.random.default_rng(0)
    labels = (random.random((200, 20)) < 0.05).astype(np.uint8)
    scores = (random.normal(size=labels.shape) + 1.5 * labels).astype(np.float32)
    weights = random.multinomial(200, np.full(200, 1 / 200), 500)
    found = bootstrap_interval(PRECISION, scores, labels, resamples=500)
    resampled = PRECISION.value(scores, labels, weights)
    # With ten images a class most resamples lie above the value itself.
    assert np.mean(resampled > found.value) > 0.7
    assert (found.low + found.high) / 2 == pytest.approx(found.value, abs=0.25 * resampled.std())
    assert found.high - found.low == pytest.approx(np.diff(np.quantile(resampled, [0.025, 0.975]))[0], rel=0.15)


def expected_half(correct, level=0.95):
    """The half width for `correct[run, image]` from variances in closed form, in place of a bootstrap."""
    runs, images = correct.shape
    values = correct.mean(axis=1)
    share = values.var(ddof=1) / runs
    over_images = correct.mean(axis=0).var() / images
    residual = correct - values[:, None] - correct.mean(axis=0) + correct.mean()
    noise = np.square(residual).sum() / (runs - 1) / images**2 / runs
    total = over_images + max(0, share - noise)
    freedom = total**2 / (share**2 / (runs - 1) + over_images**2 / (images - 1))
    t = [stats.t.ppf((1 + level) / 2, max(1, df)) for df in (freedom, runs - 1)]
    return max(t[0] * np.sqrt(total), t[1] * np.sqrt(share))


@pytest.mark.parametrize(("images", "effect"), [(500, 0.0), (500, 0.1), (500, 0.5), (12, 0.0)])
def test_runs_intervals_in_closed_form(random, images, effect):
    correct, _ = simulated(random, images=images, shape=(4,), effects=(effect,), difficulty=1.0, rest=0.7, mean=0.2)
    found = runs_interval(ACCURACY, list(predicted(correct)), nothing_but_zeros(images), resamples=5000)
    half = expected_half(correct)
    assert found == pytest.approx((correct.mean(), correct.mean() - half, correct.mean() + half), abs=0.04 * half)


@pytest.mark.parametrize(
    ("effect", "too_narrow"),
    [
        (0.05, ("seeds bootstrapped", "Student's t over seeds")),
        (0.25, ("seeds bootstrapped", "images alone")),
        (0.5, ("seeds bootstrapped", "images alone")),
    ],
)
def test_runs_intervals_cover_where_naive_ones_do_not(effect, too_narrow):
    random = np.random.default_rng(2)
    times = 400
    runs = 3
    images = 200
    holds = {name: [] for name in ("ours", "images alone", "seeds bootstrapped", "Student's t over seeds")}
    orders = np.array(list(itertools.product(range(runs), repeat=runs)))
    for i in range(times):
        correct, truth = simulated(random, images=images, shape=(runs,), effects=(effect,), difficulty=1.0, rest=0.6, mean=0.9)
        found = runs_interval(ACCURACY, list(predicted(correct)), nothing_but_zeros(images), resamples=200, seed=i)
        values = correct.mean(axis=1)
        spreads = {
            "images alone": 1.96 * correct.mean(axis=0).std() / np.sqrt(images),
            "Student's t over seeds": stats.t.ppf(0.975, runs - 1) * values.std(ddof=1) / np.sqrt(runs),
        }
        ends = {name: (values.mean() - half, values.mean() + half) for name, half in spreads.items()}
        ends["seeds bootstrapped"] = np.quantile(values[orders].mean(axis=1), [0.025, 0.975], method="nearest")
        for name, (low, high) in (ends | {"ours": found[1:]}).items():
            holds[name].append(low <= truth <= high)
    covered = {name: np.mean(each) for name, each in holds.items()}
    least = binomial_limits(times)[0]
    # On the safe side by a little where images outweigh seeds.
    assert least <= covered["ours"] <= 0.995
    assert all(covered[name] < least for name in too_narrow), covered


def test_runs_intervals_are_never_narrower_than_students_t_over_runs():
    values = np.array([0.5, 0.7, 0.75])
    predictions = [predicted(np.arange(100_000) < value * 100_000) for value in values]
    found = runs_interval(ACCURACY, predictions, nothing_but_zeros(100_000), resamples=20)
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert found.value == pytest.approx(0.65)
    assert found.value - found.low == pytest.approx(half, rel=0.01)
    assert found.value - found.low >= half * (1 - 1e-6)


def test_more_runs_do_not_average_the_images_chance_away(random):
    correct, _ = simulated(random, images=300, shape=(30,), effects=(0.0,), difficulty=1.0, rest=0.1, mean=0.5)
    found = [runs_interval(ACCURACY, list(predicted(correct[:runs])), nothing_but_zeros(300)) for runs in (5, 30)]
    assert found[1].high - found[1].low > 0.9 * (found[0].high - found[0].low)


def test_metrics_stay_within_their_range_and_differences_do_not():
    labels = nothing_but_zeros(10)
    good = labels
    bad = labels + 1
    found = runs_interval(ACCURACY, [good, predicted(np.arange(10) < 5)], labels)
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)
    difference = compare(ACCURACY, [good, good], [bad, predicted(np.arange(10) < 5)], labels)
    assert difference.difference == 0.75
    assert difference.high > 1


def test_draws_of_one_run_count_as_seeds_do(random):
    correct, _ = simulated(random, images=80, shape=(5,), effects=(0.4,), difficulty=1.0, rest=0.5, mean=0.5)
    predictions = predicted(correct)
    labels = nothing_but_zeros(80)
    assert bootstrap_interval(ACCURACY, predictions, labels) == runs_interval(ACCURACY, list(predictions), labels)
    assert bootstrap_interval(ACCURACY, predictions[:1], labels) == bootstrap_interval(ACCURACY, predictions[0], labels)
    scores = random.normal(size=(3, 80, 2)).astype(np.float32)
    marks = random.integers(0, 2, (80, 2))
    assert bootstrap_interval(PRECISION, scores, marks) == runs_interval(PRECISION, list(scores), marks)


def test_runs_with_draws_cover_where_draws_averaged_away_do_not():
    random = np.random.default_rng(3)
    times = 300
    images = 300
    holds = []
    for i in range(times):
        correct, truth = simulated(random, images=images, shape=(3, 4), effects=(0.1, 0.4), difficulty=0.8, rest=0.6, mean=0.9)
        labels = nothing_but_zeros(images)
        both = runs_interval(ACCURACY, list(predicted(correct)[:, :, None]), labels, resamples=100, seed=i)
        assert both.value == pytest.approx(correct.mean())
        # Draws taken away: as if the mean over draws were a value without chance.
        half = expected_half(correct.mean(axis=1))
        holds.append((both.low <= truth <= both.high, abs(correct.mean() - truth) <= half))
    covered, without = np.mean(holds, axis=0)
    least = binomial_limits(times)[0]
    assert least <= covered <= 0.995
    assert without < least


def test_mcnemar_by_hand():
    # 6 images only a has right, 1 only b: 2 (1 + 7) / 2^7.
    a = np.array([1] * 6 + [0] + [1] * 9 + [0] * 4, bool)
    b = np.array([0] * 6 + [1] + [1] * 9 + [0] * 4, bool)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(16 / 128)
    assert mcnemar(a, a) == 1.0
    labels = nothing_but_zeros(20)
    assert compare(ACCURACY, [predicted(a)], [predicted(b)], labels).p_value == pytest.approx(16 / 128)


def test_mcnemar_is_of_single_runs_and_accuracy(random):
    labels = nothing_but_zeros(20)
    a, b = predicted(random.random((2, 20)) < 0.5)
    assert np.isnan(compare(ACCURACY, [a, a], [b, b], labels).p_value)
    assert np.isnan(compare(ACCURACY, [np.stack([a, b])], [np.stack([b, a])], labels).p_value)
    assert np.isnan(compare(METRICS["macro_f1"], [a], [b], labels).p_value)


def test_verdicts_say_what_the_interval_leaves_out():
    labels = nothing_but_zeros(200)
    a = predicted(np.arange(200) < 180)
    b = predicted(np.arange(200) < 150)
    better = compare(ACCURACY, [a], [b], labels)
    assert better.difference == pytest.approx(0.15)
    # Paired: 30 of 200 images differ, all one way.
    half = 1.96 * np.sqrt(0.15 * 0.85 / 200)
    assert better[1:3] == pytest.approx((0.15 - half, 0.15 + half), abs=0.01)
    assert better.verdict == "better"
    assert compare(ACCURACY, [b], [a], labels).verdict == "worse"
    assert compare(ACCURACY, [a], [predicted(np.arange(200) < 179)], labels).verdict == "no difference shown"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("runs", [1, 3])
def test_nothing_is_shown_of_equal_predictions(random, metric, runs):
    labels = random.integers(0, 3, 40)
    side = [metric.decide(random.normal(size=(40, 3))) for _ in range(runs)]
    found = compare(metric, side, side, labels, resamples=100)
    assert found.difference == 0.0
    assert found.low == -found.high < 0
    assert found.verdict == "no difference shown"
    assert found.p_value == 1.0 if metric is ACCURACY and runs == 1 else np.isnan(found.p_value)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.data())
def test_swapping_sides_turns_the_sign(runs_a, runs_b, draws, data):
    labels = data.draw(arrays.arrays(np.int64, 12, elements=st.integers(0, 2)))
    a, b = (data.draw(arrays.arrays(np.int64, (runs, draws, 12), elements=st.integers(0, 2))) for runs in (runs_a, runs_b))
    for name in ("accuracy", "macro_f1"):
        ab, ba = (compare(METRICS[name], list(x), list(y), labels, resamples=50) for x, y in ((a, b), (b, a)))
        assert ab[:3] == pytest.approx((-ba.difference, -ba.high, -ba.low), abs=1e-9)
        assert ab.p_value == ba.p_value or np.isnan([ab.p_value, ba.p_value]).all()
        assert {ab.verdict, ba.verdict} in ({"better", "worse"}, {"no difference shown"})


def test_pairing_images_and_runs_narrows_the_interval():
    random = np.random.default_rng(4)
    latent = random.normal(0.6, 1.0, 400) + random.normal(0, 0.4, (4, 1))
    a, b = (latent + shift + random.normal(0, 0.2, (4, 400)) > 0 for shift in (0.25, 0.0))
    labels = nothing_but_zeros(400)
    paired = compare(ACCURACY, list(predicted(a)), list(predicted(b)), labels)
    shuffled = compare(ACCURACY, list(predicted(a)), list(predicted(b))[::-1], labels)
    alone = [runs_interval(ACCURACY, list(predicted(side)), labels) for side in (a, b)]
    width = paired.high - paired.low
    assert paired.difference == pytest.approx(shuffled.difference)
    assert 2 * width < shuffled.high - shuffled.low
    assert 2 * width < np.hypot(*(each.high - each.low for each in alone))
    assert (paired.verdict, shuffled.verdict) == ("better", "no difference shown")


def test_unequal_numbers_of_runs_are_compared_as_by_welch():
    # So many images that the choice of images hardly counts: Welch's interval over seeds is left.
    values = [np.array([0.50, 0.60, 0.64]), np.array([0.40, 0.42, 0.43, 0.39])]
    images = 20_000
    sides = [[predicted(np.arange(images) < value * images) for value in side] for side in values]
    found = compare(ACCURACY, *sides, nothing_but_zeros(images), resamples=50)
    welch = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    assert found.difference == pytest.approx(0.17)
    assert found.low <= welch.low + 1e-3
    # At least as wide as Student's t with the first side's two degrees of freedom, which is nearly all of it.
    alone = stats.t.ppf(0.975, 2) * values[0].std(ddof=1) / np.sqrt(3)
    assert found.high - found.difference == pytest.approx(max(alone, welch.high - 0.17), rel=0.02)


def test_one_run_against_several_is_taken_as_it_is(random):
    correct, _ = simulated(random, images=200, shape=(3,), effects=(0.3,), difficulty=1.0, rest=0.5, mean=0.5)
    labels = nothing_but_zeros(200)
    perfect = compare(ACCURACY, [labels], list(predicted(correct)), labels)
    runs = runs_interval(ACCURACY, list(predicted(correct)), labels)
    assert perfect[:3] == pytest.approx((1 - runs.value, 1 - runs.high, 1 - runs.low))


def test_comparisons_of_equals_show_a_difference_in_one_case_of_twenty():
    random = np.random.default_rng(5)
    times = 400
    verdicts = []
    for i in range(times):
        shared = random.normal(0.7, 1.0, 150) + random.normal(0, 0.3, (3, 1))
        a, b = (shared + random.normal(0, 0.25, (3, 1)) + random.normal(0, 0.5, (3, 150)) > 0 for _ in range(2))
        found = compare(ACCURACY, list(predicted(a)), list(predicted(b)), nothing_but_zeros(150), resamples=150, seed=i)
        verdicts.append(found.verdict)
    shown = 1 - verdicts.count("no difference shown") / times
    low, high = binomial_limits(times, 0.05)
    assert low / 2 <= shown <= high
    assert {"better", "worse"} <= set(verdicts)


def test_comparisons_of_scores_for_several_labels(random):
    labels = (random.random((300, 3)) < 0.3).astype(np.uint8)
    a, b = (random.normal(size=(300, 3)).astype(np.float32) + gain * labels for gain in (2.0, 0.5))
    found = compare(PRECISION, [a], [b], labels, resamples=300)
    assert found.difference == pytest.approx(PRECISION.value(a, labels) - PRECISION.value(b, labels))
    assert found.verdict == "better"


def test_resamples_without_any_class_to_find_are_excluded():
    labels = np.array([[1]] + [[0]] * 9)
    scores = np.arange(10, dtype=np.float32)[::-1, None]
    # A third of resamples lack the one image that counts; the others find it first. One success of one, in Wilson's interval.
    assert bootstrap_interval(PRECISION, scores, labels, resamples=200) == pytest.approx((1.0, 1 / (1 + 1.959964**2), 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: runs_interval(ACCURACY, [], np.zeros(3, int)), r"predictions of one run or more.*got shapes \[\]"),
        (lambda: compare(ACCURACY, [np.zeros(3, int)], [], np.zeros(3, int)), "predictions of one run or more"),
        (
            lambda: runs_interval(ACCURACY, np.zeros(3, int), np.zeros(3, int)),
            r"a list with the predictions of each run, \[n\], .*got shapes \[\[\], \[\], \[\]\]",
        ),
        (
            lambda: runs_interval(ACCURACY, [np.zeros((2, 3), int), np.zeros((3, 3), int)], np.zeros(3, int)),
            r"same number of draws and images in each, got shapes \[\[2, 3\], \[3, 3\]\]",
        ),
        (
            lambda: bootstrap_interval(ACCURACY, np.zeros((0, 3), int), np.zeros(3, int)),
            r"got shapes \[\[0, 3\]\]",
        ),
        (lambda: bootstrap_interval(ACCURACY, np.zeros(3, int), np.zeros(4, int)), "for 4 labels"),
        (
            lambda: bootstrap_interval(ACCURACY, np.zeros(3, int), np.zeros(3, int), level=95),
            "between 0 and 1, such as 0.95, got 95",
        ),
        (lambda: bootstrap_interval(ACCURACY, np.zeros(3, int), np.zeros(3, int), resamples=1), "at least 2 resamples"),
        (lambda: mcnemar([True], [True, False]), r"same images \[n\] on both sides of McNemar\'s test, got \[1\] and \[2\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
