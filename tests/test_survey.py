"""Surveys of several sources: equal sample sizes, and sentences that claim only what the intervals allow."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from sslshift.shift import ShiftIndex
from sslshift.shift.index import FAR_ENDS, FAR_FROM, NEAR_END, NEAR_UP_TO, NOISE, SEPARATION
from sslshift.shift.neighbourhoods import Coverage
from sslshift.shift.survey.measure import Measured, RawDistance, Survey, measure
from sslshift.shift.survey.sentences import _WAYS, ONE_ENCODER, SUPERFICIAL, answer, place, ranking, reading, source_sentence
from sslshift.storage import Store, digest


def index(value, low, high):
    # Pairs of draws at either side of the value.
    draws = tuple(value + (high - low) / 4 * sign * each for each in np.linspace(0.5, 1.5, 10) for sign in (1, -1))
    return ShiftIndex(value, low, high, 0.0, 0.0, 1.0, 100, 20, draws)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            (0.01, -0.02, 0.04),
            "near is indistinguishable from another sample of the target (0.01, 95% interval -0.02 to 0.04).",
        ),
        (
            (0.1, -0.1, 0.3),
            "These images do not distinguish near from another sample of the target; it may be up to 0.30 away (0.10, .*).",
        ),
        ((-0.2, -0.3, -0.1), "nearer to the target than halves of the target are to each other .*: look for copies."),
        (
            (0.031, 0.029, 0.033),
            "near is a little away from the target, at most 0.033 of the way to unstructured noise (0.031, .* to 0.033).",
        ),
        (
            (0.34, 0.3, 0.38),
            "near is about a third of the way to unstructured noise (0.34, 95% interval 0.30 to 0.38).",
        ),
        (
            (0.4, 0.1, 0.7),
            "near is between 0.10 and 0.70 of the way to unstructured noise; more images would .*",
        ),
        ((0.95, 0.9, 1.05), "near is about as far as unstructured noise"),
        (
            (0.6, 0.15, 1.05),
            "near is at least 0.15 of the way to unstructured noise, and may be as far as that (0.60, .*);",
        ),
        ((0.97, 0.96, 0.98), "near is between 0.96 and 0.98 of the way to unstructured noise."),
        ((1.5, 1.2, 1.8), "near is farther than unstructured noise"),
    ],
)
def test_a_sentence_says_no_more_than_the_interval(values, text):
    assert re.search(re.escape(text).replace(r"\.\*", ".*"), source_sentence("near", index(*values), far_end=NOISE))


# What the words of a sentence claim about the index; the first that occur count.
CLAIMS = {
    "is indistinguishable": lambda x, ends: x <= 0.105,
    "do not distinguish": lambda x, ends: x <= ends[0] + 0.005,
    "look for copies": lambda x, ends: x < 0,
    "farther than unstructured noise": lambda x, ends: x > 1,
    "about as far as unstructured noise": lambda x, ends: 0.8 <= x <= 1.2,
    "at least": lambda x, ends: x >= ends[0] - 0.005,
    "at most": lambda x, ends: 0 < x <= min(0.105, ends[0] + 0.005),
    "is between": lambda x, ends: ends[0] - 0.005 <= x <= ends[1] + 0.005,
    **{f"is about {words}": lambda x, ends, part=part: abs(x - part) <= 0.051 for part, words in _WAYS.items()},
}


@hypothesis.given(st.floats(-0.5, 2.5), st.floats(0, 1.2), st.floats(0, 1.2))
def test_every_sentence_is_true_of_the_whole_interval(value, below, above):
    low = value - below
    high = value + above
    said = source_sentence("near", index(value, low, high), far_end=NOISE)
    claim = next(claim for words, claim in CLAIMS.items() if words in said)
    ends = [float(number) for number in re.findall(r"-?\d\.\d+", said)]
    assert all(claim(each, ends) for each in np.linspace(low, high, 7)), said


def found(order, raw):
    measured = {
        name: Measured(index((low + high) / 2, low, high), {"proxy_a": RawDistance(raw[name], 0.0, 0.0)}, Coverage(0, 0), 1, 1)
        for name, (low, high) in order.items()
    }
    return Survey("kernel", 100, 200, measured, {}, 1.0, 1.0)


def test_neighbours_in_the_order_differ_only_where_that_is_shown():
    order = {"a": (0.07, 0.13), "b": (0.06, 0.16), "c": (0.5, 0.6)}
    said = reading(found(order, {"a": 1.0, "b": 0.5, "c": 0.8}))
    assert said[0] == "a and b are the nearest, indistinguishable in their distance."
    assert said[1].startswith("c is farther than b by 0.4")
    assert said[2] == "By the other distance (proxy A), c is nearer than a."
    assert (
        reading(found(order, {"a": 0.31, "b": 0.2, "c": 0.3}))[2] == "The other distances agree with this order to within 5%."
    )
    alone = reading(found({"a": (0.1, 0.2)}, {"a": 1.0}))
    assert alone[1:] == [ONE_ENCODER]


def answered(order):
    return answer(found(order, dict.fromkeys(order, 1.0)))[0]


def test_the_answer_is_one_sentence_that_follows_from_intervals_and_thresholds():
    order = {"facebook": (0.04, 0.06), "apple": (0.09, 0.11), "google": (0.15, 0.17), "clip art": (0.3, 0.36)}
    order |= {"textures": (0.6, 0.7), "wallpapers": (0.55, 0.75)}
    assert answered(order) == (
        "facebook, apple and google are near; clip art is in between; textures and wallpapers are far, indistinguishable in "
        "their distance."
    )
    unsure = {"a": (0.2, 0.3), "b": (0.24, 0.51), "c": (0.45, 0.51)}
    assert answered(unsure) == (
        "a is near or in between (more images would narrow this down); b is near, in between or far (more images would narrow "
        "this down); c is in between or far (more images would narrow this down)."
    )
    assert answered({"a": (-0.1, 0.1)}) == "a is near."
    _, scale = answer(found({"a": (-0.1, 0.1)}, {"a": 1.0}))
    assert scale.startswith(f"The index is 0 for {NEAR_END} and 1 for {FAR_ENDS[SEPARATION]}.")
    assert f"below {NEAR_UP_TO:g}, far if it lies above {FAR_FROM:g}" in scale


@hypothesis.given(st.floats(-0.5, 2.5), st.floats(0, 1.2), st.floats(0, 1.2))
def test_a_place_is_where_the_whole_interval_lies(value, below, above):
    low = value - below
    high = value + above
    reached = {
        "near" if each < NEAR_UP_TO else "far" if each > FAR_FROM else "in between"
        for each in np.linspace(low, high, 101)
        # At a threshold itself both words are true.
        if each not in (NEAR_UP_TO, FAR_FROM)
    }
    said = place(index(value, low, high))
    assert reached <= set(said.replace(", ", " or ").split(" or "))
    assert (said == "near") == (high <= NEAR_UP_TO)
    assert (said == "far") == (low >= FAR_FROM)


def test_no_sentence_claims_more_than_the_encoder_sees():
    survey = found({"a": (0.07, 0.13), "These": (0.06, 0.16), "c": (0.5, 0.6)}, {"a": 1.0, "These": 0.5, "c": 0.8})
    first, _ = answer(survey, SUPERFICIAL)
    *said, one = reading(survey, SUPERFICIAL)
    assert one == ONE_ENCODER
    opinions = [each for each in said if each.startswith("By the other distance")]
    rest = [each for each in [first, *said] if each not in opinions]
    assert len(rest) == 6
    assert all(each.startswith("In colour and texture, ") for each in rest)
    assert not any("colour" in each for each in [answer(survey)[0], *reading(survey)])


def test_a_small_source_sets_the_size_of_all_and_a_tiny_one_fails(random):
    sets = {name: random.normal(size=(count, 6)) + 2 for name, count in (("a", 300), ("b", 101), ("tiny", 11))}
    target, noise = random.normal(size=(2, 400, 6)) * np.array([1, 3])[:, None, None] + 2
    measured = measure(target, noise, sets, key=jax.random.key(0), distance="kernel", distances=["kernel", "proxy_a"])
    assert (measured.sample_size, measured.images) == (50, 100)
    assert set(measured.measured) == {"a", "b"}
    assert "it has 11 images" in measured.failed["tiny"]
    by_kernel = measured.measured["a"].raw["kernel"]
    assert by_kernel.index == measured.measured["a"].index.value
    assert np.isnan(measured.measured["a"].raw["proxy_a"].index)
    # Of 400 in balls with 5 neighbours, 100 more come into 1 - (4 / 5)^5.
    assert abs(measured.coverage_expected - (1 - 0.8**5)) < 0.01
    assert abs(measured.measured["a"].coverage.target - measured.coverage_expected) < 0.1
    with pytest.raises(ValueError, match="tiny: it has 11 images"):
        measure(target, noise, {"tiny": sets["tiny"]}, key=jax.random.key(0))


def test_six_equal_sources_are_rarely_put_into_an_order(random):
    """Of 60 surveys of six samples of one distribution, 5% may show an order of any pair; 30% did, pair by pair."""
    ordered = 0
    for number in range(60):
        target, other, *sources = random.normal(size=(8, 100, 6))
        sets = {str(place): each + 0.7 for place, each in enumerate(sources)}
        survey = measure(target, 3 * other + 2, sets, key=jax.random.key(number), repeats=20)
        ordered += any("is farther than" in sentence for sentence in ranking(survey))
    assert ordered <= 8


def test_numbers_of_a_source_are_kept_and_those_of_other_images_or_settings_are_not_taken(random, tmp_path):
    computed = []

    def remember(name, record, compute):
        def counted():
            computed.append(name)
            return compute()

        return Store().remembered(tmp_path / f"{name}-{digest(record)}", record, counted)

    x = random.normal(size=(5, 60, 8))
    x[1] = 5 * x[1] + 9
    settings = {"key": jax.random.key(0), "distances": ("frechet", "proxy_a"), "repeats": 4}
    sources = {"a": x[2], "b": x[3] + 1}
    plain = measure(x[0], x[1], sources, **settings)
    for _ in range(2):
        again = measure(x[0], x[1], sources, **settings, remember=remember)
        # The index by proxy A is nan, which equals nothing.
        assert repr(again.measured) == repr(plain.measured)
    assert computed == ["a", "b"]
    # Another source is measured alone; another target, other noise, and other settings measure all anew.
    measure(x[0], x[1], sources | {"c": x[4]}, **settings, remember=remember)
    assert computed == ["a", "b", "c"]
    for target, noise, other in (
        (x[4], x[1], {}),
        (x[0], x[4], {}),
        (x[0], x[1], {"far_end": NOISE}),
        (x[0], x[1], {"repeats": 6}),
    ):
        measure(target, noise, {"a": x[2]}, **settings | other, remember=remember)
    assert computed == ["a", "b", "c", *"aaaa"]
