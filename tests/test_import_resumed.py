"""Imports that were stopped or changed: they continue with the same files, or are refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_builders import contents, import_of, imported, picture

from sslshift.data import open_source
from sslshift.data.decode import Canvas
from sslshift.data.records import importing, shards
from sslshift.data.records.encode import Encoding
from sslshift.data.records.folder import locked
from sslshift.data.records.running import run_import
from sslshift.data.sources.manifest import MANIFEST, SCHEMA


def test_stopped_import_goes_on_to_the_same_files(photos, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    run_import(import_of(photos, whole), workers=0)
    encode = importing.store
    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(importing, "store", failing)
    with pytest.raises(KeyboardInterrupt):
        run_import(import_of(photos, stopped), workers=0)
    assert not (stopped / "source.json").exists()
    assert [path.name for path in stopped.glob("*.array_record*")] == ["images-00000-00000.array_record"]
    with pytest.raises(ValueError, match="is unfinished"):
        open_source(f"arrayrecord:{stopped}")
    run_import(import_of(photos, stopped), workers=0)
    # The first shard's two images were not encoded again.
    assert len(calls) == 4 + 3
    assert contents(stopped) == contents(whole)
    run_import(import_of(photos, stopped), workers=0)
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
    run_import(import_of(folder, tmp_path / "whole", shard_size=5, encoding=Encoding(64)), workers=0)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_full_disk_leaves_no_half_shard(photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    real = pq.write_table

    def full(table, where, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.pq, "write_table", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left on device\. Free some space"):
        run_import(import_of(photos, output), workers=0)
    assert not list(output.glob("images-*"))
    # A writer may not report a full disk: the shard is read again.
    monkeypatch.setattr(shards.pq, "write_table", real)
    whole = shards._require_complete
    monkeypatch.setattr(shards, "_require_complete", lambda path, records: (os.truncate(path, 100), whole(path, records)))
    with pytest.raises(OSError, match="cannot be written"):
        run_import(import_of(photos, output), workers=0)
    assert not list(output.glob("images-*"))
    monkeypatch.undo()
    run_import(import_of(photos, output), workers=0)
    assert len(open_source(f"arrayrecord:{output}")) == 5


def test_output_of_another_import_is_left_alone(photos, tmp_path):
    output = tmp_path / "out"
    run_import(import_of(photos, output), workers=0)
    with pytest.raises(ValueError, match=r"made with other settings \(shard_size: 2 there, 3 now\)"):
        run_import(import_of(photos, output, shard_size=3), workers=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(ValueError, match="is not empty and holds no import"):
        run_import(import_of(photos, tmp_path / "mine"), workers=0)
    with pytest.raises(ValueError, match="is a file"):
        run_import(import_of(photos, tmp_path / "mine/file"), workers=0)
    with pytest.raises(ValueError, match="There is no folder or file"):
        run_import(import_of(tmp_path / "nothing", tmp_path / "new"), workers=0)
    assert not (tmp_path / "new").exists()
    (tmp_path / "paper.pdf").touch()
    with pytest.raises(ValueError, match="Expected a folder, a tar or zip archive"):
        run_import(import_of(tmp_path / "paper.pdf", tmp_path / "new"), workers=0)


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
    run_import(import_of(photos, tmp_path / "out"), workers=0)
    tampered(tmp_path / "out", name)
    with pytest.raises(ValueError, match=message):
        open_source(f"arrayrecord:{tmp_path / 'out'}")


def test_manifests_of_another_import_or_another_order_are_named(photos, tmp_path):
    """The number of rows is right: only their content shows that the labels belong to other images."""
    output = tmp_path / "out"
    other = tmp_path / "other"
    run_import(import_of(photos, output, labels="folder"), workers=0)
    rows = pq.read_table(output / MANIFEST)
    (photos / "cats/a.png").rename(photos / "dogs/zz.png")
    run_import(import_of(photos, other, labels="folder"), workers=0)
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


def test_damaged_records_are_named(photos, tmp_path):
    run_import(import_of(photos, tmp_path / "out", shard_size=9), workers=0)
    shard = next((tmp_path / "out").glob("images-*"))
    content = bytearray(shard.read_bytes())
    middle = content.index(b"\x89PNG") + 60
    content[middle : middle + 20] = bytes(20)
    shard.write_bytes(content)
    source = open_source(f"arrayrecord:{tmp_path / 'out'}")
    with pytest.raises(ValueError, match=r"images-00000-00000\.array_record cannot be read"):
        source.read(np.arange(5), Canvas(8, 8, 3))
    assert source.read(np.array([4]), Canvas(8, 8, 3)).shape == (1, 8, 8, 3)


def test_a_second_import_into_a_folder_is_refused_while_the_first_runs(photos, tmp_path):
    job_ = import_of(photos, tmp_path / "out")
    assert importing.begin(job_) is None
    with locked(job_.output), pytest.raises(ValueError, match="Another process is writing"):
        run_import(job_, workers=0)
