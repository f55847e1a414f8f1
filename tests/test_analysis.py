"""Trends, gains and comparisons of a study, of results whose truth is known."""

import math

import pytest
from report_builders import FAR, LEARNER, MIDDLE, NEAR, STUDY, results_of

from sslshift.study.analysis import RAW_PIXELS, Analysis, Kind
from sslshift.study.evaluate import UNTRAINED
from sslshift.study.opened import open_study
from sslshift.transfer.inference import Estimate, compare, runs_interval
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import adjusted_differences


@pytest.fixture(scope="module")
def opened():
    return open_study(STUDY)


@pytest.fixture(scope="module")
def results(opened):
    return results_of(opened)


@pytest.fixture(scope="module")
def task(results):
    return Analysis(results).task


def test_trends_find_what_was_planned(task):
    found = {each.source: each for each in task.learners[LEARNER].trends}
    assert list(found) == [NEAR, MIDDLE, FAR]
    for source, slope in ((NEAR, 0.04), (MIDDLE, 0.02), (FAR, 0.0)):
        assert found[source].trend.slope == pytest.approx(slope, abs=0.006)
        assert found[source].trend.low < found[source].trend.slope < found[source].trend.high
    assert found[NEAR].adjusted == found[NEAR].trend.p_value < 0.05
    change = task.learners[LEARNER].change
    assert change.slope == pytest.approx(-0.04 / 0.9, abs=0.012)
    assert change.low < change.slope < change.high


def test_gains_are_paired_with_the_same_seeds_untrained(task):
    kind = Kind(LEARNER, NEAR, 320)
    numbers = task.linear
    trained, untrained = (numbers.grid([each]).values[0, :, 0] for each in (kind, Kind(LEARNER, UNTRAINED, None)))
    assert task.gains[kind].value == pytest.approx((trained - untrained).mean())
    pixels = task.analysis.results.pixels.scores[NEAR].linear
    assert numbers.difference(kind, RAW_PIXELS).value == pytest.approx(trained.mean() - pixels)


def test_intervals_are_those_of_finished_encoders_elsewhere(task):
    """`tools.evaluate` compares by `transfer.inference`: the same predictions must give the same numbers."""
    kinds_ = Kind(LEARNER, NEAR, 320), Kind(LEARNER, FAR, 320)
    several = [[each.evaluated.predicted(NEAR) for each in task.analysis.runs[kind]] for kind in kinds_]
    sides = [[each.predictions["linear"] for each in side] for side in several]
    labels = several[0][0].labels
    numbers = task.linear
    assert numbers.difference(*kinds_)[:3] == compare(METRICS["accuracy"], *sides, labels, resamples=1000)[:3]
    assert numbers.score(kinds_[0])[:3] == runs_interval(METRICS["accuracy"], sides[0], labels, resamples=1000)


def test_of_an_unfinished_study_only_shared_seeds_are_compared(opened):
    # The near source lacks seed 0 at its most images, the far one seed 2: one seed is left to both.
    lacking = {(NEAR, 320, 0), (FAR, 320, 2)}
    part = results_of(opened, keep=lambda run: (run.source, run.unique, run.seed) not in lacking)
    near = Kind(LEARNER, NEAR, 320)
    far = Kind(LEARNER, FAR, 320)
    learner = Analysis(part).task.learners[LEARNER]
    found = next(each for pair, each in learner.pairs.items() if set(pair) == {near, far})
    runs = [each for each in part.runs if each.run.unique == 320 and each.run.seed == 1]
    scores = {each.run.source: each.evaluated.scores[NEAR].linear for each in runs}
    assert found.value == pytest.approx(scores[NEAR] - scores[FAR])
    assert found.verdict == "one seed, not tested"
    assert learner.trends[0].trend.seeds == 2


def test_many_pairs_are_corrected(task):
    found = task.learners[LEARNER].pairs
    assert len(found) == 6
    assert all(each.adjusted >= each.p_value for each in found.values())
    assert max(each.adjusted / each.p_value for each in found.values() if each.adjusted < 1) == pytest.approx(6)


def test_verdicts_claim_no_more_than_the_whole_table_does():
    sure, weak, none = (Estimate(value, value - 0.1, value + 0.1, p) for value, p in ((-0.3, 0.001), (0.12, 0.03), (0.02, 0.7)))
    found = adjusted_differences([sure, weak, None, none, sure], [False, False, False, False, True])
    verdicts = [each and each.verdict for each in found]
    assert verdicts == ["worse", "better, but not after correction", None, "no significant difference", "one seed, not tested"]
    # Three were compared: what is missing, and what one seed cannot show, does not count.
    assert [each.adjusted for each in found[:2]] == pytest.approx([0.003, 0.06])
    assert math.isnan(found[4].half_width)
