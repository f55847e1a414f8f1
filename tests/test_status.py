"""The state of runs is read from files alone: every state, several studies, and content that is hostile or half-written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sslshift.machines.status import as_json, brief, plain_text, read_status, status_page
from sslshift.storage import ERROR_LOG

NOW = 1_800_000_000.0
ROOT = Path(__file__).parent.parent


def make_run(study, name, life=None, age=2.0, **files):
    """A run's folder with a sign of life of this age, and other files by their names without dots."""
    folder = study / "runs" / name
    folder.mkdir(parents=True)
    if life is not None:
        usual = {"steps": 100, "batch_size": 32, "host": "node1", "process": 7, "samples_per_second": None, "time": NOW - age}
        (folder / "progress.json").write_text(json.dumps(usual | life))
        os.utime(folder / "progress.json", (NOW - age, NOW - age))
    for key, content in files.items():
        path = folder / key.replace("_", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        os.utime(path, (NOW - 1, NOW - 1))
    return folder


@pytest.fixture
def study(tmp_path):
    """A study with a run in every state."""
    out = tmp_path / "study"
    failure = {"error": "NonFiniteError", "message": "Step 7 gave nan.", "time": "2026-11-28 09:00:00"}
    make_run(out, "trains", {"state": "training", "step": 25, "samples_per_second": 80.0})
    make_run(out, "evaluates", {"state": "evaluating", "step": 100, "part": "mnist: linear", "done": 3, "total": 8})
    make_run(out, "waits-for-evaluation", {"state": "trained", "step": 100})
    make_run(out, "done", {"state": "finished", "step": 100}, age=90_000)
    make_run(out, "was-stopped", {"state": "stopped", "step": 40}, age=4_000)
    make_run(out, "broke", {"state": "stopped", "step": 6}, failed_json=failure)
    make_run(out, "silent", {"state": "training", "step": 50}, age=301)
    make_run(out, "hangs", {"state": "training", "step": 60}, hang_log="no step has finished")
    again = make_run(out, "tried-again", {"state": "training", "step": 6}, failed_json=failure)
    os.utime(again / "failed.json", (NOW - 50, NOW - 50))
    # Earlier versions gave no signs of life.
    record = {"budget": 6400, "batch_size": 64}
    line = '{"step": 12, "loss": 1.0}\n'
    make_run(out, "old-done", record_json=record, result_json={}, metrics_jsonl=line)
    make_run(out, "old-trains", record_json=record, metrics_jsonl=line + '{"step": 13, "lo')
    make_run(out, "begun", record_json=record)
    (out / "runs.json").write_text(json.dumps({"steps": 100, "runs": ["done", "to-come", "trains"]}))
    (out / ".lock.holder").write_text("process 7 on node1 since 2026-11-28 09:00:00\n")
    return out


def states(studies):
    return {run.run: run.state for each in studies for run in each.runs}


def test_every_state_is_read_from_the_files(study):
    (found,) = read_status(study, 300, NOW)
    assert states([found]) == {
        "done": "finished",
        "to-come": "waiting",
        "trains": "training",
        "begun": "waiting",
        "broke": "failed",
        "evaluates": "evaluating",
        "hangs": "stalled",
        "old-done": "finished",
        "old-trains": "training",
        "silent": "stalled",
        "tried-again": "training",
        "waits-for-evaluation": "evaluating",
        "was-stopped": "stopped",
    }
    # In the order of the study, then by name.
    assert [run.run for run in found.runs][:4] == ["done", "to-come", "trains", "begun"]
    runs = {run.run: run for run in found.runs}
    trains = runs["trains"]
    assert (trains.step, trains.steps, trains.host, trains.age) == (25, 100, "node1", 2)
    # 75 steps of 32 images at 80 images a second.
    assert trains.seconds_left == 30
    assert runs["broke"].remark == "NonFiniteError: Step 7 gave nan."
    assert runs["evaluates"].remark == "mnist: linear 3 of 8"
    assert runs["silent"].remark == "was training"
    assert (runs["old-trains"].step, runs["old-trains"].steps) == (12, 100)
    # Steps to go: 75, 60 stopped, 94 twice, 50, 40, 88, and 100 of each that waits; at 75 steps in 30 s.
    left = 75 + 60 + 94 + 94 + 50 + 40 + 88 + 100 + 100
    assert found.seconds_left == pytest.approx(left / 2.5)
    assert "13 runs: 2 finished, 2 waiting, 2 evaluating, 3 training, 1 stopped, 2 stalled, 1 failed" in found.summary()
    assert "last command: process 7 on node1" in found.summary()
    assert states(read_status(study, 302, NOW))["silent"] == "training"


def test_nothing_is_written_and_a_folder_of_studies_is_read(study):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in study.rglob("*") if path.is_file()}
    make_run(study.parent / "other", "alone", {"state": "finished", "step": 100})
    (study.parent / "no-study").mkdir()
    studies = read_status(study.parent, 300, NOW)
    assert [each.folder.name for each in studies] == ["other", "study"]
    lines = plain_text(studies)
    assert lines[0].split()[:3] == ["study", "run", "state"]
    # What needs attention comes first.
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["study", "broke", "failed"],
        ["study", "hangs", "stalled"],
        ["study", "silent", "stalled"],
    ]
    assert plain_text(studies, 2)[-1] == "and 12 more"
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    values = as_json(studies)
    assert json.loads(json.dumps(values)) == values
    assert values[1]["runs"][2]["seconds_left"] == 30


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_a_folder_without_studies_is_refused(make, tmp_path):
    make(tmp_path / "here")
    with pytest.raises(ValueError, match=r"here (is not a folder|holds no study)"):
        read_status(tmp_path / "here", 300, NOW)


HOSTILE = [
    "",
    "{",
    '{"state": "trai',
    "[]",
    "null",
    "3",
    "[" * 100_000,
    '{"state": ["training"], "step": {}, "steps": "many", "time": "now", "host": {"a": 1}}',
    '{"state": "training", "step": -1, "steps": 1e999, "time": NaN, "samples_per_second": Infinity}',
    '{"state": "training", "step": 1e30, "steps": true, "time": 1e400}',
    '{"state": "training", "step": 5, "steps": 3, "batch_size": 0, "samples_per_second": 0, "time": 1.8e9}',
    '{"state": "training", "step": 5, "steps": 3, "batch_size": 9, "samples_per_second": 1e-300, "time": 1.8e9}',
    '{"state": "training", "step": ' + "9" * 5000 + "}",
    '{"state": "<script>alert(1)</script>", "time": 1.8e9, "host": "\\u001b[2J<b>&\\u202e", "step": 1, "steps": 2}',
    '{"host": "' + "x" * 1_000_000 + '", "time": 1.8e9}',
    "\udcff\udcfe".encode("utf-8", "surrogateescape").decode("latin-1"),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", ["progress.json", "failed.json", "record.json", "metrics.jsonl", "runs.json", ".lock.holder"])
def test_hostile_and_half_written_content_is_shown_as_it_is_or_ignored(name, content, tmp_path):
    folder = make_run(tmp_path, "run", metrics_jsonl='{"step": 3}\n')
    path = (folder if name.endswith(("s.json", "d.json", "l")) and name != "runs.json" else tmp_path) / name
    path.write_text(content)
    studies = read_status(tmp_path, 300, NOW)
    assert [run.run for run in studies[0].runs] == ["run"]
    page = status_page(studies, 5)
    text = "\n".join([studies[0].summary(), *plain_text(studies), json.dumps(as_json(studies), allow_nan=False)])
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "\x1b" not in page + text
    assert "\u202e" not in page + text
    assert len(text) < 10_000


def test_links_pipes_and_names_lead_nowhere(tmp_path):
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "progress.json").write_text('{"state": "finished", "host": "secret"}')
    out = tmp_path / "results/study"
    folder = make_run(out, "run")
    (folder / "progress.json").symlink_to(secret / "progress.json")
    # Opening a pipe would wait for a writer.
    os.mkfifo(folder / "failed.json")
    (folder / "metrics.jsonl").mkdir()
    (out / "runs/linked").symlink_to(secret)
    (tmp_path / "results/other").symlink_to(tmp_path / "results/study")
    names = ["../../outside", "/etc", "run", 3, None, "<img src=x onerror=alert(1)>\x1b[31m"]
    (out / "runs.json").write_text(json.dumps({"runs": names, "steps": 5}))
    studies = read_status(tmp_path / "results", 300, NOW)
    assert len(studies) == 1
    page = status_page(studies, 5)
    for shown in ("\n".join(plain_text(studies)), page):
        assert "secret" not in shown
        assert "\x1b" not in shown
    assert "<img" not in page
    found = states(studies)
    assert found.pop("<img src=x onerror=alert(1)> [31m") == "waiting"
    assert found == {"run": "waiting", "../../outside": "waiting", "/etc": "waiting"}


def test_a_page_reloads_itself_and_loads_nothing(study):
    page = status_page(read_status(study, 300, NOW), 7)
    assert '<meta http-equiv="refresh" content="7">' in page
    assert "NonFiniteError: Step 7 gave nan." in page
    assert "http://" not in page
    assert "https://" not in page


def test_times_are_brief():
    assert [brief(each) for each in (0, 89.4, 90, 5399, 5400, 172_799, 172_800)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "48.0 h",
        "2.0 d",
    ]


def test_a_thousand_runs_are_listed_at_once(tmp_path):
    for i in range(1000):
        folder = tmp_path / "runs" / f"run{i}"
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text(
            json.dumps({"state": "finished", "step": 9, "steps": 9, "time": NOW, "host": "n"})
        )
    started = time.process_time()
    assert len(plain_text(read_status(tmp_path, 300, NOW))) == 1001
    # Ten thousand take 0.6 s on one core of 2024.
    assert time.process_time() - started < 0.5


def test_the_command_prints_plain_text_and_writes_a_page(study, tmp_path):
    page = tmp_path / "pages" / "status.html"
    command = [
        sys.executable,
        "-m",
        "tools.status",
        str(study),
        f"--html={page}",
        "--stalled_after=1000000000",
        "--watch=false",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{study}: 13 runs: ")
    assert "\x1b" not in done.stdout
    assert "broke" in page.read_text()
    assert not (study / ERROR_LOG).exists()
