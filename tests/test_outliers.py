"""Runs that ended far below their siblings, and medians of seeds that they hardly move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sslshift.transfer.inference import Bootstrapped, find_outliers, robust_means
from sslshift.transfer.paired import EncoderPredictions, PairedScores
from sslshift.transfer.predictions import Predictions


def fixed(values):
    """Numbers of seeds without a bootstrap: all replicates are the numbers."""
    values = np.asarray(values, float)[:, None, None]
    return Bootstrapped(values, np.stack([values, values]))


def study(random, kinds, seeds, *, bad=0.0, size=0.0):
    """Runs with deviations of 1 about 0, some of which end lower; returns them and the bad ones."""
    wrong = random.random((kinds, seeds)) < bad
    return random.normal(size=(kinds, seeds)) - size * wrong, wrong


def test_the_statistic_by_hand():
    values = [[0.0, 1.0, 2.0], [5.0, 5.0, 2.0]]
    (worst,) = find_outliers(values, false_alarms=1.0)
    # The last run is 3 below the mean of its siblings: its residual of -2 is 4 * 3/2 of the 8 of all squares, and 2 are left
    # with three degrees of freedom. The other kind's lowest run is at -1.
    statistic = 2 / np.sqrt(2 / 3 * 2 / 3)
    assert worst[:3] == (1, 2, pytest.approx(-3.0))
    assert worst.p_value == pytest.approx(6 * stats.t.sf(statistic, 3))


def test_a_bad_run_is_found_among_its_siblings_and_two_do_not_hide_each_other(random):
    values, _ = study(random, 9, 3)
    assert find_outliers(values) == []
    values[2, 1] -= 15
    (found,) = find_outliers(values)
    assert found[:2] == (2, 1)
    assert found.deviation == pytest.approx(values[2, 1] - values[2, [0, 2]].mean())
    assert found.p_value < 0.001
    for kind in (4, 5, 7):
        values[kind, 0] -= 14
    assert {each[:2] for each in find_outliers(values)} == {(2, 1), (4, 0), (5, 0), (7, 0)}


def test_a_run_far_above_is_no_bad_run(random):
    values, _ = study(random, 9, 4)
    values[3, 0] += 20
    assert find_outliers(values) == []


def test_of_two_runs_neither_is_the_odd_one():
    assert find_outliers([[0.5, 0.9], [0.50, 0.51]]) == []
    assert find_outliers([[0.5], [0.7]]) == []
    assert find_outliers([]) == []
    assert find_outliers([[0.5] * 3, [0.7] * 3]) == []
    # Runs that are equal but for one have no spread to compare with, and it is infinitely far.
    assert [each[:2] for each in find_outliers([[0.5] * 3, [0.7, 0.7, 0.4]])] == [(1, 2)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(3, 5), st.floats(0.001, 1000), st.floats(-100, 100))
def test_outliers_depend_on_deviations_in_proportion(seed, kinds, seeds, scale, shift):
    values, _ = study(np.random.default_rng(seed), kinds, seeds, bad=0.1, size=12)
    order = np.random.default_rng(seed).permutation(seeds)
    found = {each[:2] for each in find_outliers(values)}
    assert {each[:2] for each in find_outliers(values * scale + shift)} == found
    assert {(kind, order[run]) for kind, run, *_ in find_outliers(values[:, order])} == found
    # A constant of each kind does not matter.
    assert {each[:2] for each in find_outliers(values + np.arange(kinds)[:, None])} == found
    assert len(found) <= max(1, kinds * seeds // 4)


@pytest.mark.parametrize(("kinds", "seeds"), [(4, 3), (9, 3), (9, 4)])
def test_studies_without_bad_runs_have_an_outlier_in_one_case_of_a_hundred(kinds, seeds):
    random = np.random.default_rng(0)
    times = 600
    alarms = sum(bool(find_outliers(study(random, kinds, seeds)[0])) for _ in range(times))
    # Three standard deviations of 600 tries are 1.2 points.
    assert alarms / times < 0.03


@pytest.mark.parametrize(
    ("kinds", "seeds", "bad", "size"),
    [(9, 3, 0.0, 0.0), (9, 3, 0.05, 10.0), (9, 4, 0.1, 10.0), (9, 4, 0.1, 5.0), (1, 4, 0.05, 10.0), (4, 5, 0.1, 10.0)],
)
def test_medians_cover_what_is_typical_where_students_t_does_not_cover_the_mean(kinds, seeds, bad, size):
    random = np.random.default_rng(1)
    covered = []
    means = []
    widths = []
    for _ in range(1500 // kinds):
        values, _ = study(random, kinds, seeds, bad=bad, size=size)
        half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=1, ddof=1) / np.sqrt(seeds)
        means += (np.abs(values.mean(axis=1) + bad * size) <= half).tolist()
        found = robust_means([fixed(runs) for runs in values], 0)
        covered += [each.low <= 0 <= each.high for each in found]
        widths += [each.half_width / own for each, own in zip(found, half, strict=True)]
    # Kinds of one study share their spread, so that their intervals miss together.
    assert 0.92 <= np.mean(covered) <= 0.98
    if bad == 0.1 and size == 10:
        assert np.mean(means) < 0.88
    if kinds > 1 and not bad:
        assert np.mean(widths) < 1


def test_medians_by_hand():
    near, far = ([0.80, 0.82, 0.90], [0.60, 0.64, 0.62])
    found = robust_means([fixed(near), fixed(far)], 0)
    assert [each.value for each in found] == pytest.approx([0.82, 0.62])
    squares = np.square(np.subtract(near, np.mean(near))).sum() + np.square(np.subtract(far, np.mean(far))).sum()
    # The variance of the median of three normal values is 0.4487.
    half = stats.t.ppf(0.975, 4) * np.sqrt(squares / 4 * 0.4487)
    assert [each.half_width for each in found] == pytest.approx([half] * 2, rel=1e-3)
    with pytest.raises(ValueError, match="Expected several seeds of a kind or more"):
        robust_means([fixed([0.5]), fixed([0.6])], 0)


def test_test_images_count_in_medians(random):
    over_images = random.normal(0, 0.02, (2000, 1))
    values = np.array([0.70, 0.71, 0.72])
    numbers = Bootstrapped(values[:, None, None], (values + over_images)[..., None, None])
    alone, with_images = (robust_means([each], 1000)[0] for each in (fixed(values), numbers))
    assert with_images.half_width > alone.half_width
    assert with_images.half_width > 1.9 * 0.02


def test_paired_scores_name_bad_runs(random):
    members = []
    for kind, share in (("near", 0.8), ("far", 0.6), ("other", 0.7)):
        for seed in range(4):
            right = random.random(2000) < (0.2 if (kind, seed) == ("far", 2) else share)
            found = Predictions("accuracy", np.zeros(2000, int), np.arange(2000), {"linear": 1 - right.astype(int)})
            members.append(EncoderPredictions(kind, seed, seed, found))
    scores = PairedScores.of_members(members, "linear")
    kinds = ["near", "far", "other", "unknown"]
    (bad,) = scores.bad_runs(kinds)
    assert (bad.kind, bad.seed, bad.draw) == ("far", 2, 2)
    assert bad.deviation == pytest.approx(-0.4, abs=0.05)
    robust = scores.robust_scores(kinds)
    assert list(robust) == ["near", "far", "other"]
    assert robust["far"].low < 0.6 < robust["far"].high
    assert robust["far"].half_width < 0.3 * scores.score("far").half_width
    assert PairedScores.of_members(members[:1], "linear").robust_scores(["near"]) == {}
