"""Images with several labels or none: from lists, imports, TFDS and arrays."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift import Budget
from sslshift.data import ArraySource, SamplePlan, open_source, parse_mixture, resolve
from sslshift.data.decode import Canvas
from sslshift.data.records import listing
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.sources import PartialSource, cached
from sslshift.data.sources.labels import encode_labels, sort_classes
from sslshift.data.sources.manifest import CLASSES, MANIFEST, SCHEMA
from sslshift.data.sources.prepared import label_feature

LABELS = ["cat; dog", "", " dog ", "bird;cat;cat;", ";"]
CLASS_NAMES = ("bird", "cat", "dog")
MATRIX = [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]]


@pytest.fixture
def pictures(tmp_path, random):
    for i in range(5):
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def write_csv(folder, labels, name="list.csv"):
    with open(folder / name, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{i}.png", label) for i, label in enumerate(labels))])
    return f"csv:{folder / name}"


def write_parquet(folder, labels, kind=None):
    table = {"path": [f"{i}.png" for i in range(len(labels))], "label": pa.array(labels, kind)}
    pq.write_table(pa.table(table), folder / "list.parquet")
    return f"parquet:{folder / 'list.parquet'}"


def test_names_are_separated_by_semicolons_and_no_name_is_no_class(pictures):
    source = open_source(f"{write_csv(pictures, LABELS)}?labels=multi&licence=CC0")
    assert source.classes == CLASS_NAMES
    assert source.labels.dtype == np.uint8
    assert source.labels.tolist() == MATRIX
    assert source.licence == "CC0"
    label = source[3]["label"]
    assert (label.dtype, label.tolist()) == (np.uint8, [1, 1, 0])
    # A sample is the caller's: what is done to it does not change the source.
    label[:] = 1
    assert source.labels.tolist() == MATRIX


def test_one_label_of_each_image_is_what_a_list_says_without_the_option(pictures):
    uri = write_csv(pictures, ["cat;dog", "a", "a", "b", "cat;dog"])
    for source in (open_source(uri), open_source(f"{uri}?labels=single")):
        assert source.classes == ("a", "b", "cat;dog")
        assert source.labels.tolist() == [2, 0, 0, 1, 2]
        assert source[1]["label"] == 0


def test_numbers_are_ordered_as_numbers(pictures):
    source = open_source(f"{write_csv(pictures, ['10;9', '9', '', '10', '100'])}?labels=multi")
    assert source.classes == ("9", "10", "100")
    assert source.labels.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    # Two names of one number have an order, too, and what only looks like a number is none.
    assert sort_classes(["1", "01", "-2"]) == sort_classes(["01", "-2", "1"]) == ("-2", "01", "1")
    assert encode_labels(["²", "--3", "-"])[0] == ("-", "--3", "²")


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_parquet_lists_are_multi_label_by_themselves(pictures, kind):
    labels = [["cat", "dog"], ["", ""], [" dog ", "dog"], ["a;b", "cat"], ["cat", ""]]
    uri = write_parquet(pictures, labels, kind)
    for source in (open_source(uri), open_source(f"{uri}?labels=multi")):
        # Lists need no separator: names may contain it.
        assert source.classes == ("a;b", "cat", "dog")
        assert source.labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]]


def test_parquet_texts_follow_the_option(pictures):
    uri = write_parquet(pictures, [*LABELS[:4], "cat"])
    with pytest.raises(ValueError, match=r"row 2, column 'label', has no label: '' is a missing value"):
        open_source(uri)
    source = open_source(f"{uri}?labels=multi")
    assert source.classes == CLASS_NAMES
    assert source.labels.tolist() == [*MATRIX[:4], [0, 1, 0]]


@pytest.mark.parametrize(
    ("write", "labels", "option", "message"),
    [
        (write_csv, LABELS, "many", "expected one of single, multi as the value of labels, got 'many'"),
        (write_csv, ["", ";", " "], "multi", "no image has a label"),
        (
            write_parquet,
            ["a;b", None, ""],
            "multi",
            "row 2, .* has no label: None .* an empty text or list for none",
        ),
        (
            write_parquet,
            [["a"], ["b"], None],
            "multi",
            "row 3, .* has no label: None .* an empty text or list for none",
        ),
        (write_parquet, [["a"], ["b"]], "single", "'label' holds lists, and labels=single expects one label"),
        # One column for each class is not what a list of names means.
        (write_parquet, [[1, 0], [0, 1]], "multi", "row 1, .* has 1 in its list of labels; expected names"),
        (write_parquet, [["a"], ["b", None]], "multi", "row 2, .* has None in its list of labels"),
    ],
)
def test_lists_that_make_no_sense_are_named(pictures, write, labels, option, message):
    with pytest.raises(ValueError, match=message):
        open_source(f"{write(pictures, labels)}?labels={option}")


def test_labels_that_are_asked_for_must_be_there(pictures):
    (pictures / "bare.csv").write_text("path,licence\n0.png,CC0\n")
    with pytest.raises(ValueError, match="labels=multi expects a column 'label', got the columns path, licence"):
        open_source(f"csv:{pictures / 'bare.csv'}?labels=multi")


def test_classes_are_those_of_the_images_that_can_be_read(pictures):
    (pictures / "3.png").write_bytes(b"broken")
    uri = write_csv(pictures, LABELS)
    source = open_source(f"{uri}?labels=multi")
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]
    run_import(job(pictures / "list.csv", pictures / "out"), workers=0)
    stored = open_source(f"arrayrecord:{pictures / 'out'}")
    assert stored.classes == source.classes
    assert stored.labels.tolist() == source.labels.tolist()


def job(file, output, labels="multi", **changes):
    return Import(file, output, Encoding(8, "png"), labels=labels, **{"shard_size": 2} | changes)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("import.json", "source.json")}


def test_imports_keep_the_matrix(pictures):
    uri = write_csv(pictures, LABELS)
    wanted = job(pictures / "list.csv", pictures / "out")
    result = run_import(wanted, workers=0)
    assert result.summary.multi_label
    assert "3 classes, any number of classes per image" in describe_import(result, wanted)[0]
    source = open_source(f"arrayrecord:{pictures / 'out'}")
    listed = open_source(f"{uri}?labels=multi")
    assert "labels" not in vars(source)
    assert source.classes == listed.classes == CLASS_NAMES
    assert source.labels.dtype == np.uint8
    assert source.labels.tolist() == listed.labels.tolist() == MATRIX
    assert source[0]["label"].tolist() == [0, 1, 1]
    assert (source[4]["image"] == listed[4]["image"]).all()
    rows = pq.read_table(pictures / "out" / MANIFEST).to_pylist()
    assert [row["classes"] for row in rows] == [["cat", "dog"], [], ["dog"], ["bird", "cat"], []]
    assert {(row["label"], row["class"]) for row in rows} == {(None, None)}
    # The same command finds it done.
    assert run_import(wanted, workers=0).summary == result.summary


def test_imports_of_parquet_lists_need_no_option(pictures):
    write_parquet(pictures, [["cat", "a;b"], [], ["cat"], ["a;b"], []], pa.list_(pa.string()))
    for labels in ("none", "multi"):
        run_import(job(pictures / "list.parquet", pictures / labels, labels), workers=0)
        source = open_source(f"arrayrecord:{pictures / labels}")
        assert source.classes == ("a;b", "cat")
        assert source.labels.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0], [0, 0]]
    assert contents(pictures / "none") == contents(pictures / "multi")


def test_beam_makes_the_same_files(pictures):
    pytest.importorskip("apache_beam")
    write_csv(pictures, LABELS)
    run_import(job(pictures / "list.csv", pictures / "alone"), workers=0)
    run_on_beam(job(pictures / "list.csv", pictures / "beam"), ["--runner=DirectRunner"])
    assert contents(pictures / "alone") == contents(pictures / "beam")
    alone, beam = (json.loads((pictures / name / "source.json").read_text()) for name in ("alone", "beam"))
    assert alone == beam
    assert alone["multi_label"] is True


# What an import has written since version 1: readers that know nothing of several labels take these keys and no other.
VERSION_1 = {"version", "shards", "classes", "licence", "cost_per_image", "fingerprint", "refused", "hashes", "made"}


def test_single_label_imports_are_what_they_were(pictures):
    write_csv(pictures, ["b", "a", "a", "b", "a"])
    run_import(job(pictures / "list.csv", pictures / "out", "none"), workers=0)
    assert json.loads((pictures / "out/source.json").read_text()).keys() == VERSION_1
    assert pq.read_schema(pictures / "out" / MANIFEST).equals(SCHEMA)
    source = open_source(f"arrayrecord:{pictures / 'out'}")
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [1, 0, 0, 1, 0]


def test_imports_that_an_earlier_version_began_go_on(pictures, monkeypatch):
    write_csv(pictures, ["b", "a", "a", "b", "a"])
    run_import(job(pictures / "list.csv", pictures / "whole", "none"), workers=0)
    earlier = pa.schema([field for field in listing._ROW if field.name != CLASSES.name])
    assert len(earlier) == len(listing._ROW) - 1
    monkeypatch.setattr(listing, "_ROW", earlier)
    run_import(job(pictures / "list.csv", pictures / "begun", "none"), workers=0)
    assert contents(pictures / "whole") == contents(pictures / "begun")


def test_imports_without_a_class_say_so(pictures):
    (pictures / "0.png").write_bytes(b"broken")
    write_csv(pictures, ["cat", "", ""])
    wanted = job(pictures / "list.csv", pictures / "out")
    result = run_import(wanted, workers=0)
    assert "No labels: no stored image has a label" in describe_import(result, wanted)
    source = open_source(f"arrayrecord:{pictures / 'out'}")
    assert (source.classes, source.labels) == (None, None)


@pytest.mark.parametrize("workers", [0, 1])
def test_imports_name_what_is_wrong_with_a_list(pictures, workers):
    write_csv(pictures, ["", ""])
    with pytest.raises(ValueError, match=r"list\.csv: no image has a label"):
        run_import(job(pictures / "list.csv", pictures / "out"), workers=workers)
    # Once the list is mended the same command goes on.
    write_csv(pictures, LABELS)
    run_import(job(pictures / "list.csv", pictures / "out"), workers=0)
    assert open_source(f"arrayrecord:{pictures / 'out'}").labels.tolist() == MATRIX


def test_only_lists_say_several_labels(pictures):
    with pytest.raises(ValueError, match=r"labels=multi expects a CSV or Parquet list as the input"):
        run_import(job(pictures, pictures / "out"), workers=0)
    assert not (pictures / "out").exists()
    with pytest.raises(ValueError, match="Expected one of none, folder, multi for labels, got 'many'"):
        job(pictures, pictures / "out", "many")


def prepare(folder, name, feature, values):
    """A dataset of TFDS with one gray level to an image, and `values[level]` of the feature `name`."""
    import tensorflow_datasets as tfds

    class Several(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 1)), name: feature}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for level, value in enumerate(values):
                content = io.BytesIO()
                Image.new("L", (8, 8), level).save(content, "PNG")
                yield level, {"image": io.BytesIO(content.getvalue()), name: value}

    Several(data_dir=folder, file_format="array_record").download_and_prepare(file_format="array_record")
    return open_source(f"tfds:several/train?data_dir={folder}")


@pytest.mark.parametrize("name", ["label", "labels"])
def test_prepared_datasets_with_several_labels(tmp_path, name):
    import tensorflow_datasets as tfds

    values = [[0, 2], [], [1], [2, 2]]
    classes = tfds.features.ClassLabel(names=["bird", "cat", "dog"])
    source = prepare(tmp_path, name, tfds.features.Sequence(classes), values)
    levels = [int(source[i]["image"][0, 0, 0]) for i in range(4)]
    assert sorted(levels) == [0, 1, 2, 3]
    assert source.classes == CLASS_NAMES
    assert source.labels.dtype == np.uint8
    wanted = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert source.labels.tolist() == [wanted[level] for level in levels]


def test_prepared_labels_that_are_unknown_are_named(tmp_path):
    import tensorflow_datasets as tfds

    classes = tfds.features.ClassLabel(names=["bird", "cat"])
    source = prepare(tmp_path / "a", "labels", tfds.features.Sequence(classes), [[-1]])
    with pytest.raises(ValueError, match=r"tfds:several/train.*, image 0: expected a label below the 2 classes, got -1"):
        _ = source.labels
    # So are those of one class each; where all are unknown there are no labels.
    source = prepare(tmp_path / "c", "label", classes, [0, -1, 1])
    with pytest.raises(ValueError, match=r", image \d: expected a label .*got -1; TFDS writes -1 for an unknown label"):
        _ = source.labels
    source = prepare(tmp_path / "d", "label", classes, [-1, -1])
    assert source.labels is None
    assert "label" not in source[0]
    # Numbers without names are no classes.
    other = prepare(tmp_path / "b", "labels", tfds.features.Sequence(np.int64), [[0]])
    assert (other.classes, other.labels) == (None, None)


def test_features_that_are_labels_are_known():
    from tensorflow_datasets import features

    one = features.ClassLabel(names=["bird", "cat"])
    several = features.Sequence(features.ClassLabel(names=["ok", "bad"]))
    assert label_feature({"label": one}) == ("label", False, ("bird", "cat"))
    assert label_feature({"labels": several, "label": one}) == ("label", False, ("bird", "cat"))
    assert label_feature({"labels": several, "label": features.Text()}) == ("labels", True, ("ok", "bad"))
    for other in ({"labels": one}, {"labels": features.Sequence(several)}, {"label": features.Sequence({"label": one})}, {}):
        assert label_feature(other) == (None, False, None)


def several(n=6, classes=3):
    images = np.random.default_rng(1).integers(0, 256, (n, 4, 4, 1), np.uint8)
    labels = (np.arange(n)[:, None] % np.arange(2, 2 + classes) == 0).astype(np.uint8)
    return ArraySource("memory:several", images, labels)


def test_arrays_take_several_labels_and_parts_and_caches_pass_them_on():
    source = several()
    canvas = Canvas(2, 2, 1)
    wanted = [[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert source.labels.dtype == np.uint8
    assert source.labels.tolist() == wanted
    part = PartialSource(source, np.array([4, 1, 3]))
    assert part.labels.tolist() == [wanted[4], wanted[1], wanted[3]]
    assert part[0]["label"].tolist() == [1, 0, 1]
    kept = cached(part, canvas)
    assert kept is not part
    assert kept.labels.tolist() == part.labels.tolist()
    assert kept[2]["label"].tolist() == [0, 1, 0]
    for same in (source.labels.astype(bool), source.labels.astype(float), source.labels.tolist()):
        again = ArraySource("memory:several", np.zeros((6, 4, 4, 1), np.uint8), same).labels
        assert (again.dtype, again.tolist()) == (np.uint8, wanted)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 2), int), r"expected labels \[2\], or \[2, classes\] if multi-label, got \[3, 2\]"),
        (np.zeros((2, 0), int), r"got \[2, 0\]"),
        (np.zeros((2, 2, 1), int), r"got \[2, 2, 1\]"),
        ([[0, 1], [2, 0]], "labels of 0 or 1, got 2 for image 1, column 0"),
        ([[0, 0.5], [1, 0]], r"got 0\.5 for image 0, column 1"),
        ([[0, -1], [1, 0]], "got -1 for image 0, column 1"),
        ([[0, np.nan], [1, 0]], "got nan for image 0, column 1"),
    ],
)
def test_arrays_that_are_no_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        ArraySource("memory:x", np.zeros((2, 4, 4, 1), np.uint8), labels)


@pytest.mark.parametrize("subset", ["balanced", "proportional"])
def test_subsets_by_class_need_one_label_of_each_image(subset):
    source = several()
    mixture = resolve(parse_mixture(f"memory:several@3/{subset}"), {source.name: len(source)}, Budget(12))
    with pytest.raises(ValueError, match=f"several: a {subset} subset needs one label for each image, .* may have several"):
        SamplePlan(mixture, Budget(12), 3, seed=0, subset_seed=0, labels={source.name: source.labels})
