"""The whole of it, as typed: small studies in processes of their own, killed, repeated, and misused."""

import csv
import dataclasses
import html.parser
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tiny_studies import TINY, learner, tiny

from sslshift.data import open_source
from sslshift.reporting import environment
from sslshift.reporting.numbers import points
from sslshift.study import cli
from sslshift.study.declare import Study
from sslshift.training.journal import BrokenDataError


def command(out, *flags):
    return [sys.executable, "-m", "experiments.quickstart", *TINY, f"--out={out}", *flags]


def quickstart(out, *flags, **kwargs):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    return subprocess.run(command(out, *flags), capture_output=True, text=True, env=environment, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    done = quickstart(out)
    assert done.returncode == 0, done.stderr
    return out, done


def table(out):
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_results_hold_every_run_and_floor(finished):
    out, _ = finished
    rows = table(out)
    runs = [row for row in rows if row["kind"] == "run"]
    assert len(runs) == 6
    assert {row["budget"] for row in runs} == {"1280"}
    assert all(float(row["diversity"]) == pytest.approx(int(row["unique"]) / 1280, abs=1e-6) for row in runs)
    assert sorted(row["source"] for row in rows if row["kind"] == "floor") == ["raw pixels", *["untrained encoder"] * 2]
    assert all(0.1 < float(row["linear"]) <= 1 for row in rows)
    shift = {row["source"]: float(row["shift_index"]) for row in runs}
    assert shift["bundled:mnist"] < 0.2 < shift["synthetic:noise?size=300"]


def test_screen_shows_progress_table_and_findings(finished):
    out, done = finished
    assert "6 runs of 1,280 samples (20 steps of 64)" in done.stdout
    assert "[6/6" in done.stdout
    for text in ("shift index", "untrained encoder", "raw pixels", "gain over untrained", str(out / "report.html")):
        assert text in done.stdout
    assert any(verdict in done.stdout for verdict in ("better", "worse", "no difference shown"))


class Addresses(html.parser.HTMLParser):
    """Collects everything a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action") and value]


def test_report_is_whole_and_asks_for_nothing(finished):
    text = (finished[0] / "report.html").read_text()
    page = Addresses()
    page.feed(text)
    assert all(address.startswith(("data:", "#")) for address in page.found)
    assert "url(http" not in text
    assert "<script src" not in text
    assert "default-src 'none'" in text
    for part in ("<svg", "shift index", "bundled:mnist", "data:image/png;base64,"):
        assert part in text
    with Image.open(finished[0] / "figures/accuracy_vs_diversity.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 10


def test_the_last_line_the_folder_and_the_report_give_the_seconds_by_part(finished):
    out, done = finished
    parts = r"(start|compiling|training|evaluating|baselines|shift|leaks|opening|reporting|other) [\d.]+ s( \(\d+%\))?"
    assert re.fullmatch(rf"\d+ s: ({parts}(, )?){{6,}}; [\d,]+ samples/s", done.stderr.splitlines()[-1])
    timing = json.loads((out / "timing.json").read_text())["calls"][0]
    # Six runs, and four reference encoders of a quarter of the budget.
    assert timing["samples"] == 6 * 1280 + 4 * 320
    assert timing["compiled"] + timing["from_cache"] > 10
    assert sum(timing["parts"].values()) == pytest.approx(timing["seconds"], abs=0.01)
    assert timing["efficiency"] == pytest.approx(timing["parts"]["training"] / timing["seconds"], abs=1e-3)
    shown = (out / "tables/timing.md").read_text()
    assert f"| training | {timing['parts']['training']:,.1f} |" in shown
    assert "Where the time went" in (out / "report.html").read_text()


def test_repeated_command_computes_nothing_and_gives_the_same_files(finished):
    out, _ = finished
    before = {name: (out / name).read_bytes() for name in ("results.csv", "report.html")}
    times = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    again = quickstart(out)
    assert again.returncode == 0, again.stderr
    assert {name: (out / name).read_bytes() for name in before} == before
    calls = json.loads((out / "timing.json").read_text())["calls"]
    assert [call["samples"] for call in calls[:2]] == [6 * 1280 + 4 * 320, 0]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == times


@pytest.mark.slow
def test_study_killed_again_and_again_ends_with_the_same_numbers(finished, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    # Killed first within the reference run, then within the third run, by what is on disk.
    for sign in ("shift/reference-*/metrics.jsonl", "runs/*n300-d0-s0/checkpoints/5*"):
        process = subprocess.Popen(command(tmp_path), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "finished before it was killed"
        assert list(tmp_path.glob(sign))
    done = quickstart(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.csv").read_text() == (finished[0] / "results.csv").read_text()


def test_more_seeds_reuse_the_runs_that_are_there(finished, tmp_path):
    out, _ = finished
    more = quickstart(out, "--seeds=1")
    assert more.returncode == 0, more.stderr
    assert "3 runs of 1,280 samples" in more.stdout
    # Rows of the results table stay, whatever is asked for now.
    assert len([row for row in table(out) if row["kind"] == "run"]) == 6


def test_folder_of_another_configuration_is_refused_and_kept(finished):
    out, _ = finished
    before = (out / "results.csv").read_bytes()
    done = quickstart(out, "--learning_rate=0.1")
    assert done.returncode == 1
    assert "was made by another configuration (optimiser.learning_rate: 0.005 there, 0.1 now)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "results.csv").read_bytes() == before


@pytest.mark.slow
def test_full_disk_at_a_checkpoint(tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    flags = ("--sources=bundled:mnist@40", "--seeds=1", "--budget=320", "--shift_images=0", "--evaluations=linear")
    done = quickstart(tmp_path, *flags, preexec_fn=small_files)
    assert done.returncode == 1
    assert "The checkpoint of step 5 could not be written to" in done.stderr
    assert "give the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("floors/pixels/tasks/*/result.json"))
    assert quickstart(tmp_path, *flags).returncode == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--budgte=5"], 2, "Did you mean: budget"),
        (["--budget=many"], 2, "budget"),
        (["results"], 2, "Expected flags written --name=value, got 'results'"),
        (["--sources=folder:/no/such/folder"], 1, "there is no folder /no/such/folder"),
    ],
)
def test_misuse_gets_one_sentence(tmp_path, flags, code, message):
    done = quickstart(tmp_path / "out", *flags)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def within(capsys, out, *flags) -> str:
    """What a study says that runs in this process, which has its libraries loaded and some of its programs compiled."""
    capsys.readouterr()
    cli.run(tiny(*flags, f"--out={out}"))
    return capsys.readouterr().out


def test_a_package_that_is_not_installed_costs_no_finished_run(monkeypatch):
    def version(name):
        if name == "sslshift":
            raise PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(environment, "version", version)
    versions = environment.versions()
    assert (versions["sslshift"], versions["jax"]) == ("unknown, since it is not installed", "1.2")


def test_out_that_is_a_file_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("mine")
    done = quickstart(tmp_path / "out")
    assert done.returncode == 1
    assert "is a file; name a new folder" in done.stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_help_lists_every_flag_with_its_default(tmp_path):
    done = subprocess.run([sys.executable, "-m", "experiments.quickstart", "--help"], capture_output=True, text=True)
    for name in Study.__dataclass_fields__:
        assert f"--{name}:" in done.stdout or f"--[no]{name}:" in done.stdout
    assert "default: 'results/quickstart'" in done.stdout


@pytest.mark.slow
def test_methods_are_compared_in_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_report", lambda results, progress, command, timings: None)
    defaults = dataclasses.replace(
        Study(),
        sources="bundled:mnist@50",
        downstream="bundled:mnist",
        downstream_test="bundled:mnist/test",
        labelled=100,
        untrained_seeds=1,
        evaluations="linear",
        budget=64,
        batch_size=32,
        seeds=1,
        head="32,16",
        shift_images=0,
        out=str(tmp_path / "out"),
    )
    # One that keeps much besides its weights, and one on an encoder of its own; all of them train in tests/test_training.py.
    names = ["nnclr", "mae"]
    small = {"encoder": "vit_nano4", "method_options": "decoder_width=16; decoder_depth=1; decoder_heads=2"}
    own = "mae: encoder=vit_nano4; decoder_width=16; decoder_depth=1; decoder_heads=2"
    cli.run(dataclasses.replace(defaults, method=",".join(names), for_method=(own,)))
    assert {row["method"] for row in table(tmp_path / "out") if row["kind"] == "run"} == set(names)
    for name in names:
        (folder,) = (tmp_path / "out/runs").glob(f"*-{name}-*-n50-d0-s0")
        result, record = (json.loads((folder / f"{what}.json").read_text()) for what in ("result", "record"))
        (judged,) = folder.glob("tasks/*/result.json")
        assert 1 <= json.loads(judged.read_text())["effective_rank"] <= 256
        assert np.isfinite([result["loss_first"], result["loss_last"]]).all()
        # What the recipe says now, whatever it may say later.
        declared = learner(**{"method": name, "head": "32,16"} | (small if name == "mae" else {}))
        assert record["method_options"] == json.loads(json.dumps(declared.options))
        assert record["optimiser"]["name"] == ("adamw" if name == "mae" else "lars")


@pytest.mark.slow
def test_study_of_the_users_own_folders(tmp_path, random, capsys):
    """Colour photographs of several sizes, labelled by folder, some files broken; the test split is held out."""
    for kind, colour in (("good", 90), ("bad", 160)):
        (tmp_path / "parts" / kind).mkdir(parents=True)
        for i in range(60):
            size = (int(random.integers(30, 60)), int(random.integers(30, 60)), 3)
            image = random.normal(colour, 40, size).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "parts" / kind / f"{i}.{'png' if i % 2 else 'jpg'}")
    (tmp_path / "parts/bad/broken.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    parts = f"folder:{tmp_path / 'parts'}"
    done = within(
        capsys,
        tmp_path / "out",
        f"--sources={parts}; bundled:mnist@120",
        f"--downstream={parts}?labels=folder",
        "--downstream_test=",
        "--image_size=32",
        "--labelled=0",
        "--method=vicreg",
        "--budget=320",
        "--seeds=1",
        "--shift_images=0",
    )
    assert "1 file is refused and not counted" in done
    rows = table(tmp_path / "out")
    # Of 120 whole images 24 are the held-out test split; the others are pretrained on.
    assert {row["unique"] for row in rows if row["source"] == parts} == {"96"}
    assert "96 remain" in done
    assert "broken.jpg" in (tmp_path / "out/report.html").read_text()


def test_differences_have_a_sign_and_no_negative_nothing():
    assert [points(value) for value in (0.0045, -0.012, -0.00001)] == ["+0.45", "-1.20", "+0.00"]


@pytest.mark.slow
def test_mixtures_and_draws_are_compared(tmp_path, capsys):
    flags = (
        "--sources=bundled:mnist@40",
        "--mixture=near_first = near:bundled:mnist@40 for 50%; near*10% + noise:synthetic:noise?size=300@100",
        "--mixture=bundled:mnist@40/balanced -> noise:synthetic:noise?size=300@100",
        "--draws=2",
        "--budget=640",
        "--shift_images=0",
        "--evaluations=linear",
    )
    done = within(capsys, tmp_path, *flags)
    runs = [row for row in table(tmp_path) if row["kind"] == "run"]
    assert len(runs) == 3 * 2 * 2
    assert {(row["draw"], row["seed"]) for row in runs} == {(draw, seed) for draw in "01" for seed in "01"}
    assert {row["source"]: row["unique"] for row in runs}["near_first"] == "140"
    assert all(
        row["licence"].startswith("CC-BY-SA-3.0") and "generated" in row["licence"] for row in runs if row["unique"] == "140"
    )
    assert all(0 <= float(row["linear"]) <= 1 and row["broken"] == "0" for row in runs)
    # The same seed starts from the same weights whatever the draw: only the subset's scores differ.
    alone = {(row["draw"], row["seed"]): row["linear"] for row in runs if row["source"] == "bundled:mnist"}
    assert alone["0", "0"] != alone["1", "0"]
    assert "points between draws of the subset" in done
    page = (tmp_path / "report.html").read_text()
    assert "Samples of each mixture" in page
    assert "10% to" not in page
    assert "100% to 0%" in page


def array_records(path, broken):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    random = np.random.default_rng(0)
    for number in range(60):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(out, "PNG")
        writer.write(b"broken" if number in broken else out.getvalue())
    writer.close()
    return f"arrayrecord:{path}"


def test_broken_images_are_replaced_counted_and_limited(tmp_path, capsys):
    uri = array_records(tmp_path / "a.array_record", {3, 30})
    flags = (f"--sources={uri}@60", "--budget=640", "--seeds=1", "--shift_images=100")
    told = r"2 of 60 different images \(3\.3%\) could not be read, more than the 1\.0% that max_broken allows"
    with pytest.raises(BrokenDataError, match=rf"{told}(.|\n)*record (3|30): it is not an image"):
        within(capsys, tmp_path / "out", *flags)
    within(capsys, tmp_path / "out", *flags, "--max_broken=0.05")
    (run,) = (row for row in table(tmp_path / "out") if row["kind"] == "run")
    assert (run["unique"], run["broken"]) == ("58", "2")
    assert float(run["diversity"]) == pytest.approx(58 / 640, abs=1e-6)
    assert "up to 2 of 60 unique images could not be read in a run" in (tmp_path / "out/report.html").read_text()
    (listed,) = (tmp_path / "out/runs").glob("*/broken.csv")
    assert {row["index"] for row in csv.DictReader(listed.open())} == {"3", "30"}


def test_test_images_among_the_pretraining_images_are_told(tmp_path, capsys):
    test = open_source("bundled:mnist/test")
    (tmp_path / "web").mkdir()
    for index in range(40):
        image = Image.fromarray(test[index]["image"][..., 0])
        # Ten as they are, ten twice as large; the other twenty upside down, which makes them other images.
        image = image if index < 10 else image.resize((56, 56)) if index < 20 else image.transpose(Image.Transpose.ROTATE_180)
        image.save(tmp_path / f"web/{index:02d}.png")
    done = within(
        capsys, tmp_path / "out", f"--sources=folder:{tmp_path / 'web'}", "--budget=640", "--seeds=1", "--shift_images=0"
    )
    page = (tmp_path / "out/report.html").read_text()
    # Only of equal pixels it is said that an image is in both.
    for warning in (
        "10 of the 1,000 test images are also in web, pixel for pixel; 10 others are similar to images in it",
        "for example bundled:mnist/test, image 10 to ",
        "without colours, which these encoders do not see",
    ):
        assert warning in done
        assert warning in page
    assert "Test images that pretraining images equal or resemble" in page
    with (tmp_path / "out/leaks.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert [(pair["source_index"], pair["test_index"]) for pair in pairs] == [(str(i), str(i)) for i in range(20)]
    assert [pair["how"] for pair in pairs] == ["same pixels"] * 10 + ["near"] * 10
    assert pairs[3]["source_image"].endswith("03.png")
