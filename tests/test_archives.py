"""Archives that are joined, truncated, nested or misnamed: every image is imported, or a warning says that some may not be."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile

import pyarrow.parquet as pq
import pytest
from test_sidecars import png

from sslshift.data import open_source
from sslshift.data.records import importing
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import
from sslshift.data.sources.manifest import MANIFEST


def tar(*levels: int, end: bool = True) -> bytes:
    """Returns an archive of grey images, each with its class."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for level in levels:
            for name, content in ((f"{level}.png", png(level)), (f"{level}.cls", f"c{level}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        size = archive.offset
    return out.getvalue() if end else out.getvalue()[:size]


def zipped(*levels: int, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = comment
        for level in levels:
            archive.writestr(f"{level}.png", png(level))
    return out.getvalue()


def imported(folder, name, content):
    """Imports an archive; returns the names and classes of its images, and the warnings."""
    (folder / name).write_bytes(content)
    job = Import(folder / name, folder / "out", Encoding(8, "png"))
    result = run_import(job, workers=0)
    rows = pq.read_table(folder / "out" / MANIFEST).to_pylist()
    lines = describe_import(result, job)
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == len(result.faults)
    assert all("refused, each with its reason in" in lines[1 + len(warnings)] for _ in warnings[:1])
    return [(row["origin"].rpartition("/")[2], row["class"]) for row in rows], warnings


def expected(*levels):
    return [(f"{level}.png", f"c{level}") for level in levels]


PACKED = {"a.tar": bytes, "a.tar.gz": gzip.compress, "a.tar.bz2": bz2.compress, "a.tar.xz": lzma.compress}


@pytest.mark.parametrize(("name", "pack"), PACKED.items())
def test_archives_joined_by_cat_are_imported_whole(tmp_path, name, pack):
    images, warnings = imported(tmp_path, name, pack(tar(1, 2)) + pack(tar(3)) + pack(tar(4, 5)))
    assert images == expected(1, 2, 3, 4, 5)
    assert not warnings


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(tar(1, 2) + tar(3)),
        tar(1, end=False) + bytes(512) + tar(2, 3, end=False) + bytes(5120),
        bytes(1024) + tar(1, 2, 3),
        tar() + tar(1, 2, 3),
        tar(1, end=False) + tar(2, 3),
        bz2.compress(tar(1)) + bytes(100) + bz2.compress(tar(2, 3)),
        lzma.compress(tar(1)) + bytes(4) + lzma.compress(tar(2, 3)) + bytes(8),
        gzip.compress(tar(1)) + bytes(100) + gzip.compress(tar(2, 3)) + bytes(1000),
    ],
    ids=["gzipped join", "zeros between", "zeros before", "empty first", "no mark", "bz2 padded", "xz padded", "gzip padded"],
)
@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.xz"])
def test_zeros_and_wrong_names_lose_no_image(tmp_path, content, name):
    images, warnings = imported(tmp_path, name, content)
    assert images == expected(1, 2, 3)
    assert not warnings


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (tar(1, 2) + b"garbage" * 99, "is not a tar archive, and is not imported"),
        (tar(1, 2) + b"\n", "is not a tar archive, and is not imported"),
        (tar(1, 2) + zipped(3), "is not a tar archive, and is not imported"),
        (tar(1, 2) + gzip.compress(tar(3)), "is not a tar archive, and is not imported"),
        (tar(1, 2, end=False) + b"x" * 512 + tar(3), "is not a tar archive, and is not imported"),
        (tar(1, 2, end=False), "its end mark is missing, so that it may be truncated"),
        (tar(1, 2, 3)[: len(tar(1, 2, end=False)) + 100], "is not a tar archive|cannot be read to its end"),
        (gzip.compress(tar(1, 2)) + tar(3), "cannot be read to its end: Not a gzipped file"),
        (gzip.compress(tar(1, 2)) + b"x", "cannot be read to its end"),
        (bz2.compress(tar(1, 2)) + tar(3), "cannot be read to its end: Invalid data stream"),
        (lzma.compress(tar(1, 2)) + tar(3), "cannot be read to its end: "),
        (bz2.compress(tar(1, 2)) + bz2.compress(tar(3))[:-9], "cannot be read to its end: it is truncated"),
        (lzma.compress(tar(1, 2)) + lzma.compress(tar(3))[:-9], "cannot be read to its end: it is truncated"),
        (gzip.compress(tar(1, 2)) + gzip.compress(tar(3))[:-9], "cannot be read to its end"),
    ],
)
def test_what_follows_and_cannot_be_read_is_reported(tmp_path, content, warning):
    images, warnings = imported(tmp_path, "a.tar", content)
    assert images[:2] == expected(1, 2)
    assert any(each in line for line in warnings for each in warning.split("|"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_archives_that_rot_keep_what_can_be_read_or_are_refused(tmp_path, random, pack):
    for trial in range(12):
        content = bytearray(pack(tar(*range(40))))
        for place in random.integers(len(content) // 4, len(content), 4):
            content[place] ^= random.integers(1, 256)
        (tmp_path / "a.tar").write_bytes(bytes(content))
        job = Import(tmp_path / "a.tar", tmp_path / str(trial), Encoding(8, "png"))
        # There may be no image at all; otherwise there is a warning.
        with contextlib.suppress(ValueError):
            assert "the archive cannot be read to its end" in run_import(job, workers=0).faults[0].reason
        assert "the archive cannot be read to its end" in (tmp_path / str(trial) / "refused.csv").read_text()


def test_samples_of_one_name_in_joined_archives_do_not_mix(tmp_path):
    """The image of the first archive has no class, and must not get that of the second archive's image."""
    one = io.BytesIO()
    two = tar(1, 2)
    with tarfile.open(fileobj=one, mode="w") as archive:
        info = tarfile.TarInfo("1.png")
        info.size = len(png(7))
        archive.addfile(info, io.BytesIO(png(7)))
    images, _ = imported(tmp_path, "a.tar", one.getvalue() + two)
    assert images == expected(2)
    refused = (tmp_path / "out/refused.csv").read_text()
    assert "one of these names occurs twice" in refused
    assert "it is a second member of this name" in refused


@pytest.mark.parametrize(
    ("content", "levels", "warning"),
    [
        (zipped(1, 2) + zipped(3), [3], "bytes before its first member are not read, as in zip files joined by cat"),
        (b"#!/bin/sh\n" + zipped(1), [1], "10 bytes before its first member are not read"),
        (zipped(1) + b"more", [1], "4 bytes after its last member are not read"),
        (zipped(1, comment=b"a comment") + b"more", [1], "4 bytes after its last member are not read"),
        (zipped(1, 2, comment=b"a comment"), [1, 2], ""),
        (zipped(1, 2), [1, 2], ""),
    ],
)
def test_what_stands_around_a_zip_archive_is_reported(tmp_path, content, levels, warning):
    images, warnings = imported(tmp_path, "a.zip", content)
    assert images == [(f"{level}.png", None) for level in levels]
    assert len(warnings) == bool(warning)
    assert all(warning in line for line in warnings)


def test_members_that_a_broken_directory_hides_are_reported(tmp_path):
    """The comment of the second entry is so long that it covers the third."""
    content = bytearray(zipped(1, 2, 3))
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    third = content.index(b"PK\1\2", second + 1)
    content[second + 32 : second + 34] = (content.index(b"PK\5\6") - third).to_bytes(2, "little")
    images, (warning,) = imported(tmp_path, "a.zip", bytes(content))
    assert len(images) == 2
    assert "it announces 3 members, and its directory holds 2" in warning


@pytest.mark.parametrize("name", ["inner.tar", "inner.zip", "inner.tar.gz", "inner.rar", "inner.tar.zst", "inner.7z"])
def test_archives_within_archives_are_refused_by_name(tmp_path, name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("1.png", png(1))
        archive.writestr(name, tar(2, 3))
    images, (warning,) = imported(tmp_path, "a.zip", out.getvalue())
    assert len(images) == 1
    assert re.search(rf"a\.zip/{name}: it is an archive (within an archive|of a kind that cannot be read)", warning)
    assert name in (tmp_path / "out/refused.csv").read_text()


def test_archives_of_kinds_that_are_not_read_are_refused_in_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(1))
    (tmp_path / "in/b.rar").write_bytes(b"Rar!")
    run_import(Import(tmp_path / "in", tmp_path / "out"), workers=0)
    assert 'b.rar,"it is an archive of a kind that cannot be read' in (tmp_path / "out/refused.csv").read_text()


@pytest.mark.parametrize("name", ["a.tar.001", "a.zip.001", "a.z01", "a.tar.gz.partaa", "a.tar.aa", "a.tgz.aa", "a.tar.zst"])
def test_parts_of_archives_are_refused_and_reported(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.png").write_bytes(png(1))
    (tmp_path / "in" / name).write_bytes(tar(2)[:700])
    run_import(Import(tmp_path / "in", tmp_path / "out"), workers=0)
    assert f'{name},"it is an archive of a kind that cannot be read' in (tmp_path / "out/refused.csv").read_text()
    (note,) = open_source(f"folder:{tmp_path / 'in'}").notes
    assert f"archives in the folder (1, e.g. {name}) are not opened" in note


def test_archives_that_are_added_while_an_import_is_stopped_do_not_shift_the_others(tmp_path, monkeypatch):
    """Containers are numbered in the order of their names: the images of a new one would not be imported."""
    (tmp_path / "in").mkdir()
    for name, level in (("b.tar", 1), ("c.tar", 2)):
        (tmp_path / "in" / name).write_bytes(tar(level))
    job = Import(tmp_path / "in", tmp_path / "out", Encoding(8, "png"))
    with monkeypatch.context() as patched:
        patched.setattr(importing, "read_group", None)
        with pytest.raises(TypeError):
            run_import(job, workers=0)
    (tmp_path / "in/a.tar").write_bytes(tar(3))
    with pytest.raises(ValueError, match=r"b\.tar was listed at the position of .*a\.tar: archives were added or removed"):
        run_import(job, workers=0)
    (tmp_path / "in/a.tar").unlink()
    assert run_import(job, workers=0).summary.records == 2


@pytest.mark.parametrize(("name", "make"), [("a.zip", zipped), ("a.tar", tar)])
def test_archives_that_change_after_they_were_listed_are_refused(tmp_path, monkeypatch, name, make):
    """Images are found by their positions, which other images may have by now."""
    (tmp_path / name).write_bytes(make(1, 2, 3))
    listed = importing.read_group

    def read_group(*which):
        (tmp_path / name).write_bytes(make(3, 1, 2))
        os.utime(tmp_path / name, ns=(1, 1))
        return listed(*which)

    monkeypatch.setattr(importing, "read_group", read_group)
    with pytest.raises(
        ValueError, match=f"{name} has changed since the import listed its members; repeat the import with another output"
    ):
        run_import(Import(tmp_path / name, tmp_path / "out"), workers=0)


class Stored(zipfile.ZipInfo):
    """A member without the flag for a name in UTF-8."""

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.filename.encode("cp437"), 0


def written_elsewhere(path, names, system):
    """Returns a zip archive with names of these bytes, without a flag for their encoding."""
    with zipfile.ZipFile(path, "w") as archive:
        for level, name in enumerate(names):
            info = Stored("x")
            info.filename = name.decode("cp437")
            info.create_system = system
            archive.writestr(info, b"" if name.endswith((b"/", b"\\")) else png(level))


@pytest.mark.parametrize(
    ("names", "system", "classes"),
    [
        ([b"cat\\1.png", b"dog\\", b"dog\\1.png", b"__MACOSX\\cat\\2.png"], 0, ["cat", "dog"]),
        ([b"cat\\1.png", b"dog\\1.png"], 3, [None, None]),
        (["Köln/1.png".encode(), "京都/1.png".encode()], 3, ["Köln", "京都"]),
        (["Köln\\1.png".encode(), b"b\\1.png"], 0, ["Köln", "b"]),
        (["Köln/1.png".encode("cp437"), b"b/1.png"], 0, ["Köln", "b"]),
    ],
)
def test_zip_archives_of_other_systems_have_the_names_that_were_meant(tmp_path, names, system, classes):
    written_elsewhere(tmp_path / "a.zip", names, system)
    run_import(Import(tmp_path / "a.zip", tmp_path / "out", Encoding(8, "png"), labels="folder"), workers=0)
    assert pq.read_table(tmp_path / "out" / MANIFEST)["class"].to_pylist() == classes


def test_one_folder_around_the_class_folders_is_reported(tmp_path):
    written_elsewhere(tmp_path / "a.zip", [b"set/cat/1.png", b"set/dog/1.png"], 3)
    result = run_import(Import(tmp_path / "a.zip", tmp_path / "out", Encoding(8, "png"), labels="folder"), workers=0)
    (note,) = result.summary.notes
    assert note.startswith("set is the only class, since images are in no other first folder; if set holds the class folders")


def test_an_archive_beside_what_was_unpacked_from_it_is_reported(tmp_path):
    folder = tmp_path / "in"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat/1.png").write_bytes(png(1))
    written_elsewhere(folder / "set.zip", [b"cat/1.png", b"dog/1.png"], 3)
    result = run_import(Import(folder, tmp_path / "out", Encoding(8, "png"), labels="folder"), workers=0)
    (note,) = result.summary.notes
    assert note.startswith("1 images are files, and 2 are in archives beside them (1, e.g.")
    assert "set.zip), whose first folders are their labels; if the archives hold the same images" in note
