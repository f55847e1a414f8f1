"""The command `tools.decide`: what it asks, what it refuses, and the whole way on small folders of pictures."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sslshift.decision import walk
from sslshift.decision.pilots import PilotCost
from sslshift.decision.walk import DecisionSettings, decide_on, may_train, pilots_of
from sslshift.study.design import parse_sources, parse_study
from sslshift.study.progress import Progress

SETTINGS = DecisionSettings(
    task="folder:/data/parts",
    source=["near = folder:/data/near", "folder:/data/a;b@20"],
    prices="prices.toml",
    money=100.0,
    target=None,
    level=0.9,
    encoder="patch_mlp",
    image_size=32,
    budget=40_960,
    shift_encoder="untrained",
    hours=0.5,
    yes=False,
    out="results/decision",
)
COSTS = [PilotCost(1000, 9, 9, 9000, 3000.0, 500.0), PilotCost(250, 9, 9, 2250, 750.0, 350.0)]


def test_the_pilots_of_a_decision():
    study = pilots_of(SETTINGS)
    assert [(each.name, each.uri) for each in parse_sources(study.sources)] == [
        ("near", "folder:/data/near"),
        ("", "folder:/data/a%3Bb%4020"),
    ]
    with pytest.raises(ValueError, match="expected a name without ';', got 'a;b'"):
        pilots_of(dataclasses.replace(SETTINGS, source=["a;b = folder:/data/near"]))
    assert (study.out, study.prices, study.image_size) == ("results/decision/pilots", "prices.toml", 32)
    (small,) = parse_study(study).learners
    assert (small.optimiser.name, small.optimiser.learning_rate) == ("adamw", 5e-3)
    # Settings of the small encoder are not for others.
    other = pilots_of(dataclasses.replace(SETTINGS, encoder="resnet18_cifar"))
    assert (other.head, other.optimiser, other.learning_rate) == ("", "", -1.0)


@pytest.mark.parametrize(("reply", "expected"), [("y", True), (" Yes\n", True), ("", False), ("n", False), ("maybe", False)])
def test_more_hours_than_allowed_are_asked_for(reply, expected):
    questions = []

    def ask(text):
        questions.append(text)
        return reply

    assert may_train(COSTS, 1.0, False, ask, asked=True) is expected
    assert questions == ["The pilots take about 77 min. Train them now? [y/N] "]


def test_nobody_is_asked_without_need():
    def ask(text):
        raise AssertionError

    # 4,600 s are 1.28 hours.
    assert may_train(COSTS, 1.28, False, ask, asked=True)
    assert may_train(COSTS, 0.0, True, ask, asked=False)
    assert may_train([], 0.0, False, ask, asked=False)
    with pytest.raises(ValueError, match=r"about 77 min, more than --hours=1, and there is no terminal to ask on\. Give --yes"):
        may_train(COSTS, 1.0, False, ask, asked=False)


def pictures(folder, kinds, count, seed):
    """Writes folders of coloured squares on noise, one of a colour for each kind; returns the folder."""
    random = np.random.default_rng(seed)
    for number, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            image = random.integers(0, 100, (20, 20, 3), np.uint8)
            row, column = random.integers(0, 10, 2)
            image[row : row + 10, column : column + 10, number % 3] += 120
            Image.fromarray(image).save(folder / kind / f"{i}.png")
    return folder


@pytest.fixture
def settings(tmp_path):
    mine = pictures(tmp_path / "mine", ["a", "b", "c"], 40, 0)
    near = pictures(tmp_path / "near", ["x", "y", "z"], 30, 1)
    far = tmp_path / "far"
    far.mkdir()
    random = np.random.default_rng(2)
    for i in range(60):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(far / f"{i}.png")
    prices = tmp_path / "prices.toml"
    prices.write_text(
        'currency = "EUR"\n[compute]\nper_hour = 1\n[sources.near]\nper_image = 1\n[sources.far]\nper_image = 0.01\n'
    )
    return dataclasses.replace(
        SETTINGS,
        task=f"folder:{mine}",
        source=[f"near = folder:{near}", f"far = folder:{far}"],
        prices=str(prices),
        image_size=16,
        budget=1024,
        out=str(tmp_path / "out"),
    )


def refused(settings, **changes):
    with pytest.raises(ValueError, match=r"\.$") as found:
        decide_on(dataclasses.replace(settings, **changes), Progress(Console(quiet=True)))
    return str(found.value)


def test_what_is_wrong_is_said_before_any_work(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "pilot_costs", lambda pilots: pytest.fail("went on"))
    near, far = settings.source
    few = pictures(tmp_path / "few", ["x"], 20, 3)
    assert "prices.toml has no price of far" in refused(settings, prices=str(only_near(tmp_path)))
    assert "few has 20. Add images" in refused(settings, source=[near, far, f"few = folder:{few}"])
    assert "near and again are the same images" in refused(
        settings, source=[near, f"again = {near.split(' = ')[1]}?labels=folder"]
    )
    assert "two sources are called near" in refused(settings, source=[near, f"near = folder:{few}"])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml does not exist"):
        decide_on(dataclasses.replace(settings, prices=str(tmp_path / "nowhere.toml")), Progress(Console(quiet=True)))
    assert "at least 1,024 samples" in refused(settings, budget=1000)
    assert not (tmp_path / "out").exists()


def only_near(folder):
    file = folder / "only" / "prices.toml"
    file.parent.mkdir()
    file.write_text('currency = "EUR"\n[compute]\nper_hour = 1\n[sources.near]\nper_image = 1\n')
    return file


def command(settings):
    values = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    flags = [f"--{name}={each}" for name, value in values.items() for each in (value if isinstance(value, list) else [value])]
    return [sys.executable, "-m", "tools.decide", *flags]


@pytest.mark.slow
def test_the_whole_way_from_folders_of_pictures(settings, tmp_path):
    """Stopped, and continued to its end; a further call trains nothing and changes nothing."""
    # One source: each costs eighteen runs.
    prices = only_near(tmp_path)
    settings = dataclasses.replace(settings, source=settings.source[:1], prices=str(prices))
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    out = tmp_path / "out"
    options = {"capture_output": True, "text": True, "env": environment, "stdin": subprocess.DEVNULL}
    started = subprocess.Popen(command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    while not list(out.glob("pilots/budget_*/runs/*/result.json")):
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.communicate()[1].startswith("Stopped by SIGTERM")
    done = subprocess.run(command(settings), check=False, **options)
    assert done.returncode == 0, done.stderr
    assert f"The decision, with everything behind it: {out / 'plan.html'}" in done.stdout
    page = (out / "plan.html").read_text()
    for link in ("shift/shift.html", "pilots/budget_1024/report.html", "pilots/budget_256/report.html"):
        assert f'href="{link}"' in page
        assert (out / link).exists()
    record = json.loads((out / "plan.json").read_text())
    assert (record["currency"], record["money"]) == ("EUR", 100.0)
    assert set(record["plan"]["unique"]) == {"near"}
    before = {name: (out / name).read_bytes() for name in ("plan.html", "plan.json", "pilots/results.csv")}
    again = subprocess.run(command(settings), check=False, **options)
    assert again.returncode == 0, again.stderr
    assert "All pilots are trained." in again.stdout
    assert {name: (out / name).read_bytes() for name in before} == before
