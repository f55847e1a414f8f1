"""Names of sources: in what people read, names; in the results table and in the records of runs, URIs."""

import dataclasses
import re

import pytest
from report_builders import FAR, MIDDLE, NEAR, STUDY, results_of

from sslshift.data.source_text import short_names
from sslshift.study.analysis import Analysis
from sslshift.study.candidates import named_text
from sslshift.study.design import SourceLevels, parse_sources
from sslshift.study.opened import open_study
from sslshift.study.report.decision import decision
from sslshift.study.report.sentences import answer, findings
from sslshift.study.report.tables import all_tables
from sslshift.study.report.write import names_record, scores_csv
from sslshift.study.results import describe_run, run_folder, run_record

NAMED = f"digits = {NEAR}@8,64,320; {MIDDLE}@8,64,320; {FAR}@8,320"


@pytest.fixture(scope="module")
def results():
    mixture = (f"staged = digits@160 -> far:{MIDDLE}@160",)
    return results_of(open_study(dataclasses.replace(STUDY, sources=NAMED, mixture=mixture)))


def test_sources_have_names_and_all_is_a_number():
    assert parse_sources("near parts = folder:/a b@10, all ;synthetic:noise?size=9@all; bundled:mnist @5") == [
        SourceLevels("folder:/a b", (10, None), "near parts"),
        SourceLevels("synthetic:noise?size=9"),
        SourceLevels("bundled:mnist", (5,)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = bundled:mnist; a = synthetic:noise", "two sources are called 'a'; give each a name of its own."),
        ("folder:/data/x;y@3", "got 'y'. Sources are separated by ';'; write ';' in a path as %3B."),
        ("near:folder:/data/x", "Did you mean 'near = folder:/data/x'?"),
        ("folder:/data/why?/x", "write '?' in a path as %3F"),
        ("bundled:mnist@all,all", "repeats a number of unique samples"),
        ("x", "expected 'URI' or 'NAME = URI', where the URI begins with one of arrayrecord:"),
    ],
)
def test_a_source_that_cannot_be_read_is_named_with_the_right_form(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_sources(text)


def test_a_folder_whose_name_ends_in_a_number_is_never_guessed(tmp_path):
    (tmp_path / "icons@20").mkdir()
    with pytest.raises(ValueError, match=rf"Write 'folder:{tmp_path}/icons @20' .* and 'folder:{tmp_path}/icons%4020' for"):
        parse_sources(f"folder:{tmp_path}/icons@20")
    assert parse_sources(f"folder:{tmp_path}/icons @20") == [SourceLevels(f"folder:{tmp_path}/icons", (20,))]
    assert parse_sources(f"folder:{tmp_path}/icons%4020") == [SourceLevels(f"folder:{tmp_path}/icons%4020")]


def test_short_names_are_unique_and_no_longer_than_needed():
    assert short_names(["folder:/a/x/train", "folder:/b/x/train", "folder:/c/y", "synthetic:noise?size=4"]) == [
        "a/x/train",
        "b/x/train",
        "y",
        "noise",
    ]
    assert short_names(["bundled:mnist", "folder:mnist"]) == ["bundled:mnist", "folder:mnist"]
    assert short_names(["folder:/a?keep=1.json&licence=x", "folder:/a?keep=2.json"]) == ["a (keep=1.json)", "a (keep=2.json)"]
    # The same source twice has one name; whoever asks refuses it.
    assert short_names(["folder:/a", "folder:/a"]) == ["folder:/a", "folder:/a"]


def test_a_mixture_without_a_name_is_called_by_the_names_of_its_sources():
    names = {"folder:/a": "a", "folder:/a/b?labels=folder": "parts"}
    text = "folder:/a@10 -> near:folder:/a/b?labels=folder@5*0.5; near"
    assert named_text(text, names) == "a@10 -> parts@5*0.5; near"


def test_mixtures_use_names_of_sources():
    sources = NAMED.replace("@8,320", "@8,400,all")
    opened = open_study(dataclasses.replace(STUDY, sources=sources, mixture=(f"both = 0.7*digits@64 + 0.3*far:{FAR}",)))
    (mixture,) = (each for each in opened.candidates if each.text)
    assert list(mixture.mixture.largest) == [NEAR, FAR]
    assert opened.names == {NEAR: "digits", MIDDLE: "fashion_mnist", FAR: "far"}
    # All 400 images are one of the numbers already.
    assert [each.unique for each in opened.candidates if each.name == FAR] == [8, 400]
    with pytest.raises(ValueError, match="each mixture needs a name of its own"):
        open_study(dataclasses.replace(STUDY, sources=NAMED, mixture=(f"digits = {NEAR}@64*0.5 + {FAR}@64",)))


def test_names_change_what_people_read_and_nothing_else(results):
    plain = results_of(open_study(STUDY))
    named = results.named
    assert scores_csv(named) == scores_csv(results) == scores_csv(plain)
    run = results.runs[0].run
    assert run_folder(results.opened, run) == run_folder(plain.opened, plain.runs[0].run)
    assert run_record(results.opened, run) == run_record(plain.opened, plain.runs[0].run)
    assert describe_run(results.opened, run) == describe_run(named.opened, named.runs[0].run)
    assert describe_run(results.opened, run).startswith("digits N=")
    analysis = Analysis(named)
    texts = [*decision(analysis), *answer(analysis), *findings(analysis), *(table.csv for table in all_tables(analysis))]
    said = "\n".join(texts)
    assert results.opened.names == {NEAR: "digits", MIDDLE: "far", FAR: "noise"}
    assert all(name in said for name in results.opened.names.values())
    assert not re.search(r"bundled:(fashion_)?mnist@|synthetic:noise", said)
    by_uri = "\n".join(table.csv for table in all_tables(Analysis(plain)))
    for uri, name in results.opened.names.items():
        by_uri = by_uri.replace(uri, name)
    # Of two names of equal distance the order may differ; the numbers are the same.
    assert sorted(by_uri.splitlines()) == sorted("\n".join(table.csv for table in all_tables(analysis)).splitlines())


def test_the_folder_keeps_the_names_of_sources_and_mixtures(results):
    record = names_record(results.named)
    assert record["sources"] == {uri: results.opened.names[uri] for uri in (NEAR, MIDDLE, FAR)}
    assert record["mixtures"] == ["staged"]
