"""Checkpoints: written in the background, whole or absent, and every failure says its cause."""

import concurrent.futures
import errno
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from sslshift.training.checkpoints import CheckpointError, Checkpoints, NotWrittenError
from sslshift.training.step import replicate


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


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
