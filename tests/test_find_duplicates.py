"""The report on duplicates: the file of images to keep, the page, and the command."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.curation import (
    load_kept,
    save_kept,
)
from sslshift.data.curation.pairs import Pairs
from sslshift.data.curation.report import Section, page


def test_kept_images_are_read_back_and_open_with_the_source(tmp_path):
    source = open_source("bundled:mnist")
    file = tmp_path / "kept.parquet"
    save_kept(file, np.array([1, 5, 3999]), source)
    assert load_kept(file, source).tolist() == [1, 5, 3999]
    kept = open_source(f"bundled:mnist?keep={file}")
    assert len(kept) == 3
    assert (kept.image(2) == source.image(3999)).all()


def test_what_cannot_be_kept_is_refused(tmp_path):
    source = open_source("bundled:mnist")
    file = tmp_path / "kept.parquet"
    for indices in ([], [3, 2], [2, 2], [-1, 2], [4000]):
        with pytest.raises(ValueError, match="ascending indices of the 4,000 images of bundled:mnist"):
            save_kept(file, np.array(indices), source)
    with pytest.raises(ValueError, match=r"There is no file .*kept\.parquet"):
        load_kept(file, source)
    save_kept(file, np.arange(10), source)
    with pytest.raises(
        ValueError, match=r"made for bundled:mnist with 4,000 images; bundled:mnist/test with 1,000 images is another"
    ):
        load_kept(file, open_source("bundled:mnist/test"))
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"sslshift.kept"])
    for metadata, column, message in (
        (None, "index", "is not a file of images to keep"),
        (about | {"version": 2}, "index", "has version 2"),
        (about, "place", "is not a file of images to keep"),
        (about, "index", "not ascending"),
    ):
        schema = pa.schema([pa.field(column, pa.int64())], metadata=metadata and {"sslshift.kept": json.dumps(metadata)})
        pq.write_table(pa.table({column: np.array([7, 7])}, schema=schema), file)
        with pytest.raises(ValueError, match=message):
            load_kept(file, source)
    file.write_text("no table")
    with pytest.raises(ValueError, match="is not a file of images to keep"):
        load_kept(file, source)


def test_page_shows_both_pictures_and_takes_names_as_text(random):
    source = ArraySource("memory:<b>", random.integers(0, 256, (3, 5, 4, 1), np.uint8))
    pairs = Pairs(np.array([0]), np.array([2]), np.array([0.25]))
    text = page(
        "<i>",
        "1 < 2",
        [Section("near", pairs, lambda d: f"<{d}>"), Section("none", Pairs(*np.zeros((3, 0))), str)],
        source,
        source,
    )
    assert text.count("data:image/png;base64,") == 2
    assert "memory:&lt;b&gt;, image 2" in text
    assert "&lt;0.25&gt;" in text
    assert "<i>" not in text
    assert "None." in text
    assert "http:" not in text
    assert "https:" not in text


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "tools.find_duplicates", *arguments], capture_output=True, text=True)


def test_command_finds_writes_and_can_be_judged(photographs, tmp_path):
    web = tmp_path / "web"
    test = tmp_path / "test"
    out = tmp_path / "out"
    web.mkdir(), test.mkdir()
    for i, image in enumerate(photographs[:12]):
        Image.fromarray(image).save(web / f"{i:02}.png")
    Image.fromarray(photographs[3]).save(web / "again.png")
    Image.fromarray(photographs[5]).save(web / "small.jpg", quality=60)
    Image.fromarray(photographs[7]).save(test / "a.jpg")
    Image.fromarray(photographs[20]).save(test / "b.jpg")
    done = command(f"--source=folder:{web}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "14 images: 1 exact duplicates, 1 near-duplicates" in done.stdout
    assert "12 effective unique" in done.stdout
    with open(out / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["how"], row["first_origin"], row["second_origin"]) for row in rows] == [
        ("exact", str(web / "03.png"), str(web / "again.png")),
        ("near", str(web / "05.png"), str(web / "small.jpg")),
    ]
    assert 0 <= float(rows[1]["distance"]) < 0.004
    kept = open_source(f"folder:{web}?keep={out / 'kept.parquet'}")
    assert len(kept) == 12
    assert (out / "pairs.html").read_text().count("<img") >= 4
    done = command(f"--source=folder:{web}", f"--against=folder:{test}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    also = f"0 of 2 images of folder:{test} are also among the 14 images of folder:{web}, pixel for pixel; "
    assert f"{also}1 more are similar to images of folder:{web} but not equal" in done.stdout
    assert len(open_source(f"folder:{web}?keep={out / 'kept.parquet'}")) == 13


def test_command_by_features(tmp_path, random):
    features = random.normal(size=(1000, 8))
    features[10] = features[20]
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "none.npy", np.array([{}]), allow_pickle=True)
    flags = ["--source=bundled:mnist/test", f"--out={tmp_path / 'out'}", f"--features={tmp_path / 'features.npy'}"]
    done = command(*flags, "--min_cosine=0.999")
    assert "1 near-duplicates (a cosine of features of at least 0.999), 999 effective unique" in done.stdout, done.stderr
    done = command(*flags, "--against=bundled:mnist/test", f"--against_features={tmp_path / 'none.npy'}")
    assert done.returncode == 1
    assert "none.npy cannot be read as an array that numpy.save wrote" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--source=bundled:cifar"], 1, "expected one of fashion_mnist, mnist"),
        (
            ["--source=bundled:mnist/test", "--against=bundled:mnist/test", "--by=hash"],
            1,
            "Expected --by=pixels or --features with --against, got --by=hash",
        ),
        (["--source=bundled:mnist/test", "--against_features=x.npy"], 1, "--against_features needs"),
        (["--source=bundled:mnist/test", "--against=bundled:mnist/test"], 1, "No image of bundled:mnist/test would remain"),
        (["--source=bundled:mnist/test", "--max_distance=65"], 2, "upper_bound|64"),
        (["--source=bundled:mnist/test", "--min_cosin=1"], 2, "min_cosine"),
    ],
)
def test_errors_of_the_command_are_one_sentence(flags, code, message, tmp_path):
    done = command(*flags, f"--out={tmp_path}")
    assert done.returncode == code
    assert any(part in done.stderr for part in message.split("|")), done.stderr
    assert "Traceback" not in done.stderr


def test_out_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = command("--source=bundled:mnist/test", f"--out={tmp_path / 'file'}")
    assert done.returncode == 1
    assert "Expected a folder for --out, got the file" in done.stderr
