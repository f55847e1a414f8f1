"""Captions, licences and classes in files beside images: an image gets its own, or is refused with a reason."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sslshift.data import open_source
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.members import Member, Place
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import
from sslshift.data.records.sidecars import first_dot, join, whole_stem
from sslshift.data.sources.manifest import MANIFEST


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(folder, form, files):
    """Writes a folder or archive of (name, content); a number as the content is an image of that grey level."""
    files = [(name, png(content) if isinstance(content, int) else content.encode()) for name, content in files]
    if form == "folder":
        for name, content in files:
            (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "in" / name).write_bytes(content)
        return folder / "in"
    if form == "zip":
        with zipfile.ZipFile(folder / "in.zip", "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
        return folder / "in.zip"
    with tarfile.open(folder / "in.tar", "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / "in.tar"


def imported(folder, form, files, **changes):
    """Returns (class, caption, licence) of each stored image by its grey level, and the reasons of the others."""
    job = Import(write(folder, form, files), folder / "out", Encoding(8, "png"), **changes)
    result = run_import(job, workers=0)
    rows = pq.read_table(folder / "out" / MANIFEST).to_pylist()
    source = open_source(f"arrayrecord:{folder / 'out'}")
    stored = {int(source[i]["image"][0, 0, 0]): (row["class"], row["caption"], row["licence"]) for i, row in enumerate(rows)}
    refused = (folder / "out/refused.csv").read_text().splitlines()[1:]
    return stored, refused, describe_import(result, job), result.others


def classes_of(stored):
    return {level: about[0] for level, about in stored.items()}


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_dots_in_names_do_not_move_classes_to_other_images(tmp_path, form):
    files = [(f"a.{i}{suffix}", i if suffix == ".png" else f"class {i}") for i in range(4) for suffix in (".png", ".cls")]
    stored, refused, _, _ = imported(tmp_path, form, files)
    assert classes_of(stored) == {i: f"class {i}" for i in range(4)}
    assert not refused
    assert open_source(f"arrayrecord:{tmp_path / 'out'}").labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_dots_in_names_do_not_move_captions_and_licences(tmp_path, form):
    files = []
    for i in range(3):
        name = f"x/2024.01.0{i}"
        about = {"license": f"L{i}", "caption": "other"}
        files += [(f"{name}.txt", f"caption {i}"), (f"{name}.png", i), (f"{name}.json", json.dumps(about))]
    stored, refused, _, _ = imported(tmp_path, form, files)
    assert stored == {i: (None, f"caption {i}", f"L{i}") for i in range(3)}
    assert not refused


def test_webdataset_key_is_shared_in_a_tar_alone(tmp_path):
    files = [("a.left.png", 1), ("a.cls", "cat"), ("d/b.png", 2), ("d/b.cls", "dog"), ("e/b.png", 3), ("e/b.cls", "cow")]
    stored, _, _, _ = imported(tmp_path, "tar", files)
    assert classes_of(stored) == {1: "cat", 2: "dog", 3: "cow"}
    (tmp_path / "other").mkdir()
    stored, _, lines, others = imported(tmp_path / "other", "folder", files)
    assert classes_of(stored) == {1: None, 2: "dog", 3: "cow"}
    assert others == {".cls of no image": 1}
    assert any("No labels: 1 of 3 images have no label" in line for line in lines)


GOOD = [("good.png", 9), ("good.cls", "g")]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("a.0.png", 1), ("a.1.png", 2), ("a.cls", "cat")], "a.cls could describe any image of its WebDataset sample"),
        ([("a.0.png", 1), ("a.0.cls", "x"), ("a.1.png", 2), ("a.1.cls", "y"), ("a.cls", "z")], "could describe any image of"),
        ([("a.png", 1), ("a.jpg", 2), ("a.cls", "cat")], "a.cls could describe any of a.png, a.jpg; give every image its own"),
        ([("a.png", 1), ("a.PNG", 2), ("a.txt", "cat")], "a.txt could describe any of a.png, a.PNG"),
        ([("a.png", 1), ("a.cls", "cat"), ("a.CLS", "dog")], "a.cls, a.CLS are several sidecars of one kind; keep one of them"),
        ([("a.b.png", 1), ("a.b.cls", "cat"), ("a.cls", "dog")], "are several sidecars of one kind"),
        ([("a.png", 1), ("a.cls", "cat"), ("a.cls", "dog")], "one of these names occurs twice"),
        ([("a.png", 1), ("a.cls", "cat"), ("a.png", 2)], "one of these names occurs twice"),
        ([("./a.png", 1), ("a.cls", "cat"), ("./a.cls", "dog")], "one of these names occurs twice"),
        ([("a.png", 1), ("a.cls", "cat"), ("a.json", '{"label": "dog"}')], "a.cls states 'cat' for one image"),
        ([("a.png", 1), ("a.json", '{"label": "cat", "Label": "dog"}')], "states 'cat' and a.json states 'dog' for one image"),
        ([("a.png", 1), ("a.json", '{"label": "cat", "label": "dog"}')], "states 'cat' and a.json states 'dog' for one image"),
        ([("a.png", 1), ("a.json", '{"licence": "CC0", "license": "mine"}')], "states 'CC0' and a.json states 'mine'"),
        ([("a.png", 1), ("a.json", '{"license": "CC-BY')], "a.json cannot be read as JSON"),
        ([("a.png", 1), ("a.json", "")], "a.json cannot be read as JSON"),
        ([("a.png", 1), ("a.cls", "cat\ndog")], "a.cls holds a line break"),
    ],
)
def test_sidecars_that_may_be_of_another_image_are_refused(tmp_path, files, reason):
    stored, refused, lines, _ = imported(tmp_path, "tar", [*files, *GOOD])
    assert classes_of(stored) == {9: "g"}
    levels = {level for _, level in files if isinstance(level, int)}
    assert len(refused) >= len(levels)
    assert any(reason in line for line in refused)
    assert any("refused, each with its reason" in line for line in lines)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_two_images_of_one_stem_are_refused_where_a_sidecar_could_be_of_either(tmp_path, form):
    files = [("a.png", 1), ("a.jpg", 2), ("a.txt", "a caption"), ("b.png", 3), ("b.bmp", 4), *GOOD]
    stored, refused, _, _ = imported(tmp_path, form, files)
    # Without a sidecar there is no ambiguity.
    assert set(stored) == {3, 4, 9}
    assert len(refused) == 2


def test_masks_of_a_sample_do_not_take_its_class(tmp_path):
    files = [("a.png", 1), ("a.seg.png", 2), ("a.cls", "cat"), ("b.0.png", 3), ("b.1.png", 4), *GOOD]
    stored, refused, _, _ = imported(tmp_path, "tar", files)
    assert classes_of(stored) == {1: "cat", 3: None, 4: None, 9: "g"}
    assert len(refused) == 1
    assert "a.seg.png" in refused[0]


@pytest.mark.parametrize("name", ["A.cls", "a.png.cls", "b.cls", "sub/a.cls", "a.txt.cls"])
def test_sidecars_of_almost_the_same_name_are_of_no_image_and_reported(tmp_path, name):
    stored, refused, lines, others = imported(tmp_path, "folder", [("a.png", 1), (name, "cat"), *GOOD])
    assert classes_of(stored) == {1: None, 9: "g"}
    assert not refused
    assert others == {".cls of no image": 1}
    assert any("1 .cls of no image" in line for line in lines)
    assert any("No labels: 1 of 2 images have no label" in line for line in lines)


@pytest.mark.parametrize("text", ["", " \n", "nan", "None", "<NA>"])
@pytest.mark.parametrize("name", ["a.cls", "a.json"])
def test_missing_classes_are_no_class(tmp_path, text, name):
    content = text if name == "a.cls" else json.dumps({"label": text, "class": None, "cls": float("nan")})
    stored, refused, lines, _ = imported(tmp_path, "folder", [("a.png", 1), (name, content), *GOOD])
    assert classes_of(stored) == {1: None, 9: "g"}
    assert not refused
    assert any("No labels: 1 of 2 images have no label" in line for line in lines)


def test_numbers_are_one_class_in_every_kind_of_sidecar(tmp_path):
    files = [("a.png", 1), ("a.cls", "3\n"), ("b.png", 2), ("b.json", '{"label": 3.0}'), ("c.png", 3)]
    files += [("c.json", '{"label": 3}'), ("c.cls", "\ufeff3"), ("d.png", 4), ("d.json", '{"label": null, "class": 12}')]
    stored, refused, _, _ = imported(tmp_path, "folder", files)
    assert classes_of(stored) == {1: "3", 2: "3", 3: "3", 4: "12"}
    assert not refused


def test_classes_that_are_not_utf8_do_not_become_one(tmp_path):
    folder = write(tmp_path, "folder", [("a.png", 1), ("b.png", 2), *GOOD])
    (folder / "a.cls").write_bytes(b"caf\xe8")
    (folder / "b.cls").write_bytes(b"caf\xe9")
    stored, refused, _, _ = imported(tmp_path, "folder", [])
    assert classes_of(stored) == {9: "g"}
    assert all("is not UTF-8; save it as UTF-8" in line for line in refused)
    assert len(refused) == 2


def test_contradictions_about_classes_do_not_matter_where_folders_are_the_labels(tmp_path):
    files = [("x/a.png", 1), ("x/a.cls", "cat"), ("x/a.json", '{"label": "dog", "license": "CC0"}')]
    stored, refused, _, _ = imported(tmp_path, "folder", files, labels="folder")
    assert stored == {1: ("x", None, "CC0")}
    assert not refused


def test_a_class_that_several_images_link_to_is_that_of_each(tmp_path):
    folder = write(tmp_path, "folder", [("a.png", 1), ("a.cls", "cat"), ("b.png", 2), ("c.png", 3), ("c.cls", "dog")])
    (folder / "b.cls").symlink_to("a.cls")
    (folder / "d.png").symlink_to("a.png")
    stored, refused, _, _ = imported(tmp_path, "folder", [])
    assert classes_of(stored) == {1: "cat", 2: "cat", 3: "dog"}
    assert len(refused) == 1
    assert "d.png" in refused[0]


names = st.lists(st.builds("".join, st.lists(st.sampled_from(["a", "A", "b", "0", ".", ".1", "d/"]), min_size=1)), max_size=6)


@given(names, names, st.sampled_from([whole_stem, first_dot]))
@settings(max_examples=200, deadline=None)
def test_no_sidecar_is_ever_of_two_images_nor_of_another_name(images, sidecars, key):
    members = [
        [Member(f"{stem}x{end}", Place("file", b"", 1)) for stem in dict.fromkeys(stems) for end in ends]
        for stems, ends in (
            (images, (".png", ".jpg")[: 1 + len(images) % 2]),
            (sidecars, (".cls", ".txt", ".CLS")[: 1 + len(sidecars) % 3]),
        )
    ]
    found = list(join(*members, set(), key))
    assert [each.image for each in found] == members[0]
    used = [sidecar.name for each in found for sidecar in each.sidecars.values()]
    assert len(set(used)) == len(used)
    for image, own, fault in found:
        assert not (fault and own)
        for suffix, sidecar in own.items():
            assert sidecar.name.lower().endswith(suffix)
            of_key = [other for other in members[0] if first_dot(other.name) == first_dot(image.name)]
            by_key = key is first_dot and of_key == [image] and whole_stem(sidecar.name) == first_dot(image.name)
            assert whole_stem(sidecar.name) == whole_stem(image.name) or by_key
        # A sidecar with the whole name of an image is never ignored without a reason.
        if not own and not fault:
            assert not any(whole_stem(each.name) == whole_stem(image.name) for each in members[1])
