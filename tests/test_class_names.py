"""One spelling of each class: in folders, lists, imports and prompts."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.data import open_source
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.prompts import read_prompts
from sslshift.data.records.running import run_import
from sslshift.data.sources.labels import class_name, spelling_notes
from sslshift.data.sources.manifest import MANIFEST, SUMMARY

# Composed, decomposed, with a space, a no-break space, and characters that do not print.
SPELLINGS = ["caf\u00e9 noir", "cafe\u0301 noir", " caf\u00e9 noir ", "caf\u00e9\u00a0noir", "caf\u00e9\u200b noir"]
NAME = SPELLINGS[0]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    for number, name in enumerate([*SPELLINGS, "tea", "Tea", "10", "9"]):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(root / name / "x.png")
    return root


def classes_of(source):
    """Returns the class of each image by its grey level."""
    return {int(source[i]["image"][0, 0, 0]): source.classes[source[i]["label"]] for i in range(len(source))}


WANTED = {0: NAME, 10: NAME, 20: NAME, 30: NAME, 40: NAME, 50: "tea", 60: "Tea", 70: "10", 80: "9"}
ORDER = ("10", "9", "Tea", NAME, "tea")


def test_names_that_print_alike_are_one_class_in_folders_lists_and_imports(folder, tmp_path):
    rows = [(str(path.relative_to(folder)), path.parent.name) for path in sorted(folder.glob("*/x.png"))]
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    pq.write_table(pa.table(dict(zip(("path", "label"), zip(*rows, strict=True), strict=True))), folder / "list.parquet")
    opened = [
        open_source(uri)
        for uri in (f"folder:{folder}?labels=folder", f"csv:{folder}/list.csv", f"parquet:{folder}/list.parquet")
    ]
    for number, (given, labels) in enumerate(
        [(folder, "folder"), (folder / "list.csv", "none"), (folder / "list.parquet", "none")]
    ):
        job = Import(given, tmp_path / f"out{number}", Encoding(8, "png"), labels=labels, shard_size=2)
        result = run_import(job, workers=0)
        opened.append(open_source(f"arrayrecord:{job.output}"))
        assert set(opened[-1].notes) <= set(describe_import(result, job))
    for source in opened:
        assert source.classes == ORDER
        assert classes_of(source) == WANTED
        assert sorted(source.notes)[1].startswith("the names ")
        assert all(ascii(name) in sorted(source.notes)[1] for name in SPELLINGS)
        assert "Tea, tea differ only in case and are different classes; rename one if they are the same" in map(
            ordered, source.notes
        )


def ordered(note):
    return note.replace("tea, Tea", "Tea, tea")


def test_numbers_are_in_the_order_of_numbers_in_folders_as_in_lists(tmp_path):
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / str(number) / "x.png")
    source = open_source(f"folder:{tmp_path}?labels=folder")
    assert source.classes == tuple(map(str, range(12)))
    assert all(source[i]["label"] == source[i]["image"][0, 0, 0] for i in range(12))


def test_several_labels_are_spelled_alike(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "y.png")
    (tmp_path / "list.csv").write_text("path,label\nx.png,cafe\u0301;tea\ny.png,tea ; caf\u00e9\n", encoding="utf-8")
    source = open_source(f"csv:{tmp_path}/list.csv?labels=multi")
    assert source.classes == ("caf\u00e9", "tea")
    assert source.labels.tolist() == [[1, 1], [1, 1]]
    assert len(source.notes) == 2


def test_imports_of_earlier_versions_are_joined_when_they_are_opened(folder, tmp_path):
    run_import(Import(folder, tmp_path / "out", Encoding(8, "png"), labels="folder"), workers=0)
    summary = tmp_path / "out" / SUMMARY
    # As an earlier version wrote it: the original names in their order, and a label for each.
    text = summary.read_text(encoding="utf-8")
    assert '"tea"' in text
    summary.write_text(text.replace('"tea"', '"Te\\u0301a"').replace('"Tea"', '"T\\u00e9a"'), encoding="utf-8")
    manifest = pq.read_table(tmp_path / "out" / MANIFEST)
    names = [{"tea": "Te\u0301a", "Tea": "T\u00e9a"}.get(name, name) for name in manifest.column("class").to_pylist()]
    place = manifest.schema.get_field_index("class")
    manifest = manifest.set_column(place, manifest.schema.field("class"), pa.array(names))
    pq.write_table(manifest, tmp_path / "out" / MANIFEST)
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert source.classes == ("10", "9", "T\u00e9a", NAME)
    assert classes_of(source) == WANTED | {50: "T\u00e9a", 60: "T\u00e9a"}


def test_prompts_name_a_class_once():
    assert list(read_prompts("cafe\u0301 ; tea")) == ["caf\u00e9", "tea"]
    with pytest.raises(ValueError, match="occurs twice"):
        read_prompts("cafe\u0301;caf\u00e9")


def test_names_that_differ_are_left_apart():
    for one, other in (("cat", "Cat"), ("a b", "ab"), ("1", "01"), ("x\u00b2", "x2"), ("\u0441at", "cat")):
        assert class_name(one) != class_name(other)
    assert spelling_notes({"a": ["a"], "b": ["b"]}) == []
