import csv
import gzip
import io
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.data import open_source
from sslshift.data.decode import Canvas
from sslshift.data.perceptual_hash import perceptual_hash
from sslshift.data.records import importing, shards
from sslshift.data.records.encode import Encoding
from sslshift.data.records.folder import locked
from sslshift.data.records.importing import Import
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.sources.manifest import MANIFEST, SCHEMA, ImageDescription


def picture(seed: int, width: int = 40, height: int = 30, form: str = "PNG") -> bytes:
    """A smooth random picture, encoded."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(out, form)
    return out.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Five pictures in two folders."""
    folder = tmp_path / "photos"
    for i, name in enumerate(("cats/a.png", "cats/b.jpg", "dogs/c.png", "dogs/d.webp", "dogs/more/e.bmp")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, form={"jpg": "JPEG"}.get(name[-3:], name.rpartition(".")[2].upper())))
    return folder


def job(source: Path, output: Path, **changes) -> Import:
    return Import(source, output, **{"encoding": Encoding(16, "png"), "shard_size": 2} | changes)


def imported(source: Path, output: Path, **changes):
    """Manifest rows and refusals of an import in this process."""
    run_import(job(source, output, **changes), workers=0)
    with open(output / "refused.csv", newline="", encoding="utf-8") as file:
        refused = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    return pq.read_table(output / MANIFEST).to_pylist(), refused


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a source but the record of how it was made."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("import.json", "source.json")}


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


def test_hidden_images_are_told_as_hidden(photos, tmp_path):
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails/a.png").write_bytes(picture(0))
    wanted = job(photos, tmp_path / "out")
    result = run_import(wanted, workers=0)
    assert result.others["hidden"] == 1
    assert any("1 hidden" in line for line in describe_import(result, wanted))


def test_labels_that_some_images_lack_are_told(photos, tmp_path):
    (photos / "loose.png").write_bytes(picture(7))
    wanted = job(photos, tmp_path / "out", labels="folder")
    result = run_import(wanted, workers=0)
    assert result.summary.classes is None
    assert open_source(f"arrayrecord:{tmp_path / 'out'}").labels is None
    assert any("No labels: 1 of 6 images are in no class folder" in line for line in describe_import(result, wanted))


def test_images_smaller_than_the_size_keep_theirs_and_colours_their_number(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save(folder / "gray.png")
    imported(folder, tmp_path / "out")
    assert open_source(f"arrayrecord:{tmp_path / 'out'}")[0]["image"].shape == (8, 10, 1)


def test_places_and_names_in_exif_are_not_stored_and_its_rotation_is_done(tmp_path):
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
    run_import(job(photos, alone), workers=0)
    seen = []
    run_import(job(photos, many), workers=workers, on_shard=lambda part: seen.append(part.records))
    assert contents(alone) == contents(many)
    assert sum(seen) == 5
    assert open_source(f"arrayrecord:{alone}").fingerprint == open_source(f"arrayrecord:{many}").fingerprint


def test_beam_makes_the_same_files(photos, tmp_path):
    pytest.importorskip("apache_beam")
    alone = tmp_path / "alone"
    beam = tmp_path / "beam"
    run_import(job(photos, alone), workers=0)
    run_on_beam(job(photos, beam), ["--runner=DirectRunner"])
    assert contents(alone) == contents(beam)


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **about) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in about.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def crawl(path: Path, count: int = 3, mode: str = "w") -> None:
    """A shard as img2dataset writes it."""
    with tarfile.open(path, mode) as archive:
        for i in range(count):
            add(archive, f"{i:09d}.jpg", picture(i, form="JPEG"))
            add(archive, f"{i:09d}.txt", f"caption {i}".encode())
            about = {"url": f"https://example.org/{i}", "status": "success", "license": "CC-BY" if i else None}
            add(archive, f"{i:09d}.json", json.dumps(about).encode())


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


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG that announces a size, without a pixel of it."""
    chunks = [b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0]), b"IDAT", b"IEND"]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


HOSTILE = {
    "empty.png": (b"", "empty"),
    "text.jpg": (b"hello", "not an image"),
    "cut.jpg": (picture(7, 200, 200, "JPEG")[:700], "truncated"),
    "cut.png": (picture(7, 200, 200)[:700], ""),
    "bomb.png": (png_header(60_000, 60_000), "[bB]omb"),
    "sliver.png": (picture(1, 30_000, 1), "sliver"),
    "phone.heic": (b"\0\0\0\x18ftypheic", "an HEIC file"),
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
        "device.png": "it is no regular file",
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
        run_import(job(tmp_path / "cut.zip", tmp_path / "none"), workers=0)


def test_input_without_a_readable_image_is_named_and_looked_at_again(tmp_path):
    folder = tmp_path / "in"
    output = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"in holds no image that can be read; it has 1 files of other kinds\."):
        run_import(job(folder, output), workers=0)
    (folder / "a.png").touch()
    with pytest.raises(ValueError, match=r"1 were refused, e\.g\. a\.png \(the file is empty\); .*refused\.csv lists them\."):
        run_import(job(folder, output), workers=0)
    (folder / "a.png").write_bytes(picture(0))
    rows, refused = imported(folder, output)
    assert (len(rows), refused) == (1, {})


def test_archives_that_are_cut_keep_what_can_be_read(tmp_path):
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
        run_import(job(tmp_path / "a.tar.gz", tmp_path / "out"), workers=0)


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
    """As root everything is readable: the system's refusal is played."""
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


def test_stopped_import_goes_on_to_the_same_files(photos, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    run_import(job(photos, whole), workers=0)
    encode = importing.store
    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(importing, "store", failing)
    with pytest.raises(KeyboardInterrupt):
        run_import(job(photos, stopped), workers=0)
    assert not (stopped / "source.json").exists()
    assert [path.name for path in stopped.glob("*.array_record*")] == ["images-00000-00000.array_record"]
    with pytest.raises(ValueError, match="is unfinished"):
        open_source(f"arrayrecord:{stopped}")
    run_import(job(photos, stopped), workers=0)
    # The first shard's two images were not encoded again.
    assert len(calls) == 4 + 3
    assert contents(stopped) == contents(whole)
    run_import(job(photos, stopped), workers=0)
    assert len(calls) == 7


def test_killed_import_goes_on_to_the_same_files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:03d}.png").write_bytes(picture(i, 300, 300))
    command = [sys.executable, "-m", "tools.import_images", f"--input={folder}", "--size=64", "--shard_size=5", "--workers=2"]
    process = subprocess.Popen([*command, f"--output={tmp_path / 'killed'}"], start_new_session=True)
    while process.poll() is None and not list((tmp_path / "killed").glob("images-*")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, f"--output={tmp_path / 'killed'}"], check=True, capture_output=True)
    run_import(job(folder, tmp_path / "whole", shard_size=5, encoding=Encoding(64)), workers=0)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_full_disk_leaves_no_half_shard(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    real = pq.write_table

    def full(table, where, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.pq, "write_table", full)
    with pytest.raises(OSError, match=r"cannot be written.*No space left on device.*Make room"):
        run_import(job(photos, output), workers=0)
    assert not list(output.glob("images-*"))
    # A writer that says nothing of a full disk is not believed: the shard is read back.
    monkeypatch.setattr(shards.pq, "write_table", real)
    whole = shards._require_complete
    monkeypatch.setattr(shards, "_require_complete", lambda path, records: (os.truncate(path, 100), whole(path, records)))
    with pytest.raises(OSError, match="cannot be written"):
        run_import(job(photos, output), workers=0)
    assert not list(output.glob("images-*"))
    monkeypatch.undo()
    run_import(job(photos, output), workers=0)
    assert len(open_source(f"arrayrecord:{output}")) == 5


def test_output_of_another_import_is_left_alone(photos, tmp_path):
    output = tmp_path / "out"
    run_import(job(photos, output), workers=0)
    with pytest.raises(ValueError, match=r"made with other settings \(shard_size: 2 there, 3 now\)"):
        run_import(job(photos, output, shard_size=3), workers=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(ValueError, match="is not empty and holds no import"):
        run_import(job(photos, tmp_path / "mine"), workers=0)
    with pytest.raises(ValueError, match="is a file"):
        run_import(job(photos, tmp_path / "mine/file"), workers=0)
    with pytest.raises(ValueError, match="There is no folder or file"):
        run_import(job(tmp_path / "nothing", tmp_path / "new"), workers=0)
    assert not (tmp_path / "new").exists()
    (tmp_path / "paper.pdf").touch()
    with pytest.raises(ValueError, match="Expected a folder, a tar or zip archive"):
        run_import(job(tmp_path / "paper.pdf", tmp_path / "new"), workers=0)


def test_output_within_the_input_is_not_imported(photos):
    rows, _ = imported(photos, photos / "out")
    assert len(rows) == 5


def tampered(output: Path, name: str) -> None:
    if name == "shard is missing":
        next(output.glob("images-*")).unlink()
    elif name == "shard is cut":
        shard = next(output.glob("images-*"))
        os.truncate(shard, shard.stat().st_size - 1)
    elif name == "manifest is another":
        pq.write_table(pa.Table.from_pylist([{"record": 0}], SCHEMA), output / MANIFEST)
    elif name == "manifest is missing":
        (output / MANIFEST).unlink()
    else:
        text = (output / "source.json").read_text()
        (output / "source.json").write_text(text.replace("images-00000-00000", "../images-00000-00000"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shard is missing", "is missing; the folder was changed or copied in part"),
        ("shard is cut", r"has [\d,]+ bytes instead of"),
        ("manifest is another", "has 1 rows for 5 records"),
        ("manifest is missing", "cannot be read"),
        ("summary leads outside", "is outside of the folder"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(photos, tmp_path, name, message):
    run_import(job(photos, tmp_path / "out"), workers=0)
    tampered(tmp_path / "out", name)
    with pytest.raises(ValueError, match=message):
        open_source(f"arrayrecord:{tmp_path / 'out'}")


def test_manifests_of_another_import_or_another_order_are_named(photos, tmp_path):
    """As many rows as there are records: nothing but their content tells that labels would be those of other images."""
    output = tmp_path / "out"
    other = tmp_path / "other"
    run_import(job(photos, output, labels="folder"), workers=0)
    rows = pq.read_table(output / MANIFEST)
    (photos / "cats/a.png").rename(photos / "dogs/zz.png")
    run_import(job(photos, other, labels="folder"), workers=0)
    shutil.copy(other / MANIFEST, output / MANIFEST)
    with pytest.raises(
        ValueError, match=r"manifest\.parquet belongs to another import than source\.json\. Copy or import it again"
    ):
        open_source(f"arrayrecord:{output}")

    def opened(table):
        # As another program writes it, without the metadata.
        pq.write_table(table.replace_schema_metadata({}), output / MANIFEST)
        return open_source(f"arrayrecord:{output}")

    assert opened(rows).labels.tolist() == [0, 0, 1, 1, 1]
    for order in ([1, 0, 2, 3, 4], [4, 3, 2, 1, 0]):
        source = opened(rows.take(order))
        with pytest.raises(ValueError, match="was changed: it has rows that are not in the order of the records"):
            _ = source.labels
        with pytest.raises(ValueError, match="not in the order of the records"):
            source.stored_identities()
    label = rows.schema.get_field_index("label")
    for labels in ([0, 1, 1, 1, 1], [0, 0, 1, 1, None]):
        source = opened(rows.set_column(label, "label", pa.array(labels, pa.int64())))
        with pytest.raises(ValueError, match="it has labels that do not match the classes"):
            _ = source.labels
    names = pa.array(["cats", "cats", "dogs", "dogs", "cows"])
    source = opened(rows.set_column(rows.schema.get_field_index("class"), "class", names))
    with pytest.raises(ValueError, match="it has labels that do not match the classes"):
        _ = source.labels


def test_records_that_rot_are_named(photos, tmp_path):
    run_import(job(photos, tmp_path / "out", shard_size=9), workers=0)
    shard = next((tmp_path / "out").glob("images-*"))
    content = bytearray(shard.read_bytes())
    middle = content.index(b"\x89PNG") + 60
    content[middle : middle + 20] = bytes(20)
    shard.write_bytes(content)
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    with pytest.raises(ValueError, match=r"images-00000-00000\.array_record cannot be read"):
        source.read(np.arange(5), Canvas(8, 8, 3))
    assert source.read(np.array([4]), Canvas(8, 8, 3)).shape == (1, 8, 8, 3)


def test_second_import_into_a_folder_waits_for_the_first(photos, tmp_path):
    job_ = job(photos, tmp_path / "out")
    assert importing.begin(job_) is None
    with locked(job_.output), pytest.raises(ValueError, match="Another process is writing"):
        run_import(job_, workers=0)


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
