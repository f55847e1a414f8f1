"""Mixtures of sources that are declared elsewhere, in the same text as those that declare their own."""

import pytest

from sslshift.data.mixture_resolve import plain_shares
from sslshift.data.mixture_text import parse_mixture
from sslshift.data.source_text import NamedUri, parse_named_sources
from sslshift.shift.survey.inputs import PlannedMixture, parse_mixtures

KNOWN = {"near": "folder:near", "the same": "folder:parts", "a + b; c": "folder:odd", "web": "folder:web"}


@pytest.mark.parametrize(
    "text",
    [
        "near:folder:near@2_000*0.7 + web:folder:web*0.3",
        "0.7*near:folder:near@2_000 + 0.3*web:folder:web",
        "70% * near:folder:near@2_000 + web:folder:web*30%",
        "7e-1*near:folder:near@2_000 + web:folder:web*.3",
    ],
)
def test_a_share_may_be_on_either_side_of_its_component(text):
    declaration = parse_mixture(text)
    assert declaration == parse_mixture("near:folder:near@2_000*0.7 + web:folder:web*0.3")
    assert str(declaration) == "near:folder:near@2_000*0.7 + web:folder:web*0.3"


@pytest.mark.parametrize(
    ("text", "name", "shares"),
    [
        ("mostly near = 0.7*near + 30%*web", "mostly near", {"near": 0.7, "web": 0.3}),
        ("x=0.5*near+.5*web", "x", {"near": 0.5, "web": 0.5}),
        ("x = 0.5*the same + a + b; c*0.5", "x", {"the same": 0.5, "a + b; c": 0.5}),
        ("x = near*0.5 + the same", "x", {"near": 0.5, "the same": 0.5}),
        ("the same, more of it = 1*the same", "the same, more of it", {"the same": 1.0}),
        ("near + web", "", {"near": 0.5, "web": 0.5}),
    ],
)
def test_known_sources_are_named_as_they_were_declared(text, name, shares):
    declaration = parse_mixture(text, known=KNOWN)
    assert declaration.name == name
    assert plain_shares(declaration) == shares
    assert declaration.uris == {source: KNOWN[source] for source in shares}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5*near*0.5 + web", "two shares, one on each side"),
        ("0.5*near + 0.5*far", "no source is called 'far'; expected one of near, the same"),
        ("0.5*the sam + 0.5*near", "no source is called 'the sam'"),
        ("0.5*near + 0.5*near", "near occurs twice"),
        ("0.5*near@20 + web", "expected shares alone"),
        ("near; web", "expected shares alone"),
        ("near -> web", "expected shares alone"),
        ("20*near + web", "expected shares alone"),
        ("near<=10% + web", "expected shares alone"),
        ("0.5*near + 0.4*web", "expected shares that sum to 100%, got 90%"),
        ("0*near + 1*web", "above 0"),
        ("1.5*near + web", "expected a share such as"),
    ],
)
def test_what_is_no_planned_mixture_is_refused_in_one_sentence(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        plain_shares(parse_mixture(text, known=KNOWN))
    assert "\n" not in str(raised.value)
    assert "_known_" not in str(raised.value)


def test_many_sources_with_odd_names_keep_their_names():
    known = {f"source {number}": f"folder:{number}" for number in range(12)}
    text = " + ".join(known)
    assert list(plain_shares(parse_mixture(text, known=known))) == list(known)


def test_mixtures_of_a_survey_have_names_of_their_own():
    sources = [NamedUri("near", "folder:near"), NamedUri("web", "folder:web")]
    assert parse_mixtures(["0.5*near + .5*web"], sources) == [
        PlannedMixture("0.5*near + .5*web", {"near": 0.5, "web": 0.5}),
    ]
    with pytest.raises(ValueError, match="near is already the name of a source"):
        parse_mixtures(["near = 1*near"], sources)


def test_sources_are_named_by_their_path_or_by_their_whole_uri():
    assert parse_named_sources(["folder:/a/x", "folder:/b/y"]) == [NamedUri("x", "folder:/a/x"), NamedUri("y", "folder:/b/y")]
    assert [each.name for each in parse_named_sources(["folder:/a/x", "folder:/b/x"])] == ["a/x", "b/x"]
    with pytest.raises(ValueError, match=r"tables use the name 'the target' for something else"):
        parse_named_sources(["the target = folder:/a"], reserved=["the target"])
