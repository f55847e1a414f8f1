"""The command `tools.evaluate` on finished encoders."""

import csv
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import sslshift
from sslshift.data import open_source
from sslshift.transfer.inference import holm
from sslshift.transfer.matrix import by_kind, find_encoders

# One device, as most users have.
ONE = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two sources with two seeds each."""
    out = tmp_path_factory.mktemp("study")
    flags = {
        "sources": "bundled:mnist@40; synthetic:noise?size=300@300",
        "downstream": "bundled:mnist",
        "downstream_test": "bundled:mnist/test",
        "task": "clothes = bundled:fashion_mnist; labelled=200; metric=macro_f1",
        "labelled": 200,
        "budget": 640,
        "batch_size": 64,
        "seeds": 2,
        "untrained_seeds": 2,
        "head": "32,16",
        "shift_images": 100,
        "online_every": 5,
        "out": out,
    }
    module = [sys.executable, "-m", "experiments.quickstart"]
    done = subprocess.run([*module, *(f"--{name}={value}" for name, value in flags.items())], capture_output=True, env=ONE)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder of digits in class folders: 0 against 1, easy, 60 of each; one file is broken."""
    root = tmp_path_factory.mktemp("parts")
    source = open_source("bundled:mnist")
    for digit in (0, 1):
        (root / f"class {digit}").mkdir()
        for number, index in enumerate(np.flatnonzero(source.labels == digit)[:60]):
            Image.fromarray(source[int(index)]["image"][..., 0]).save(root / f"class {digit}" / f"{number}.png")
    (root / "class 1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return root


def evaluate(out, *flags):
    command = [sys.executable, "-m", "tools.evaluate", f"--out={out}", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=ONE)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_study_evaluates_every_encoder_on_every_task(study):
    scores = table(study / "scores.csv")
    # Two sources and the untrained encoder with two seeds each, and pixels; two tasks; two evaluations.
    assert len(scores) == 7 * 2 * 2
    assert {(row["task"], row["metric"]) for row in scores} == {("bundled:mnist", "accuracy"), ("clothes", "macro_f1")}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in scores)
    page = (study / "report.html").read_text()
    for text in (
        "Every source on every",
        "clothes: macro F1 %",
        "clothes: no test split was named",
        "no difference shown",
    ):
        assert text in page
    (metrics,) = study.glob("runs/mnist*-s0/metrics.jsonl")
    assert "online_accuracy" in metrics.read_text().splitlines()[4]


def test_a_runs_encoder_travels_with_its_card(study, tmp_path):
    (folder,) = study.glob("runs/mnist*-d0-s0")
    encoder = sslshift.load_encoder(folder)
    apply, params = encoder
    images = open_source("bundled:mnist").read(np.arange(5), (28, 28, 1))
    assert apply(images).shape == (5, 256)
    card = encoder.card
    assert (card["method"]["name"], card["mixture"], card["budget"], card["unique"], card["seed"]) == (
        "simclr",
        "bundled:mnist",
        640,
        40,
        0,
    )
    assert card["diversity"] == 40 / 640
    assert card["sources"]["bundled:mnist"]["licence"].startswith("CC-BY-SA-3.0")
    assert card["shift"]["to"] == "bundled:mnist"
    assert card["shift"]["value"] < 0.5
    assert "jax" in card["versions"]
    file = sslshift.save_encoder(encoder, tmp_path / "digits.safetensors")
    shutil.copy(file, tmp_path / "moved.safetensors")
    moved = sslshift.load_encoder(tmp_path / "moved.safetensors")
    np.testing.assert_array_equal(moved.apply(images, params), apply(images))
    assert moved.card == card


def test_any_run_on_any_folder(study, parts, tmp_path):
    out = tmp_path / "out"
    flags = (f"--run={study}", f"--task=parts = folder:{parts}", "--evaluations=knn,linear,few_shot")
    done = evaluate(out, *flags)
    assert done.returncode == 0, done.stderr
    assert "parts: 77 train, 19 validation, 24 test images, 2 classes, accuracy" in done.stdout
    assert "1 file is refused and not counted" in done.stdout
    scores = table(out / "scores.csv")
    kinds = {row["encoder"] for row in scores}
    assert kinds == {"bundled:mnist N=40", "synthetic:noise?size=300 N=300", "untrained patch_mlp", "raw pixels"}
    linear = {row["encoder"]: float(row["value"]) for row in scores if row["evaluation"] == "linear"}
    assert min(linear.values()) > 0.8
    assert {row["evaluation"] for row in scores} == {"knn", "linear", "few_shot_1", "few_shot_5", "few_shot_10"}
    assert "50" in next(line for line in done.stdout.splitlines() if line.startswith("- parts: few_shot_50"))
    compared = table(out / "comparisons.csv")
    assert {row["verdict"] for row in compared} <= {"better", "worse", "no difference shown"}
    # Verdicts are those after the correction for all comparisons of all evaluations.
    p_values = [float(row["p"]) for row in compared]
    assert [float(row["adjusted_p"]) for row in compared] == pytest.approx(holm(p_values).tolist())
    assert all((row["verdict"] == "no difference shown") == (float(row["adjusted_p"]) >= 0.05) for row in compared)
    assert f"- Verdicts are corrected for all {len(compared)} comparisons (Holm)." in done.stdout
    pair = next(line for line in done.stdout.splitlines() if line.startswith("- parts: bundled:mnist N=40 against raw pixels"))
    for evaluation in ("the linear probe", "kNN", "1-shot probes", "5-shot probes", "10-shot probes"):
        assert f"by {evaluation} " in pair
    assert ("bundled:mnist N=40", "raw pixels") in {(row["encoder"], row["against"]) for row in compared}
    # Once more: everything is there, and the same.
    files = {name: (out / name).read_bytes() for name in ("scores.csv", "comparisons.csv", "table.md")}
    times = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert evaluate(out, *flags).returncode == 0
    assert {name: (out / name).read_bytes() for name in files} == files
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == times


def test_one_encoder_file_without_baselines(study, parts, tmp_path):
    (folder,) = study.glob("runs/mnist*-d0-s0")
    done = evaluate(
        tmp_path / "out",
        f"--run={folder / 'encoder.safetensors'}",
        f"--task=folder:{parts}; metric=macro_f1",
        "--nofloors",
        "--features=map",
        "--evaluations=knn",
    )
    assert done.returncode == 0, done.stderr
    (row,) = table(tmp_path / "out" / "scores.csv")
    assert (row["encoder"], row["metric"], row["evaluation"]) == ("bundled:mnist N=40", "macro_f1", "knn")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--run=/no/such", "--task=bundled:mnist"], 1, "There is no run folder or file /no/such"),
        (["--task=bundled:mnist"], 2, "run"),
        (["--run={run}", "--task=folder:{parts}/class 0"], 1, "labels=folder expects each image in a class folder"),
        (["--run={run}", "--task=bundled:mnist", "--task=bundled:mnist"], 1, "two tasks are called bundled:mnist"),
        (["--run={run}", "--task=bundled:mnist", "--image_size=32", "--nofloors"], 1, "Expected images of 28 x 28"),
        (["--run={run}", "--task=bundled:mnist", "--features=token", "--nofloors"], 1, "has no features 'token'"),
    ],
)
def test_user_errors_are_one_sentence(study, parts, tmp_path, flags, code, message):
    (run,) = study.glob("runs/mnist*-d0-s0")
    done = evaluate(tmp_path / "out", *(flag.format(run=run, parts=parts) for flag in flags))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_unfinished_runs_are_excluded_and_listed(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / "copy")
    runs = sorted(copy.glob("runs/*"))
    (runs[0] / "encoder.safetensors").unlink()
    files, unfinished = find_encoders([copy])
    assert unfinished == [runs[0]]
    assert find_encoders([copy.parent]) == (files, unfinished)
    assert [kind.name for kind in by_kind(files)] == ["bundled:mnist N=40", "synthetic:noise?size=300 N=300"]
    assert [len(kind.encoders) for kind in by_kind(files)] == [1, 2]
    for run_folder in runs[1:]:
        (run_folder / "encoder.safetensors").unlink()
    with pytest.raises(ValueError, match=r"None of the 4 runs in .* is finished"):
        find_encoders([copy])
