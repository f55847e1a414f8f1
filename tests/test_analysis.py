"""Trends, gains and comparisons of a study, of results whose truth is known."""

import dataclasses
import json

import pytest
from report_builders import FAR, LEARNER, MIDDLE, NEAR, STUDY, results_of, truth

from sslshift.study.analysis import Analysis
from sslshift.study.evaluate import UNTRAINED
from sslshift.study.learner_analysis import RAW_PIXELS, Kind
from sslshift.study.opened import open_study
from sslshift.study.report.decision import decision
from sslshift.study.results import keep_plan, plan_deviations
from sslshift.transfer.claims import CHANGE, GAIN, REFERENCE, TREND, Hypothesis
from sslshift.transfer.inference import compare, holm, runs_interval
from sslshift.transfer.metrics import METRICS


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
        assert found[source].trend.value == pytest.approx(slope, abs=0.006)
        assert found[source].trend.low < found[source].trend.value < found[source].trend.high
    assert found[NEAR].trend.p_value <= found[NEAR].trend.adjusted < 0.05
    change = task.learners[LEARNER].change
    assert change.value == pytest.approx(-0.04 / 0.9, abs=0.012)
    assert change.low < change.value < change.high
    # Accuracy is planned to be linear in the logarithm of diversity.
    assert abs(found[NEAR].curvature.value) < 0.02
    assert found[FAR].curvature is None


def test_gains_are_paired_with_the_same_seeds_untrained(task):
    kind = Kind(LEARNER, NEAR, 320)
    numbers = task.linear
    trained, untrained = (numbers.grid([each]).values[0, :, 0, 0] for each in (kind, Kind(LEARNER, UNTRAINED, None)))
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
    near_levels = [each for each in learner.kinds if each.source == NEAR]
    assert learner.task.linear.grid(near_levels).values.shape[1] == 2


def test_pairs_are_exploratory_and_corrected_among_each_other(task):
    found = task.learners[LEARNER].pairs
    # Nine kinds have 36 pairs, without 3 + 3 + 1 pairs of kinds of one source.
    assert len(found) == 29
    assert all(each.value >= 0 and each.exploratory for each in found.values())
    assert max(each.adjusted / each.p_value for each in found.values() if each.adjusted < 1) == pytest.approx(29)


def test_all_confirmatory_tests_share_what_the_primary_hypothesis_leaves(task):
    claims = task.analysis.claims
    primary = task.analysis.primary
    assert primary == Hypothesis(NEAR, LEARNER, TREND, NEAR)
    confirmatory = [name for name, each in claims.items() if not each.exploratory]
    # By each of two evaluations 9 gains, 3 mixtures and sources against the nearest, 3 trends and the change; by the linear
    # probe the nearest one's curvature.
    assert len(confirmatory) == 2 * 16 + 1
    assert [name.evaluation for name in confirmatory].count("knn") == 16
    weights = [32.0 if name == primary else 1.0 for name in confirmatory]
    expected = holm([claims[name].p_value for name in confirmatory], weights)
    assert [claims[name].adjusted for name in confirmatory] == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("primary", "family", "subject"),
    [
        ("shift", CHANGE, ""),
        ("source", GAIN, Kind(LEARNER, NEAR, 320)),
        ("mixture", REFERENCE, Kind(LEARNER, "staged", 320)),
    ],
)
def test_a_study_declares_its_primary_hypothesis(results, primary, family, subject):
    design = dataclasses.replace(results.opened.design, primary=primary)
    changed = dataclasses.replace(results, opened=dataclasses.replace(results.opened, design=design))
    analysis = Analysis(changed)
    assert analysis.primary == Hypothesis(NEAR, LEARNER, family, subject)
    assert not analysis.claims[analysis.primary].exploratory


def test_sources_of_nearly_one_shift_have_no_change(opened):
    near = results_of(opened, shifts={NEAR: 0.0, MIDDLE: 0.02, FAR: 0.05, "staged": 0.01})
    change = Analysis(near).task.learners[LEARNER].change
    assert "span 0.05 of the shift index" in change


def test_every_number_of_images_can_be_the_best(opened):
    """Eight images of the near source are best: the answer must not look at the largest N alone."""
    found = results_of(opened, lambda run: 0.95 if (run.source, run.unique) == (NEAR, 8) else truth(run))
    learner = Analysis(found).task.learners[LEARNER]
    assert learner.best == learner.highest == Kind(LEARNER, NEAR, 8)


def test_what_was_changed_after_results_were_known_is_said(opened, tmp_path):
    def study(known, **changed):
        design = dataclasses.replace(opened.design, out=tmp_path, **changed)
        declared = dataclasses.replace(opened, design=design)
        keep_plan(declared, known)
        return declared

    assert plan_deviations(study(0)) == ()
    # The same plan again, and more seeds before anything is known, are no deviations.
    assert plan_deviations(study(5)) == ()
    assert json.loads((tmp_path / "plan.json").read_text()) == {
        "calls": [{"primary": "diversity", "seeds": 3, "draws": 0, "known": 0}]
    }
    later = study(27, seeds=6, primary="shift")
    assert plan_deviations(later) == (
        "The primary hypothesis was changed from diversity to shift after the results of 27 runs were known",
        "The number of seeds was raised from 3 to 6 after the results of 27 runs were known",
    )
    fewer = study(54, seeds=4, primary="shift")
    assert plan_deviations(fewer)[-1] == "The study was planned with 6 seeds, and this report uses 4"
    (tmp_path / "plan.json").write_text('{"calls": [{"seeds": 3}]}')
    with pytest.raises(ValueError, match=r"plan\.json cannot be read"):
        plan_deviations(later)


def test_more_seeds_before_results_are_known_are_no_deviation(opened, tmp_path):
    for seeds in (2, 6):
        design = dataclasses.replace(opened.design, out=tmp_path, seeds=seeds)
        keep_plan(dataclasses.replace(opened, design=design), 0)
    assert plan_deviations(dataclasses.replace(opened, design=design)) == ()


def test_seeds_that_are_added_to_a_folder_without_a_plan_are_said(opened, tmp_path):
    """An earlier version kept no plan: the seeds of its results were planned."""
    more = dataclasses.replace(opened, design=dataclasses.replace(opened.design, out=tmp_path, seeds=6))
    keep_plan(more, 27, known_seeds=3)
    assert plan_deviations(more) == ("The number of seeds was raised from 3 to 6 after the results of 27 runs were known",)
    same = dataclasses.replace(opened, design=dataclasses.replace(opened.design, out=tmp_path / "same"))
    keep_plan(same, 27, known_seeds=3)
    assert plan_deviations(same) == ()
    assert (tmp_path / "same/plan.json").exists()


def test_after_a_deviation_every_verdict_is_exploratory(results):
    changed = dataclasses.replace(results, deviations=("The number of seeds was raised",))
    assert all(each.exploratory for each in Analysis(changed).claims.values())
    assert decision(Analysis(changed))[0] == (
        "The number of seeds was raised: false findings are more frequent than stated, and all verdicts are exploratory."
    )
