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

import pytest
from method_steps import equal
from rich.console import Console
from source_builders import contents, picture
from tiny_studies import TINY, tiny

from sslshift.stopping import Stop, StoppedError
from sslshift.storage import Store
from sslshift.study import runner
from sslshift.study.design import parse_study
from sslshift.study.opened import open_study
from sslshift.study.progress import Progress
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser

PATIENCE = 120


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
    import signal, sys, time
    from sslshift.command import run_command

    # A shell that starts a test run in the background has its processes ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def main():
        for number in range(600):
            try:
                if not number:
                    print("working", flush=True)
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


def wait_until(condition, process=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(group):
    """The processes of a group that run, without those that have ended and are not yet collected by their parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
            found += [int(path.parent.name)] if int(number) == group and state != "Z" else []
    return found


def command_of(process):
    return Path(f"/proc/{process}/cmdline").read_text()


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


def test_a_command_that_is_interrupted_ends_with_code_130(started):
    process = started(sys.executable, "-c", textwrap.dedent(COMMAND.format(stubborn="")))
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == "Stopped. Commands that keep their results continue when they are given again.\n"


def test_a_later_second_signal_ends_a_command_that_does_not_end(started):
    process = started(sys.executable, "-c", textwrap.dedent(COMMAND.format(stubborn="yes")))
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "StoppedError\n"
    time.sleep(1.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == -signal.SIGTERM


def test_the_error_of_a_process_that_the_signal_ended_is_no_failure_of_the_run(monkeypatch, tmp_path):
    opened = open_study(parse_study(tiny("--shift_images=0", f"--out={tmp_path}")))
    run = opened.runs[0]

    def train(*arguments, stop, **options):
        with stop.deferred():
            stop.request("SIGTERM")
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -15.")

    monkeypatch.setattr(runner, "train", train)
    with pytest.raises(StoppedError):
        runner.train_run(opened, Store(), run, None, "1/1", Progress(Console(quiet=True)))
    assert not (runner.run_folder(opened, run) / "failed.json").exists()


WORKER = """
    import multiprocessing, os, signal, time
    from sslshift.stopping import follow_parent

    def work():
        follow_parent()
        print("working", flush=True)
        time.sleep(600)

    if __name__ == "__main__":
        multiprocessing.get_context("spawn").Process(target=work).start()
        time.sleep(600)
"""


def test_a_worker_ignores_the_signals_and_ends_with_its_parent(started, tmp_path):
    (tmp_path / "parent.py").write_text(textwrap.dedent(WORKER))
    process = started(sys.executable, tmp_path / "parent.py", env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert process.stdout.readline() == "working\n"
    (worker,) = (number for number in alive(process.pid) if number != process.pid and "spawn_main" in command_of(number))
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGUSR1)
    time.sleep(0.2)
    assert worker in alive(process.pid)
    process.kill()
    wait_until(lambda: worker not in alive(process.pid))


@pytest.mark.slow
def test_an_import_that_is_stopped_with_its_whole_group_continues_to_the_same_files(started, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(60):
        (tmp_path / "in" / f"{i:03d}.png").write_bytes(picture(i, 300, 300))

    def run(name, workers):
        flags = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / name}", "--size=64", "--shard_size=5")
        return started(sys.executable, "-m", "tools.import_images", *flags, f"--workers={workers}")

    stopped = run("out", 2)
    wait_until(lambda: list((tmp_path / "out").glob("images-*")), stopped)
    os.killpg(stopped.pid, signal.SIGTERM)
    _, errors = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 0, errors
    assert errors == "Stopped by SIGTERM. Commands that keep their results continue when they are given again.\n"
    wait_until(lambda: alive(stopped.pid) == [])
    for name in ("out", "whole"):
        assert run(name, 0).wait(PATIENCE) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_study_that_is_stopped_with_its_whole_group_continues(started, tmp_path):
    """Processes that read images get the signal too, and must neither end first nor be left behind."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    flags = ("--sources=bundled:mnist@40", "--seeds=1", "--untrained_seeds=1", "--workers=2", "--shift_images=0")
    flags += ("--evaluations=linear", "--budget=6400", "--checkpoint_every=1000")

    out = tmp_path / "out"

    def study():
        return started(sys.executable, "-m", "experiments.quickstart", *TINY, *flags, f"--out={out}", env=environment)

    stopped = study()
    wait_until(lambda: any(path.stat().st_size for path in out.glob("runs/*/metrics.jsonl")), stopped)
    os.killpg(stopped.pid, signal.SIGTERM)
    _, errors = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 0, errors
    wait_until(lambda: alive(stopped.pid) == [])
    # Nothing but the signal has saved a state.
    (run,) = out.glob("runs/*")
    (step,) = saved(run)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == step
    assert f"Stopped by SIGTERM after step {step} of 100 in {run}: the same command continues.\n" in errors
    continued = study()
    _, errors = continued.communicate(timeout=PATIENCE)
    assert continued.returncode == 0, errors
    assert not list(out.rglob("failed.json"))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 101))
    assert "bundled:mnist" in (out / "results.csv").read_text()
