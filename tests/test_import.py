"""Imports: the source that they make of folders, archives and lists, and its speed and memory."""

import csv
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from source_builders import add, contents, crawl, import_of, imported, picture

from sslshift.data import open_source
from sslshift.data.perceptual_hash import perceptual_hash
from sslshift.data.records import shards
from sslshift.data.records.encode import Encoding
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.sources.manifest import ImageDescription


def test_folder_becomes_a_source(photos, tmp_path):
    rows, refused = imported(photos, tmp_path / "out", labels="folder", licence="CC0", cost_per_image=0.5)
    assert refused == {}
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    before = open_source(f"folder:{photos}?labels=folder")
    assert len(source) == len(before) == 5
    assert source.classes == before.classes == ("cats", "dogs")
    assert source.labels.tolist() == before.labels.tolist()
    assert (source.licence, source.cost_per_image) == ("CC0", 0.5)
    assert [row["origin"] for row in rows] == ["cats/a.png", "cats/b.jpg", "dogs/c.png", "dogs/d.webp", "dogs/more/e.bmp"]
    assert [(row["record"], row["original_width"], row["width"], row["height"]) for row in rows] == [
        (i, 40, 21, 16) for i in range(5)
    ]
    for i, row in enumerate(rows):
        image = source[i]["image"]
        # PNG keeps every pixel: what is stored is the shorter side at 16.
        stored = before[i]["image"]
        wanted = Image.fromarray(stored).resize((21, 16), Image.Resampling.BICUBIC, reducing_gap=3.0)
        assert (image == np.asarray(wanted)).all()
        assert row["perceptual_hash"] == perceptual_hash(image)
        assert len(row["digest"]) == 64
    digests, hashes = source.stored_identities()
    assert [digest.hex() for digest in digests] == [row["digest"] for row in rows]
    assert hashes.dtype == np.uint64
    # Hashes of another version are not compared with today's.
    summary = tmp_path / "out/source.json"
    summary.write_text(summary.read_text().replace('"hashes": 1', '"hashes": 0'))
    assert open_source(f"arrayrecord:{tmp_path / 'out'}").stored_identities() is None


def test_hidden_images_are_reported_as_hidden(photos, tmp_path):
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails/a.png").write_bytes(picture(0))
    wanted = import_of(photos, tmp_path / "out")
    result = run_import(wanted, workers=0)
    assert result.others["hidden"] == 1
    assert any("1 hidden" in line for line in describe_import(result, wanted))


def test_labels_that_some_images_lack_are_reported(photos, tmp_path):
    (photos / "loose.png").write_bytes(picture(7))
    wanted = import_of(photos, tmp_path / "out", labels="folder")
    result = run_import(wanted, workers=0)
    assert result.summary.classes is None
    assert open_source(f"arrayrecord:{tmp_path / 'out'}").labels is None
    assert any("No labels: 1 of 6 images are in no class folder" in line for line in describe_import(result, wanted))


def test_small_images_keep_their_size_and_grey_images_their_one_channel(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save(folder / "gray.png")
    imported(folder, tmp_path / "out")
    assert open_source(f"arrayrecord:{tmp_path / 'out'}")[0]["image"].shape == (8, 10, 1)


def test_exif_is_not_stored_and_its_rotation_is_applied(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x013B] = "a person's name"
    Image.new("RGB", (40, 20)).save(folder / "a.jpg", exif=exif)
    imported(folder, tmp_path / "out", encoding=Encoding(16))
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert source[0]["image"].shape == (32, 16, 3)
    assert all(b"a person" not in content for content in contents(tmp_path / "out").values())


@pytest.mark.parametrize("workers", [2])
def test_processes_make_the_same_files(photos, tmp_path, workers):
    alone = tmp_path / "alone"
    many = tmp_path / "many"
    run_import(import_of(photos, alone), workers=0)
    seen = []
    run_import(import_of(photos, many), workers=workers, on_shard=lambda part: seen.append(part.records))
    assert contents(alone) == contents(many)
    assert sum(seen) == 5
    assert open_source(f"arrayrecord:{alone}").fingerprint == open_source(f"arrayrecord:{many}").fingerprint


def test_beam_makes_the_same_files(photos, tmp_path):
    pytest.importorskip("apache_beam")
    alone = tmp_path / "alone"
    beam = tmp_path / "beam"
    run_import(import_of(photos, alone), workers=0)
    run_on_beam(import_of(photos, beam), ["--runner=DirectRunner"])
    assert contents(alone) == contents(beam)


@pytest.mark.parametrize(("name", "mode"), [("00000.tar", "w"), ("00000.tar.gz", "w:gz"), ("00000.tgz", "w:gz")])
def test_crawled_shards_keep_captions_urls_and_licences(tmp_path, name, mode):
    (tmp_path / "crawl").mkdir()
    crawl(tmp_path / "crawl" / name, mode=mode)
    rows, refused = imported(tmp_path / "crawl", tmp_path / "out")
    assert refused == {}
    assert [row["origin"] for row in rows] == [f"{name}/{i:09d}.jpg" for i in range(3)]
    assert [row["caption"] for row in rows] == ["caption 0", "caption 1", "caption 2"]
    assert [row["url"] for row in rows] == [f"https://example.org/{i}" for i in range(3)]
    assert [row["licence"] for row in rows] == ["unknown", "CC-BY", "CC-BY"]
    assert open_source(f"arrayrecord:{tmp_path / 'out'}").licence == "mixed: CC-BY (2), unknown (1)"


def test_webdataset_classes_become_labels(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for i, label in enumerate((10, 2, 10)):
            add(archive, f"a/{i}.png", picture(i))
            add(archive, f"a/{i}.cls", str(label).encode())
    imported(tmp_path / "shard.tar", tmp_path / "out")
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert source.classes == ("2", "10")
    assert source.labels.tolist() == [1, 0, 1]


def test_zip_and_lists_are_imported(photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.*")):
            archive.write(path, path.relative_to(photos))
    zipped, refused = imported(tmp_path / "photos.zip", tmp_path / "zipped", labels="folder")
    assert refused == {}
    rows = [("photos/cats/b.jpg", "cat", "CC0", "2.5"), ("photos/dogs/c.png", "dog", "", "")]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "license", "cost"), *rows])
    table = pa.table({"path": [row[0] for row in rows], "label": [row[1] for row in rows]})
    pq.write_table(table, tmp_path / "list.parquet")
    listed, _ = imported(tmp_path / "list.csv", tmp_path / "listed", licence="mine", cost_per_image=0.5)
    stored, _ = imported(tmp_path / "list.parquet", tmp_path / "stored")
    folder, _ = imported(photos, tmp_path / "folder", labels="folder")
    assert [row["digest"] for row in zipped] == [row["digest"] for row in folder]
    assert [row["label"] for row in zipped] == [0, 0, 1, 1, 1]
    assert [(row["class"], row["licence"], row["cost"]) for row in listed] == [("cat", "CC0", 2.5), ("dog", "mine", 0.5)]
    assert [row["digest"] for row in listed] == [row["digest"] for row in stored] == [folder[1]["digest"], folder[2]["digest"]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size=4"], "at least 8 pixels"),
        (["--quality=0"], "between 1 and 100"),
        (["--input=/no/such"], "There is no folder or file"),
        (["--shard_size=0"], "at least one image"),
        (["--labels=multi"], "expects a CSV or Parquet list"),
        (["--sise=4"], "size"),
    ],
)
def test_command_says_in_a_sentence_what_is_wrong(photos, tmp_path, flags, message):
    command = [sys.executable, "-m", "tools.import_images", f"--input={photos}", f"--output={tmp_path / 'out'}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


OPEN_AND_READ = """
import pathlib, re, sys, time
from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage, open_source
from sslshift.data.decode import Canvas
from sslshift.data.pipeline import BatchReader, batches

started = time.perf_counter()
web, noise = open_source(f"arrayrecord:{sys.argv[1]}"), open_source("synthetic:noise?size=1000")
parts = (Component("web", len(web), len(web), 0.9), Component("noise", len(noise), 500, 0.1))
plan = SamplePlan(Mixture((Stage(parts),)), Budget(2 * len(web)), 256, seed=0, subset_seed=0)
batch = next(batches(BatchReader(plan, {"web": web, "noise": noise}, Canvas(8, 8, 1)), 10, 20))
assert batch.images.shape == (256, 8, 8, 1)
seconds = time.perf_counter() - started
# Not getrusage: that counts what the parent held before it started this process.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
print(len(web), seconds, int(peak[1]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_a_million_records_open_at_once_in_no_more_memory(tmp_path):
    def opened(records):
        folder = tmp_path / str(records)
        names = [f"00000-{shard:05d}" for shard in range(100)]
        content = picture(0, 8, 8)
        stored = shards.StoredImage(content, ImageDescription("x", class_name="a"), "0" * 64, 1, 8, 8, 8, 8)
        part = shards.write_shard(folder, names[0], (stored for _ in range(records // 100)))
        # The other shards are copies: to write a million records takes longer than all that is asked of them.
        for name in names[1:]:
            shutil.copy(folder / shards.shard_file(names[0]), folder / shards.shard_file(name))
            shutil.copy(shards.parts_folder(folder) / f"{names[0]}.parquet", shards.parts_folder(folder) / f"{name}.parquet")
            (shards.parts_folder(folder) / f"{name}.json").write_text(json.dumps(part._asdict() | {"name": name}))
        shards.finish(folder, names, licence="CC0", cost_per_image=0, made={})
        done = subprocess.run([sys.executable, "-c", OPEN_AND_READ, folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found, seconds, mebibytes = map(float, done.stdout.split())
        assert found == records
        return seconds, mebibytes

    (_, few), (seconds, many) = opened(10_000), opened(1_000_000)
    assert seconds < 2
    # The indices of the shards that a batch touched, 8 bytes a record, are all that grows.
    assert many - few < 25
