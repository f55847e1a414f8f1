"""Sentences of a study's report, and that they claim only what the results allow."""

import dataclasses
import math
import re

import pytest
from report_builders import FAR, LEARNER, MIDDLE, NEAR, SHIFTS, STUDY, planned_shift, results_of, truth

from sslshift.study.analysis import Analysis
from sslshift.study.learner_analysis import Kind, LearnerAnalysis
from sslshift.study.opened import open_study
from sslshift.study.report.page import caption
from sslshift.study.report.sentences import answer, findings


@pytest.fixture(scope="module")
def opened():
    return open_study(STUDY)


@pytest.fixture(scope="module")
def analysis(opened):
    return Analysis(results_of(opened))


def analysis_of(opened, *args, **kwargs):
    return Analysis(results_of(opened, *args, **kwargs))


def test_the_answer_is_three_sentences_the_primary_one_first(analysis):
    near, use, change = answer(analysis)
    claim = analysis.task.learners[LEARNER].trends[0].trend
    assert near == (
        f"Primary question: with the source nearest to the task ({NEAR}, shift index 0.00), each factor of ten in diversity "
        f"changes the linear-probe accuracy by {claim.value * 100:+.2f} points ({claim.low * 100:+.2f} to "
        f"{claim.high * 100:+.2f}): more diversity is better."
    )
    assert use.startswith(
        f"Pretrain on {NEAR} with 320 unique images: it reaches the highest linear-probe accuracy of 9 kinds "
    )
    score = r", 81\.\d%, or 81\.\d% \(\d\d\.\d% to \d\d\.\d%\) corrected for this choice, a gain of \+\d+\.\d ± "
    assert re.search(score, use)
    assert f"; in exploratory comparisons, {NEAR} is better than " in use
    about = r"one unit of the shift index, over 4 reference encoders\), the effect of a factor of ten in diversity changes by"
    assert re.search(about + r" -\d\.\d\d points \(", change)
    # Three sources are too few for a verdict on others.
    assert "for any sources the interval is " in change
    assert "(no verdict: that takes at least 5 sources)" in change


def test_the_primary_question_is_the_declared_one(opened):
    for primary, beginning in (
        ("shift", "Primary question: from data like that of the task to complete separation from "),
        ("source", f"Primary question: pretraining on the nearest source, {NEAR} with 320 unique images, changes the "),
        ("mixture", "Primary question: the linear-probe accuracy after staged with 320 unique images differs from that after "),
    ):
        results = results_of(dataclasses.replace(opened, design=dataclasses.replace(opened.design, primary=primary)))
        sentences = answer(Analysis(results))
        assert sentences[0].startswith(beginning)
        assert len(sentences) == (3 if primary == "shift" else 4)


def test_a_source_with_a_gain_is_named_before_a_higher_one_that_varies(opened):
    """FAR has the highest mean, but by one lucky seed; NEAR gains in every seed."""
    lucky = {0: 0.99, 1: 0.75, 2: 0.74}
    use = answer(analysis_of(opened, lambda run: lucky[run.seed] if run.source == FAR else truth(run)))[1]
    assert use.startswith(f"Pretrain on {NEAR} with 320 unique images: it reaches a linear-probe accuracy of 81.")
    assert ", a gain of +" in use
    assert f"; {FAR} with " in use
    assert ", the highest of 9 kinds of runs, but no gain of it is shown" in use


def test_without_an_effect_nothing_is_claimed(opened):
    flat = analysis_of(opened, lambda run: 0.7 + 0.01 * ((run.seed * 7 + run.unique) % 5 - 2))
    near, use, change = answer(flat)
    assert use.startswith("No gain from pretraining is shown for any number of unique images: ")
    assert "no trend shown; " in near
    assert "no trend shown; " in change
    assert {each.verdict for each in flat.claims.values()} <= {"no difference shown", "no trend shown"}
    assert any("is not shown to be better than the baseline of raw pixels" in sentence for sentence in findings(flat))


def test_what_is_not_shown_stands_with_what_would_be(opened):
    flat = analysis_of(opened, lambda run: 0.7 + 0.01 * ((run.seed * 7 + run.unique) % 5 - 2))
    for sentence in [*answer(flat), *findings(flat)]:
        for part in re.split(r"no (?:difference|trend) shown", sentence)[1:]:
            assert re.match(r"[^;()]*; (?:\d[\d.]*|less than 0\.1) points would be, with 80% probability", part), sentence


def test_mixtures_are_compared_with_the_nearest_source_alone(analysis):
    learner = analysis.task.learners[LEARNER]
    assert learner.reference == Kind(LEARNER, NEAR, 320)
    assert {kind.source for kind in learner.against_reference} == {MIDDLE, FAR, "staged"}
    assert any(
        sentence.startswith(f"Mixtures compared with {NEAR} with 320 unique images: staged") for sentence in findings(analysis)
    )


def test_one_seed_supports_no_claim(opened):
    one = analysis_of(opened, keep=lambda run: run.seed == 0)
    near, use, change = answer(one)
    assert "(one seed, not tested)" in use
    assert "with one seed, whose interval does not include the variation between seeds, no trend can be claimed" in near
    assert ": with one seed, no change can be claimed; for any" in change
    assert {each.verdict for each in one.task.gains.values()} == {"one seed, not tested"}
    low = analysis_of(opened, lambda run: 0.5, keep=lambda run: run.seed == 0)
    assert not any("is worse" in sentence for sentence in findings(low))
    assert any("is not shown to be better than the baseline of raw pixels: -2" in sentence for sentence in findings(low))


def test_draws_of_one_training_seed_support_no_claim_either():
    """The variation between seeds is unknown, however many draws of the subset there are."""
    opened = open_study(dataclasses.replace(STUDY, seeds=1, draws=3, mixture=()))
    analysis = analysis_of(opened, lambda run: truth(run) + 0.001 * run.draw)
    assert {each.verdict for each in analysis.task.gains.values()} == {"one seed, not tested"}
    assert {each.verdict for each in analysis.task.learners[LEARNER].pairs.values()} == {"one seed, not tested"}
    near, use, change = answer(analysis)
    assert "(one seed, not tested)" in use
    assert "no trend can be claimed" in near
    assert "no change can be claimed" in change
    assert "one seed: the intervals are over 3 draws of each subset and the test images and do not include" in caption(analysis)


def test_the_named_source_can_be_worse_than_another(opened, monkeypatch):
    """The gain of the highest source is not shown, so another one is named, which is worse than the highest."""
    best = Kind(LEARNER, MIDDLE, 320)
    highest = Kind(LEARNER, NEAR, 320)
    shown = {
        kind: each._replace(verdict="better" if kind == best else "no difference shown")
        for kind, each in analysis_of(opened).task.gains.items()
    }
    monkeypatch.setattr(LearnerAnalysis, "gains", shown)
    analysis = analysis_of(opened)
    assert analysis.task.learners[LEARNER].pairs[highest, best].verdict == "better"
    use = answer(analysis)[1]
    assert use.startswith(f"Pretrain on {MIDDLE} with 320 unique images")
    assert f"{MIDDLE} is better than {FAR}, and {MIDDLE} is worse than {NEAR} and staged." in use


def test_the_nearest_of_far_sources_is_not_called_near(opened):
    results = results_of(opened)
    shifts = {name: planned_shift(SHIFTS[name] + 0.8) for name in results.shifts}
    near, _, _ = answer(Analysis(dataclasses.replace(results, task_shifts={NEAR: shifts})))
    assert near.startswith(
        f"Primary question: with the source nearest to the task ({NEAR}, shift index 0.80), each factor of ten"
    )
    unknown = {name: planned_shift(math.nan) for name in results.shifts}
    near, _, change = answer(Analysis(dataclasses.replace(results, task_shifts={NEAR: unknown})))
    assert "(its shift index is unknown), each factor of ten" in near
    assert "at least 3 sources with a shift index" in change
    assert "there are none" in change


def test_two_sources_have_no_change_with_shift(opened):
    few = analysis_of(opened, keep=lambda run: run.source in (NEAR, FAR))
    assert "at least 3 sources" in answer(few)[2]


def test_nothing_finished_is_no_answer(opened):
    assert answer(analysis_of(opened, keep=lambda run: False)) == ["No run of this study is finished: there is no answer yet."]


def test_a_run_that_went_wrong_is_named_with_the_median_of_its_kind(opened):
    def accuracy(run):
        return 0.5 if (run.source, run.unique, run.seed) == (MIDDLE, 64, 1) else truth(run)

    (warning,) = [each for each in findings(analysis_of(opened, accuracy)) if "below its siblings" in each]
    assert warning.startswith(f"Warning: the run of {MIDDLE} with 64 unique images with seed 1 ended 2")
    assert re.search(r"The median of these runs, which it hardly moves, is 7[23]\.\d% \(\d\d\.\d% to \d\d\.\d%\)\.", warning)
    assert not any("below its siblings" in each for each in findings(analysis_of(opened)))
