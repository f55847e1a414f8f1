"""How a study is run: its order, its results table, failures, kills by two processes, extensions, and what it would take."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslshift.models import ENCODERS, ResNet
from sslshift.reporting.ledger import LedgerError, read_ledger
from sslshift.shards import LOCK, occupied
from sslshift.storage import NotStoredError, Store
from sslshift.study import cli, cost, evaluate, runner
from sslshift.study import ledger as ledger_module
from sslshift.study.analysis import Analysis
from sslshift.study.cost import slow_note
from sslshift.study.declare import Study
from sslshift.study.opened import open_study
from sslshift.study.progress import Progress, TimeLeft
from sslshift.study.report.page import baseline_notes
from sslshift.study.results import run_folder
from sslshift.training import programs
from sslshift.training.guards import NonFiniteError
from sslshift.training.loop import initial_state
from sslshift.transfer.scores import EvaluationScore, TaskScores, evaluate_stored

TINY = Study(
    sources="bundled:mnist@40,60",
    downstream="bundled:mnist",
    downstream_test="bundled:mnist/test",
    evaluations="linear",
    labelled=60,
    untrained_seeds=1,
    budget=64,
    batch_size=32,
    seeds=1,
    head="16,8",
    optimiser="adamw",
    learning_rate=1e-3,
    shift_images=0,
)


def table(out):
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def runs(out):
    return [row for row in table(out) if row["kind"] == "run"]


def finished_at(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}


@pytest.fixture
def unreported(monkeypatch):
    """No figures and no page, which take longer than such small studies."""
    monkeypatch.setattr(cli, "_report", lambda results, progress, command, timings: None)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("runner") / "out"
    study = dataclasses.replace(TINY, out=str(out))
    cli.run(study)
    return study, out


@pytest.fixture
def copied(done, tmp_path):
    """That study in a folder that may be damaged, and the folder of one of its runs."""
    study, out = done
    shutil.copytree(out, tmp_path / "out")
    (folder,) = (tmp_path / "out/runs").glob("mnist-*-simclr-*n40-d0-s0")
    return dataclasses.replace(study, out=str(tmp_path / "out")), folder


def test_every_kind_comes_once_before_the_second_seed_the_cheapest_first():
    study = dataclasses.replace(TINY, for_method=("mae: encoder=vit_nano4; decoder_depth=1",), seeds=2)
    opened = open_study(dataclasses.replace(study, method="simclr,mae"))
    order = [(run.seed, run.method, run.unique) for run in opened.runs]
    assert [seed for seed, *_ in order] == [0] * 4 + [1] * 4
    assert order[:4] == [(0, "simclr", 40), (0, "simclr", 60), (0, "mae", 40), (0, "mae", 60)]
    assert opened.weights["mae", "vit_nano4"] > opened.weights["simclr", "patch_mlp"]
    # Declared in the other order, the reference changes, the order of runs does not.
    other = open_study(dataclasses.replace(study, method="mae,simclr"))
    assert (other.reference.key, other.runs) == (("mae", "vit_nano4"), opened.runs)


def test_both_files_of_the_table_hold_the_same_rows(done):
    _, out = done
    rows = table(out)
    parquet = pq.read_table(out / "results.parquet").to_pylist()
    assert [row["source"] for row in rows] == ["raw pixels", "untrained encoder", "bundled:mnist", "bundled:mnist"]
    assert [row["fingerprint"] for row in rows] == [row["fingerprint"] for row in parquet]
    for text, typed in zip(rows, parquet, strict=True):
        assert float(text["linear"]) == typed["linear"]
        assert text["digest"] == typed["digest"]
    assert [row["unique"] for row in parquet[2:]] == [40, 60]
    assert len(read_ledger(out)) == 4


@pytest.mark.slow
def test_extending_a_study_repeats_nothing(done, unreported):
    study, out = done
    before = finished_at(out)
    rows = table(out)
    more = dataclasses.replace(
        study,
        sources="bundled:mnist@40,60; synthetic:noise?size=80@50",
        method="simclr,byol",
        for_method=("byol: predictor=16",),
        task=("again = bundled:mnist; test=bundled:mnist/test; metric=macro_f1; labelled=50",),
        evaluations="knn,linear",
        seeds=2,
    )
    cli.run(more)
    assert {path: time for path, time in finished_at(out).items() if path in before} == before
    trained = [path for path in (out / "runs").glob("*/result.json") if path not in before]
    assert len(trained) == 3 * 2 * 2 - 2
    # Rows that were there are there as they were, with empty cells for what is new.
    now = table(out)
    assert [{name: row[name] for name in rows[0]} for row in now[: len(rows)]] == rows
    assert len({row["fingerprint"] for row in now}) == len(now)
    assert {row["task"] for row in now} == {"bundled:mnist", "again"}
    # SimCLR and BYOL start from the same weights of the same encoder: judged once a seed.
    assert len(list((out / "floors").glob("untrained-*"))) == 2
    before = (out / "results.csv").read_bytes()
    cli.run(more)
    assert (out / "results.csv").read_bytes() == before


def test_an_edited_row_is_named_and_neither_used_nor_overwritten(done, unreported):
    study, out = done
    lines = (out / "results.csv").read_text().splitlines(keepends=True)
    before = (out / "results.csv").read_bytes()
    cells = lines[3].split(",")
    column = lines[0].split(",").index("linear")
    cells[column] = "0.99"
    (out / "results.csv").write_text("".join([*lines[:3], ",".join(cells), *lines[4:]]))
    edited = (out / "results.csv").read_bytes()
    with pytest.raises(
        LedgerError, match=r"results.csv, line 4 \(simclr on patch_mlp, .*seed 0.*\) was edited.* Delete that row"
    ):
        cli.run(study)
    assert (out / "results.csv").read_bytes() == edited
    (out / "results.csv").write_text("".join([*lines[:3], *lines[4:]]))
    cli.run(study)
    assert (out / "results.csv").read_bytes() == before
    # All of it comes back, from the other file or from the runs' folders.
    (out / "results.parquet").unlink()
    cli.run(study)
    assert len(pq.read_table(out / "results.parquet")) == len(lines) - 1


def test_runs_of_another_budget_are_refused(done):
    study, _ = done
    other = dataclasses.replace(study, budget=96)
    for command in (cli.run, cli.report_only):
        with pytest.raises(LedgerError, match="at a budget of C = 64 samples, and this study has C = 96"):
            command(other)


def test_a_failed_run_is_recorded_told_and_tried_again(tmp_path, monkeypatch, capsys):
    study = dataclasses.replace(TINY, seeds=2, out=str(tmp_path))
    train = runner.train

    def failing(training, reader, seed, folder, *args, **kwargs):
        if "n40" in folder.name and seed == 0:
            raise NonFiniteError("Step 2 gave nan.")
        return train(training, reader, seed, folder, *args, **kwargs)

    monkeypatch.setattr(runner, "train", failing)
    with pytest.raises(RuntimeError, match=r"1 of 4 runs failed, the first was mnist N=40 seed 0: NonFiniteError: Step 2"):
        cli.run(study)
    assert (tmp_path / "report.html").exists()
    opened = open_study(study)
    folder = run_folder(opened, opened.runs[0])
    assert json.loads((folder / "failed.json").read_text())["error"] == "NonFiniteError"
    assert "Traceback" in (folder / "error.log").read_text()
    results = runner.read_results(opened)
    assert results.failed == ((opened.runs[0], "NonFiniteError: Step 2 gave nan."),)
    assert [each.run for each in results.runs] == list(opened.runs[1:])
    assert len(runs(tmp_path)) == 3
    cli.report_only(dataclasses.replace(study, seeds=3))
    told = capsys.readouterr().out
    assert "1 of 6 runs failed: mnist N=40 seed 0" in told
    assert "2 of 6 runs not there yet: mnist N=40 seed 2; mnist N=60 seed 2" in told
    monkeypatch.setattr(runner, "train", train)
    before = finished_at(tmp_path)
    cli.run(study)
    assert not (folder / "failed.json").exists()
    assert {path: time for path, time in finished_at(tmp_path).items() if path in before} == before
    assert len(runs(tmp_path)) == 4


def test_a_full_disk_and_an_interrupt_stop_the_study(tmp_path, monkeypatch):
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(runner, "train", fail)
        with pytest.raises(type(error)):
            cli.run(dataclasses.replace(TINY, out=str(tmp_path)))
        assert not list(tmp_path.glob("runs/*/failed.json"))


def test_a_full_disk_is_told_with_its_folder(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "search_leaks", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        cli.run(dataclasses.replace(TINY, out=str(tmp_path)))


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ("result.json", r"result.json cannot be read \(.*\); delete it, and the same command makes it again"),
        ("record.json", r"record.json cannot be read \(.*\); delete it, and the same command makes it again"),
        (
            "tasks/mnist-*-linear-*/predictions.npz",
            r"The predictions in .* cannot be read\. Delete that folder, and the same command evaluates",
        ),
    ],
)
def test_damaged_files_are_named_with_what_mends_them(copied, damaged, told):
    study, folder = copied
    (path,) = folder.glob(damaged)
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(ValueError, match=told):
        # Predictions are read by those who report.
        _ = Analysis(runner.read_results(open_study(study))).task.linear


def test_a_run_that_lost_its_encoder_says_so_when_it_is_needed(copied, unreported):
    study, folder = copied
    (folder / "encoder.safetensors").unlink()
    cli.run(study)
    with pytest.raises(RuntimeError, match=r"has lost its encoder.safetensors; delete that folder"):
        cli.run(dataclasses.replace(study, labelled=70))


def test_the_floor_of_a_resnet_has_its_residual_branches_on(monkeypatch, tmp_path):
    """Training starts with branches whose last scale is 0: as a floor that would be hardly a network."""
    monkeypatch.setitem(ENCODERS, "resnet_tiny", ResNet((1,), width=8, small_images=True))
    opened = open_study(dataclasses.replace(TINY, encoder="resnet_tiny,patch_mlp", out=str(tmp_path)))
    for learner, silent in zip(opened.learners, (True, False), strict=True):
        start = initial_state(learner.training, opened.reader(opened.equal_shares, 0, 0), 0).params["encoder"]
        floor = evaluate.untrained_encoder(opened, learner, 0).pretrained.variables["params"]
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), start, floor)
        names = {path[-1].key for path, each in jax.tree_util.tree_leaves_with_path(changed) if each}
        assert names == ({"scale"} if silent else set())
        assert all((leaf == 1).all() for path, leaf in jax.tree_util.tree_leaves_with_path(floor) if path[-1].key == "scale")
        # Whose floors are as they were have the same record as before.
        assert ("floor" in evaluate.untrained_record(learner, 0)) == silent
    (said,) = baseline_notes(opened)
    assert said.startswith("The untrained resnet_tiny is evaluated with its residual branches switched on")


def test_nothing_is_reported_where_no_run_is_finished(tmp_path):
    study = dataclasses.replace(TINY, out=str(tmp_path / "out"))
    with pytest.raises(NotStoredError, match="No run of this study is finished"):
        cli.report_only(study)
    assert not (tmp_path / "out").exists()


def test_reading_computes_and_writes_nothing(tmp_path):
    store = Store(read_only=True)
    opened = open_study(TINY)
    evaluations = opened.design.evaluations
    with pytest.raises(NotStoredError):
        evaluate_stored(store, lambda: pytest.fail("built"), opened.tasks, evaluations, "pooled", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_process_at_a_time_in_a_folder(tmp_path):
    hold = (
        "import pathlib; from sslshift.shards import occupied\n"
        f"with occupied(pathlib.Path({str(tmp_path)!r}), None): print(1, flush=True); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        with pytest.raises(RuntimeError, match=rf"in use by process {other.pid} on \S+ since \d"), occupied(tmp_path, None):
            pass
    finally:
        other.kill()
        other.wait()
    with occupied(tmp_path, None):
        assert str(os.getpid()) in (tmp_path / f"{LOCK}.holder").read_text()


def test_a_dry_run_counts_measures_and_writes_nothing(done, tmp_path, capsys):
    study = dataclasses.replace(
        TINY,
        sources="bundled:mnist?cost_per_image=0.5@40,60",
        method="simclr,byol",
        for_method=("byol: predictor=16",),
        seeds=2,
        price_per_hour=3600.0,
        out=str(tmp_path / "out"),
    )
    cli.dry_run(study)
    told = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in told.splitlines() if line.split()[:1] in (["simclr"], ["byol"], ["all"])}
    assert lines["simclr"][2:5] == ["4", "4", "256"]
    assert lines["all"][1:4] == ["8", "8", "512"]
    assert float(lines["byol"][5]) > float(lines["simclr"][5]) > 1e7
    assert "Images cost 30.00, for the largest subset of each source: 60 of mnist at 30.00" in told
    assert not (tmp_path / "out").exists()
    # What is finished is not counted as missing.
    finished, _ = done
    cli.dry_run(finished)
    assert re.search(r"simclr +patch_mlp +2 +0 +128", capsys.readouterr().out)


def test_a_dry_run_of_a_large_encoder_measures_a_part_of_a_batch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(programs, "_SLOW", 1e5)
    monkeypatch.setattr(cost, "_LARGE", 10)
    study = dataclasses.replace(TINY, budget=1280, batch_size=64, out=str(tmp_path / "out"))
    cli.dry_run(study)
    assert "one was measured after compilation on 8 of its 64 images" in capsys.readouterr().out
    opened = open_study(study)
    assert slow_note(opened) == ""
    monkeypatch.setattr(cost, "_CORE", 1.0)
    assert re.match(r"Training patch_mlp takes about [\d,.]+ \w+ on this CPU, .*--encoder=vit_nano4", slow_note(opened))


def test_images_of_another_shape_than_the_encoder_takes_are_refused_before_training(tmp_path):
    study = dataclasses.replace(TINY, encoder="vit_s16", image_size=30, out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="30 x 30 cannot be cut into patches of 16"):
        cli.run(study)
    assert not (tmp_path / "out").exists()


def test_a_task_of_another_shape_than_the_encoders_is_refused_before_training(tmp_path):
    """Unless a side is asked for: then its images are brought to it, and lost colours are told."""
    for label in ("a", "b"):
        (tmp_path / "parts" / label).mkdir(parents=True)
        for number in range(30):
            colour = (number * 8, 120, 90 if label == "a" else 200)
            Image.new("RGB", (40, 32), colour).save(tmp_path / "parts" / label / f"{number}.png")
    study = dataclasses.replace(TINY, task=(f"parts = folder:{tmp_path / 'parts'}",), out=str(tmp_path / "out"))
    message = "parts: images of the train split are 40 x 32 colour, but encoders take 28 x 28 gray as in --downstream"
    with pytest.raises(ValueError, match=message):
        cli.run(study)
    assert not (tmp_path / "out").exists()
    opened = open_study(dataclasses.replace(study, image_size=28))
    assert "colours of the test split are dropped, since encoders take 28 x 28 gray" in opened.tasks[1].notes


def test_time_left_is_scaled_to_kinds_that_were_not_timed():
    left = TimeLeft(["small"] * 3 + ["large"] * 2, {"small": 1.0, "large": 4.0})
    assert left.seconds is None
    left.done("small", 10.0)
    assert left.seconds == 2 * 10 + 2 * 40
    left.done("small", None)
    left.done("large", 60.0)
    assert left.seconds == 10 + 60


def test_progress_without_a_terminal_is_plain_lines(capsys):
    progress = Progress()
    with progress.study(1, ["a"], {"a": 1.0}), progress.training("1/1 run", 10) as work:
        work.on_step(1, {"loss": 0.5})
        progress.ended(1, 1, "a", 0.0)
    score = EvaluationScore(0.5, 0.4, 0.6, 0.5, {})
    progress.say_scores("run", TaskScores("accuracy", 10, 1.0, {"linear": score}, ()))
    assert capsys.readouterr().out.startswith("run: linear 50.0%   [1/1, 0 s]")


def test_scale_chooses_another_study_and_flags_still_win(tmp_path):
    flags = ("--scale=full", "--downstream=bundled:mist", f"--out={tmp_path / 'out'}")
    done = subprocess.run([sys.executable, "-m", "experiments.near_then_external", *flags], capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected one of fashion_mnist, mnist" in done.stderr
    assert (tmp_path / "out/error.log").exists()


def test_an_index_drawn_in_another_way_gets_a_further_row(done, monkeypatch):
    study, _ = done
    opened = open_study(dataclasses.replace(study, shift_images=50))
    before = ledger_module._shift_record(opened)
    monkeypatch.setattr(ledger_module, "DRAWN", "otherwise")
    assert ledger_module._shift_record(opened) != before
    without = ledger_module._shift_record(open_study(study))
    assert "drawn" not in without
