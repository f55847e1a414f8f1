"""The benchmark's lines, at a size that says nothing about speed."""

import json
import subprocess
import sys

import pytest


def bench(*flags):
    command = [sys.executable, "-m", "tools.bench", "--repeats=1", "--steps=1", "--batch_size=8", *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_step_benchmark_counts_time_and_flops():
    done = bench("--what=step", "--method=byol", "--image_size=16")
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["method"], line["encoder"], line["batch"]) == ("byol", "patch_mlp", 8)
    assert line["samples_per_s"] == pytest.approx(8e3 / line["step_ms"], rel=0.02)
    assert line["views_per_s"] == pytest.approx(2 * line["samples_per_s"], rel=0.02)
    assert line["conv_remedy_speedup"] > 0
    # Each of two views passes encoder and projector forwards and backwards, the target's forwards: at least eight times the
    # products of one pass through the projector, 2 * (256 * 4096 + 4096 * 256) FLOPs.
    assert line["mflops_per_sample"] > 8 * 4.2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--method=all,", "flag --method=all,: value should be one of <all|simclr|"),
        ("--encoder=resnet", "flag --encoder=resnet: value should be one of <patch_mlp|"),
    ],
)
def test_unknown_names_are_refused(flag, message):
    done = bench("--what=step", flag)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
