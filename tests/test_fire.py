"""Killed at random moments and started again: the same bits, the same table, and nothing left behind (see `fire.py`)."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fire import STEPS
from source_builders import contents, picture
from tiny_studies import tiny

from sslshift.methods import METHODS
from sslshift.study.design import parse_study
from sslshift.study.opened import open_study
from sslshift.study.results import run_folder

PATIENCE = 600
WRITTEN = "metrics.jsonl", "broken.csv"


def fire(*jobs):
    """Runs jobs, one after the other; returns what the last one wrote on stderr."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        # The programs of all processes are those of the first one.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, Path(__file__).with_name("fire.py"), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    for job, each in zip(jobs, ended, strict=True):
        assert each["code"] == (-signal.SIGKILL if "kill" in job else 0), (job, each)
    return ended[-1]["errors"]


def killed_and_repeated(moments, job, **arguments):
    """The same job, killed at each of these moments, and then completed."""
    job = {"job": job, "arguments": arguments}
    return [*(job | {"kill": moment} for moment in moments), job]


def unfinished(folder):
    """The files and folders that a kill leaves and the next success must not leave."""
    return [path for path in folder.rglob("*") if re.search(r"\.part$|orbax-checkpoint-tmp", path.name)]


# Moments of a write, each in another method, besides a random moment in every method.
MOMENTS = {
    "byol": r"os\.rename \S*/byol/checkpoints/\d+\.orbax-checkpoint-tmp \S*/\d+$",
    "dino": r"os\.rename \S*/dino/checkpoints/6/digests\.json\.part",
    "swav": r"(os\.rename|os\.remove|os\.rmdir) \S*/swav/checkpoints/3\b",
}


@pytest.mark.slow
def test_every_method_killed_at_random_ends_with_the_bits_of_an_uninterrupted_run(random, tmp_path):
    kills = []
    for name in METHODS:
        kills.append((rf"step {name} |/{name}/", int(random.integers(1, 100))))
        kills += [(MOMENTS[name], 1)] if name in MOMENTS else []
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    fire(*killed_and_repeated([], "methods", folder=str(whole)), *killed_and_repeated(kills, "methods", folder=str(killed)))
    for name in METHODS:
        for file in WRITTEN:
            assert (killed / name / file).read_text() == (whole / name / file).read_text(), name
        with np.load(killed / name / "final.npz") as ours, np.load(whole / name / "final.npz") as theirs:
            assert ours.files == theirs.files
            assert all(np.array_equal(ours[leaf], theirs[leaf]) for leaf in ours.files), name
        steps = [json.loads(line)["step"] for line in (killed / name / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))
    assert unfinished(killed) == []


STUDY = (
    *("--sources=bundled:mnist@40,400", "--downstream=bundled:mnist", "--downstream_test=bundled:mnist/test"),
    *("--budget=640", "--batch_size=64", "--seeds=1", "--untrained_seeds=1", "--labelled=300", "--shift_images=100"),
    *("--reference_seeds=1", "--checkpoint_every=3", "--encoder=patch_mlp", "--head=32,16", "--evaluations=linear"),
)


@pytest.mark.slow
def test_a_study_killed_at_random_ends_with_the_table_of_an_uninterrupted_one(random, tmp_path):
    """Killed in training, in writes of checkpoints, results, the report and both caches, and in an evaluation."""
    programs = tmp_path / "programs"

    def study(name, kills=()):
        flags = [*STUDY, f"--out={tmp_path / name}", f"--compilation_cache={programs}"]
        arguments = {"module": "experiments.quickstart", "flags": flags, "identities": str(tmp_path / f"{name}-cache")}
        return tmp_path / name, fire(*killed_and_repeated(kills, "command", **arguments))

    whole, _ = study("whole")
    # Compiled and kept again by the study that is killed.
    for path in programs.rglob("jit_train_step*-cache"):
        path.unlink()
    out, errors = study(
        "killed",
        [
            (r"os\.rename \S*/killed-cache/\S*\.npz\.part", 1),
            (r"open \S*/jit_train_step\S*-cache", 1),
            (r"/killed/shift/reference-\w+/", int(random.integers(1, 60))),
            (r"os\.rename \S*/killed/runs/\S*/\d+\.orbax-checkpoint-tmp \S*/\d+$", 2),
            (r"/killed/runs/", int(random.integers(1, 60))),
            (r"os\.rename \S*/killed/runs/\S*/encoder\.json\.part", 1),
            (r"open \S*/killed/runs/\S*/tasks/\S*/predictions\.npz\.part", 1),
            (r"os\.rename \S*/killed/results\.csv\.part", 1),
            (r"/killed/", int(random.integers(1, 60))),
            (r"os\.rename \S*/killed/report\.html\.part", 1),
        ],
    )
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows].count("run") == 2
    assert len({row["fingerprint"] for row in rows}) == len(rows)
    opened = open_study(parse_study(tiny(*STUDY, f"--out={out}")))
    for run in opened.runs:
        folder = run_folder(opened, run)
        for file in ("metrics.jsonl", "encoder.safetensors"):
            assert (folder / file).read_bytes() == (whole / folder.relative_to(out) / file).read_bytes()
        plan = opened.reader(opened.candidate(run).mixture, run.seed, run.draw).plan
        audit = plan.audit()
        assert all(plan.agrees(seen) for seen in audit)
        assert sum(seen.samples for seen in audit) == 64 * len((folder / "metrics.jsonl").read_text().splitlines())
    assert unfinished(tmp_path) == []
    assert not list(out.rglob("failed.json"))
    assert (out / "report.html").exists()
    assert "cannot be" not in errors


@pytest.mark.slow
def test_an_import_killed_at_random_ends_with_the_files_of_an_uninterrupted_one(random, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / "in" / f"{i:03d}.png").write_bytes(picture(i, 30, 30))
    moments = [("/killed/", int(random.integers(1, 12))) for _ in range(4)]
    jobs = []
    for name, kills in (("whole", ()), ("killed", moments)):
        flags = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / name}", "--size=16", "--shard_size=5", "--workers=0"]
        jobs += killed_and_repeated(kills, "command", module="tools.import_images", flags=flags)
    fire(*jobs)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert unfinished(tmp_path) == []


@pytest.mark.slow
def test_a_run_continues_on_other_numbers_of_devices_to_the_same_numbers(tmp_path):
    """For each kind of state: a target with batch statistics, a center, and a queue."""
    names = ["byol", "dino", "swav"]
    # Adam would turn the rounding of a gradient near 0 into a whole step.
    arguments = {"names": names, "optimiser": "sgd"}

    def on(devices, folder, until=STEPS):
        return {"job": "methods", "arguments": {"folder": str(folder), "until": until, **arguments}, "devices": devices}

    moved = tmp_path / "moved"
    whole = tmp_path / "whole"
    fire(on(8, whole), on(8, moved, 3), on(2, moved, 6), on(1, moved))
    for name in names:
        with np.load(moved / name / "final.npz") as ours, np.load(whole / name / "final.npz") as theirs:
            for leaf in theirs.files:
                np.testing.assert_allclose(ours[leaf], theirs[leaf], rtol=1e-5, atol=1e-5, err_msg=f"{name} {leaf}")
