"""Lists that are odd or hostile: a value never reaches another row's image, and a missing value is never a class."""

import csv
import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.data import open_source
from sslshift.data.records import importing
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture
def pictures(tmp_path):
    for value, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 8), 80 * value, np.uint8)).save(tmp_path / name)
    return tmp_path


def readers(file):
    """Returns functions that open a list as a source, and that import it."""
    run = Import(file, file.parent / "out", Encoding(8, "png"))
    return [lambda: open_source(f"csv:{file}"), lambda: run_import(run, workers=0)]


def refuse(file, message):
    for read in readers(file):
        with pytest.raises(ValueError, match=message) as error:
            read()
        assert "\n" not in str(error.value)


def write_parquet(folder, **columns):
    columns = {"path": pa.array(NAMES[: len(next(iter(columns.values())))])} | columns
    pq.write_table(pa.Table.from_arrays(list(columns.values()), list(columns)), folder / "list.parquet")
    return folder / "list.parquet"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,label,Label", "columns 'label' and 'Label' both mean 'label'; keep one of them"),
        ("path,Path,label", "columns 'path' and 'Path' both mean 'path'"),
        ("path,license,licence", "columns 'license' and 'licence' both mean 'licence'"),
        ("path,cost,Cost_per_image", "columns 'cost' and 'Cost_per_image' both mean 'cost'"),
        ("path,label, label ", "columns 'label' and ' label ' both mean 'label'"),
        ("path,label,label", "columns 'label' and 'label' both mean 'label'"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_two_columns_for_one_thing_are_refused(pictures, header, message, form):
    rows = [[name, "1", "2"] for name in NAMES]
    file = pictures / f"list.{form}"
    if form == "csv":
        file.write_text("\n".join([header, *(",".join(row) for row in rows)]))
    else:
        pq.write_table(pa.Table.from_arrays([pa.array(column) for column in zip(*rows, strict=True)], header.split(",")), file)
    refuse(file, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png\nb.png,y\n", r"row 1 \(up to line 2\) has 1 cells, and the header has 2"),
        ("path,label\na.png,x\nb.png,y,z\n", r"row 2 \(up to line 3\) has 3 cells, and the header has 2"),
        ("path\na.png,x\n", "has 2 cells, and the header has 1"),
        ('path,label\na.png,"x\nb.png,y"\nc.png,z\n', "holds a line break or a null character"),
        ('path,label\n"a\n.png",x\n', r"row 1 has 'a\\n\.png' as its path; expected a text of one line"),
        ("path,label\na.png,x\0y\n", "holds a line break or a null character"),
        ("path,label\na\0.png,x\n", "expected a text of one line"),
        ("path,label\na.png,x\npath,label\nb.png,y\n", "row 2 repeats the header"),
        ("path,label\na.png,x\nlabel,path\ny,b.png\n", "row 2 repeats the header"),
        ("path;label\na.png;x\n", r"its columns are path;label \(commas separate columns\)"),
        ("path,label\na.png,x\n./a.png,y\n", "names ./a.png twice, in rows 1 and 2"),
        ("path,label\na.png,x\nsub/../a.png,y\n", "twice, in rows 1 and 2"),
        ('path,label\na.png,"x"y\n', "cannot be read as a list of images"),
        ("path,cost\na.png,inf\n", "row 1, column 'cost', holds 'inf'; expected a number of at least 0"),
        ('path,cost\na.png,1\nb.png,"1,5"\n', "row 2, column 'cost', holds '1,5'"),
    ],
)
def test_rows_that_may_belong_elsewhere_are_refused(pictures, text, message):
    (pictures / "list.csv").write_text(text)
    refuse(pictures / "list.csv", message)


def test_parquet_lists_that_rot_are_refused_in_one_line(pictures, random):
    whole = write_parquet(pictures, label=pa.array(["a", "b", "c"]).dictionary_encode()).read_bytes()
    reasons = []
    for trial in range(60):
        content = bytearray(whole)
        for place in random.integers(4, len(content), 5):
            content[place] = random.integers(0, 256)
        (pictures / "list.parquet").write_bytes(
            bytes(content[: random.integers(5, len(content))] if trial % 4 == 0 else content)
        )
        try:
            open_source(f"parquet:{pictures / 'list.parquet'}")
        except ValueError as error:
            reasons.append(str(error))
    assert reasons
    assert not any("\n" in reason for reason in reasons)


def test_a_number_in_two_spellings_among_names_is_refused(pictures):
    (pictures / "list.csv").write_text("path,label\na.png,1\nb.png,1.0\nc.png,x\n")
    refuse(pictures / "list.csv", r"labels '1' and '1\.0' are one number in two spellings; use one of them")
    # If all labels are numbers, 1 and 1.0 are one class.
    (pictures / "list.csv").write_text("path,label\na.png,1\nb.png,1.0\nc.png,2\n")
    assert open_source(f"csv:{pictures / 'list.csv'}").classes == ("1", "2")


def test_texts_in_another_encoding_are_refused(pictures):
    file = pictures / "list.csv"
    file.write_bytes("path,label\na.png,caf\xe9\nb.png,x\n".encode("latin-1"))
    refuse(file, r"row 1, column 'label', holds text that is not UTF-8")
    file.write_bytes("path,label\na.png,x\n".encode("utf-16"))
    refuse(file, "its text is UTF-16; save it as UTF-8")


def test_marks_and_spaces_in_a_header_do_not_count(pictures):
    file = pictures / "list.csv"
    file.write_bytes(b'\xef\xbb\xbf"Path", LABEL\r\na.png,x\r\n\r\nb.png, y\r\n')
    source = open_source(f"csv:{file}")
    assert (source.classes, source.labels.tolist()) == (("x", "y"), [0, 1])
    # A Parquet file is recognised by its content, whatever its name.
    pq.write_table(pa.table({" Path": ["b.png", "a.png"], "Label ": ["x", "y"], "note": [1, 2]}), file)
    source = open_source(f"csv:{file}")
    assert [source[i]["image"][0, 0, 0] for i in range(2)] == [80, 0]
    assert source.labels.tolist() == [0, 1]


MISSING = ["", "  ", "\u200b", "na\u200bn", "nan", "NaN", "-nan", "NaT", "None", "<NA>", "NA", "N/A", "NULL", "null", "#N/A"]


@pytest.mark.parametrize("text", MISSING)
def test_missing_labels_in_csv_are_refused_with_their_row(pictures, text):
    with open(pictures / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), ("a.png", "cat"), ("b.png", text)])
    refuse(pictures / "list.csv", "row 2, column 'label', has no label: .* is a missing value; give every image a label")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, float("nan")]),
        pa.array([1.0, float("nan")], pa.float32()),
        pa.array([1.0, None]),
        pa.array(np.array([1, np.nan], np.float16)),
        pa.array([1, None], pa.int64()),
        pa.array(["cat", None]),
        pa.array(["cat", "nan"]),
        pa.array(["cat", "None"]).dictionary_encode(),
        pa.array(["cat", None]).dictionary_encode(),
        pa.array([True, None]),
        pa.array([b"cat", None]),
        pa.array([b"cat", b"NaN"]),
        pa.array([decimal.Decimal("1.00"), None]),
        pa.nulls(2),
    ],
)
def test_missing_labels_in_parquet_are_refused_with_their_row(pictures, column):
    row = 1 if column.null_count == 2 else 2
    refuse(write_parquet(pictures, label=column), f"row {row}, column 'label', has no label: .* is a missing value")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([float("inf"), 1.0]), "row 1, column 'label', holds inf; expected a name or a whole number"),
        (pa.array([b"\xff", b"a"]), "row 1, column 'label', holds text that is not UTF-8"),
        (pa.array([{"x": 1}, {"x": 2}]), "row 1, column 'label', holds a dict"),
        (pa.array([datetime.datetime(2026, 1, 1)] * 2), "row 1, column 'label', holds a datetime"),
        (pa.array([["a"], ["b", "nan"]]), "row 2, column 'label', has 'nan' in its list of labels"),
        (pa.array([["a"], ["b", None]]), "row 2, column 'label', has None in its list of labels"),
        (pa.array([[0.5], [float("nan")]]), "row 1, column 'label', has 0.5 in its list of labels"),
    ],
)
def test_what_is_no_label_is_refused_with_its_row(pictures, column, message):
    refuse(write_parquet(pictures, label=column), message)


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pa.array([2.0, 10.0, 2.0]), ("2", "10")),
        (pa.array([2, 10, 2], pa.uint8()), ("2", "10")),
        (pa.array([decimal.Decimal("2.00"), decimal.Decimal("10"), decimal.Decimal("2")]), ("2", "10")),
        (pa.array(["2.0", "10.0", "2.0"]), ("2", "10")),
        (pa.array([b"2", b"10", b"2"]), ("2", "10")),
        (pa.array(["2.0", "v10", "2.0"]), ("2.0", "v10")),
        (pa.array([" 2", "10 ", "2"]).dictionary_encode(), ("2", "10")),
        (pa.array([False, True, False]), ("False", "True")),
        (pa.array(["none", "nancy", "none"]), ("nancy", "none")),
    ],
)
def test_a_class_is_called_alike_whatever_the_type_of_its_column(pictures, column, classes):
    source = open_source(f"parquet:{write_parquet(pictures, label=column)}")
    assert source.classes == classes
    first = classes.index(classes[0] if classes[0] != "nancy" else "none")
    assert source.labels.tolist() == [first, 1 - first, first]
    run_import(Import(pictures / "list.parquet", pictures / "out", Encoding(8, "png")), workers=0)
    stored = open_source(f"arrayrecord:{pictures / 'out'}")
    assert (stored.classes, stored.labels.tolist()) == (source.classes, source.labels.tolist())


@pytest.mark.parametrize(
    ("licence", "cost"),
    [
        (["CC0", None, "nan"], [2.0, float("nan"), None]),
        (["CC0", "", " "], ["2", "nan", ""]),
        ([b"CC0", None, None], [2, 0, 0]),
    ],
)
def test_missing_licences_and_costs_say_nothing(pictures, licence, cost):
    file = write_parquet(pictures, licence=pa.array(licence), cost=pa.array(cost))
    source = open_source(f"parquet:{file}?licence=mine&cost_per_image=0")
    run_import(Import(file, pictures / "out", Encoding(8, "png"), licence="mine"), workers=0)
    stored = open_source(f"arrayrecord:{pictures / 'out'}")
    assert source.licence == stored.licence == "mixed: mine (2), CC0 (1)"
    assert source.cost_per_image == stored.cost_per_image == 2 / 3


def test_a_list_that_changes_after_its_import_was_begun_is_named(pictures, monkeypatch):
    """The listing is kept: a label that was corrected since would be lost silently."""
    (pictures / "list.csv").write_text("path,label\na.png,x\nb.png,y\n")
    job = Import(pictures / "list.csv", pictures / "out", Encoding(8, "png"))
    with monkeypatch.context() as patched:
        patched.setattr(importing, "read_group", None)
        with pytest.raises(TypeError):
            run_import(job, workers=0)
    (pictures / "list.csv").write_text("path,label\na.png,y\nb.png,x\n")
    with pytest.raises(
        ValueError, match=r"list\.csv has changed since this import began\. Repeat the import with another output"
    ):
        run_import(job, workers=0)
    (pictures / "list.csv").write_text("path,label\na.png,x\nb.png,y\n")
    assert "The source was made by an earlier call" not in " ".join(describe_import(run_import(job, workers=0), job))
    assert "The source was made by an earlier call; to import later changes of the input" in " ".join(
        describe_import(run_import(job, workers=0), job)
    )


def test_folders_are_no_labels_of_a_list(pictures):
    (pictures / "list.csv").write_text("path,label\na.png,x\n")
    with pytest.raises(ValueError, match=r"got the list .*list\.csv; use labels=none to take the labels"):
        run_import(Import(pictures / "list.csv", pictures / "out", labels="folder"), workers=0)


def test_a_link_beside_what_it_leads_to_is_no_second_image(pictures):
    (pictures / "link.png").symlink_to("a.png")
    (pictures / "folder").symlink_to(pictures)
    for other in ("link.png", "folder/a.png", "folder/link.png", str(pictures / "a.png")):
        (pictures / "list.csv").write_text(f"path,label\na.png,x\n{other},y\n")
        refuse(pictures / "list.csv", r"names .* twice, in rows 1 and 2 \(the first time as a.png\); list each image once")
    (pictures / "list.csv").write_text("path,label\nlink.png,x\nb.png,y\n")
    assert len(open_source(f"csv:{pictures / 'list.csv'}")) == 2
