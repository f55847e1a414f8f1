import numpy as np
import pytest
from scipy import stats

from sslshift.transfer.inference import (
    Bootstrapped,
    Contrast,
    bootstrap,
    change_contrast,
    crossed_deviations,
    holm,
    slopes,
)
from sslshift.transfer.metrics import METRICS


def covered(intervals, truth):
    return np.mean([each.low <= truth <= each.high for each in intervals])


def fixed(values):
    """Numbers `[..., seeds, draws]`, with one labelled draw and without a bootstrap: all replicates are the numbers."""
    values = np.asarray(values, float)[..., None]
    return Bootstrapped(values, np.stack([values, values]))


def accuracies(correct, *, resamples, seed):
    """Accuracies `[levels, seeds, 1, 1]` of predictions that are right where `correct[level, seed, image]` says so."""
    sides = [list(1 - np.asarray(each, int)) for each in correct]
    labels = np.zeros(np.shape(correct)[2], int)
    found = bootstrap(METRICS["accuracy"], sides, labels, resamples=resamples, seed=seed)
    return Bootstrapped(np.stack([each.values for each in found]), np.stack([each.replicates for each in found], axis=1))


def ladder_slopes(x, numbers):
    """The slope of each seed and draw, as a study fits it."""
    return Bootstrapped(slopes(x, numbers.values), slopes(x, numbers.replicates, axis=1))


def mean_trend(numbers, images, level=0.95):
    """The mean slope over seeds with its interval, without the pooling of a table."""
    return Contrast.of(numbers, images).estimate(level)


def change_by_shift(*args, **options):
    return change_contrast(*args, **options).estimate()


def trend(x, values):
    """The trend of accuracies `[levels, seeds]` without a bootstrap."""
    return mean_trend(ladder_slopes(x, fixed(np.asarray(values)[..., None])), 0)


def trend_over_images(x, correct, *, resamples=1000, seed=0):
    numbers = accuracies(correct, resamples=resamples, seed=seed)
    return mean_trend(ladder_slopes(x, numbers), np.shape(correct)[2])


def test_holm_is_the_textbooks():
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 and never falling.
    assert holm([0.04, 0.005, 0.03, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_holm_excludes_comparisons_that_were_not_possible():
    found = holm([0.02, np.nan, 0.01])
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(found[1])


def test_holm_keeps_false_findings_of_whole_tables_at_one_in_twenty():
    random = np.random.default_rng(0)
    tables = random.random((4000, 12))
    shown = [(holm(table) < 0.05).any() for table in tables]
    assert 0.035 < np.mean(shown) < 0.06
    assert (tables < 0.05).any(axis=1).mean() > 0.4


def test_slopes_are_those_of_polyfit(random):
    x = np.array([-3.0, -1.5, 0.0])
    values = random.normal(size=(3, 4, 2))
    expected = np.polyfit(x, values.reshape(3, -1), 1)[0].reshape(4, 2)
    assert slopes(x, values) == pytest.approx(expected)
    assert slopes(x, np.moveaxis(values, 0, 1), axis=1) == pytest.approx(expected)


def test_trend_over_seeds_is_students_t_of_their_slopes():
    values = np.array([[0.5, 0.52, 0.6], [0.6, 0.61, 0.65], [0.7, 0.66, 0.72]])
    each = np.array([0.1, 0.07, 0.06])
    expected = stats.ttest_1samp(each, 0)
    found = trend([-2, -1, 0], values)
    assert found.value == pytest.approx(each.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_effects_of_seeds_on_all_levels_do_not_widen_a_trend():
    steps = np.array([0.0, 0.1, 0.2])[:, None] + np.array([0.0, 0.01, 0.02])[:, None] * [1, 0, 1]
    alone, shifted = (trend([-2, -1, 0], steps + seeds) for seeds in (0.0, np.array([0.3, 0.0, -0.2])))
    assert shifted[:3] == pytest.approx(alone[:3])


def test_one_seed_alone_has_an_interval_over_images():
    correct = np.zeros((2, 1, 1000))
    correct[0, 0, :500] = 1
    correct[1, 0, :700] = 1
    found = trend_over_images([-1, 0], correct)
    # 200 images of 1,000 became right: the standard deviation of a mean of zeros and ones.
    half = 1.96 * np.sqrt(0.2 * 0.8 / 1000)
    assert found[:3] == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=0.004)
    assert found.p_value < 1e-6


def ladder(random, x, slope, *, seeds, images, of_seeds=0.03):
    """Correctness of each image `[levels, seeds, images]`; images differ in difficulty and seeds in their slope."""
    difficulty = random.normal(0, 0.25, images)
    gradient = slope + random.normal(0, of_seeds, seeds)
    level = np.asarray(x)[:, None] * gradient + random.normal(0, 0.02, (len(x), seeds))
    # Uniform in the middle: accuracy follows the latent value in proportion.
    return (0.5 + level[..., None] + difficulty / 4 + random.uniform(-0.5, 0.5, (len(x), seeds, images))) > 0.5


@pytest.mark.parametrize(("seeds", "of_seeds"), [(3, 0.03), (5, 0.0)])
def test_trends_cover_the_truth_and_show_nothing_where_nothing_is(seeds, of_seeds):
    random = np.random.default_rng(1)
    x = [-1.5, -0.75, 0.0]
    times = 300
    for slope in (0.0, 0.1):
        found = [
            trend_over_images(x, ladder(random, x, slope, seeds=seeds, images=100, of_seeds=of_seeds), resamples=100, seed=i)
            for i in range(times)
        ]
        assert covered(found, slope) > 0.91
        assert np.mean([each.value for each in found]) == pytest.approx(slope, abs=0.01)
        # The p-value says what the interval says.
        assert all((each.p_value < 0.05) == (not each.low <= 0 <= each.high) for each in found)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("of_images", "of_both", "of_seeds"), [(1.0, 0.0, 0.0), (1.0, 0.5, 1.0), (0.3, 0.3, 1.0), (1.0, 0.0, 1.0)]
)
def test_few_seeds_show_nothing_by_chance_more_often_than_said(random, seeds, of_images, of_both, of_seeds):
    """Slopes of seeds that share their test images, as much as they like: chance shows something in one case of twenty."""
    times = 600
    found = []
    for _ in range(times):
        values = random.normal(0, of_images) + random.normal(0, of_both, seeds) + random.normal(0, of_seeds, seeds)
        replicates = values + random.normal(0, of_images, (100, 1)) + random.normal(0, of_both, (100, seeds))
        found.append(mean_trend(Bootstrapped(values[:, None, None], replicates[..., None, None]), 1000))
    # 0.05, and what 600 tries and 100 resamples leave uncertain.
    assert np.mean([each.p_value < 0.05 for each in found]) < 0.08
    assert covered(found, 0.0) > 0.92


def test_change_by_shift_is_the_regression_where_seeds_agree():
    shift = np.array([0.0, 0.2, 0.5, 0.9])
    rises = np.array([0.11, 0.08, 0.06, 0.0])
    found = change_by_shift(shift, fixed(np.repeat(rises[:, None, None], 3, axis=1)), 0)
    expected = stats.linregress(shift, rises)
    half = stats.t.ppf(0.975, 2) * expected.stderr
    assert found[:3] == pytest.approx((expected.slope, expected.slope - half, expected.slope + half))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_change_by_shift_is_students_t_where_sources_lie_on_lines():
    shift = np.array([0.0, 0.5, 1.0])
    each = np.array([-0.2, -0.1, -0.15])
    values = 0.2 + shift[:, None] * each
    expected = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    found = change_by_shift(shift, fixed(values[..., None]), 0)
    assert found[:3] == pytest.approx((-0.15, *expected))


def test_change_by_shift_is_students_t_over_encoders_that_stretch_the_scale():
    """Sources lie on a line by every encoder, and seeds agree: only the encoders' scales differ."""
    shift = np.array([0.0, 0.5, 1.0])
    stretched = np.array([0.8, 1.0, 1.25, 1.1])[:, None] * shift
    values = np.repeat((0.2 - 0.15 * shift)[:, None, None], 2, axis=1)
    each = -0.15 / np.array([0.8, 1.0, 1.25, 1.1])
    found = change_by_shift(stretched, fixed(values), 0)
    assert found[:3] == pytest.approx((each.mean(), *stats.ttest_1samp(each, 0).confidence_interval(0.95)))
    assert found.p_value == pytest.approx(stats.ttest_1samp(each, 0).pvalue)
    # One encoder is as exact as before.
    assert change_by_shift(stretched[:1], fixed(values), 0) == change_by_shift(stretched[0], fixed(values), 0)


@pytest.mark.parametrize(("of_sources", "of_seeds"), [(0.0, 0.02), (0.03, 0.0), (0.03, 0.02)])
def test_changes_by_shift_cover_the_truth(of_sources, of_seeds):
    random = np.random.default_rng(2)
    shift = np.array([0.0, 0.3, 0.5, 0.9])
    times = 600
    found = []
    for _ in range(times):
        common = random.normal(0, of_seeds, 3) * shift[:, None]
        values = 0.1 - 0.1 * shift[:, None] + common + random.normal(0, of_sources, (4, 1)) + random.normal(0, of_seeds, (4, 3))
        found.append(change_by_shift(shift, fixed(values[..., None]), 0))
    assert covered(found, -0.1) > 0.93


def test_images_count_in_the_change_by_shift():
    random = np.random.default_rng(3)
    shift = [0.0, 0.5, 1.0]
    x = [-1.0, 0.0]
    times = 150
    found = []
    for i in range(times):
        values = [ladder(random, x, 0.1 - 0.1 * each, seeds=2, images=60, of_seeds=0.0) for each in shift]
        each = [ladder_slopes(x, accuracies(correct, resamples=60, seed=i)) for correct in values]
        rises = Bootstrapped(np.stack([one.values for one in each]), np.stack([one.replicates for one in each], axis=1))
        found.append(change_by_shift(shift, rises, 60))
    assert covered(found, -0.1) > 0.93


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slopes([0, 0], [[0.5], [0.6]]), r"at least two different finite positions for a slope, got \[0.0, 0.0\]"),
        (lambda: slopes([0, np.nan], [[0.5], [0.6]]), "different finite positions"),
        (lambda: change_by_shift([0, 1], fixed(np.ones((2, 1, 1))), 0), "at least 3 sources with a shift index .* got 2"),
        (lambda: change_by_shift([1, 1, 1], fixed(np.ones((3, 1, 1))), 0), "two different finite positions"),
        (lambda: mean_trend(fixed(np.ones((2, 1))), 0, 95), "between 0 and 1, such as 0.95, got 95"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_level_is_respected():
    values = np.array([[[0.1]], [[0.2]], [[0.3]]])[:, 0]
    narrow, wide = (mean_trend(fixed(values), 0, level) for level in (0.5, 0.99))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_without_scatter_the_interval_holds_for_these_sources_only():
    shift = np.array([0.0, 0.5, 1.0])
    values = np.array([[0.10, 0.11], [0.09, 0.10], [0.0, 0.01]])[..., None]
    these, any_ = (change_by_shift(shift, fixed(values), 0, scatter=scatter) for scatter in (False, True))
    assert these.value == any_.value == pytest.approx(-0.1)
    # Both seeds have the same line: no chance is left but that of sources.
    assert (these.low, these.high) == pytest.approx((-0.1, -0.1))
    residuals = values.mean(axis=(1, 2)) - np.polyval(np.polyfit(shift, values.mean(axis=(1, 2)), 1), shift)
    assert any_.high - any_.value == pytest.approx(stats.t.ppf(0.975, 1) * np.sqrt((residuals**2).sum() / 0.5))


def test_crossed_deviations_separate_draws_from_seeds():
    # By hand: draws differ by 2, seeds by 1, and there is no residual.
    exact = crossed_deviations([[0.0, 1.0], [2.0, 3.0]])
    assert exact == pytest.approx((2 / np.sqrt(2), 1 / np.sqrt(2)))
    assert np.isnan(crossed_deviations([[1.0, 2.0]]).draws)
    assert crossed_deviations([[1.0, 2.0]]).seeds == pytest.approx(np.sqrt(0.5))
    assert crossed_deviations([[1.0], [2.0], [4.0]]).draws == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert np.isnan(crossed_deviations([[1.0]])).all()
    assert crossed_deviations(np.ones((2, 3))) == (0.0, 0.0)


def test_crossed_deviations_are_those_of_the_simulation():
    random = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        draws = random.normal(0, 1, (4, 1))
        seeds = random.normal(0, 0.5, (1, 3))
        found.append(crossed_deviations(draws + seeds + random.normal(0, 0.3, (4, 3))))
    # Mean squares are unbiased, and a negative difference of them, which is cut at 0, is rare here.
    assert np.sqrt(np.mean(np.square(found), axis=0)) == pytest.approx([1.0, 0.5], rel=0.03)


def test_means_over_draws_and_seeds_cover_what_they_should():
    """A mean whose draws and seeds are both random, without test images: Satterthwaite's degrees of freedom."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        draws = random.normal(0, 1, (1, 4))
        seeds = random.normal(0, 0.5, (3, 1))
        found.append(mean_trend(fixed(draws + seeds + random.normal(0, 0.3, (3, 4))), 0))
    assert 0.93 < covered(found, 0.0) < 0.995


def test_a_mean_over_seeds_alone_is_students_t():
    # Mean 2, standard deviation 1, n 3: t(0.975, 2) = 4.3027.
    found = mean_trend(fixed([[1.0], [2.0], [3.0]]), 0)
    assert (found.value, found.high - found.value) == pytest.approx((2.0, 4.3027 / np.sqrt(3)), abs=1e-4)
    # By hand, draws and seeds that differ by 2 and 1: the variance of the mean is (4 + 1) / 4, with 25 / (16 + 1) degrees of
    # freedom; but never narrower than the draws alone.
    crossed = mean_trend(fixed([[0.0, 2.0], [1.0, 3.0]]), 0)
    halves = [stats.t.ppf(0.975, 25 / 17) * np.sqrt(5 / 4), stats.t.ppf(0.975, 1)]
    assert crossed.high - crossed.value == pytest.approx(max(halves))
