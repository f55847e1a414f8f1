"""The command that shows a plan before anything is trained."""

import csv
import subprocess
import sys

import pytest


def plan_samples(*flags):
    return subprocess.run([sys.executable, "-m", "tools.plan_samples", *flags], capture_output=True, text=True)


def test_command_shows_audits_and_writes_a_plan(tmp_path):
    file = tmp_path / "new" / "plan.csv"
    done = plan_samples(
        "--budget=100_000",
        f"--csv={file}",
        "--mixture=near:bundled:mnist?cost_per_image=0.5@1000/balanced for 30%; near@2000/balanced -> web:synthetic:noise<=40%",
    )
    assert done.returncode == 0, done.stderr
    assert "near = bundled:mnist?cost_per_image=0.5: 4,000 images" in done.stdout
    assert "390 steps of 256 and 160 samples, which training does not use" in done.stdout
    assert done.stdout.count("as planned") == 3
    with file.open() as lines:
        rows = {(row["stage"], row["source"]): row for row in csv.DictReader(lines)}
    assert list(rows) == [("1", "near"), ("2", "near"), ("2", "web"), ("all", "near"), ("all", "web"), ("total", "")]
    near = rows["all", "near"]
    web = rows["2", "web"]
    total = rows["total", ""]
    # 30,000 + 35,000 samples of 2,000 images; the 1,000 of the first stage are among them.
    assert (near["unique"], near["samples"], float(near["epochs"]), float(near["cost"])) == ("2000", "65000", 32.5, 1000)
    assert (web["unique"], web["samples"], float(web["share"]), float(web["end_share"])) == ("20000", "35000", 0, 1)
    assert (total["unique"], total["samples"], float(total["diversity"]), float(total["cost"])) == (
        "22000",
        "100000",
        0.22,
        1000,
    )
    assert (web["licence"], web["uri"], rows["all", "web"]["cap"]) == ("CC0-1.0 (generated)", "synthetic:noise", "0.4")


def test_command_samples_what_is_too_large_to_recount():
    done = plan_samples("--budget=1_000_000_000", "--mixture=synthetic:noise?size=500 + big:synthetic:noise?size=9_000_000_000")
    assert done.returncode == 0, done.stderr
    assert "16 random stretches of 500,000 samples, 0.8% of the budget" in done.stdout
    assert done.stdout.count("as planned") == 2


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (
            ["--mixture=bundled:mnist@5000"],
            1,
            "bundled:mnist: expected 1 to 4,000 unique samples, since the source has 4,000 images, got 5,000",
        ),
        (
            ["--mixture=bundled:mnist*2x"],
            1,
            "Mixture, at 'bundled:mnist*2x': expected a share such as *0.7, *70% or *140_000, got '2x'",
        ),
        (["--mixture=synthetic:noise@5/balanced"], 1, "needs labels, and this source has none"),
        (["--mixture=bundled:mnist*0.9 + synthetic:noise*0.1<=5%"], 1, "5 points more than its cap of 5%"),
        (["--mixture=bundled:mnist", "--bugdet=3"], 2, "Did you mean: budget"),
    ],
)
def test_command_says_in_a_sentence_what_is_wrong(flags, code, message):
    done = plan_samples("--budget=10_000", *flags)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
