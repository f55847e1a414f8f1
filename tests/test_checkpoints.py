"""Checkpoints: written in the background, whole or absent, and every failure says its cause."""

import concurrent.futures
import contextlib
import errno
import json
import shutil
import signal
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from method_steps import equal

from sslshift.training.checkpoints import CheckpointError, Checkpoints, NotWrittenError
from sslshift.training.digests import DIGESTS, find_damage
from sslshift.training.step import replicate


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"\. Free some space and give the same command again\.$"),
        (ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']"), "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "Change the permissions"),
        (OSError(errno.EROFS, "Read-only file system"), "mounted read-only"),
        # What a transfer guard says on an accelerator, and any other fault of a program: the cause, and no advice.
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Disallowed device-to-host transfer: shape=()"), r"no earlier one\.$"),
        (TypeError("unhashable type"), r"\(TypeError: unhashable type\); there is no earlier one\.$"),
    ],
)
def test_a_checkpoint_that_is_not_written_says_its_own_cause(cause, advice, tmp_path, monkeypatch):
    def fail(self, *args, **options):
        raise RuntimeError("orbax's own words") from cause

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(type(checkpoints._orbax), "save_checkpointables_async", fail)
    with pytest.raises(NotWrittenError, match=advice) as raised:
        checkpoints.save({"weights": jnp.ones(3)}, 1)
    assert type(cause).__name__ in str(raised.value)


def test_a_checkpoint_of_other_settings_is_not_called_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"weights": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    checkpoints.save(state, 1)
    for like, difference in (
        (
            {"weights": jnp.ones((2, 4)), "bias": jnp.ones(3)},
            r"weights has shape \[2, 3\] in the file and shape \[2, 4\]",
        ),
        ({"weights": jnp.ones((2, 3))}, r"bias has shape \[3\] in the file and no such array in the run"),
        (state | {"scale": jnp.ones(3)}, "scale has no such array in the file"),
    ):
        with pytest.raises(CheckpointError, match=difference) as raised:
            checkpoints.restore(like)
        assert "delete" not in str(raised.value)
    assert equal(checkpoints.restore(state), state)


def test_a_checkpoint_that_may_not_be_read_is_not_to_be_deleted(tmp_path, monkeypatch):
    def fail(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"weights": jnp.ones(3)}, 1)
    monkeypatch.setattr(type(checkpoints._orbax), "load_checkpointables", fail)
    with pytest.raises(CheckpointError, match=r"cannot be read .*Change the permissions") as raised:
        checkpoints.restore({"weights": jnp.ones(3)})
    assert "delete" not in str(raised.value)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_state_may_be_donated_while_its_checkpoint_is_written(devices, tmp_path):
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,))
    # Large enough that several steps end before the write does.
    state = replicate(mesh, {"weights": jnp.zeros((1000, 1000)), "count": jnp.zeros((), jnp.int32)})
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    for _ in range(3):
        state = step(state)
    checkpoints.save(state, 3)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    restored = checkpoints.restore(state)
    assert equal(restored, {"weights": np.full((1000, 1000), 3.0), "count": np.int32(3)})
    assert int(state["count"]) == 23


def test_a_checkpoint_that_fails_in_the_background_is_reported_by_the_next_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    state = {"weights": jnp.ones(3)}
    checkpoints.save(state, 1)
    failed = concurrent.futures.Future()
    failed.set_exception(OSError(errno.ENOSPC, "No space left on device"))
    assert checkpoints.latest == 1
    monkeypatch.setattr(type(checkpoints._orbax), "save_checkpointables_async", lambda *args, **options: failed)
    checkpoints.save(state, 2)
    with pytest.raises(NotWrittenError, match=r"step 2 could not be written .*good one is step 1\. Free some space"):
        checkpoints.save(state, 3)
    checkpoints.save(state, 3)
    # The same error at the end of a run.
    with pytest.raises(NotWrittenError, match="step 3 could not be written"):
        checkpoints.close()


STATE = {"weights": jnp.ones((300, 300)), "bias": jnp.arange(30.0), "step": jnp.zeros((), jnp.int32)}
OTHER = STATE | {"weights": jnp.ones((300, 301))}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of the steps 2 and 3; that of step 1 has been displaced."""
    folder = tmp_path_factory.mktemp("written")
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(jax.tree.map(lambda leaf, step=step: leaf + step, STATE), step, {"probe": jnp.ones(400)})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def changed(path, how, random):
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "garbled":
        path.write_bytes(random.bytes(len(content)))
    else:
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(content)


def restored(folder, like=STATE):
    notes = []
    with contextlib.closing(Checkpoints(folder, notes.append)) as checkpoints:
        latest = checkpoints.latest
        return latest, latest and checkpoints.restore(like), notes


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbled", "bit"])
def test_every_damage_of_every_file_is_found(how, folder, random):
    for path in sorted(path for path in (folder / "3").rglob("*") if path.is_file() and path.name != DIGESTS):
        whole = path.read_bytes()
        for _ in range(3):
            changed(path, how, random)
            name = path.relative_to(folder / "3").as_posix()
            assert find_damage(folder / "3") == f"{name} {'is missing' if how == 'missing' else 'was changed'}"
            path.write_bytes(whole)
    assert find_damage(folder / "3") == ""


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbled", "bit"])
def test_damaged_digests_are_damage(how, folder, random):
    changed(folder / "3" / DIGESTS, how, random)
    latest, state, (note,) = restored(folder)
    assert latest == 2
    assert equal(state["bias"], np.arange(30) + 2)
    assert f"Damaged or unfinished checkpoints in {folder} are not used (step 3: " in note
    assert note.endswith("): the run continues from the checkpoint of step 2.")


def test_digests_follow_no_path_out_of_the_folder(folder, tmp_path):
    (tmp_path / "outside").write_text("1")
    digests = json.loads((folder / "3" / DIGESTS).read_text())
    (folder / "3" / DIGESTS).write_text(json.dumps(digests | {"../../outside": [1, zlib.crc32(b"1")]}))
    assert find_damage(folder / "3") == "../../outside is missing"
    (folder / "3" / DIGESTS).write_text("[1, 2]")
    assert find_damage(folder / "3") == f"{DIGESTS} cannot be read"


def test_damaged_checkpoints_alone_are_an_error_and_stay(folder):
    for step in "23":
        (folder / step / "state/_METADATA").unlink()
    message = (
        r"^No checkpoint in .*/run is as it was written \(step 3: state/_METADATA is missing; step 2: .*\)\. Copy .*delete it"
    )
    with pytest.raises(CheckpointError, match=message):
        Checkpoints(folder)
    assert {"2", "3"} <= {path.name for path in folder.iterdir()}


def test_a_checkpoint_of_other_settings_is_refused_after_a_damaged_one(folder, random):
    changed(folder / "3/state/manifest.ocdbt", "cut", random)
    with pytest.raises(CheckpointError, match=r"step 2 .*does not fit this run: weights has shape \[300, 300\] in the file"):
        restored(folder, OTHER)
    assert (folder / "3").exists()


def test_a_damaged_checkpoint_is_replaced_by_the_next_one(folder, random):
    changed(folder / "3/state/manifest.ocdbt", "bit", random)
    notes = []
    with contextlib.closing(Checkpoints(folder, notes.append)) as checkpoints:
        checkpoints.save(STATE, 3)
    latest, state, silent = restored(folder)
    assert (latest, len(notes), silent) == (3, 1, [])
    assert equal(state, STATE)
    assert {path.name for path in folder.iterdir()} == {"2", "3"}


def test_a_process_killed_before_it_wrote_digests_starts_from_the_checkpoint_before_or_anew(folder):
    (folder / "3" / DIGESTS).unlink()
    assert restored(folder)[0] == 2
    (folder / "2" / DIGESTS).unlink()
    latest, _, (note,) = restored(folder)
    assert latest is None
    assert note.endswith("(step 3: digests.json is missing; step 2: digests.json is missing): the run starts again.")


def test_checkpoints_of_earlier_versions_are_read(folder):
    for step in "23":
        (folder / step / DIGESTS).unlink()
        path = folder / step / "_CHECKPOINT_METADATA"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {}}))
    assert restored(folder)[0::2] == (3, [])
    (folder / "3/state/_METADATA").unlink()
    with pytest.raises(CheckpointError, match=r"step 3 .* cannot be read.*delete .*/3: the run then continues from step 2"):
        restored(folder)


def test_digests_that_may_not_be_read_are_no_damage(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("sslshift.training.digests._crc", refuse)
    with pytest.raises(CheckpointError, match=r"/3 cannot be read \(PermissionError.*Change the permissions"):
        Checkpoints(folder)


@pytest.mark.parametrize(("saves", "needed"), [(1, 1.4e6), (9, 1.4e6)])
def test_a_disk_that_is_nearly_full_is_an_error_before_anything_is_written(saves, needed, folder, monkeypatch):
    """Two checkpoints exist, so that a single one is added at a time."""
    free = needed + 34e6
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1e9, 1e9 - free, free))
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        checkpoints.require_space(STATE, saves)
        free = needed + 33e6
        message = r"^The disk of .*/run has 34 MB left, and checkpoints need 1 MB, with 34 MB .*good one is step 3\. Free some"
        with pytest.raises(NotWrittenError, match=message):
            checkpoints.require_space(STATE, saves)
        with pytest.raises(NotWrittenError, match=message):
            checkpoints.save(STATE, 4)
    assert {path.name for path in folder.iterdir()} == {"2", "3"}


def test_a_new_run_needs_space_for_the_checkpoints_that_it_keeps_and_one_more(tmp_path, monkeypatch):
    size = 1e6 + 8
    state = {"weights": np.ones(250_000, np.float32), "more": np.ones(2, np.float32)}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1e9, 0, (32 << 20) + 2.5 * (size + (1 << 20))))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.require_space(state, 2)
        with pytest.raises(NotWrittenError, match="there is no earlier one"):
            checkpoints.require_space(state, 3)


KILLED_WHILE_WRITING = """
import os, signal, sys
import jax.numpy as jnp
from pathlib import Path
from sslshift.training.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save({"weights": jnp.ones(1000)}, 1)
checkpoints.wait()
# A tenth of a second or more to write.
checkpoints.save({"weights": jnp.ones((50, 1_000_000))}, 2)
print(checkpoints._orbax.is_saving_in_progress(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_leaves_the_earlier_checkpoint(tmp_path):
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "True\n")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest == 1
    assert equal(checkpoints.restore({"weights": jnp.zeros(1000)}), {"weights": np.ones(1000)})
