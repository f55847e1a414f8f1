"""Files that are whole or absent, locks that go with their process, and folders that remember."""

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from sslshift.array_cache import ArrayCache
from sslshift.command import describe_system_error
from sslshift.storage import (
    LockedError,
    NotStoredError,
    OtherRecordError,
    Store,
    lock,
    read_json,
    whole_file,
    write,
)


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "numbers.txt"
    write(path, "one")
    with whole_file(path) as file:
        file.write(b"two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    write(path, "one")

    def stop():
        with whole_file(path) as file:
            file.write(b"tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["numbers.txt"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "numbers.txt"
    write(path, "one")
    script = f"""
        import os, signal
        from sslshift.storage import whole_file
        with whole_file({str(path)!r}) as file:
            file.write(b"tw")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "one"
    write(path, "three")
    assert os.listdir(tmp_path) == ["numbers.txt"]


def test_a_lock_is_held_once_and_names_its_holder(tmp_path):
    with lock(tmp_path / "lock"):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .* since 20") as caught, lock(tmp_path / "lock"):
            pass
        assert caught.value.holder.startswith(f"process {os.getpid()} on")
    with lock(tmp_path / "lock"):
        pass


def test_a_lock_goes_with_a_killed_process(tmp_path):
    script = f"""
        import time
        from sslshift.storage import lock
        with lock({str(tmp_path / "lock")!r}):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} on"), lock(tmp_path / "lock"):
            pass
        process.kill()
    with lock(tmp_path / "lock"):
        pass


def test_an_object_store_has_no_locks():
    with pytest.raises(ValueError, match=r"Expected a local folder, got gs://bucket/study/.lock: object stores have no locks"):
        lock("gs://bucket/study/.lock").__enter__()


def test_a_result_is_computed_once(tmp_path):
    calls = []
    for _ in range(2):
        found = Store().remembered(tmp_path / "a", {"x": (1, 2)}, lambda: calls.append(1) or {"sum": 3})
        assert found == {"sum": 3}
    assert len(calls) == 1
    assert read_json(tmp_path / "a" / "record.json") == {"x": [1, 2]}


def test_a_read_only_store_writes_nothing(tmp_path):
    with pytest.raises(NotStoredError, match="holds no result yet"):
        Store(read_only=True).remembered(tmp_path / "a", {}, dict)
    assert not (tmp_path / "a").exists()


def test_another_record_is_refused_where_there_is_work(tmp_path):
    store = Store()
    store.remembered(tmp_path / "a", {"rate": 0.1, "views": [{"size": 2}]}, dict)
    message = "made by another configuration (views.0.size: 2 there, 3 now); give another --out"
    with pytest.raises(OtherRecordError, match=re.escape(message)):
        store.recalled(tmp_path / "a", {"rate": 0.1, "views": [{"size": 3}]})


@pytest.mark.parametrize("left", [(), ("failed.json",), ("failed.json", "error.log")])
def test_a_failure_binds_a_folder_to_nothing(tmp_path, left):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Store().remembered(tmp_path / "a", {"rate": 0.1}, fail)
    for name in left:
        (tmp_path / "a" / name).write_text("{}")
    assert Store().remembered(tmp_path / "a", {"rate": 0.2}, lambda: {"ok": 1}) == {"ok": 1}


def test_work_in_progress_binds_a_folder_to_its_record(tmp_path):
    def stop():
        (tmp_path / "a" / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store().remembered(tmp_path / "a", {"rate": 0.1}, stop)
    with pytest.raises(OtherRecordError, match=re.escape("rate: 0.1 there, 0.2 now")):
        Store().remembered(tmp_path / "a", {"rate": 0.2}, dict)


def test_a_damaged_file_is_named(tmp_path):
    Store().remembered(tmp_path / "a", {}, dict)
    (tmp_path / "a" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result.json cannot be read .*; delete it, and the same command makes it again"):
        Store().recalled(tmp_path / "a", {})


def test_paths_may_be_text(tmp_path):
    write(str(tmp_path / "a.txt"), b"bytes")
    assert Path(tmp_path / "a.txt").read_bytes() == b"bytes"


def test_arrays_are_kept_for_the_next_command_and_damaged_ones_are_made_again(tmp_path):
    made = []

    def compute(value):
        made.append(value)
        return {"a": np.full(5, value), "b": np.array(["x", "é"])}

    cache = ArrayCache(tmp_path / "cache", 1 << 20, pytest.fail)
    first = cache.remembered(["k", 1, None], lambda: compute(1))
    again = ArrayCache(tmp_path / "cache", 1 << 20, pytest.fail).remembered(["k", 1, None], lambda: compute(2))
    for name in ("a", "b"):
        np.testing.assert_array_equal(first[name], again[name])
    assert cache.remembered(["k", 2, None], lambda: compute(3))["a"][0] == 3
    (path, _) = sorted((tmp_path / "cache").iterdir(), key=lambda each: each.stat().st_mtime_ns)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], whole[:60] + b"\0" * 9 + whole[69:], b"PK nothing"):
        path.write_bytes(damaged)
        assert cache.remembered(["k", 1, None], lambda: compute(4))["a"][0] == 4
        assert cache.remembered(["k", 1, None], lambda: compute(5))["a"][0] == 4
    assert made == [1, 3, 4, 4, 4, 4]
    # A pickle could run code when it is loaded.
    np.savez(path, a=np.array([Path()], object))
    assert cache.remembered(["k", 1, None], lambda: compute(6))["a"][0] == 6


def test_the_first_written_arrays_go_when_there_are_too_many_bytes(tmp_path):
    cache = ArrayCache(tmp_path, 3500, pytest.fail)
    for number in range(4):
        cache.remembered([number], lambda: {"a": np.zeros(1000, np.uint8)})
        os.utime(max(tmp_path.iterdir(), key=lambda each: each.stat().st_mtime_ns), ns=(number, number))
    assert len(list(tmp_path.iterdir())) == 2
    assert ArrayCache(tmp_path, 3500, pytest.fail).remembered([3], lambda: pytest.fail("made again"))["a"].size == 1000
    # One that is larger than all may be is not kept, and displaces none.
    assert cache.remembered([9], lambda: {"a": np.zeros(9000, np.uint8)})["a"].size == 9000
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_reported_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    notes = []
    cache = ArrayCache(tmp_path / "file/cache", 1 << 20, notes.append)
    assert [cache.remembered([number], lambda number=number: {"a": np.array(number)})["a"].item() for number in (1, 2)] == [
        1,
        2,
    ]
    assert notes == [f"{tmp_path}/file/cache cannot be written (Not a directory): later commands compute its content anew."]


def test_the_error_of_a_full_disk_names_the_file_and_what_to_do(tmp_path):
    # The system names a file when it cannot be opened, and none when a write to it fails.
    with pytest.raises(OSError, match="Error writing") as full, whole_file(tmp_path / "scores.csv"):
        raise OSError(errno.ENOSPC, "Error writing bytes")
    said = "scores.csv cannot be written: No space left on device. Free some space and give the same command again."
    assert describe_system_error(full.value) == f"{tmp_path}/{said}"
    for number, word in (
        (errno.EROFS, "written: Read-only file system. The file system"),
        (errno.EACCES, "opened: Permission"),
    ):
        assert f"x cannot be {word}" in describe_system_error(OSError(number, "", "x"))
    assert describe_system_error(OSError("Libraries raise errors of their own.")) == ""
    assert describe_system_error(FileNotFoundError(errno.ENOENT, "", "x")) == ""
