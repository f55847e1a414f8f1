"""Pilots: their design, what they cost, one table of all budgets, and how they continue."""

import csv
import dataclasses
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_folders import class_folders
from report_builders import FAR, NEAR, SHIFTS, results_of
from rich.console import Console

from experiments.pilots import GPU, PILOTS
from sslshift.decision import PilotStudy, design, dry_run_pilots, pilots, report_pilots, run_pilots
from sslshift.decision.design import FEWEST_IMAGES, pilot_budgets, pilot_levels, pilot_studies, without_levels
from sslshift.planning.pilots import read_pilots
from sslshift.reporting import csv_text
from sslshift.storage import NotStoredError
from sslshift.study import cost
from sslshift.study.design import parse_sources, parse_study
from sslshift.study.progress import Progress

TINY = PilotStudy(
    sources="digits = bundled:mnist; synthetic:noise?size=40",
    downstream="bundled:mnist",
    downstream_test="bundled:mnist/test",
    budget=300,
    batch_size=32,
    head="32,16",
    labelled=100,
    untrained_seeds=3,
    shift_images=50,
    reference_seeds=1,
)
SIZES = {"bundled:mnist": 4000, "synthetic:noise?size=40": 40}


@given(st.integers(FEWEST_IMAGES, 10**7), st.integers(FEWEST_IMAGES, 10**6))
def test_levels_are_three_at_each_budget_and_five_in_all(images, smaller):
    budgets = (4 * smaller, smaller)
    levels = pilot_levels(images, budgets)
    for own, budget in zip(levels, budgets, strict=True):
        assert len(set(own)) == 3
        assert list(own) == sorted(own)
        assert own[0] >= 1
        assert own[-1] == min(images, budget)
    assert len({*levels[0], *levels[1]}) >= 5


def test_levels_by_hand():
    # 40 images: no fewer than 8 and 4 of them.
    assert pilot_levels(40, (40_960, 10_240)) == ((8, 18, 40), (4, 13, 40))
    # More images than samples: a sixteenth and a sixty-fourth of the budget.
    assert pilot_levels(10**6, (40_960, 10_240)) == ((2560, 10_240, 40_960), (160, 1280, 10_240))


def test_the_two_studies_by_hand():
    larger, smaller = pilot_studies(TINY, SIZES)
    # A budget of 300 has 9 batches of 32; a fourth of them, 72 samples, has 2.
    assert (larger.budget, smaller.budget) == pilot_budgets(TINY) == (288, 64)
    assert [(each.name, each.uri, each.unique) for each in parse_sources(larger.sources)] == [
        ("digits", "bundled:mnist", (18, 72, 288)),
        ("", "synthetic:noise?size=40", (8, 18, 40)),
    ]
    assert [each.unique for each in parse_sources(smaller.sources)] == [(4, 16, 64), (4, 13, 40)]
    assert (larger.out, smaller.out) == ("results/budget_288", "results/budget_64")
    # The index is measured once.
    assert (larger.shift_images, smaller.shift_images) == (50, 0)
    shared = [
        field.name for field in dataclasses.fields(larger) if field.name not in ("sources", "budget", "out", "shift_images")
    ]
    assert all(getattr(larger, name) == getattr(smaller, name) == getattr(TINY, name) for name in shared)
    assert parse_study(smaller).seeds == 3


def test_numbers_that_are_given_are_used_where_the_budget_allows_them():
    study = dataclasses.replace(TINY, sources="bundled:mnist@4,20,60,200,all; synthetic:noise?size=40@4,20,40")
    larger, smaller = pilot_studies(study, SIZES)
    assert [each.unique for each in parse_sources(larger.sources)] == [(4, 20, 60, 200, 288), (4, 20, 40)]
    assert [each.unique for each in parse_sources(smaller.sources)] == [(4, 20, 60, 64), (4, 20, 40)]


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({}, {"bundled:mnist": 31}, r"at least 32 images in each source, .*; digits has 31\. Add images, or exclude"),
        (
            {"sources": "a = bundled:mnist@4,16,200"},
            {},
            r"a has the numbers 4, 16, 200 .*, of which 2 can be seen with a budget of 64",
        ),
        ({"sources": "bundled:mnist@4,16,32"}, {}, "at least 5 different numbers of unique samples, got 4, 16, 32"),
        ({"sources": "a = bundled:mnist; a = synthetic:noise"}, {}, "two sources are called 'a'"),
        ({"sources": "a = bundled:mnist; b = bundled:mnist"}, {}, "each source only once"),
        ({"budget": 127}, {}, r"--budget=127: .* at least 128 samples, so that the fourth has a batch of 32"),
        ({"budget": 127, "batch_size": 8}, {}, "at least 128 samples"),
    ],
)
def test_pilots_that_cannot_identify_a_law_are_refused(changes, sizes, message):
    with pytest.raises(ValueError, match=message):
        pilot_studies(dataclasses.replace(TINY, **changes), SIZES | sizes)


def test_mixtures_and_too_few_seeds_are_refused():
    with pytest.raises(ValueError, match=r"--mixture=bundled:mnist: pilots train on one source each"):
        without_levels(dataclasses.replace(TINY, mixture=("bundled:mnist",)))
    with pytest.raises(ValueError, match=r"--seeds=2: expected at least 3\. Without repeats"):
        without_levels(dataclasses.replace(TINY, seeds=2))
    assert [each.unique for each in parse_sources(without_levels(TINY).sources)] == [(), ()]


@pytest.mark.parametrize("study", [PILOTS, GPU])
def test_the_declared_pilots_can_be_designed(study):
    sizes = {each.uri: 4000 for each in parse_sources(study.sources)}
    for each in pilot_studies(study, sizes):
        assert parse_study(each).seeds == 3
    assert design.pilot_budgets(study)[0] == study.budget


def opened(study):
    return pilots.open_pilots(study, Progress(Console(quiet=True)))


def test_one_folder_twice_and_prices_that_do_not_fit_are_refused_before_training(tmp_path):
    first = class_folders(tmp_path / "first", ["a"], 40)
    shutil.copytree(first, tmp_path / "second")
    twice = f"a = folder:{first}; b = folder:{tmp_path / 'second'}?labels=folder"
    with pytest.raises(ValueError, match=r"a and b are the same images\. Give one of them"):
        opened(dataclasses.replace(TINY, sources=twice, out=str(tmp_path / "out")))
    prices = tmp_path / "prices.toml"
    prices.write_text('[sources."digits"]\nper_image = 0.1\n')
    priced = dataclasses.replace(TINY, prices=str(prices), out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"has no price of noise"):
        opened(priced)
    assert not (tmp_path / "out").exists()


def test_cost_in_words(tmp_path):
    prices = tmp_path / "prices.toml"
    tables = '[sources."digits"]\nper_image = 0.1\n[sources."noise"]\nper_image = 0\n'
    prices.write_text(f'currency = "EUR"\n[compute]\nper_hour = 36\n{tables}')
    found = opened(dataclasses.replace(TINY, prices=str(prices), out=str(tmp_path / "out")))
    assert found.used == {"digits": 288, "noise": 40}
    costs = [pilots.PilotCost(288, 18, 18, 5000, 100.0, 20.0), pilots.PilotCost(64, 18, 18, 1000, 20.0, 20.0)]
    # 6,000 samples at 50 in a second are two minutes, of 0.01 EUR a second.
    assert pilots.cost_text(found, costs) == (
        "The pilots that are missing, 36 runs, take about 3 min here. The training costs about 1.20 EUR."
    )
    prices.write_text(f'currency = "EUR"\n[compute]\nper_hour = 36\nsamples_per_second = 25\n{tables}')
    assert "costs about 2.40 EUR" in pilots.cost_text(found, costs)
    declared = dataclasses.replace(found.declared, prices="", price_per_hour=36.0)
    assert "They cost about 1.60 at 36 an hour." in pilots.cost_text(dataclasses.replace(found, declared=declared), costs)
    done = [each._replace(missing=0) for each in costs]
    assert pilots.cost_text(found, done) == "All pilots are trained."


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A study of pilots whose runs are finished as soon as they are asked for, and the studies that were run."""
    ran = []

    def results(opened):
        # The smaller study measures no index.
        shifts = SHIFTS if opened.design.shift.images else dict.fromkeys(SHIFTS, math.nan)
        return results_of(opened, shifts=shifts)

    def run_opened(opened, progress, command, since):
        ran.append((opened.design.budget.samples, command))
        if "fails" in command:
            raise RuntimeError(f"{opened.design.budget.samples} failed")

    monkeypatch.setattr(pilots, "run_opened", run_opened)
    monkeypatch.setattr(pilots, "read_results", results)
    return dataclasses.replace(TINY, sources=f"digits = {NEAR}; noise = {FAR}", out=str(tmp_path / "out")), ran


def table(study):
    return list(csv.DictReader((Path(study.out) / "results.csv").read_text().splitlines()))


def test_the_table_has_the_runs_of_both_budgets_by_name_and_with_one_index(known, capsys):
    study, ran = known
    run_pilots(study, command="typed")
    # The cheaper one first.
    assert ran == [(64, "typed"), (288, "typed")]
    rows = table(study)
    cells = [
        *(("digits", unique, 64) for unique in (4, 16, 64)),
        *(("noise", unique, 64) for unique in (4, 16, 64)),
        *(("digits", unique, 288) for unique in (18, 72, 288)),
        *(("noise", unique, 288) for unique in (18, 72, 288)),
    ]
    assert sorted((row["source"], int(row["unique"]), int(row["budget"]), row["seed"]) for row in rows) == sorted(
        (*cell, seed) for cell in cells for seed in "012"
    )
    assert [int(row["budget"]) for row in rows] == [64] * 18 + [288] * 18
    assert {(row["source"], row["shift_index"]) for row in rows} == {("digits", "0"), ("noise", "0.9")}
    near = next(row for row in rows if (row["source"], row["unique"], row["seed"]) == ("digits", "72", "1"))
    # 0.75 + 0.04 log10(72 / 8) + 0.001 (73 mod 3), on 1,000 images.
    assert float(near["linear"]) == pytest.approx(0.7892, abs=0.003)
    said = capsys.readouterr().out
    out = shlex.quote(study.out)
    assert f"python -m tools.plan --results={out} --prices=prices.toml --money=1000 --out={out}/plan" in said
    assert len((Path(study.out) / "table.md").read_text().splitlines()) == 2 + len(cells)
    # A plan can be made of it: 36 runs less 12 means less the 2 differences of three seeds.
    found = read_pilots([Path(study.out)])
    assert (found.sources, found.budgets, set(found.seeds), found.noise.degrees) == (("digits", "noise"), [64, 288], {3}, 22)


def test_a_study_without_an_index_adds_to_the_pilots(known, tmp_path):
    study, _ = known
    run_pilots(study)
    further = [
        row | {"seed": "9", "draw": "9"} | dict.fromkeys(("shift_index", "shift_low", "shift_high"), "nan")
        for row in table(study)[:2]
    ]
    (tmp_path / "more.csv").write_text(csv_text(list(further[0]), [list(row.values()) for row in further]))
    found = read_pilots([Path(study.out), tmp_path / "more.csv"])
    assert (len(found.runs), found.places.tolist()) == (38, [0.0, 0.9])


def test_the_same_command_writes_the_same_table(known):
    study, _ = known
    files = [Path(study.out) / name for name in ("results.csv", "results.parquet", "table.md")]
    run_pilots(study)
    before = [file.read_bytes() for file in files]
    run_pilots(study)
    assert [file.read_bytes() for file in files] == before
    # A table of other names is replaced: names may change without a run.
    run_pilots(dataclasses.replace(study, sources=study.sources.replace("digits", "mine")))
    assert {row["source"] for row in table(study)} == {"mine", "noise"}


def test_what_fails_at_one_budget_does_not_keep_the_other_from_running(known, capsys):
    study, ran = known
    with pytest.raises(RuntimeError, match="64 failed"):
        run_pilots(study, command="fails")
    assert [budget for budget, _ in ran] == [64, 288]
    assert len(table(study)) == 36


def test_unfinished_pilots_are_joined_without_the_next_command(known, monkeypatch, capsys):
    study, ran = known
    whole = pilots.read_results

    def some(opened):
        if opened.design.budget.samples == 64:
            raise NotStoredError("no run is finished")
        return results_of(opened, keep=lambda run: run.seed == 0)

    monkeypatch.setattr(pilots, "read_results", some)
    reported = []

    def report(opened, progress, command):
        some(opened)
        reported.append(opened.design.budget.samples)

    monkeypatch.setattr(pilots, "report_opened", report)
    report_pilots(study)
    assert (reported, ran) == ([288], [])
    assert [(row["budget"], row["seed"]) for row in table(study)] == [("288", "0")] * 6
    assert "tools.plan" not in capsys.readouterr().out
    monkeypatch.setattr(pilots, "read_results", whole)
    report_pilots(study)
    assert len(table(study)) == 36


def test_pilots_that_learn_less_than_raw_pixels_have_a_warning(known):
    study, _ = known
    found = [results_of(each) for each in opened(study).studies]
    assert pilots.weak_note(found) == ""
    # Raw pixels are right on 72% of the images.
    weak = [results_of(each.opened, accuracy=lambda run: 0.7 if run.unique > 16 else 0.6) for each in found]
    assert pilots.weak_note(weak).startswith("The best pilots reach 69.9%, ")
    assert "and raw pixels 72." in pilots.weak_note(weak)


def test_a_dry_run_shows_both_budgets_and_writes_nothing(known, monkeypatch, capsys):
    study, ran = known
    monkeypatch.setattr(pilots, "_evaluation_seconds", lambda opened: 2.0)
    monkeypatch.setattr(cost, "seconds_per_step", lambda training, reader, images: 0.5)
    dry_run_pilots(study)
    said = capsys.readouterr().out
    # 18 runs of 2 and of 9 steps; at the larger budget, a reference encoder of 9 steps too. 18 runs, 3 untrained encoders and
    # the pixels are evaluated at each budget.
    assert re.search(r"\b64 +18 +18 +1,152 +18 s +44 s", said), said
    assert re.search(r"\b288 +18 +18 +5,472 +86 s +44 s", said), said
    assert "The pilots that are missing, 36 runs, take about 3 min here. --prices=FILE shows what the training costs." in said
    assert not ran
    assert not Path(study.out).exists()
