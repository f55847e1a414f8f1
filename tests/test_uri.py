"""The grammar of URIs: a URI that is parsed is written back, alone and in the texts of sources, mixtures and tasks."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sslshift.data import open_source
from sslshift.data.mixture_text import parse_mixture
from sslshift.data.sources import SCHEMES
from sslshift.data.sources.uri import Uri, parse_uri, spelled
from sslshift.study.design import SourceLevels, parse_sources
from sslshift.transfer.declaration import parse_task

# Pieces that have a meaning somewhere, and bytes that are not UTF-8.
PIECES = [
    *"ab/ +@*-1%?=&;#<>:.,'\"$\\\n\t\u00a0é~",
    *("e\u0301", "%20", "%3F", "@2000", "@all", "/balanced", " + ", " -> ", " for 3", "*0.5", "<=1", "labels=folder"),
    *("; test=", "near:folder:x", "😀", "\udcff", "\udc80"),
]
PATHS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


def uris():
    options = st.dictionaries(st.sampled_from(["licence", "keep", "labels"]), PATHS, max_size=2)
    return st.builds(Uri, st.sampled_from(["folder", "csv", "arrayrecord"]), PATHS, options)


@settings(max_examples=300, deadline=None)
@given(uris())
@example(Uri("folder", "/data/what?/C++ 100%/a@2000;b#c=d", {"keep": "dup++/kept.parquet", "licence": "R&D = 50%; "}))
def test_what_is_written_is_read_back(uri):
    text = str(uri)
    assert text.isprintable()
    assert text.encode()
    assert parse_uri(text) == uri
    assert str(parse_uri(text)) == text
    assert spelled(text) == text


@settings(max_examples=150, deadline=None)
@given(uris())
def test_a_uri_stands_in_every_text_around_it(uri):
    text = str(uri)
    assert parse_sources(f"{text}@10,20; synthetic:noise; ") == [
        SourceLevels(text, (10, 20)),
        SourceLevels("synthetic:noise", ()),
    ]
    assert parse_sources(f"synthetic:noise@3;{text}") == [
        SourceLevels("synthetic:noise", (3,)),
        SourceLevels(text, ()),
    ]
    assert parse_sources(f"a name = {text} @10,all; other={text}/b") == [
        SourceLevels(text, (10, None), "a name"),
        SourceLevels(f"{text}/b", (), "other"),
    ]
    for mixture in (
        f"x = near:{text}@2000/balanced*0.7<=50% + synthetic:noise for 0.5; near",
        f"{text}*0.5 -> synthetic:noise; synthetic:noise + {text} for 30%",
        f"near:{text} + synthetic:noise",
        text,
    ):
        declaration = parse_mixture(mixture, SCHEMES)
        assert text in declaration.uris.values()
        assert parse_mixture(str(declaration), SCHEMES) == declaration
    # A task reads the folders, which must exist.
    uri = dataclasses.replace(uri, path=f"/nowhere/{uri.path}")
    task = parse_task(f"parts = {uri}; test={uri}; labelled=5")
    for part in (task.source, task.test):
        assert parse_uri(part).path == uri.path
        assert {"labels": "folder" if uri.scheme == "folder" else ""} | uri.options == {"labels": ""} | parse_uri(part).options
    assert (task.name, task.labelled) == ("parts", 5)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_whatever_is_typed_means_one_thing(rest):
    try:
        uri = parse_uri(f"folder:{rest}")
    except ValueError:
        return
    assert parse_uri(spelled(f"folder:{rest}")) == uri == parse_uri(str(uri))


@pytest.mark.parametrize(
    ("text", "path", "options"),
    [
        ("folder:/data/a+b", "/data/a+b", {}),
        ("folder:/data/a b", "/data/a b", {}),
        ("folder:/data/a%20b", "/data/a b", {}),
        ("folder:/data/100%", "/data/100%", {}),
        ("folder:/data/50%off?labels=folder", "/data/50%off", {"labels": "folder"}),
        ("folder:/data/me@home#1;2", "/data/me@home#1;2", {}),
        ("folder:/data/year=2024/R&D", "/data/year=2024/R&D", {}),
        ("folder:/data/why%3f", "/data/why?", {}),
        ("folder:/data/%ff", "/data/\udcff", {}),
        ("folder:/x?keep=dup++/kept.parquet", "/x", {"keep": "dup++/kept.parquet"}),
        ("folder:/x?licence=CC BY 4.0&labels=folder&", "/x", {"licence": "CC BY 4.0", "labels": "folder"}),
        ("folder:/x?licence=a=b%26c?d", "/x", {"licence": "a=b&c?d"}),
        ("folder:C:\\data", "C:\\data", {}),
    ],
)
def test_how_characters_are_read(text, path, options):
    assert parse_uri(text) == Uri("folder", path, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder:x?labels=folder&labels=none", "the option labels is given twice"),
        ("synthetic:noise?size=1&seed=3&size=2", "the option size is given twice"),
        ("synthetic:noise?size=1&s%69ze=2", "the option size is given twice"),
        ("synthetic:noise?size", "the option 'size' has no value"),
        ("folder:/data/why?/a", r"the option '/a' has no value.*write '\?' in a path as %3F"),
        ("folder:x?licence=R&D", "the option 'D' has no value.*and '&' in a value as %26"),
        ("folder:x?label=folder", r"unknown option label; expected one of labels, .*Did you mean labels\?"),
        ("folder:x?LABELS=folder", r"unknown option LABELS.*Did you mean labels\?"),
        ("synthetic:noise?licence=CC0", "unknown option licence; expected one of size, seed, side, keep"),
        ("arrayrecord:x?license=CC0", r"Did you mean licence\?"),
        ("foldr:x", r"Expected a source that begins with arrayrecord:.*Did you mean folder:\?"),
        ("Folder:x", r"Did you mean folder:\?"),
        ("folder:a%00b", "cannot hold a null character"),
    ],
)
def test_what_is_no_uri_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        open_source(text)


ODD = ["dup++", "a b", "100%", "100%25", "why?", "me@home", "x@2000", "a;b", "a&b=c", " edge ", "new\nline", "e\u0301", "C*"]


@pytest.mark.parametrize("name", [*ODD, os.fsdecode(b"latin-\xe9")])
def test_odd_folders_open_by_what_is_written(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    uri = str(Uri("folder", str(folder)))
    source = open_source(uri)
    assert (len(source), source.name) == (1, uri)
    # It keeps its spelling if that has one meaning only, and its name can be written to any file.
    if name not in ("why?", "100%25"):
        assert len(open_source(f"folder:{folder}")) == 1
    else:
        with pytest.raises(ValueError, match="exists; write folder:"):
            open_source(f"folder:{folder}")
    source.name.encode()


def test_a_path_that_may_be_meant_literally_is_refused(tmp_path):
    for number, name in enumerate(("a b", "a%20b", "c%20d")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / name / "a.png")
    with pytest.raises(ValueError, match=r"c%20d exists; write folder:.*c%2520d for .*c%20d\.$"):
        open_source(f"folder:{tmp_path}/c%20d")
    with pytest.raises(ValueError, match=r"write folder:.*a%2520b for .*a%20b, and folder:.*a b for .*a b\.$"):
        open_source(f"folder:{tmp_path}/a%20b")
    assert open_source(f"folder:{tmp_path}/a b")[0]["image"].max() == 0
    assert open_source(f"folder:{tmp_path}/a%2520b")[0]["image"].max() == 1


def printed(done, before):
    assert done.returncode == 0, done.stderr
    return next(line.partition(before)[2] for line in done.stdout.splitlines() if before in line)


def test_uris_that_commands_print_open(tmp_path):
    # Rich would print a part of this name as an emoji.
    folder, out, imported = (tmp_path / "dup++ what? 50%&more;x@3:smile:" / each for each in ("in", "out", "records"))
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{number % 2 * 7 + number}.png")
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())

    def call(tool, *flags):
        return subprocess.run([sys.executable, "-m", f"tools.{tool}", *flags], capture_output=True, text=True)

    done = call("find_duplicates", f"--source={Uri('folder', str(folder), {'licence': 'R&D'})}", f"--out={out}")
    kept = printed(done, "remaining images: ")
    source = open_source(kept)
    assert (len(source), source.licence) == (3, "R&D")
    # The kept images are searched again: the URI has one option keep, for a file about the whole source.
    again = printed(call("find_duplicates", f"--source={kept}", f"--out={out}2"), "remaining images: ")
    assert open_source(again).labels is None
    assert len(open_source(again)) == 3
    assert again.count("keep=") == 1
    done = call("import_images", f"--input={folder}", f"--output={imported}", "--size=16", "--workers=0")
    assert len(open_source(printed(done, "Open them as "))) == 4
