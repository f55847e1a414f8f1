"""Mixtures: declared in Python, and resolved from text for given sources and a budget, with caps."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import parse_mixture


@given(st.lists(st.lists(st.integers(1, 10**6), min_size=1, max_size=4), min_size=1, max_size=4))
def test_components_whose_shares_are_counts_see_that_many_samples(counts):
    total = sum(map(sum, counts))
    stages = tuple(
        Stage(tuple(Component(f"s{i}", 5, 1, count / sum(stage)) for i, count in enumerate(stage)), sum(stage) / total)
        for stage in counts
    )
    plan = SamplePlan(Mixture(stages), Budget(total), 1, 0, 0)
    assert plan.counts == tuple(map(tuple, counts))


def test_caps_hold_over_all_stages_and_say_by_how_much_they_are_broken():
    # "web" takes 0.5 * 0.4 + 0.5 * (0 + 0.2) / 2 = 25% of the budget.
    first = Stage((Component("near", 100, 10, 0.6), Component("web", 900, 10, 0.4)), 0.5)
    second = Stage((Component("near", 100, 10, 1.0, 0.8), Component("web", 900, 10, 0.0, 0.2)), 0.5)
    assert Mixture((first, second), caps=(("web", 0.25),)).share_of("web") == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"web: it would take 25% of the budget, 15 points more than its cap of 10%; lower"):
        Mixture((first, second), caps=(("web", 0.1),))


def test_n_over_all_stages_counts_nested_subsets_once():
    stages = tuple(Stage((Component("a", 100, n, 0.5), Component("b", 90, 9, 0.5)), 0.5) for n in (10, 30))
    assert Mixture(stages).largest == {"a": 30, "b": 9}
    assert Mixture(stages).unique == 39


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Component("a", 10, 5, 0.0), "a: expected a share above 0"),
        (lambda: Component("a", 10, 5, 0.0, 0.0), "above 0 at one end, got a share from 0.0 to 0.0"),
        (lambda: Component("a", 10, 5, 0.5, 1.5), "changing share between 0 and 1"),
        (lambda: Component("a", 10, 5, subset="even"), "random, proportional, balanced as the subset, got 'even'"),
        (
            lambda: Stage((Component("a", 9, 5, 0.5, 0.4), Component("b", 9, 5, 0.5))),
            "at the end of a stage that sum to 1, got .* sum to 0.9",
        ),
        (
            lambda: Stage((Component("a", 9, 5, 0.4, 0.5), Component("b", 9, 5, 0.5))),
            "at the start of a stage that sum to 1, got .* sum to 0.9",
        ),
        (lambda: Mixture((Stage((Component("a", 9, 5),)),), caps=(("a", 0.0),)), "a cap that is a share of the budget above 0"),
        (
            lambda: Mixture((Stage((Component("a", 9, 5),), 0.5), Stage((Component("a", 8, 5),), 0.5))),
            "9 images, random, in one stage and 8 images, random, in another",
        ),
        (
            lambda: Mixture((Stage((Component("a", 9, 5),), 0.5), Stage((Component("a", 9, 5, subset="balanced"),), 0.5))),
            "9 images, random, in one stage and 9 images, balanced, in another",
        ),
    ],
)
def test_mixtures_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def resolved(text, budget=100_000, **sizes):
    """Each stage's share, and its components as (source, N, share, end_share)."""
    declaration = parse_mixture(text)
    mixture = resolve(declaration, dict.fromkeys(declaration.uris, 10**6) | sizes, Budget(budget))
    return [(s.share, [(c.source, c.unique, c.share, c.end_share) for c in s.components]) for s in mixture.stages]


A = "a:folder:a"
B = "b:folder:b"
C = "c:folder:c"
# Shares above 0.
positive = st.decimals(0, 1, places=4).filter(bool)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        # What the others leave, equally; all of a source as far as its samples reach.
        (f"{A}@2000*0.5 + {B} + {C}", [(1.0, [("a", 2000, 0.5, None), ("b", 25_000, 0.25, None), ("c", 25_000, 0.25, None)])]),
        (f"{A}*0.02 + {B}@7%*98_000", [(1.0, [("a", 2000, 0.02, None), ("b", 70_000, 0.98, None)])]),
        (f"{A} for 30%; {B} for 10_000; {C}; a@5", [
            (0.3, [("a", 30_000, 1.0, None)]),
            (0.1, [("b", 10_000, 1.0, None)]),
            (0.3, [("c", 30_000, 1.0, None)]),
            (0.3, [("a", 5, 1.0, None)]),
        ]),
        (f"{A}@9 -> {B}*0.5 + a", [(1.0, [("a", 9, 1.0, 0.5), ("b", 25_000, 0.0, 0.5)])]),
        (f"{A}*0.5 + {B}*0.5 -> b@9", [(1.0, [("a", 25_000, 0.5, 0.0), ("b", 9, 0.5, 1.0)])]),
        (f"{A}*1 + {B}@9*0 -> b*1 + a*0", [(1.0, [("a", 50_000, 1.0, 0.0), ("b", 9, 0.0, 1.0)])]),
        # Caps: equal parts would be thirds.
        (f"{A} + {B}<=10% + {C}", [(1.0, [("a", 45_000, 0.45, None), ("b", 10_000, 0.1, None), ("c", 45_000, 0.45, None)])]),
        (f"{A} + {B}<=10_000 + {C}<=20%", [
            (1.0, [("a", 70_000, 0.7, None), ("b", 10_000, 0.1, None), ("c", 20_000, 0.2, None)])
        ]),
        # A cap that is not reached changes nothing.
        (f"{A} + {B}<=90%", [(1.0, [("a", 50_000, 0.5, None), ("b", 50_000, 0.5, None)])]),
        # Two stages share a cap in proportion to what they would have.
        (f"{A} + {B}<=10% for 0.2; a + b", [
            (0.2, [("a", 18_000, 0.9, None), ("b", 2000, 0.1, None)]),
            (0.8, [("a", 72_000, 0.9, None), ("b", 8000, 0.1, None)]),
        ]),
        # Where nothing else is open, a source keeps its share and gives way elsewhere.
        (f"{A} + {B}<=30%; b for 20%", [
            (0.8, [("a", 70_000, 0.875, None), ("b", 10_000, 0.125, None)]),
            (0.2, [("b", 20_000, 1.0, None)]),
        ]),
        # A given share counts; what is open gets the rest of the cap.
        (f"{A} + {B}*0.1<=10%; a + b", [
            (0.5, [("a", 45_000, 0.9, None), ("b", 5000, 0.1, None)]),
            (0.5, [("a", 45_000, 0.9, None), ("b", 5000, 0.1, None)]),
        ]),
        # A ramp's two ends weigh half each: 0 and 0.4 make 20%.
        (f"{A} -> a + {B}<=20%", [(1.0, [("a", 80_000, 1.0, 0.6), ("b", 20_000, 0.0, 0.4)])]),
    ],
)  # fmt: skip
def test_open_pieces_are_filled(text, stages):
    assert resolved(text) == stages


def test_n_is_limited_by_the_source_where_it_is_left_open():
    assert resolved(f"{A} + {B}@50%", a=300, b=9)[0][1] == [("a", 300, 0.5, None), ("b", 4, 0.5, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{A}*0.7 + {B}*0.2", r"Mixture, stage 1: expected shares that sum to 100%, got 90%"),
        (f"{A}; {B}*0.7 + {C}*0.3 + a", r"stage 2: the given shares sum to 100% and leave nothing for the others"),
        (f"{A}*0.7 + {B} -> a*1.0 + b", r"stage 1, at its end: the given shares sum to 100% and leave nothing"),
        (f"{A} for 0.5; {B} for 0.4", "the lengths of the stages: expected shares that sum to 100%, got 90%"),
        (f"{A} for 200_000; {B}", "the lengths of the stages: the given shares sum to 200% and leave nothing"),
        (f"{A}*0.9 + {B}*0.1<=5%", "b: it would take 10% of the budget, 5 points more than its cap of 5%"),
        (
            f"{A}; {B}<=5% for 25%",
            r"b: it would take 25% of the budget, 20 points more .* \(no other share is open in stage 2: name",
        ),
        (
            f"{A} + {B}*0.1<=5%; a + b",
            "b: its given shares use its whole cap of 5%; remove it from the stages where its share is open",
        ),
        (f"{A}@2_000_000", "a: expected 1 to 1,000,000 unique samples, since the source has 1,000,000 images, got 2,000,000"),
        (f"{A} -> a + {B}*0", r"b: expected a changing share .* got a share from 0.0 to 0.0"),
        (f"{A}*0.999999 + {B}", "b: its share is less than one sample of the budget"),
        (f"{A} for 0.999999; {B}", "stage 2: its length is less than one sample; lengthen the stage"),
    ],
)
def test_what_does_not_add_up_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        resolved(text, budget=100_000)


def test_unknown_sizes_are_named():
    with pytest.raises(ValueError, match="a: expected the number of images"):
        resolve(parse_mixture(A), {}, Budget(100))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_caps_ask_for_plans_obey(data):
    sources = ["s0", "s1", "s2", "s3"]
    caps = {name: data.draw(st.none() | positive) for name in sources[1:]}
    first = {name: f"{name}:folder:{name}" + (f"<={cap}" if cap else "") for name, cap in caps.items()} | {"s0": "s0:folder:s0"}
    lists = []
    for _ in range(data.draw(st.integers(1, 4))):
        # One source without a cap is open everywhere, so that there is a way.
        names = ["s0", *data.draw(st.lists(st.sampled_from(sources[1:]), max_size=3, unique=True))]
        lists.append(" + ".join(first.pop(name, name) for name in names))
    joints = [data.draw(st.sampled_from(["; ", " -> "])) if i % 2 else "; " for i in range(1, len(lists))]
    text = lists[0] + "".join(joint + part for joint, part in zip(joints, lists[1:], strict=True))
    budget = Budget(data.draw(st.integers(2000, 10**6)))
    try:
        mixture = resolve(parse_mixture(text), dict.fromkeys(sources, 10**6), budget)
    except ValueError as error:
        # A tiny cap may leave less than a sample; anything else is a mistake of ours.
        assume("less than one sample" not in str(error))
        raise
    for stage in mixture.stages:
        assert sum(component.mean_share for component in stage.components) == pytest.approx(1)
    plan = SamplePlan(mixture, budget, 100, 0, 0)
    for name, cap in caps.items():
        samples = [
            count
            for stage, stage_counts in zip(mixture.stages, plan.counts, strict=True)
            for component, count in zip(stage.components, stage_counts, strict=True)
            if component.source == name
        ]
        assert cap is None or sum(samples) < float(cap) * budget.samples + len(samples) + 1e-6
