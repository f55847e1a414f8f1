"""A source and an import list a folder alike: hidden files, links, loops, order."""

import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.data import open_source
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources.manifest import MANIFEST
from sslshift.data.sources.walk import list_files


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), value, np.uint8)).save(path, "PNG")
    return path


def both(folder, output):
    """Returns the names of the images in the source and in the import of a folder, each without and with labels."""
    source = open_source(f"folder:{folder}?labels=folder")
    names = [os.path.relpath(source.origin(i), folder) for i in range(len(source))]
    result = run_import(Import(folder, output, Encoding(16, "png"), labels="folder"), workers=0)
    imported = open_source(f"arrayrecord:{output}")
    assert pq.read_table(output / MANIFEST).column("origin").to_pylist() == names
    assert [int(each["image"][0, 0, 0]) for each in imported] == [int(each["image"][0, 0, 0]) for each in source]
    assert imported.classes == source.classes
    assert imported.labels.tolist() == source.labels.tolist()
    return names, source, result


HIDDEN = (
    "cats/.ipynb_checkpoints/a-checkpoint.png",
    ".ipynb_checkpoints/a.png",
    "__MACOSX/cats/a.png",
    "__macosx/a.png",
    "cats/._a.png",
    "cats/.a.png",
    "@eaDir/a.png",
    "dogs/@eaDir/b.png/SYNOPHOTO_THUMB_M.png",
    "#recycle/old.png",
    "$RECYCLE.BIN/old.png",
    "lost+found/x.png",
    ".git/objects/a.png",
    "cats/.DS_Store",
    "cats/Thumbs.db",
    ".Trash-1000/files/x.png",
)


def test_what_systems_leave_behind_is_no_class_in_either(tmp_path):
    folder = tmp_path / "in"
    save(folder / "cats/a.png", 1), save(folder / "dogs/b.png", 2)
    for name in HIDDEN:
        save(folder / name, 200)
    names, source, result = both(folder, tmp_path / "out")
    assert names == ["cats/a.png", "dogs/b.png"]
    assert source.classes == ("cats", "dogs")
    assert source.refused == []
    assert result.others == {"hidden": len(HIDDEN)}


def test_a_hidden_folder_that_is_named_is_opened(tmp_path):
    save(tmp_path / ".cache/@eaDir/cats/a.png", 1)
    assert len(open_source(f"folder:{tmp_path / '.cache/@eaDir'}")) == 1


def test_links_count_an_image_once_by_its_own_name(tmp_path):
    folder = tmp_path / "in"
    outside = tmp_path / "outside"
    save(folder / "z/real/a.png", 1), save(folder / "z/b.png", 2)
    save(outside / "deep/c.png", 3), save(outside / "d.png", 4)
    # Links that sort before their target, to the folder itself, to its parent, in a circle, to nothing, and to the outside.
    (folder / "a").symlink_to(folder / "z/real")
    (folder / "z/up").symlink_to(folder)
    (folder / "z/above").symlink_to(tmp_path)
    (folder / "x.png").symlink_to("x.png")
    (folder / "y.png").symlink_to("nowhere.png")
    (folder / "README").symlink_to("nowhere")
    (folder / "m").symlink_to(outside / "deep")
    (folder / "n").symlink_to(outside / "deep")
    (folder / "z/again.png").symlink_to(folder / "z/b.png")
    (folder / "z/d.png").symlink_to(outside / "d.png")
    files = list_files(folder)
    assert [str(path.relative_to(folder)) for path in files.paths if path.suffix] == [
        "m/c.png",
        "x.png",
        "y.png",
        "z/b.png",
        "z/d.png",
        "z/real/a.png",
    ]
    reasons = {os.path.relpath(path, folder): reason for path, reason in [*files.links, *files.unreadable]}
    assert reasons.keys() == {"z/above", "z/again.png"}
    assert "a folder that contains it" in reasons["z/above"]
    assert f"a link to {folder / 'z/b.png'}, which is listed already" in reasons["z/again.png"]
    names, source, result = both(folder, tmp_path / "out")
    assert names == ["m/c.png", "z/b.png", "z/d.png", "z/real/a.png"]
    assert {os.path.relpath(path, folder) for path, _ in source.refused} == {"x.png", "y.png", "z/above", "z/again.png"}
    # The import also reports a link to nothing without an image's extension.
    assert result.summary.refused == len(source.refused) + 1


@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
def test_both_list_in_the_order_of_bytes(tmp_path):
    folder = tmp_path / "in"
    names = ["10/a.png", "9/a.png", "B/a.png", "a-b/a.png", "a/a.png", "a/é.png", "a/\U0001f600.png", "é/a.png"]
    for value, name in enumerate(names):
        save(folder / name, 10 * value)
    broken = folder / "a" / os.fsdecode(b"\xffx.png")
    save(broken, 99)
    listed = [os.fsencode(path.relative_to(folder)).split(b"/") for path in list_files(folder).paths]
    assert listed == sorted(listed)
    source = open_source(f"folder:{folder}")
    run_import(Import(folder, tmp_path / "out", Encoding(16, "png")), workers=0)
    imported = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert [int(each["image"][0, 0, 0]) for each in imported] == [int(each["image"][0, 0, 0]) for each in source]


def test_folders_that_cannot_be_read_are_refused_in_both(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    save(folder / "cats/a.png", 1), save(folder / "dogs/b.png", 2)
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    names, source, result = both(folder, tmp_path / "out")
    assert names == ["cats/a.png"]
    assert source.refused == [(str(folder / "dogs"), "Permission denied")]
    assert result.summary.refused == 1
    with pytest.raises(ValueError, match=r"dogs holds no image that can be reached: .*dogs: Permission denied"):
        open_source(f"folder:{folder / 'dogs'}")


def test_pipes_are_refused_and_not_waited_for(tmp_path):
    folder = tmp_path / "in"
    save(folder / "cats/a.png", 1)
    os.mkfifo(folder / "cats/b.png")
    names, source, result = both(folder, tmp_path / "out")
    assert names == ["cats/a.png"]
    assert source.refused == [(str(folder / "cats/b.png"), "it is not a regular file")]
    assert result.summary.refused == 1
