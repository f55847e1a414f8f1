"""Words of a report against the numbers that they are about: random trends, and what may be said of them."""

import math
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslshift.study.learner_analysis import Kind, SourceTrend
from sslshift.study.report.sentences import _change_words, _trend_words
from sslshift.transfer.claims import CHANGE, CURVATURE, FALLS, NO_TREND, RISES, TREND, Claim, Hypothesis

LEARNER = ("simclr", "patch_mlp")


def claim(family, value, shown):
    """A claim of this value, shown or not."""
    half = abs(value) * (0.5 if shown else 1.5) + 1e-9
    words = {TREND: (RISES, FALLS), CHANGE: (RISES, FALLS), CURVATURE: ("steepens", "flattens")}[family]
    verdict = words[value < 0] if shown else NO_TREND
    adjusted = 0.01 if shown else 0.5
    about = Hypothesis("task", LEARNER, family, "source")
    return Claim(about, value, value - half, value + half, adjusted, adjusted, abs(value) * 2, verdict, False)


def trend(source, shift, value, shown):
    return SourceTrend(source, shift, (), claim(TREND, value, shown), None)


values = st.floats(0.001, 0.1).flatmap(lambda size: st.sampled_from([size, -size]))


@given(values, st.booleans(), values, st.booleans(), values, st.booleans())
def test_words_of_a_change_say_what_is_shown_at_both_ends(near, near_shown, far, far_shown, change, change_shown):
    trends = [
        trend("near", 0.0, near, near_shown),
        trend("between", 0.5, 0.05, True),
        trend("far", 1.0, far, far_shown),
        trend("unknown", math.nan, -0.05, True),
    ]
    words = _change_words(types.SimpleNamespace(trends=trends), claim(CHANGE, change, change_shown))
    if not change_shown:
        assert words.startswith("no trend shown; ")
        return
    helps_near = near_shown and near > 0
    harms_near = near_shown and near < 0
    helps_far = far_shown and far > 0
    harms_far = far_shown and far < 0
    # "Helps" and "harms" need an end at which that is shown, and no end that shows the opposite without a word about it.
    assert ("helps" not in words) or helps_near or helps_far
    assert ("harms" not in words) or harms_near or harms_far
    if "helps less" in words or "helps more" in words:
        assert helps_near
        assert helps_far
    if "harms more" in words or "harms less" in words:
        assert harms_near
        assert harms_far
    if "helps near the task and harms far" in words:
        assert helps_near
        assert harms_far
    if " less " in words or " falls " in words or " rises " in words or " more " in words:
        grows = change > 0
        assert ("less" in words or "falls" in words) != grows or "harms" in words or "towards" in words
        if "harms more" in words or "harms less" in words:
            assert ("harms less" in words) == grows


@pytest.mark.parametrize(
    ("near", "far", "change", "words"),
    [
        # The three cases of an audit in which "helps less" was said.
        ((-0.01, True), (-0.039, True), -0.03, "diversity harms more where the data is farther from the task"),
        ((0.02, True), (-0.02, True), -0.04, "diversity helps near the task and harms far from it"),
        ((0.02, True), (0.01, True), -0.01, "diversity helps less where the data is farther from the task"),
        ((0.02, True), (0.0001, False), -0.02, "diversity helps near the task, and this effect falls with the distance"),
        ((0.001, False), (-0.001, False), -0.02, "at neither end is an effect shown"),
    ],
)
def test_words_of_a_change_by_hand(near, far, change, words):
    trends = [trend("near", 0.0, *near), trend("far", 1.0, *far)]
    assert words in _change_words(types.SimpleNamespace(trends=trends), claim(CHANGE, change, True))


def levels(scores):
    """The words of a trend over kinds with these scores."""
    kinds = tuple(Kind(LEARNER, "near", 10**power) for power in range(1, len(scores) + 1))
    by_kind = {kind: types.SimpleNamespace(value=score) for kind, score in zip(kinds, scores, strict=True)}
    linear = types.SimpleNamespace(score=by_kind.__getitem__)
    return types.SimpleNamespace(scores=linear), kinds


@given(st.lists(st.floats(0.3, 0.9), min_size=3, max_size=5, unique=True), values, st.booleans(), values, st.booleans())
def test_words_of_a_trend_fit_its_scores(scores, slope, shown, bend, bends):
    learner, kinds = levels(scores)
    near = SourceTrend("near", 0.0, kinds, claim(TREND, slope, shown), claim(CURVATURE, bend, bends))
    words = _trend_words(learner, near)
    top = scores.index(max(scores))
    if words == "more diversity is better":
        assert shown
        assert slope > 0
        assert top == len(scores) - 1
        assert not (bends and bend < 0)
    if words == "more diversity is worse":
        assert shown
        assert slope < 0
        assert top == 0
    if "saturates" in words:
        assert bends
        assert bend < 0
        assert f"{(scores[-1] - scores[-2]) * 100:+.2f} points" in words or abs(scores[-1] - scores[-2]) < 5e-5
    if not shown:
        assert words.startswith("no trend shown; ")
        assert ("curved" in words) == bends


def test_a_ladder_that_saturates_is_not_called_better_on_and_on():
    learner, kinds = levels([0.750, 0.781, 0.779])
    near = SourceTrend("near", 0.0, kinds, claim(TREND, 0.0145, True), claim(CURVATURE, -0.033, True))
    assert _trend_words(learner, near) == (
        "more diversity is better at first and saturates; from 100 to 1,000 images it changes by -0.20 points"
    )
    straight = SourceTrend("near", 0.0, kinds, claim(TREND, 0.0145, True), None)
    assert _trend_words(learner, straight) == (
        "accuracy rises with diversity on the whole; the highest mean is at 100 unique images"
    )
