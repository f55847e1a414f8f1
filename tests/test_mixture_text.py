"""Text of mixtures: it is read as written, written back in one form, and its mistakes are named."""

import dataclasses
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sslshift.data.mixture_text import Declaration, DeclaredStage, NamedSource, Part, parse_mixture
from sslshift.data.sources.uri import parse_uri

SCHEMES = ("arrayrecord", "bundled", "folder", "synthetic")


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
        ("folder:x*0.3@200", r"write a component as NAME:URI@N/SUBSET\*SHARE<=CAP, in this order"),
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
