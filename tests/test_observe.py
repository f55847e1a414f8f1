"""What is observed while a run trains: TensorBoard events, a trace, hangs, and a sign of life. None of it changes the state."""

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_steps import equal

from sslshift.heartbeat import PROGRESS, Heartbeat
from sslshift.study.declare import Study
from sslshift.study.design import parse_study
from sslshift.training.events import scalar_writer
from sslshift.training.feed import StepChunk
from sslshift.training.journal import read_metrics
from sslshift.training.loop import Training, train
from sslshift.training.observe import Observation
from sslshift.training.optimiser import Optimiser
from sslshift.training.profile import Profiler, StepWindow, parse_window


@pytest.fixture
def training(small_method):
    return Training(small_method("simclr"), Optimiser(learning_rate=5e-3), checkpoint_every=4)


def killed_at(stop):
    def kill(step, scalars):
        if step == stop:
            raise KeyboardInterrupt

    return kill


# CRC-32C by its definition, bit by bit; an independent check of what tensorboardX and TensorFlow write.
def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(file: Path):
    """The records of a TFRecord file, with both checksums of each checked."""
    data = file.read_bytes()
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert check == masked(data[:8])
        record = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(record)
        yield record
        data = data[16 + length :]


def events(folder: Path):
    """(step, name, value) as TensorBoard reads them: a start of a session drops what earlier events have from its step on."""
    from tensorboardX.proto.event_pb2 import Event

    kept = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for record in records(file):
            event = Event.FromString(record)
            if event.session_log.status == 1:
                kept = [each for each in kept if each[0] < event.step]
            for value in event.summary.value:
                # TensorFlow writes tensors, tensorboardX numbers.
                content = value.tensor.tensor_content
                number = struct.unpack("<f", content)[0] if content else value.simple_value
                kept.append((event.step, value.tag, number))
    return kept


def test_crc32c_is_that_of_the_standard():
    # The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
    assert crc32c(b"123456789") == 0xE3069283


def test_events_have_the_scalars_of_the_lines_once_after_a_kill(training, reader, tmp_path):
    observation = Observation(tensorboard=True)
    whole = train(training, reader, 0, tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        train(training, reader, 0, tmp_path / "killed", killed_at(6), observation=observation)
    before = events(tmp_path / "killed/tensorboard")
    assert max(step for step, _, _ in before) == 6
    assert equal(train(training, reader, 0, tmp_path / "killed", observation=observation), whole)
    lines = read_metrics(tmp_path / "plain/metrics.jsonl")
    assert read_metrics(tmp_path / "killed/metrics.jsonl") == lines
    expected = [(line["step"], name, np.float32(line[name])) for line in lines for name in ("gradient_norm", "loss")]
    assert sorted(events(tmp_path / "killed/tensorboard")) == expected
    assert not (tmp_path / "plain/tensorboard").exists()


def test_a_run_killed_before_its_first_checkpoint_begins_its_events_anew(tmp_path):
    for value in (1.0, 2.0):
        writer = scalar_writer(tmp_path, 0, tensorboard=True)
        for step in range(1, 4):
            writer.write_scalars(step, {"loss": value})
        writer.close()
    assert events(tmp_path / "tensorboard") == [(step, "loss", 2.0) for step in range(1, 4)]
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2.0] * 3


def test_without_a_library_the_command_ends_before_it_computes(monkeypatch):
    monkeypatch.setattr("sslshift.training.events._has", lambda module: False)
    with pytest.raises(ValueError, match=r"neither is installed: pip install 'sslshift\[tensorboard\]'"):
        parse_study(Study(sources="bundled:mnist", tensorboard=True))
    parse_study(Study(sources="bundled:mnist"))


@pytest.mark.parametrize("text", ["20:10", "x", "10", "1:2:3", "-1:5", "0:5", "1.5:3", "1e1:20", "³:4", ":", "195:201"])
def test_a_window_that_no_run_has_is_refused(text):
    with pytest.raises(ValueError, match=r"--profile.*got '"):
        parse_window(text, 200)
    with pytest.raises(ValueError, match=r"--profile"):
        parse_study(Study(sources="bundled:mnist", profile=text))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_windows_are_read_as_written(first, last, steps):
    if first <= last <= steps:
        assert parse_window(f" {first} : {last}", steps) == (first, last)
    else:
        with pytest.raises(ValueError, match=rf"1 <= FIRST <= LAST <= {steps}"):
            parse_window(f"{first}:{last}", steps)
    assert parse_window("", steps) is None


def traced(folder: Path) -> bytes:
    (file,) = folder.glob("profile/plugins/profile/*/*.xplane.pb")
    return file.read_bytes()


def test_a_trace_has_the_program_and_the_steps_of_its_window(training, reader, tmp_path):
    notes = []
    profiler = Profiler(StepWindow(3, 5))
    observation = Observation(profiler=profiler, note=notes.append)
    whole = train(training, reader, 0, tmp_path / "plain")
    assert "nothing was traced" in profiler.summary()
    # A run that has finished these steps leaves the trace to the next one.
    with pytest.raises(KeyboardInterrupt):
        train(training, reader, 0, tmp_path / "resumed", killed_at(9))
    assert equal(train(training, reader, 0, tmp_path / "resumed", observation=observation), whole)
    assert notes == [
        f"--profile: {tmp_path}/resumed continues after step 8, past steps 3 to 5; the next run that takes them is traced."
    ]
    assert equal(train(training, reader, 0, tmp_path / "traced", observation=observation), whole)
    assert notes[1:] == [f"--profile: steps 3 to 5 of {tmp_path}/traced were traced."]
    assert f"{tmp_path}/traced/profile" in profiler.summary()
    trace = traced(tmp_path / "traced")
    assert b"train_step" in trace
    # Only one run is traced.
    train(training, reader, 1, tmp_path / "other", observation=observation)
    assert not (tmp_path / "other/profile").exists()
    assert not (tmp_path / "resumed/profile").exists()
    assert len(notes) == 2


class _Recorder:
    """JAX's profiler, and the programs that run, without their cost."""

    def __init__(self, monkeypatch):
        self.seen = []
        monkeypatch.setattr(jax.profiler, "start_trace", lambda path: self.seen.append(f"start {path.name}"))
        monkeypatch.setattr(jax.profiler, "stop_trace", lambda: self.seen.append("stop"))

    def run(self, profiler, folder, done, chunks, notes):
        follow = profiler.follow(folder, done, notes.append)
        for first, stop in chunks:
            chunk = StepChunk(stop, stop - first + 1, (), ())
            if follow:
                with follow.dispatching(chunk, ()):
                    self.seen.append((first, stop))
                follow.dispatched(chunk, ())
        if follow:
            follow.close()


@pytest.mark.parametrize(
    ("done", "chunks", "seen", "note"),
    [
        (
            0,
            [(1, 4), (5, 8), (9, 12), (13, 16)],
            [(1, 4), "start", (5, 8), (9, 12), "stop", (13, 16)],
            "5 to 12 in place of 6 to 9",
        ),
        (0, [(1, 20)], ["start", (1, 20), "stop"], "1 to 20 in place of 6 to 9"),
        (
            6,
            [(7, 7), (8, 8), (9, 9), (10, 10)],
            ["start", (7, 7), (8, 8), (9, 9), "stop", (10, 10)],
            "7 to 9 in place of 6 to 9",
        ),
        # An error ends the run within the window.
        (0, [(1, 5), (6, 7)], [(1, 5), "start", (6, 7), "stop"], "6 to 7 in place of 6 to 9"),
        (9, [(10, 10)], [], "past steps 6 to 9"),
    ],
)
def test_a_trace_has_whole_programs(done, chunks, seen, note, monkeypatch, tmp_path):
    recorder = _Recorder(monkeypatch)
    notes = []
    recorder.run(Profiler(StepWindow(6, 9)), tmp_path, done, chunks, notes)
    assert recorder.seen == ["start profile" if each == "start" else each for each in seen]
    assert [note in each for each in notes] == [True]


BLOCKED = """
import sys, threading, time
from pathlib import Path
import jax, numpy as np
from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import ArraySource
from sslshift.methods import METHODS
from sslshift.models import PatchMLP
from sslshift.training.loop import Training, train
from sslshift.training.observe import Observation
from sslshift.training.optimiser import Optimiser

class Blocking(ArraySource):
    # A file system that no longer answers: reading waits outside of Python, and never returns.
    reads = 0

    def read(self, indices, canvas):
        self.reads += 1
        if self.reads > 3:
            threading.Event().wait()
        return super().read(indices, canvas)

source = Blocking("memory:blocking", np.zeros((64, 12, 12, 1), np.uint8) + np.arange(64, dtype=np.uint8)[:, None, None, None])
plan = SamplePlan(single(source.name, 64, 64), Budget(320), 32, seed=1, subset_seed=2)
reader = BatchReader(plan, {source.name: source}, (12, 12, 1))
method = METHODS["simclr"].build(PatchMLP(width=8, features=16), projector=(32, 16))
train(Training(method, Optimiser()), reader, 0, sys.argv[1], observation=Observation(hang_after=float(sys.argv[2])))
"""


def test_a_source_that_no_longer_answers_is_reported_once_with_all_stacks(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "XLA_FLAGS": ""}
    command = [sys.executable, "-c", BLOCKED, str(tmp_path), "3"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        reading = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)
        reading.start()
        log = tmp_path / "hang.log"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not any(line.startswith("  File") and " train" in line for line in lines):
            time.sleep(0.1)
        # A second report would come within this time.
        time.sleep(4)
        text = log.read_text()
    finally:
        process.kill()
        process.wait()
        reading.join(10)
    # A slow machine may also report the compilation, which comes before the first step.
    steps = re.findall(r"no step has finished for 3 s after step (\d+)", text)
    assert steps
    assert len(set(steps)) == len(steps)
    assert "in read\n" in text
    assert "in train\n" in text
    assert text.count("hread 0x") > 2
    shown = "".join(lines)
    assert shown.count("no step has finished for 3 s") == 1
    assert f"also in {log}" in shown
    assert text.partition("\n")[2] in shown


@pytest.mark.slow
def test_a_device_that_never_answers_is_reported(small_method, reader, training, tmp_path, capsys):
    """The main thread waits in the runtime for a program that calls back into Python, which waits."""
    release = threading.Event()

    def wait(loss):
        release.wait(60)
        return loss

    method = training.method

    def loss(variables, target, views, context):
        value, output = method.loss(variables, target, views, context)
        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct((), value.dtype), jax.lax.stop_gradient(value))
        return value + 0 * waited, output

    hanging = dataclasses.replace(training, method=dataclasses.replace(method, loss=loss))
    watcher = threading.Thread(target=lambda: _release_after(tmp_path / "hang.log", release))
    watcher.start()
    train(hanging, reader, 0, tmp_path, observation=Observation(hang_after=0.5))
    watcher.join()
    text = (tmp_path / "hang.log").read_text()
    assert "after step 0 of" in text
    assert "in train\n" in text
    assert "also in" in capsys.readouterr().err


def _release_after(file: Path, release: threading.Event) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (file.exists() and "File" in file.read_text()):
        time.sleep(0.05)
    release.set()


class _Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def progress(folder):
    return json.loads((folder / PROGRESS).read_text())


def test_a_sign_of_life_is_written_every_few_seconds(tmp_path):
    clock = _Clock()
    life = Heartbeat(tmp_path, steps=50, batch_size=32, now=clock)
    life.write("training", 10)
    assert progress(tmp_path)["step"] == 10
    assert abs(progress(tmp_path)["time"] - time.time()) < 60
    for step in range(11, 31):
        clock.now += 1.0
        life.trained(step)
    # Written at 100, 105, 110, 115, 120; the first step is not timed, since it compiles.
    found = progress(tmp_path)
    assert (found["state"], found["step"], found["steps"]) == ("training", 30, 50)
    assert found["samples_per_second"] == 32
    assert found["process"] == os.getpid()
    clock.now += 1.0
    life.trained(31)
    assert progress(tmp_path)["step"] == 30
    life.write("stopped")
    assert progress(tmp_path)["step"] == 31
    life.finish()
    assert (progress(tmp_path)["state"], progress(tmp_path)["step"]) == ("finished", 50)
    kept = (tmp_path / PROGRESS).read_bytes()
    Heartbeat(tmp_path, 50, 32, now=clock).finish()
    assert (tmp_path / PROGRESS).read_bytes() == kept


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    life = Heartbeat(tmp_path / "not there", steps=5, batch_size=32)
    life.write("training", 0)
    life.trained(1)
    life.finish()


def test_a_run_writes_its_state_and_leaves_no_log_of_a_hang(training, reader, tmp_path, capsys):
    observation = Observation(hang_after=300)
    with pytest.raises(KeyboardInterrupt):
        train(training, reader, 0, tmp_path, killed_at(6), observation=observation)
    assert not [each for each in threading.enumerate() if each.name == "hang watch"]
    assert (progress(tmp_path)["state"], progress(tmp_path)["steps"]) == ("stopped", 10)
    train(training, reader, 0, tmp_path, observation=observation)
    assert (progress(tmp_path)["state"], progress(tmp_path)["step"]) == ("trained", 10)
    assert not (tmp_path / "hang.log").exists()
    assert "no step" not in capsys.readouterr().err
