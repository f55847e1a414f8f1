"""Signals to stop: training saves the step that it has reached, and the same command continues to the same bits."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_studies import TINY

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.stopping import Stop, StoppedError
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser

PATIENCE = 120


@pytest.fixture
def reader(gray_source, canvas):
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {gray_source.name: gray_source}, canvas)


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


def saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


# The loop reports a step one chunk late, and a request is answered at the end of a chunk: steps 3, 4, 7, 8 and 10 of 3 a chunk.
@pytest.mark.parametrize(("most", "requested_at", "stopped_at"), [(1, 1, 2), (3, 4, 7), (3, 10, 10)])
def test_a_stopped_run_saves_its_step_and_continues_to_the_same_bits(
    most, requested_at, stopped_at, small_method, reader, tmp_path
):
    training = Training(small_method("byol"), Optimiser(learning_rate=5e-3), checkpoint_every=4, steps_per_dispatch=most)
    whole = train(training, reader, 0, tmp_path / "whole")
    stop = Stop()

    def request(step, scalars):
        if step == requested_at:
            stop.request("SIGTERM")

    folder = tmp_path / "stopped"
    sentence = rf"^Stopped by SIGTERM after step {stopped_at} of 10 in {folder}: the same command continues\.$"
    with pytest.raises(StoppedError, match=sentence if requested_at < 10 else "^Stopped by SIGTERM"):
        train(training, reader, 0, folder, request, stop=stop)
    assert saved(folder)[-1] == stopped_at
    assert equal(train(training, reader, 0, folder), whole)
    assert (folder / "metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_the_probe_of_a_stopped_run_continues(small_method, reader, online, tmp_path):
    training = Training(small_method("simclr"), Optimiser(learning_rate=5e-3), checkpoint_every=100)
    train(training, reader, 0, tmp_path / "whole", online=online)
    stop = Stop()
    with pytest.raises(StoppedError, match="after step 5 of 10"):
        train(training, reader, 0, tmp_path / "run", lambda step, _: step == 4 and stop.request("SIGUSR1"), online, stop=stop)
    train(training, reader, 0, tmp_path / "run", online=online)
    assert (tmp_path / "run/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_work_that_does_not_defer_a_request_ends_at_once():
    stop = Stop()
    with pytest.raises(StoppedError, match=r"^Stopped by SIGUSR2\. Commands that keep their results continue"):
        stop.request("SIGUSR2")
    assert stop.requested


def test_a_request_that_deferring_work_did_not_answer_ends_what_follows():
    stop = Stop()
    done = []

    def work():
        with stop.deferred():
            with stop.deferred():
                stop.request("SIGTERM")
                done.append("inner")
            done.append("outer")
        done.append("what follows")

    with pytest.raises(StoppedError):
        work()
    assert done == ["inner", "outer"]


def test_an_error_is_not_replaced_by_a_request():
    stop = Stop()

    def work():
        with stop.deferred():
            stop.request("SIGTERM")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk"):
        work()


COMMAND = """
    import sys, time
    from sslshift.command import run_command

    def main():
        print("working", flush=True)
        for _ in range(600):
            try:
                time.sleep(0.1)
            except BaseException as error:
                if "{stubborn}":
                    print(type(error).__name__, flush=True)
                else:
                    raise

    run_command(main)
"""


@pytest.fixture
def started():
    """Starts Python code in a process group of its own, which ends with the test."""
    running = []

    def start(*command, **options):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(group):
    """The processes of a group that run, without those that have ended and are not yet collected by their parent."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            state, _, number = rest.split()[:3]
            states += [name] if int(number) == group and state != "Z" else []
    return states


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_command_that_is_sent_a_signal_twice_at_once_ends_with_code_0(name, started):
    process = started(sys.executable, "-c", textwrap.dedent(COMMAND.format(stubborn="")))
    assert process.stdout.readline() == "working\n"
    # As `timeout` does: to the process, then to its group.
    process.send_signal(getattr(signal, name))
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert errors == f"Stopped by {name}. Commands that keep their results continue when they are given again.\n"


def test_a_later_second_signal_ends_a_command_that_does_not_end(started):
    process = started(sys.executable, "-c", textwrap.dedent(COMMAND.format(stubborn="yes")))
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "StoppedError\n"
    time.sleep(1.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == -signal.SIGTERM


@pytest.mark.slow
def test_a_study_that_is_stopped_with_its_whole_group_continues_to_the_same_table(started, tmp_path):
    """Processes that read images get the signal too, and must neither end first nor be left behind."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    flags = ("--sources=bundled:mnist@40", "--seeds=1", "--untrained_seeds=1", "--workers=2", "--shift_images=0")
    flags += ("--evaluations=linear", "--budget=6400", "--checkpoint_every=1000")

    def study(name):
        out = tmp_path / name
        return started(sys.executable, "-m", "experiments.quickstart", *TINY, *flags, f"--out={out}", env=environment)

    stopped = study("stopped")
    out = tmp_path / "stopped"
    wait_for(lambda: any(path.stat().st_size for path in out.glob("runs/*/metrics.jsonl")), stopped)
    os.killpg(stopped.pid, signal.SIGTERM)
    _, errors = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 0, errors
    assert alive(stopped.pid) == []
    # Nothing but the signal has saved a state.
    (run,) = out.glob("runs/*")
    (step,) = saved(run)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == step
    assert f"Stopped by SIGTERM after step {step} of 100 in {run}: the same command continues.\n" in errors
    for name in ("stopped", "whole"):
        ending = study(name)
        _, errors = ending.communicate(timeout=PATIENCE)
        assert ending.returncode == 0, errors
    assert not list(out.rglob("failed.json"))
    assert (out / "results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()
