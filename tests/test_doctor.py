"""The doctor passes on a sound machine, and every kind of fault that is injected here becomes `failed`."""

import dataclasses
import json
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslshift.doctor import distances, evaluations, finetuning, machine, speed, training
from sslshift.doctor.arithmetic import product_finding
from sslshift.doctor.findings import Finding, agreement, chosen, examined
from sslshift.methods import METHODS
from sslshift.shift import DISTANCES
from sslshift.training.checkpoints import Checkpoints
from sslshift.transfer.protocol import EVALUATIONS


def doctor(*flags):
    return subprocess.run([sys.executable, "-m", "tools.doctor", *flags], capture_output=True, text=True)


def examine(checks, name, folder):
    """The finding of one check, as the command gets it."""
    ((_, finding),) = examined({name: checks[name]}, folder)
    return finding


def test_a_sound_machine_passes_all_that_takes_no_training(tmp_path):
    out = tmp_path / "findings.json"
    done = doctor(
        "--only=machine/*,device/*,shift/*,evaluate/knn,evaluate/linear,evaluate/few_shot,evaluate/sgd", f"--json={out}"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    # Another test may occupy the cores, and the tests compile without optimisations.
    maybe_slow = {name for name in found if found[name]["verdict"] == "slow"}
    assert maybe_slow <= {"machine/cores", "machine/settings", "machine/devices"}
    assert {found[name]["verdict"] for name in found.keys() - maybe_slow} == {"pass"}
    assert "jax " in found["machine/versions"]["figure"]
    assert all(name in done.stdout for name in found)
    assert f"{len(found)} of {len(found)}: evaluate/sgd pass" in done.stderr


def test_every_method_evaluation_and_distance_has_a_check():
    expected = {f"train/{name}" for name in METHODS} | {f"evaluate/{name}" for name in EVALUATIONS}
    expected |= {f"shift/{name}" for name in (*DISTANCES, *distances.SCORES)}
    rooms = (training, evaluations, finetuning, distances)
    assert expected == {name for room in rooms for name in room.CHECKS}


@pytest.mark.slow
def test_the_whole_doctor_passes(tmp_path):
    done = doctor(f"--out={tmp_path}", f"--json={tmp_path / 'findings.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "findings.json").read_text())
    assert all(found[f"train/{name}"]["figure"].endswith("resumed to the same bits") for name in METHODS)
    assert "of a matrix product" in found["speed/step"]["figure"]
    assert [path.name for path in tmp_path.iterdir()] == ["findings.json"]


def test_a_folder_that_cannot_be_written_fails_its_check_alone(tmp_path):
    file = tmp_path / "results"
    file.write_text("a file in the place of the folder")
    done = doctor(f"--out={file}", "--only=machine/folder,machine/versions")
    assert done.returncode == 1
    assert "1 pass, 0 slow, 1 failed" in done.stdout
    assert "NotADirectoryError" in done.stdout
    assert "\nError: 1 of 2 checks failed.\n" in done.stderr


def test_checks_are_chosen_by_pattern_and_a_name_that_matches_none_is_refused():
    checks = distances.CHECKS | evaluations.CHECKS
    assert list(chosen(checks, ["evaluate/knn", "shift/kernel*"])) == ["shift/kernel", "shift/kernel_root", "evaluate/knn"]
    with pytest.raises(ValueError, match="--only: expected names or patterns of checks such as train/\\*, got 'shift/fid'"):
        chosen(checks, ["shift/*", "shift/fid"])


def test_a_loss_that_is_not_finite_fails(monkeypatch, tmp_path):
    sound = training.training_of("simclr")
    method = sound.method

    def loss(*given):
        value, output = method.loss(*given)
        return value * jnp.float32(np.nan), output

    faulty = dataclasses.replace(sound, method=dataclasses.replace(method, loss=loss))
    monkeypatch.setattr(training, "training_of", lambda name: faulty)
    finding = examine(training.CHECKS, "train/simclr", tmp_path)
    assert finding.verdict == "failed"
    assert finding.figure.startswith("NonFiniteError: Step 1 of ")
    assert "NonFiniteError" in finding.details
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("slope", "verdict"), [(-0.01, "pass"), (0.01, "failed"), (0.0, "failed")])
def test_a_loss_that_does_not_fall_fails(slope, verdict, monkeypatch, tmp_path):
    def train(given, reader, seed, folder, on_step):
        first = 11 if folder.exists() else 1
        folder.mkdir(exist_ok=True)
        for step in range(first, training.STEPS + 1):
            on_step(step, {"loss": 3 + slope * step})
        return np.zeros(2)

    monkeypatch.setattr(training, "train", train)
    finding = examine(training.CHECKS, "train/simclr", tmp_path)
    assert finding.verdict == verdict
    assert ("The loss does not fall" in finding.advice) == (verdict == "failed")


def test_a_checkpoint_that_loses_bits_fails(monkeypatch, tmp_path):
    restore = Checkpoints.restore

    def damaged(self, like):
        return jax.tree.map(lambda x: x + x.dtype.type(1e-3), restore(self, like))

    assert examine(training.CHECKS, "train/simclr", tmp_path).figure.endswith("resumed to the same bits")
    monkeypatch.setattr(Checkpoints, "restore", damaged)
    finding = examine(training.CHECKS, "train/simclr", tmp_path)
    assert finding.verdict == "failed"
    assert "resumed within" in finding.figure


def test_on_a_gpu_a_run_resumed_to_other_bits_gets_the_flag_of_xla(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delenv("XLA_FLAGS")
    near, far = (training.inexact_resumption("loss 2 to 1", difference) for difference in (1e-4, 0.2))
    assert (near.verdict, far.verdict) == ("pass", "failed")
    assert "XLA_FLAGS=--xla_gpu_deterministic_ops=true" in near.advice
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert training.inexact_resumption("loss 2 to 1", 1e-4).verdict == "failed"


@pytest.mark.parametrize("name", ["kernel", "rbf_mmd", "proxy_a"])
def test_a_distance_that_is_wrong_fails(name, monkeypatch, tmp_path):
    right = DISTANCES[name]
    wrong = right._replace(bind=lambda key, pool: lambda x, y: 1.2 * right.bind(key, pool)(x, y))
    monkeypatch.setitem(DISTANCES, name, wrong)
    assert examine(distances.CHECKS, f"shift/{name}", tmp_path).verdict == "failed"


@pytest.mark.parametrize("name", list(distances.SCORES))
def test_a_score_that_is_wrong_fails(name, monkeypatch, tmp_path):
    score, expected = distances.SCORES[name]
    monkeypatch.setitem(distances.SCORES, name, (lambda x, y: score(x[1:], y), expected))
    assert examine(distances.CHECKS, f"shift/{name}", tmp_path).verdict == "failed"


@pytest.mark.parametrize("name", ["knn", "linear", "few_shot", "sgd"])
def test_features_that_lose_digits_fail_their_evaluation(name, monkeypatch, tmp_path):
    evaluation = EVALUATIONS[name]
    right = type(evaluation).__call__

    def rounded(self, splits, metric):
        train = splits.train._replace(features=np.float32(np.round(splits.train.features, 0)))
        return right(self, splits._replace(train=train), metric)

    monkeypatch.setattr(type(evaluation), "__call__", rounded)
    assert examine(evaluations.CHECKS, f"evaluate/{name}", tmp_path).verdict == "failed"


def test_the_neighbours_of_the_check_are_far_from_ties():
    train, _, test, _ = evaluations.clusters()
    x, y = (each.features.astype(np.float64) for each in (train, test))
    cosine = np.sort((y / np.linalg.norm(y, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T, axis=1)
    gaps = cosine[:, -evaluations.NEIGHBOURS] - cosine[:, -evaluations.NEIGHBOURS - 1]
    assert gaps.min() > 1e-5


def test_a_product_of_rounded_factors_passes_with_advice():
    x, y = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    expected = x.astype(np.float64) @ y
    exact = product_finding(x @ y, expected)
    rounded = product_finding(np.float32(jnp.bfloat16(x)) @ np.float32(jnp.bfloat16(y)), expected)
    assert (exact.verdict, exact.advice) == ("pass", "")
    assert rounded.verdict == "pass"
    assert "JAX_DEFAULT_MATMUL_PRECISION=highest" in rounded.advice
    assert product_finding(x @ y.T, expected).verdict == "failed"


def test_agreement_by_hand():
    assert agreement([1.0, 4.04], [1.0, 4.0], 0.011).figure == "error 1e-02, allowed 1e-02"
    assert agreement([1.0, 4.04], [1.0, 4.0], 0.009).verdict == "failed"
    assert agreement([1.0, np.nan], [1.0, 4.0], 1.0).verdict == "failed"
    with pytest.raises(ValueError, match=r"Expected values of shape \(2,\) as from NumPy, got shape \(1,\)"):
        agreement([1.0], [1.0, 2.0], 1.0)


def test_a_device_that_jax_does_not_use_is_slow(monkeypatch, tmp_path):
    driver = tmp_path / "nvidiactl"
    driver.touch()
    monkeypatch.setattr(machine, "_DRIVERS", {str(driver): "an NVIDIA GPU"})
    finding = machine.check_devices(tmp_path)
    assert (finding.verdict, finding.figure) == ("slow", f"{jax.device_count()} x cpu (cpu)")
    assert "an NVIDIA GPU that JAX does not use" in finding.advice


def test_a_machine_without_a_compilation_cache_is_slow(monkeypatch, tmp_path):
    assert machine.check_cache(tmp_path).verdict == "pass"
    monkeypatch.setattr(machine.jax, "config", types.SimpleNamespace(jax_compilation_cache_dir=None))
    assert machine.check_cache(tmp_path).verdict == "slow"


def test_settings_that_find_errors_are_slow(tmp_path):
    with jax.debug_nans(True):
        assert "jax_debug_nans" in machine.check_settings(tmp_path).advice


def test_a_full_disk_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1 << 30}))
    assert machine.check_folder(tmp_path).verdict == "failed"


@pytest.mark.parametrize(
    ("share", "pipeline", "verdict", "advice"),
    [(0.5, 3.0, "pass", ""), (0.05, 3.0, "slow", "End other work"), (0.5, 0.5, "slow", "The device would wait for images")],
)
def test_speed_by_share_and_pipeline(share, pipeline, verdict, advice):
    finding = speed.speed_finding("", share, pipeline)
    assert finding.verdict == verdict
    assert finding.advice.startswith(advice)


def test_checks_beside_each_other_keep_their_order_and_speed_runs_alone(tmp_path):
    running = []

    def check(name):
        def run(folder):
            running.append(name)
            time.sleep(0.05 if name == "first" else 0.0)
            beside = len(running) - 1
            running.remove(name)
            return Finding("pass", f"{beside} beside")

        return run

    names = ("first", "speed/step", "second", "third")
    found = dict(examined({name: check(name) for name in names}, tmp_path, threads=2))
    assert list(found) == ["first", "second", "third", "speed/step"]
    assert found["second"].figure == "1 beside"
    assert found["speed/step"].figure == "0 beside"
