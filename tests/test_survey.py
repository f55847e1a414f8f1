"""Surveys of several sources: equal sample sizes, and sentences that claim only what the intervals allow."""

import re

import jax
import numpy as np
import pytest

from sslshift.shift import ShiftIndex
from sslshift.shift.neighbourhoods import Coverage
from sslshift.shift.survey.measure import Measured, RawDistance, Survey, measure, reading, source_sentence


def index(value, low, high):
    draws = tuple(np.linspace(low, high, 20).tolist())
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
            "near is indistinguishable from another sample of the target (0.10, .*); it may be up to 0.30 away.",
        ),
        ((-0.2, -0.3, -0.1), "nearer to the target than halves of the target are to each other .*: look for copies."),
        ((0.031, 0.029, 0.033), "near is a little away from the target, 3% of the way to noise (0.031, .* 0.029 to 0.033)."),
        ((0.34, 0.3, 0.38), "near is about a third of the way to noise from the target (0.34, 95% interval 0.30 to 0.38)."),
        (
            (0.4, 0.1, 0.7),
            "near is between 0.10 and 0.70 of the way from the target to noise; more images would narrow this down.",
        ),
        ((0.95, 0.9, 1.05), "near is about as far from the target as noise"),
        ((1.5, 1.2, 1.8), "near is farther from the target than noise"),
    ],
)
def test_a_sentence_says_no_more_than_the_interval(values, text):
    assert re.search(re.escape(text).replace(r"\.\*", ".*"), source_sentence("near", index(*values)))


def found(order, raw):
    measured = {
        name: Measured(index((low + high) / 2, low, high), {"proxy_a": RawDistance(raw[name], 0.0, 0.0)}, Coverage(0, 0), 1, 1)
        for name, (low, high) in order.items()
    }
    return Survey("kernel", 100, 200, measured, {}, 1.0, 1.0)


def test_neighbours_in_the_order_differ_only_where_that_is_shown():
    order = {"a": (0.10, 0.12), "b": (0.09, 0.14), "c": (0.5, 0.6)}
    said = reading(found(order, {"a": 1.0, "b": 0.5, "c": 0.8}))
    assert said[0] == "a and b are the nearest; these images do not show which of them is nearer than the others."
    assert said[1].startswith("c is farther than b by 0.4")
    assert said[2] == "By the proxy A distance the order differs: c before a."
    assert (
        reading(found(order, {"a": 0.31, "b": 0.2, "c": 0.3}))[2] == "The other distances agree with this order to within 5%."
    )
    alone = reading(found({"a": (0.1, 0.2)}, {"a": 1.0}))
    assert len(alone) == 1


def test_a_small_source_sets_the_size_of_all_and_a_tiny_one_fails(random):
    sets = {name: random.normal(size=(count, 6)) + 2 for name, count in (("a", 300), ("b", 101), ("tiny", 11))}
    target, noise = random.normal(size=(2, 400, 6)) * np.array([1, 3])[:, None, None] + 2
    measured = measure(target, noise, sets, key=jax.random.key(0), distance="kernel", distances=["kernel", "proxy_a"])
    assert (measured.sample_size, measured.images) == (50, 100)
    assert set(measured.measured) == {"a", "b"}
    assert "it has 11 images" in measured.failed["tiny"]
    assert measured.measured["a"].raw["kernel"].value == measured.measured["a"].index.distance
    # Of 400 in balls with 5 neighbours, 100 more come into 1 - (4 / 5)^5.
    assert abs(measured.coverage_expected - (1 - 0.8**5)) < 0.01
    assert abs(measured.measured["a"].coverage.target - measured.coverage_expected) < 0.1
    with pytest.raises(ValueError, match="tiny: it has 11 images"):
        measure(target, noise, {"tiny": sets["tiny"]}, key=jax.random.key(0))
