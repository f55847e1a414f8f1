"""Imports of damaged and hostile files: each is refused with a reason, and the others are imported."""

import csv
import dataclasses
import gzip
import os
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from pictures import png_header
from source_builders import add, crawl, import_of, imported, picture

from sslshift.data import formats, open_source
from sslshift.data.records import importing
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import
from sslshift.data.sources.refusals import list_refused, refused_sentence

HOSTILE = {
    "empty.png": (b"", "empty"),
    "text.jpg": (b"hello", "not an image"),
    "cut.jpg": (picture(7, 200, 200, "JPEG")[:700], "truncated"),
    "cut.png": (picture(7, 200, 200)[:700], ""),
    "bomb.png": (png_header(60_000, 60_000), "are 3,600,000,000 pixels; expected at most 100,000,000"),
    "sliver.png": (picture(1, 30_000, 1), "expected a longer side of at most 64 times the shorter side"),
    "phone.heic": (b"\0\0\0\x18ftypheic", "an HEIC or HEIF file"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


def test_hostile_files_are_refused_and_listed(photos, tmp_path):
    for name, (content, _) in HOSTILE.items():
        (photos / name).write_bytes(content)
    os.mkfifo(photos / "pipe.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    with open(os.fsencode(photos) + b"/\xff\xfe.png", "wb") as file:
        file.write(picture(9))
    rows, refused = imported(photos, tmp_path / "out")
    assert len(rows) == 6
    assert "\\xff\\xfe.png" in [row["origin"] for row in rows]
    assert set(refused) == {*HOSTILE, "pipe.png", "gone.png"}
    for name, (_, reason) in HOSTILE.items():
        assert re.search(reason, refused[name]), (name, refused[name])
    assert "not a regular file" in refused["pipe.png"]
    # A folder that is opened without an import treats them alike.
    source = open_source(f"folder:{photos}")
    assert len(source) == 6
    assert {Path(path).name for path, _ in source.refused} == {Path(path).name for path in refused}


def test_hostile_members_are_refused_and_listed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "good.png", picture(0))
        add(archive, "../up.png", picture(1))
        add(archive, "/etc/root.png", picture(1))
        add(archive, "x/../../up.png", picture(1))
        add(archive, "link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.png", type=tarfile.LNKTYPE, linkname="good.png")
        add(archive, "device.png", type=tarfile.CHRTYPE)
        add(archive, "good.png", picture(2))
        add(archive, "cut.png", picture(3)[:60])
    rows, refused = imported(tmp_path / "a.tar", tmp_path / "out")
    assert [row["origin"] for row in rows] == ["a.tar/good.png"]
    assert {path.removeprefix("a.tar/"): reason.split(",")[0] for path, reason in refused.items() if "cut" not in path} == {
        "../up.png": "its name leaves the archive",
        "/etc/root.png": "its name is absolute",
        "x/../../up.png": "its name leaves the archive",
        "link.png": "it is a link",
        "hard.png": "it is a link",
        "device.png": "it is not a regular file",
        "good.png": "it is a second member of this name",
    }
    assert len(refused) == 8


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zips_are_refused_and_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", picture(0))
        archive.writestr("good.png", picture(1))
        archive.writestr("..\\up.png", picture(1))
        archive.writestr("C:/root.png", picture(1))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("zeros.png", bytes((1 << 28) + 1))
    rows, refused = imported(tmp_path / "a.zip", tmp_path / "out")
    assert [row["origin"] for row in rows] == ["a.zip/good.png"]
    assert len(refused) == 5
    assert "too many for an image" in refused["a.zip/zeros.png"]
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:200])
    with pytest.raises(ValueError, match="holds no image"):
        run_import(import_of(tmp_path / "cut.zip", tmp_path / "none"), workers=0)


def test_input_without_a_readable_image_is_refused_and_read_again(tmp_path):
    folder = tmp_path / "in"
    output = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"in holds no image that can be read; it has 1 files of other kinds\."):
        run_import(import_of(folder, output), workers=0)
    (folder / "a.png").touch()
    with pytest.raises(ValueError, match=r"1 were refused: a\.png \(the file is empty\); .*refused\.csv lists all\."):
        run_import(import_of(folder, output), workers=0)
    (folder / "a.png").write_bytes(picture(0))
    rows, refused = imported(folder, output)
    assert (len(rows), refused) == (1, {})


def test_truncated_archives_keep_what_can_be_read(tmp_path):
    crawl(tmp_path / "a.tar")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: whole.index(b"000000001.json")])
    rows, refused = imported(tmp_path / "a.tar", tmp_path / "out")
    assert len(rows) == 2
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(whole)[:-30])
    rows, refused = imported(tmp_path / "b.tar.gz", tmp_path / "more")
    assert any("cannot be read to its end" in reason for reason in refused.values())


def test_compressed_bomb_is_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setattr("sslshift.data.records.members._SMALL_ARCHIVE", 1 << 16)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(bytes(1 << 24))
    with pytest.raises(ValueError, match="no image"):
        run_import(import_of(tmp_path / "a.tar.gz", tmp_path / "out"), workers=0)


def test_files_that_vanish_or_change_after_listing_are_refused(photos, tmp_path, monkeypatch):
    listed = importing.read_group

    def read_group(*which):
        (photos / "cats/a.png").unlink(missing_ok=True)
        (photos / "dogs/c.png").write_text("changed")
        return listed(*which)

    monkeypatch.setattr(importing, "read_group", read_group)
    rows, refused = imported(photos, tmp_path / "out")
    assert len(rows) == 3
    assert refused["cats/a.png"] == "No such file or directory"
    assert "not an image" in refused["dogs/c.png"]


def test_unreadable_files_and_folders_are_refused(photos, tmp_path, monkeypatch):
    """The system's refusal is simulated, since root can read everything."""
    real_scandir = os.scandir
    real_read = Path.read_bytes

    def scandir(path):
        if str(path).endswith("cats"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    def read_bytes(self):
        if self.name == "c.png":
            raise PermissionError(13, "Permission denied", str(self))
        return real_read(self)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    rows, refused = imported(photos, tmp_path / "out")
    assert [row["origin"] for row in rows] == ["dogs/d.webp", "dogs/more/e.bmp"]
    assert refused == {str(photos / "cats"): "Permission denied", "dogs/c.png": "Permission denied"}


def test_the_first_refused_files_are_shown_and_all_are_listed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(picture(0))
    for name in "abcd":
        (tmp_path / "in" / f"{name}.png").touch()
    job = import_of(tmp_path / "in", tmp_path / "out")
    lines = describe_import(run_import(job, workers=0), job)
    empty = "; ".join(f"{name}.png (the file is empty)" for name in "abc")
    assert f"4 refused, each with its reason in {tmp_path / 'out' / 'refused.csv'}: {empty}" in lines
    source = open_source(f"folder:{tmp_path / 'in'}")
    said = refused_sentence("near", source.refused)
    assert said.startswith("near: 4 files are refused and not counted: ")
    assert said.endswith("(the file is empty); and 1 more, listed in refused.csv of the results")
    list_refused(tmp_path, {"near": source.refused, "far": []})
    rows = list(csv.DictReader((tmp_path / "refused.csv").open()))
    assert [(row["source"], Path(row["path"]).name, row["reason"]) for row in rows] == [
        ("near", f"{name}.png", "the file is empty") for name in "abcd"
    ]
    list_refused(tmp_path, {"near": []})
    assert not (tmp_path / "refused.csv").exists()


def test_a_larger_limit_of_pixels_is_a_setting_of_an_import(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_PIXELS", 1000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large.png").write_bytes(picture(0, 50, 40))
    (tmp_path / "in" / "small.png").write_bytes(picture(1, 20, 20))
    job = import_of(tmp_path / "in", tmp_path / "out")
    assert len(run_import(job, workers=0).summary.shards) == 1
    assert "max_pixels" not in (tmp_path / "out" / "import.json").read_text()
    # Both limits would make other images of the same records.
    larger = dataclasses.replace(job, max_pixels=2000)
    with pytest.raises(ValueError, match="max_pixels: None there, 2000 now"):
        run_import(larger, workers=0)
    larger = dataclasses.replace(larger, output=tmp_path / "larger")
    assert run_import(larger, workers=0).summary.records == 2
    assert len(open_source(f"folder:{tmp_path / 'in'}")) == 1
    assert len(open_source(f"folder:{tmp_path / 'in'}?max_pixels=2000")) == 2
    for wrong in ("0", "-5", "many"):
        with pytest.raises(ValueError, match="max_pixels"):
            open_source(f"folder:{tmp_path / 'in'}?max_pixels={wrong}")
