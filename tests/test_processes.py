"""Commands that run as several processes on the loopback: same numbers, and one end for all."""

import contextlib
import csv
import json
import os
import re
import signal
import time

import numpy as np
import pytest
from process_runs import PATIENCE, ended, of_module, said, started
from tiny_studies import TINY

from sslshift import cluster
from sslshift.data.decode import BrokenImageError
from sslshift.data.pipeline import Broken
from sslshift.training.feed import StepChunk
from sslshift.training.lockstep import OtherProcessError, in_lockstep


def study(out, *flags):
    # At the recipe's learning rate, a run on noise turns a difference of 1e-6 after 2 steps into one of 1e-3.
    own = ["--shift_images=100", "--learning_rate=1e-4", f"--out={out}"]
    return of_module("experiments.quickstart", *TINY, *own, *flags)


def rows(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


# Other columns are accuracies, or follow from them: of 1,000 test images, rounding may turn a few that are nearly tied.
CONTINUOUS = ("loss_first", "loss_last", "shift_index", "shift_low", "shift_high", "index", "low", "high")


def require_same_table(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in expected[0]:
            # The digest is that of the digits.
            if name == "digest":
                continue
            with contextlib.suppress(ValueError):
                close = 1e-5 if name in CONTINUOUS else 4e-3
                assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4, abs=close), name
                continue
            assert one[name] == other[name], name


@pytest.mark.slow
def test_images_in_device_memory_and_several_steps_in_a_program_on_2_processes(tmp_path):
    for processes in (1, 2):
        folder = tmp_path / str(processes)

        def command(address, processes, process, folder=folder):
            return ["tests/cluster_worker.py", str(folder), "simsiam", "8", address, str(processes), str(process), "--placed"]

        with started(command, processes, 4 // processes, folder) as running:
            assert ended(running) == [0] * processes, said(folder, 0)
    one, two = (np.load(tmp_path / str(processes) / "simsiam.npz") for processes in (1, 2))
    for leaf in one:
        np.testing.assert_allclose(two[leaf], one[leaf], rtol=1e-4, atol=1e-5)


def training_of(folder, steps):
    """Whether the study in a folder has finished some steps of a run."""
    files = list((folder / "runs").glob("*/metrics.jsonl")) if (folder / "runs").exists() else []
    return sum(len(file.read_text().splitlines()) for file in files) >= steps


def wait_until(condition, running):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        assert all(each.poll() is None for each in running)
        time.sleep(0.05)


@pytest.mark.slow
def test_a_study_of_2_processes_ends_together_goes_on_and_gives_the_table_of_one(tmp_path):
    alone, several = tmp_path / "alone", tmp_path / "several"
    with started(study(alone), 1, 4, tmp_path / "a") as running:
        assert ended(running) == [0], said(tmp_path / "a", 0)

    # Stopped by a signal to one process.
    with started(study(several), 2, 2, tmp_path / "b") as running:
        wait_until(lambda: training_of(several, 3), running)
        running[1].send_signal(signal.SIGTERM)
        assert ended(running, 60) == [0, 0]
    assert re.search(r"Stopped by SIGTERM after step \d+ of 20 in .*: the same command continues\.", said(tmp_path / "b", 1))
    assert "Stopped by SIGTERM" in said(tmp_path / "b", 0)

    # One process is killed.
    with started(study(several), 2, 2, tmp_path / "c") as running:
        wait_until(lambda: training_of(several, 28), running)
        running[1].kill()
        killed = time.monotonic()
        assert ended(running, 60) == [1, -signal.SIGKILL]
        assert time.monotonic() - killed < 60
    assert "Process 1 on " in said(tmp_path / "c", 0)
    assert "has ended, so that no process can go on; the same command continues." in said(tmp_path / "c", 0)

    # Two processes continue, until a step of the last run is saved; then one process ends the study.
    with started(study(several), 2, 2, tmp_path / "d") as running:
        wait_until(lambda: training_of(several, 107), running)
        running[0].send_signal(signal.SIGTERM)
        assert ended(running, 60) == [0, 0]
    # Process 1 has written nothing and said nothing but why it ends.
    lines = [line for line in said(tmp_path / "d", 1).splitlines() if line and not re.search("Gloo|peer ranks", line)]
    assert all("Stopped by SIGTERM" in line for line in lines)
    assert len(lines) == 1
    with started(study(several), 1, 4, tmp_path / "e") as running:
        assert ended(running) == [0], said(tmp_path / "e", 0)
    require_same_table(rows(several), rows(alone))
    assert (several / "report.html").exists()
    assert not list(several.rglob("*.part"))


@pytest.mark.slow
def test_tools_give_the_same_tables_on_2_processes(tmp_path):
    out = tmp_path / "study"
    with started(study(out, "--seeds=1", "--sources=bundled:mnist@40", "--shift_images=0"), 1, 1, tmp_path / "s") as running:
        assert ended(running) == [0], said(tmp_path / "s", 0)
    commands = {
        "evaluate": lambda out: of_module(
            "tools.evaluate",
            f"--run={tmp_path / 'study'}",
            "--task=bundled:mnist; test=bundled:mnist/test; labelled=200",
            "--evaluations=knn,linear,finetune",
            "--evaluation_options=finetune.epochs=1; finetune.batch_size=50; finetune.learning_rates=0.01",
            f"--out={out}",
        ),
        "shift": lambda out: of_module(
            "tools.shift",
            "--target=bundled:fashion_mnist/test",
            "--source=bundled:mnist",
            "--images=201",
            f"--out={out}",
        ),
    }
    for name, command in commands.items():
        for processes in (1, 2):
            folder = tmp_path / f"{name}{processes}"
            with started(command(folder / "out"), processes, 2 // processes, folder) as running:
                assert ended(running) == [0] * processes, said(folder, 0)
    for name, file in (("evaluate", "scores.csv"), ("shift", "shift.csv")):
        tables = []
        for processes in (1, 2):
            with open(tmp_path / f"{name}{processes}" / "out" / file, newline="") as opened:
                tables.append(list(csv.DictReader(opened)))
        require_same_table(tables[1], tables[0])


# A loop in which the processes agree, until one of them is killed.
WAITING = """
import sys
from sslshift import cluster
from sslshift.command import define_cluster_flags, run_command

def main():
    print("joined", flush=True)
    while True:
        cluster.gathered("numbers", 1)

define_cluster_flags()
run_command(main)
"""


@pytest.mark.parametrize("lost", [0, 1])
def test_the_death_of_either_process_ends_the_other_with_a_sentence(lost, tmp_path):
    with started(lambda *place: ["-c", WAITING, *of_module("x")(*place)[2:]], 2, 1, tmp_path) as running:
        wait_until(lambda: all("joined" in said(tmp_path, process) for process in (0, 1)), running)
        running[lost].kill()
        killed = time.monotonic()
        running[1 - lost].wait(60)
    assert time.monotonic() - killed < 60
    assert running[1 - lost].returncode != 0
    assert re.search(
        f"Process {lost} .*has ended, so that no process can go on; the same command continues", said(tmp_path, 1 - lost)
    )


def test_processes_that_are_given_different_studies_end_with_one_sentence(tmp_path):
    with started(study(tmp_path / "out"), 2, 1, tmp_path, lambda process: ["--budget=1920"] if process else []) as running:
        assert ended(running, 120) == [1, 1]
    for process in (0, 1):
        assert (
            "The processes differ in the command: --budget is 1290 in process 0 and 1920 in process 1. Give all processes the "
            "same command." in said(tmp_path, process)
        )
    assert {each.name for each in (tmp_path / "out").iterdir()} <= {"error.log"}


def test_hosts_that_see_different_images_end_with_one_sentence(tmp_path, photos):
    # Each process has a folder of its own under the same name, as if the file system were not shared.
    def command(address, processes, process):
        folder = tmp_path / f"host{process}"
        folder.mkdir()
        (folder / "pictures").symlink_to(photos if process else photos / "dogs")
        flags = [*TINY, "--sources=folder:pictures@2", "--out=out", "--image_size=12"]
        code = (
            f"import os, runpy, sys; os.chdir({str(folder)!r}); runpy.run_module('experiments.quickstart', run_name='__main__')"
        )
        return ["-c", code, *of_module("x", *flags)(address, processes, process)[2:]]

    with started(command, 2, 1, tmp_path / "said") as running:
        assert ended(running, 120) == [1, 1]
    for process in (0, 1):
        assert "The processes differ in the images: the fingerprint of folder:pictures" in said(tmp_path / "said", process)
        assert "Every host must see the same files." in said(tmp_path / "said", process)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--num_processes=2"], "belong together; give --coordinator_address too."),
        (["--coordinator_address=127.0.0.1:9", "--num_processes=2"], "belong together; give --process_id too."),
        (["--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=5"], "Expected --process_id from 0 to 1"),
        (
            ["--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=1", "--join_timeout=1"],
            "Process 0 did not answer at 127.0.0.1:9 within 1 s (--join_timeout)",
        ),
        (["--distributed", "--join_timeout=5"], "--distributed found no cluster"),
    ],
)
def test_a_cluster_that_is_not_there(flags, sentence, tmp_path):
    with started(
        lambda *place: ["-m", "experiments.quickstart", f"--out={tmp_path / 'out'}", *flags], 1, 1, tmp_path
    ) as running:
        assert ended(running, 60) == [1]
    assert sentence in said(tmp_path, 0)


AGREEING = """
from sslshift import cluster
from sslshift.command import define_cluster_flags, run_command

define_cluster_flags()
run_command(lambda: print("agreed", cluster.gathered("numbers", 10 + cluster.process_index()), flush=True))
"""


def under_slurm(monkeypatch, processes):
    """Sets what Slurm says to all processes of a job; returns what it says to one."""
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_NTASKS", str(processes))
    return lambda process: {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}


def test_the_processes_of_a_slurm_job_find_each_other(monkeypatch, tmp_path):
    variables = under_slurm(monkeypatch, 2)
    code = "import json, os, sys; os.environ.update(json.loads(sys.argv.pop()))" + AGREEING
    command = ["-c", code, "--distributed", "--join_timeout=60"]
    with started(lambda *place: command, 2, 1, tmp_path, lambda process: [json.dumps(variables(process))]) as running:
        assert ended(running, 120) == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    assert "agreed [10, 11]" in said(tmp_path, 0)
    assert "agreed [10, 11]" in said(tmp_path, 1)


def test_a_slurm_job_without_its_other_process_ends_with_one_sentence(monkeypatch, tmp_path):
    variables = under_slurm(monkeypatch, 2)
    code = "import json, os, sys; os.environ.update(json.loads(sys.argv.pop()))" + AGREEING
    command = ["-c", code, "--distributed", "--join_timeout=4", json.dumps(variables(0))]
    with started(lambda *place: command, 1, 1, tmp_path) as running:
        assert ended(running, 60) == [1]
    sentence = "Error: The processes of the cluster that JAX found did not all join within 4 s (--join_timeout)."
    assert sentence in said(tmp_path, 0)


def chunk(*broken):
    return StepChunk(1, 1, (), tuple(broken))


@pytest.fixture
def two(monkeypatch):
    """Makes this process the first of two, and returns what the other one reports in turn."""
    reports = []
    monkeypatch.setattr(cluster, "process_count", lambda: 2)
    monkeypatch.setattr(cluster, "gathered", lambda label, value: [value, reports.pop(0)])
    return reports


def test_an_image_that_one_process_cannot_read_is_known_to_all(two):
    here, there = Broken("a", 1, "torn"), Broken("b", 2, "empty")
    two += [{"error": "", "broken": [list(there)]}, {"error": "", "broken": []}]
    found = list(in_lockstep(iter([chunk(here), chunk()])))
    assert [each.broken for each in found] == [(here, there), ()]


def test_a_batch_that_one_process_cannot_read_ends_the_run_in_all(two):
    two.append({"error": "BrokenImageError: nothing can be read", "broken": []})
    with pytest.raises(OtherProcessError, match=r"^Process 1: BrokenImageError: nothing can be read$"):
        list(in_lockstep(iter([chunk()])))


def test_the_process_that_cannot_read_raises_its_own_error(two):
    def torn():
        raise BrokenImageError("torn")
        yield

    two.append({"error": "", "broken": []})
    with pytest.raises(BrokenImageError, match=r"^torn$"):
        list(in_lockstep(torn()))
