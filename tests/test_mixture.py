"""Mixtures: what may be declared, in Python and as text; caps; class-wise subsets; and the command that shows a plan."""

import csv
import dataclasses
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import Declaration, DeclaredStage, NamedSource, Part, parse_mixture
from sslshift.data.sources.uri import parse_uri
from sslshift.data.subset import class_order

SCHEMES = ("arrayrecord", "bundled", "folder", "synthetic")


# Dataclasses


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
        (lambda: Component("a", 10, 5, 0.0, 0.0), "above 0 at one end, got one from 0.0 to 0.0"),
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
            "9 images, random, in one and 8, random, in another",
        ),
        (
            lambda: Mixture((Stage((Component("a", 9, 5),), 0.5), Stage((Component("a", 9, 5, subset="balanced"),), 0.5))),
            "9 images, random, in one and 9, balanced, in another",
        ),
    ],
)
def test_mixtures_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Class-wise subsets


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 9), st.data())
def test_every_prefix_keeps_the_proportions_of_classes_within_one_image(sizes, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(10 * np.arange(len(sizes)), sizes))
    order = class_order(labels, len(labels), "proportional", seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for label, size in zip(10 * np.arange(len(sizes)), sizes, strict=True):
        held = np.cumsum(labels[order] == label)
        assert np.abs(held - np.arange(1, len(labels) + 1) * size / len(labels)).max() < 1
    unique = data.draw(st.integers(1, len(labels)))
    assert class_order(labels, unique, "proportional", seed).tolist() == order[:unique].tolist()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 9), st.data())
def test_every_prefix_is_balanced_as_far_as_classes_reach(sizes, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) - 1, sizes))
    order = class_order(labels, len(labels), "balanced", seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    unique = data.draw(st.integers(1, len(labels)))
    assert class_order(labels, unique, "balanced", seed).tolist() == order[:unique].tolist()
    held = np.bincount(labels[order[:unique]] + 1, minlength=len(sizes))
    unfinished = held[held < sizes]
    # Of those that have more, none is behind another class by two.
    assert not unfinished.size or unfinished.min() >= held.max() - 1


def test_class_orders_are_seeded():
    labels = np.arange(1000) % 10
    for subset in ("proportional", "balanced"):
        first, again, other = (set(class_order(labels, 100, subset, seed).tolist()) for seed in (0, 0, 1))
        assert first == again
        # Two draws of a tenth share a tenth of it, 10 (sd 2.9).
        assert len(first & other) < 25
        # Which classes come first where there are fewer images than classes is drawn as well.
        assert len({tuple(sorted(labels[class_order(labels, 3, subset, seed)])) for seed in range(20)}) > 10


# Text


def test_text_is_read_as_written():
    text = """
      near_first = near:folder:/data/my parts+more?labels=folder&x=y@2_000/balanced*0.7 + synthetic:noise@10%*30%<=25% for 30%;
      near@all -> synthetic:noise + near for 30_000; near@500/balanced*0.2 + b:folder:/home/me@work/@1*140_000
    """
    near = "near"
    noise = "synthetic:noise"
    assert parse_mixture(text) == Declaration(
        "near_first",
        (
            NamedSource(near, "folder:/data/my parts+more?labels=folder&x=y"),
            NamedSource(noise, noise, Decimal("0.25")),
            NamedSource("b", "folder:/home/me@work/"),
        ),
        (
            DeclaredStage(
                (Part(near, 2000, "balanced", Decimal("0.7")), Part(noise, Decimal("0.1"), share=Decimal("0.3"))),
                length=Decimal("0.3"),
            ),
            DeclaredStage((Part(near, Decimal(1)),), (Part(noise), Part(near)), 30_000),
            DeclaredStage((Part(near, 500, "balanced", Decimal("0.2")), Part("b", 1, share=140_000))),
        ),
    )


@pytest.mark.parametrize(
    "uri",
    [
        "folder:/data/a+b",
        "folder:/data/C++ code/x -y",
        "folder:/data/A+",
        "folder:/me@home",
        "folder:/data/set@2000/images",
        "folder:/data/icons@2x/",
        "folder:/data/for 3/",
        "folder:/data/part*2/",
        "arrayrecord:/data/web*",
        "folder:/data/x->y",
        "folder:/data/x+near",
        "folder:data?licence=CC+BY:4&labels=folder",
        "folder:C:\\data",
    ],
)
def test_uris_survive(uri):
    for text in (uri, f"{uri} + near:folder:x", f"near:folder:x + {uri} for 0.5; near", f"{uri} -> near:folder:x"):
        for schemes in (None, SCHEMES):
            assert uri in parse_mixture(text, schemes).uris.values()
            assert parse_mixture(f"a:{uri}@20*0.5<=90% + near:folder:x", schemes).uris["a"] == uri


def test_schemes_decide_what_is_a_name():
    assert parse_mixture("folder:bundled:mnist", SCHEMES).uris == {"folder:bundled:mnist": "folder:bundled:mnist"}
    assert parse_mixture("near:bundled:mnist").uris == {"near": "bundled:mnist"}


parts = st.decimals(0, 1, places=4)
positive = parts.filter(bool)
counts = st.integers(2, 10**12)
PATHS = st.text(st.sampled_from("ab/ +@*-1%?=&.é:"), min_size=1, max_size=15).map(str.strip)


@st.composite
def declarations(draw):
    named = {}
    for i in range(draw(st.integers(1, 4))):
        uri = draw(st.sampled_from(SCHEMES)) + ":" + draw(PATHS)
        named[draw(st.sampled_from([f"s{i}", f"s{i}.x_-", uri]))] = uri
    assume(len(set(named.values())) == len(named))

    def drawn(names, ramped):
        kinds = st.sampled_from(["random", "proportional", "balanced"])
        shares = st.none() | (parts if ramped else positive | counts)
        result = []
        for name in names:
            unique = draw(st.none() | positive | counts | st.just(1)) if not ramped else None
            result.append(Part(name, unique, "random" if unique is None else draw(kinds), draw(shares)))
        return tuple(result)

    stages = []
    for _ in range(draw(st.integers(1, 3))):
        names = st.lists(st.sampled_from(list(named)), min_size=1, max_size=4, unique=True)
        ramped = draw(st.booleans())
        lists = drawn(draw(names), ramped), drawn(draw(names), ramped) if ramped else ()
        stages.append(DeclaredStage(*lists, draw(st.none() | positive | counts)))
    # In the order of their first mention, as a text gives them.
    used = dict.fromkeys(part.source for stage in stages for part in stage.parts + stage.end)
    sources = tuple(NamedSource(name, named[name], draw(st.none() | positive | counts)) for name in used)
    return Declaration(draw(st.sampled_from(["", "near_first", "9.b-c"])), sources, tuple(stages))


def spelled_once(declaration):
    """Returns the declaration with one spelling of each URI: a text may write `%40` for `@`, or leave out an empty `?`."""
    names = {each.name: str(parse_uri(each.uri)) if each.name == each.uri else each.name for each in declaration.sources}

    def renamed(parts):
        return tuple(dataclasses.replace(part, source=names[part.source]) for part in parts)

    sources = tuple(
        dataclasses.replace(each, name=names[each.name], uri=str(parse_uri(each.uri))) for each in declaration.sources
    )
    stages = tuple(
        dataclasses.replace(stage, parts=renamed(stage.parts), end=renamed(stage.end)) for stage in declaration.stages
    )
    return dataclasses.replace(declaration, sources=sources, stages=stages)


@settings(max_examples=150)
@given(declarations())
def test_text_is_read_back(declaration):
    # A path that looks like a suffix of its component, or like a further component, cannot be written bare.
    for uri in declaration.uris.values():
        try:
            assume(parse_mixture(f"{uri}@all", SCHEMES).uris == {uri: uri} == parse_mixture(uri, SCHEMES).uris)
        except ValueError:
            assume(False)
    text = str(declaration)
    assert spelled_once(parse_mixture(text, SCHEMES)) == spelled_once(declaration)
    assert str(parse_mixture(text, SCHEMES)) == text
    loose = text.replace("; ", "  ;\n ").replace(" + ", "\n + ").replace(" -> ", "  ->  ")
    assert spelled_once(parse_mixture(f"  {loose} ; ", SCHEMES)) == spelled_once(declaration)


def test_canonical_text():
    text = "x  =  a:folder:p @ 2_000 / balanced * 70 %   +  folder:q@100%*0.30<=.1  for 050 %; a@1 -> folder:q*0 + a*1.0;"
    assert (
        str(parse_mixture(text)) == "x = a:folder:p@2_000/balanced*0.7 + folder:q@all*0.3<=10% for 0.5; a@1 -> folder:q*0 + a*1"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at '': a stage is empty; write 'A . B; C'"),
        ("folder:x;;folder:y", "a stage is empty"),
        ("folder:x + ", "at 'folder:x .': a component is missing"),
        ("+ folder:x", "at '. folder:x': a component is missing"),
        ("folder:x -> ", "at 'folder:x ->': a component is missing"),
        ("folder:x +folder:y", "write 'A . B' for two, 'A -> B' for a ramp"),
        ("folder:x+near:folder:y", "write 'A . B' for two"),
        ("folder:x->folder:y", "write 'A . B' for two"),
        ("near:folder:x + folder:y +near", "write 'A . B' for two"),
        ("near:folder:x + folder:y+ near", "write 'A . B' for two"),
        ("near", "no source is called 'near' so far; write its URI where it first appears, as in near:folder:/data/parts"),
        ("near:folder:x; neer@5", r"at 'neer@5': no source is called 'neer' so far; did you mean near\?$"),
        ("foldr:x", "a URI begins with one of arrayrecord:, bundled:, folder:, synthetic:, after a name of one word or none"),
        ("near:foldr:x", "a URI begins with one of"),
        ("near by:folder:x", "a URI begins with one of"),
        ("near:folder:x + near:folder:y", "at 'near:folder:y': near is the name of folder:x; give the other source another"),
        ("near:folder:x + far:folder:x", "folder:x is called near at an earlier place"),
        ("folder:x; near:folder:x", "folder:x has no name at an earlier place"),
        ("near:folder:x + near*0.5", "near occurs twice among these components"),
        ("folder:x@2k", "expected N such as @2000, @10% or @all, got '2k'"),
        ("folder:x@1,000", "@all, got '1,000'"),
        ("folder:x@-5", "@all, got '-5'"),
        ("folder:x@0", "N is a whole number of images above 0"),
        ("folder:x@0.5", "N is a whole number of images above 0"),
        ("folder:x@150%", "@all, got '150%'"),
        ("folder:x@2000/proportionl", "expected /proportional after N, got /proportionl"),
        ("folder:x*0,7", r"expected a share such as \*0.7, \*70% or \*140_000, got '0,7'"),
        ("folder:x*1.5", "a share such as .*, got '1.5'"),
        ("folder:x*-0.5", "a share such as .*, got '-0.5'"),
        ("folder:x*0", "a share must be above 0, except at one end of a ramp"),
        ("folder:x*0.3@200", r"a component is written NAME:URI@N/SUBSET\*SHARE<=CAP, in this order"),
        ("folder:x<=abc", "expected a cap such as <=10%, <=0.1 or <=50_000, got 'abc'"),
        ("folder:x<=", "a cap such as .*, got ''"),
        ("folder:x<=0%", "a cap must be above 0"),
        ("folder:x<=10%; folder:x<=20%", "folder:x has another cap at an earlier place"),
        ("folder:x for 30k", "at 'for 30k': expected a stage's length such as for 0.3, for 30% or for 30_000, got '30k'"),
        ("folder:x for 0", "a stage's length must be above 0"),
        ("folder:x -> folder:y -> folder:z", "at most one '->'; write 'A -> B; B -> C'"),
        ("folder:x*200 -> folder:y", r"not counts: write \*0.7 or \*70%, not \*200"),
        ("folder:x@5 -> folder:x@6", "folder:x has two different N or subsets in one ramp"),
        ("near first = folder:x", "at 'near first =': a mixture's name is one word"),
    ],
)
def test_mistakes_in_a_text_are_named(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_mixture(text, SCHEMES)
    assert str(error.value).startswith("Mixture, at ")
    assert "\n" not in str(error.value)


# From text to whole numbers


def resolved(text, budget=100_000, **sizes):
    """Each stage's share, and its components as (source, N, share, end_share)."""
    declaration = parse_mixture(text)
    mixture = resolve(declaration, dict.fromkeys(declaration.uris, 10**6) | sizes, Budget(budget))
    return [(s.share, [(c.source, c.unique, c.share, c.end_share) for c in s.components]) for s in mixture.stages]


A = "a:folder:a"
B = "b:folder:b"
C = "c:folder:c"


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
        (f"{A}@2_000_000", "a: 2,000,000 unique samples asked for, but the source has 1,000,000 images"),
        (f"{A} -> a + {B}*0", r"b: expected a changing share .* got one from 0.0 to 0.0"),
        (f"{A}*0.999999 + {B}", "b: its share is less than one sample of the budget"),
        (f"{A} for 0.999999; {B}", "stage 2: its length is less than one sample of the budget"),
    ],
)
def test_what_does_not_add_up_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        resolved(text, budget=100_000)


def test_unknown_sizes_are_named():
    with pytest.raises(ValueError, match="a: expected the number of its images"):
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


# The command


def plan_samples(*flags):
    return subprocess.run([sys.executable, "-m", "tools.plan_samples", *flags], capture_output=True, text=True)


def test_command_shows_audits_and_writes_a_plan(tmp_path):
    file = tmp_path / "new" / "plan.csv"
    done = plan_samples(
        "--budget=100_000",
        f"--csv={file}",
        "--mixture=near:bundled:mnist?cost_per_image=0.5@1000/balanced for 30%; near@2000/balanced -> web:synthetic:noise<=40%",
    )
    assert done.returncode == 0, done.stderr
    assert "near = bundled:mnist?cost_per_image=0.5: 4,000 images" in done.stdout
    assert "390 steps of 256 and 160 samples, which training leaves out" in done.stdout
    assert done.stdout.count("as planned") == 3
    with file.open() as lines:
        rows = {(row["stage"], row["source"]): row for row in csv.DictReader(lines)}
    assert list(rows) == [("1", "near"), ("2", "near"), ("2", "web"), ("all", "near"), ("all", "web"), ("total", "")]
    near = rows["all", "near"]
    web = rows["2", "web"]
    total = rows["total", ""]
    # 30,000 + 35,000 samples of 2,000 images; the 1,000 of the first stage are among them.
    assert (near["unique"], near["samples"], float(near["epochs"]), float(near["cost"])) == ("2000", "65000", 32.5, 1000)
    assert (web["unique"], web["samples"], float(web["share"]), float(web["end_share"])) == ("20000", "35000", 0, 1)
    assert (total["unique"], total["samples"], float(total["diversity"]), float(total["cost"])) == (
        "22000",
        "100000",
        0.22,
        1000,
    )
    assert (web["licence"], web["uri"], rows["all", "web"]["cap"]) == ("CC0-1.0 (generated)", "synthetic:noise", "0.4")


def test_command_samples_what_is_too_large_to_recount():
    done = plan_samples("--budget=1_000_000_000", "--mixture=synthetic:noise?size=500 + big:synthetic:noise?size=9_000_000_000")
    assert done.returncode == 0, done.stderr
    assert "16 random stretches of 500,000 samples, 0.8% of the budget" in done.stdout
    assert done.stdout.count("as planned") == 2


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--mixture=bundled:mnist@5000"], 1, "bundled:mnist: 5,000 unique samples asked for, but the source has 4,000 images"),
        (
            ["--mixture=bundled:mnist*2x"],
            1,
            "Mixture, at 'bundled:mnist*2x': expected a share such as *0.7, *70% or *140_000, got '2x'",
        ),
        (["--mixture=synthetic:noise@5/balanced"], 1, "needs labels, and this source has none"),
        (["--mixture=bundled:mnist*0.9 + synthetic:noise*0.1<=5%"], 1, "5 points more than its cap of 5%"),
        (["--mixture=bundled:mnist", "--bugdet=3"], 2, "Did you mean: budget"),
    ],
)
def test_command_says_in_a_sentence_what_is_wrong(flags, code, message):
    done = plan_samples("--budget=10_000", *flags)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
