"""Pooled variances, what a study can show, the weighted correction, and the words of claims."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from sslshift.transfer.claims import (
    CHANGE,
    ENCODERS,
    GAIN,
    NOTHING,
    PAIR,
    TREND,
    Claim,
    Hypothesis,
    HypothesisTest,
    corrected,
    corrected_differences,
    interval_text,
    plus_minus,
    unshown_text,
    verdict_text,
)
from sslshift.transfer.inference import (
    Bootstrapped,
    Comparison,
    Contrast,
    PlannedTable,
    curvature_weights,
    holm,
    moderated,
    pooled_with,
    shrunken,
)


def contrast(values, images=10**6):
    """A contrast of one value for each seed, whose test images do not vary."""
    values = np.asarray(values, float)[:, None, None]
    return Contrast.of(Bootstrapped(values, np.stack([values, values])), images)


def test_a_contrast_of_seeds_alone_is_students_t():
    values = [0.01, 0.02, 0.06]
    expected = stats.ttest_1samp(values, 0)
    found = contrast(values).estimate()
    assert found[:3] == pytest.approx((0.03, *expected.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_moderated_variances_are_those_of_smyth(random):
    """The moments of the logarithms, solved by bisection in place of the library's solver."""
    freedom = 6
    kinds = 3000
    true = 0.02 * 8 / random.chisquare(8, kinds)
    values = random.normal(0, np.sqrt(true)[:, None], (kinds, freedom + 1))
    table = [contrast(each) for each in values]
    found = moderated(table)
    variances = values.var(axis=1, ddof=1)
    logs = np.log(variances) - special.digamma(freedom / 2) + math.log(freedom / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, freedom / 2)
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if special.polygamma(1, middle) > excess else (low, middle)
    prior_freedom = 2 * middle
    assert prior_freedom == pytest.approx(8, rel=0.35)
    prior = math.exp(logs.mean() + special.digamma(prior_freedom / 2) - math.log(prior_freedom / 2))
    expected = (prior_freedom * prior + freedom * variances) / (prior_freedom + freedom)
    assert [each.components[0].variance * 7 for each in found] == pytest.approx(expected.tolist(), rel=1e-6)
    assert found[0].components[0].degrees_of_freedom == pytest.approx(prior_freedom + freedom, rel=1e-6)
    assert [each.value for each in found] == [each.value for each in table]


def test_pooling_adds_at_most_half_of_the_tables_degrees_of_freedom(random):
    table = [contrast(random.normal(0, 1, 3)) for _ in range(10)]
    for kinds in (10, 4):
        found = moderated(table, kinds=kinds)
        assert found[0].components[0].degrees_of_freedom <= 2 + 2 * kinds / 2


def test_single_seeds_and_missing_contrasts_stay_as_they_are(random):
    one = contrast([0.3])
    several = [contrast(random.normal(0, 1, 3)) for _ in range(3)]
    found = moderated([one, None, *several])
    assert found[0] is one
    assert found[1] is None
    assert all(a.components != b.components for a, b in zip(found[2:], several, strict=True))
    assert moderated([one, several[0]]) == [one, several[0]]


def test_equal_runs_are_not_pooled_with_others():
    """Half of the kinds have no variance at all: pooling would lend it to the other half."""
    equal = contrast([0.1, 0.1, 0.1])
    varied = contrast([0.1, 0.2, 0.3])
    found = moderated([equal, equal, equal, varied])
    assert found[3].components[0].variance == pytest.approx(varied.components[0].variance)


def test_slopes_over_wide_and_narrow_ranges_are_pooled_on_one_scale(random):
    """A slope over a range ten times as wide has a variance of a hundredth."""
    runs = random.normal(0, 1, (6, 4))
    narrow, wide = ([contrast(each / width) for each in runs] for width in (1, 10))
    found = moderated([*narrow, *wide], scales=[1.0] * 6 + [100.0] * 6)
    variances = np.array([each.components[0].variance for each in found])
    assert variances[:6] == pytest.approx(100 * variances[6:])


def test_the_smallest_difference_is_shown_as_often_as_it_says(random):
    runs = random.normal(0, 0.01, (4000, 4))
    smallest = float(np.mean([contrast(each).smallest_shown(0.01) for each in runs]))
    # With the true variance known, the size at which 80% of t tests reject is found by simulation.
    shown = [stats.ttest_1samp(each + smallest, 0).pvalue < 0.01 for each in runs]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.02)


def test_a_planned_study_shows_what_it_was_planned_for(random):
    table = PlannedTable(4, 5000, seed_deviation=0.004, disagreement=0.1, kinds=12, comparisons=12)
    smallest = table.smallest_shown()
    found = []
    for _ in range(200):
        images = random.normal(0, math.sqrt(0.1 / 5000), 12)
        runs = smallest + images[:, None] + random.normal(0, 0.004, (12, 4))
        replicates = random.normal(0, math.sqrt(0.1 / 5000), (200, 12))
        contrasts = []
        for number, each in enumerate(runs):
            values = each[:, None, None]
            contrasts.append(Contrast.of(Bootstrapped(values, values + replicates[:, number, None, None, None]), 5000))
        found += [each.estimate().p_value < 0.05 / 12 for each in moderated(contrasts, one_reference=True)]
    assert 0.74 < np.mean(found) < 0.9
    assert table._replace(seeds=1).smallest_shown() == math.inf


def test_a_table_says_what_a_wanted_difference_takes():
    table = PlannedTable(3, 2000, seed_deviation=0.004, disagreement=0.1, kinds=9, comparisons=40)
    wanted = 0.03
    assert table.smallest_shown() > wanted
    seeds = table.seeds_for(wanted)
    assert table._replace(seeds=seeds).smallest_shown() <= wanted < table._replace(seeds=seeds - 1).smallest_shown()
    images = table.images_for(wanted)
    assert table._replace(images=images).smallest_shown() <= wanted < table._replace(images=images - 1).smallest_shown()
    # More seeds do not help against too few images, and more images not against too few seeds.
    assert table._replace(images=50).seeds_for(wanted) is None
    assert table._replace(seed_deviation=0.1).images_for(wanted) is None


def test_shrinking_removes_the_luck_of_the_highest(random):
    true = random.normal(0, 0.01, (2000, 8))
    found = true + random.normal(0, 0.01, true.shape)
    top = found.argmax(axis=1)
    every = np.arange(len(true))
    raw = found[every, top] - true[every, top]
    shrunk = np.array([shrunken(each, [1e-4] * 8)[i] for each, i in zip(found, top, strict=True)]) - true[every, top]
    assert raw.mean() > 0.005
    assert abs(shrunk.mean()) < 0.002
    assert shrunken([0.1, 0.1, 0.1], [0.0] * 3).tolist() == pytest.approx([0.1] * 3)


def test_curvature_is_the_second_derivative_of_the_parabola(random):
    x = np.sort(random.normal(size=5))
    a, b, c = random.normal(size=3)
    assert curvature_weights(x) @ (a + b * x + c * x**2) == pytest.approx(2 * c)
    with pytest.raises(ValueError, match="three different"):
        curvature_weights([0.0, 1.0, 1.0])


def test_weighted_holm_keeps_all_false_findings_at_one_in_twenty(random):
    p_values = random.random((4000, 13))
    weights = [12.0] + [1.0] * 12
    adjusted = np.array([holm(each, weights) for each in p_values])
    assert 0.035 < (adjusted < 0.05).any(axis=1).mean() < 0.06
    # Half of the errors are those of the primary hypothesis.
    assert 0.015 < (adjusted[:, 0] < 0.05).mean() < 0.035


def test_weighted_holm_passes_on_what_a_finding_does_not_need():
    assert holm([1e-9, 0.04, 0.9], [2, 1, 1]).tolist() == pytest.approx([2e-9, 0.08, 0.9])
    assert holm([0.03, 1e-9, 1e-9], [2, 1, 1]).tolist() == pytest.approx([0.03, 4e-9, 4e-9])
    assert np.isnan(holm([math.nan, 0.04], [3, 1])).tolist() == [True, False]
    with pytest.raises(ValueError, match="positive weight"):
        holm([0.1, 0.2], [1, 0])


def named(family, subject="s", task="t"):
    return Hypothesis(task, ("m", "e"), family, subject)


def test_claims_of_other_tasks_and_pairs_are_exploratory(random):
    sure = [0.10, 0.11, 0.12, 0.11]
    tests = {named(TREND): sure, named(GAIN): sure, named(PAIR, 1): sure, named(PAIR, 2): sure, named(GAIN, task="u"): sure}
    found = corrected({name: HypothesisTest(contrast(each), False) for name, each in tests.items()}, named(TREND), "t")
    assert list(found) == list(tests)
    assert [each.exploratory for each in found.values()] == [False, False, True, True, True]
    p_value = found[named(TREND)].p_value
    assert [each.adjusted / p_value for each in found.values()] == pytest.approx([2, 2, 2, 2, 1])
    assert found[named(TREND)].verdict == "rises"
    assert verdict_text(found[named(GAIN, task="u")]) == "better, exploratory"


def test_one_seed_has_no_verdict_and_takes_nothing_from_the_others():
    tests = {
        named(GAIN, 1): HypothesisTest(contrast([0.1]), True),
        named(GAIN, 2): HypothesisTest(contrast([0.1, 0.11, 0.12]), False),
    }
    one, several = corrected(tests, None, "t").values()
    assert one.verdict == "one seed, not tested"
    assert math.isnan(one.half_width)
    assert several.adjusted == pytest.approx(several.p_value)


finite = st.floats(-0.5, 0.5)


@given(st.lists(st.tuples(finite, st.floats(1e-6, 0.1)), min_size=1, max_size=6))
def test_verdicts_and_printed_intervals_agree(pairs):
    """What is called better has an interval that excludes 0, in print as well."""
    seeds = np.array([-1.0, 0.0, 1.0])
    tests = {named(GAIN, i): HypothesisTest(contrast(value + wide * seeds), False) for i, (value, wide) in enumerate(pairs)}
    for claim in corrected(tests, None, "t").values():
        text = plus_minus(claim.value, claim.half_width)
        centre, half = (abs(float(each)) for each in text.split(" ± "))
        if claim.verdict != NOTHING:
            assert claim.low > 0 if claim.verdict == "better" else claim.high < 0
            assert claim.adjusted < 0.05
            assert centre > half or claim.half_width < 5e-6
        elif claim.p_value < 0.05:
            assert "uncorrected)" in verdict_text(claim)
        else:
            assert verdict_text(claim) == NOTHING
        assert ("with 80% probability" in unshown_text(claim)) == (claim.verdict == NOTHING)


@given(finite, finite)
def test_printed_intervals_exclude_zero_only_if_they_do(a, b):
    low, high = sorted((a, b))
    ends = [float(each) for each in interval_text(low, high).split(" to ")]
    if low > 5e-6 or high < -5e-6:
        assert ends[0] > 0 or ends[1] < 0
    if low <= 0 <= high:
        assert ends[0] <= 0 <= ends[1]


def test_a_half_width_that_rounds_to_the_value_gets_another_digit():
    assert plus_minus(0.01704, 0.01696) == "+1.704 ± 1.696"
    assert plus_minus(0.0170, 0.0173) == "+1.7 ± 1.7"
    assert plus_minus(0.02, math.nan) == "+2.0"
    assert plus_minus(-0.0001, 0.014) == "+0.0 ± 1.4"


def test_the_change_has_words_for_a_slope():
    claim = Claim(named(CHANGE, ""), -0.01, -0.03, 0.01, 0.4, 1.0, 0.03, "no trend shown", False)
    assert unshown_text(claim) == "no trend shown; 3.0 points would be, with 80% probability"


@pytest.mark.parametrize(("of_seeds", "least", "most"), [(0.0, 0.035, 0.06), (2.0, 0.0, 0.01)])
def test_the_change_has_the_variance_of_its_trends_too(random, of_seeds, least, most):
    """What a seed adds to all trends cancels in the change, and only makes its pooled variance larger."""
    weights = np.array([-0.5, -0.1, 0.2, 0.4])
    rejected = []
    freedom = []
    for _ in range(3000):
        slopes = random.normal(0, 1, (4, 3)) + random.normal(0, of_seeds, 3)
        parts = moderated([contrast(each) for each in slopes])
        found = pooled_with(contrast(weights @ slopes), parts, weights.tolist())
        rejected.append(found.estimate().p_value < 0.05)
        freedom.append(found.of_seeds.degrees_of_freedom)
    assert least < np.mean(rejected) < most
    assert 4 < np.mean(freedom) <= 2 + 2 * 4 / 2
    alone = contrast([0.3])
    assert pooled_with(alone, parts, weights.tolist()) is alone


def test_seeds_added_after_looking_make_false_findings_more_frequent(random):
    """Three seeds, and three more if the first three show nothing: what experiments/README.md says of it."""
    runs = random.normal(0, 1, (20_000, 6))
    first, both = (stats.ttest_1samp(runs[:, :seeds], 0, axis=1).pvalue < 0.05 for seeds in (3, 6))
    assert (first | both).mean() == pytest.approx(0.089, abs=0.008)


def test_differences_of_finished_encoders_are_corrected_together():
    def found(value, p_value):
        return Comparison(value, value - 0.01, value + 0.01, math.nan, "better", p_value)

    names = [Hypothesis("task", ("a", "b"), ENCODERS, "", evaluation) for evaluation in ("linear", "knn", "finetune")]
    differences = zip(names, (found(0.02, 0.01), found(-0.03, 0.015), found(0.011, 0.04)), strict=True)
    claims = list(corrected_differences(dict(differences)).values())
    assert [each.adjusted for each in claims] == pytest.approx([0.03, 0.03, 0.04])
    assert [each.verdict for each in claims] == ["better", "worse", "better"]
    alone = corrected_differences({names[0]: found(0.01, 0.06), names[1]: found(0.02, 0.03)})
    assert [verdict_text(each) for each in alone.values()] == [
        "no difference shown",
        "no difference shown (p = 0.03 uncorrected)",
    ]
