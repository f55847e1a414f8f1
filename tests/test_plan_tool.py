"""The command `tools.plan`: the plan for people and programs, predictions for a table, rounds, and messages about bad input."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import pytest
from browser import browsing, find_chromium
from planning_tables import one_source, plan_from, rows, truth, two_sources, write_table, written_plan
from rich.console import Console

from sslshift.planning import Exposure, PlanSettings, read_pilots, run_plan
from sslshift.planning.answer import answer
from sslshift.planning.answer import warnings as qualified
from sslshift.planning.laws import SHARED_PRIORS
from sslshift.planning.tables import prior_table
from sslshift.reporting import csv_text


@pytest.fixture
def call(tmp_path):
    """A function that plans from a table of rows, with prices as text, and returns the report."""
    return functools.partial(plan_from, tmp_path)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A report on three sources, written to its folder, and the folder."""
    return written_plan(tmp_path_factory.mktemp("planned"))


def read(folder):
    return json.loads((folder / "plan" / "plan.json").read_text())


def test_plan_json_has_the_documented_keys(planned):
    plan = read(planned[1])
    assert set(plan) == {
        "currency", "money", "plan", "indistinguishable", "options", "next_pilot", "laws", "warnings"
    }  # fmt: skip
    keys = {"action", "buy", "unique", "stages", "budget", "cost", "accuracy", "level", "probability_of_target"}
    assert set(plan["plan"]) == keys
    assert plan["plan"]["action"] in ("collect", "train", "pilot", "nothing")
    assert all(set(each) == keys for each in plan["indistinguishable"])
    assert all(set(each) == keys | {"source", "gain", "gain_per_money"} for each in plan["options"])
    assert plan["next_pilot"] is None or set(plan["next_pilot"]) == {"source", "unique", "budget", "cost", "value"}
    assert [set(law) for law in plan["laws"]] == [{"name", "weight", "parameters", "held_out_error", "refused", "notes"}] * 5
    assert sum(law["weight"] for law in plan["laws"]) == pytest.approx(1, abs=1e-5)
    assert plan["currency"] == "EUR"
    assert plan["money"] == 1000


def test_options_are_one_for_each_source_and_one_for_compute_alone(planned):
    options = {each["source"]: each for each in read(planned[1])["options"]}
    assert set(options) == {None, "near", "web", "far"}
    for name, option in options.items():
        assert set(option["buy"]) == ({name} if name else set())
        assert option["action"] == ("collect" if name else "train")
        assert option["gain_per_money"] == pytest.approx(option["gain"] / option["cost"], rel=1e-4)
        assert option["accuracy"]["low"] <= option["accuracy"]["value"] <= option["accuracy"]["high"]
        assert 0 <= option["probability_of_target"] <= 1


def test_costs_are_those_of_the_prices(planned):
    plan = read(planned[1])
    prices = {"near": 0.2, "web": 0.01, "far": 0.001}
    for each in [plan["plan"], *plan["options"], *plan["indistinguishable"]]:
        cost = each["budget"] * 2.5 / 3600 / 1500 + sum(prices[name] * images for name, images in each["buy"].items())
        if each["action"] != "nothing":
            assert each["cost"] == pytest.approx(cost, abs=1e-5)
        assert each["cost"] <= 1000 + 1e-6
        assert sum(each["stages"][0]["shares"].values()) == pytest.approx(1, abs=1e-5)
        assert set(each["buy"]) <= set(each["unique"]) == set(each["stages"][0]["shares"])
        assert each["unique"].get("near", 0) <= 40_000


def test_intervals_of_a_plan_contain_the_truth_at_four_times_the_budget(planned):
    report, _ = planned
    fitted = report.outlook.forecast
    for place, name in enumerate(fitted.pilots.sources):
        found = fitted.interval(Exposure.of_single([place], [40_000], [160_000]))
        assert found.low[0] < truth(name, 40_000, 160_000) < found.high[0]


def test_the_answer_has_three_sentences_that_agree_with_the_plan(planned):
    report, folder = planned
    plan = read(folder)
    what, returns, other = report.answer
    if plan["plan"]["action"] == "pilot":
        assert what.startswith(f"Train a pilot before you decide: {plan['next_pilot']['source']}")
    else:
        assert f"C = {plan['plan']['budget']:,}" in what
    assert f"{100 * plan['plan']['accuracy']['value']:.1f}%" in returns
    assert f"with a probability of {plan['plan']['probability_of_target']:.0%}" in returns
    if plan["indistinguishable"]:
        assert "indistinguishable" in other
        cheapest = min(each["cost"] for each in plan["indistinguishable"])
        assert f"{cheapest:,.2f} EUR" in other


def test_the_page_begins_with_the_answer_and_shows_every_source(planned):
    report, folder = planned
    page = (folder / "plan" / "plan.html").read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    places = [text.index(part) for part in report.answer]
    assert places == sorted(places)
    assert max(places) < text.index("Return on investment") < text.index("What each pilot taught") < text.index("Prices")
    for chart in ("returns", "accuracy", "target"):
        assert f'id="{chart}-' in page
    assert all(name in text for name in ("near", "web", "far", "monotone", "half_life"))
    assert "http:" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)


def test_the_page_has_every_prior_and_says_which_are_switched_off():
    lines = {line[0]: line[1:] for line in prior_table(["k"]).lines}
    assert set(lines) == set(SHARED_PRIORS)
    assert lines["k"][1] == "none (--flat)"
    assert lines["R"][1:] == ("10, within a factor of 3.3", "0.1 to 2000")
    assert lines["e"][1:] == ("0.2 ± 0.15", "0 to 0.95")


def test_the_terminal_gets_the_same_sentences(planned):
    report, _ = planned
    console = Console(width=200, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    report.show(console)
    text = console.export_text()
    assert all(sentence in text for sentence in report.answer)


def test_the_same_call_writes_the_same_bytes_and_adds_no_round(planned):
    report, folder = planned
    before = {path: path.read_bytes() for path in (folder / "plan").rglob("*") if path.is_file()}
    run_plan(report.settings).write()
    assert {path: path.read_bytes() for path in (folder / "plan").rglob("*") if path.is_file()} == before
    assert {path.name for path in before} == {"plan.json", "plan.html", "001.json", "001.npz"}


def test_predictions_are_written_beside_the_rows_of_the_table(planned, tmp_path):
    report, _ = planned
    (tmp_path / "grid.csv").write_text("note,source,unique,budget\na,near,2500,40000\n,far,40000,160000\n")
    settings = dataclasses.replace(
        report.settings, money=None, prices="", predict=str(tmp_path / "grid.csv"), out=str(tmp_path / "out"), level=0.5
    )
    run = run_plan(settings)
    assert [path.name for path in run.write()] == ["predictions.csv"]
    head, first, second = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert head == "note,source,unique,budget,value,low,high"
    expected = report.outlook.forecast.interval(Exposure.of_single([1, 0], [2500, 40_000], [40_000, 160_000]), 0.5)
    for i, line in enumerate((first, second)):
        value, low, high = (float(cell) for cell in line.split(",")[4:])
        assert (value, low, high) == pytest.approx((expected.value[i], expected.low[i], expected.high[i]), abs=1e-6)
    assert first.startswith("a,near,2500,40000,0.")


GRID = "source,unique,budget\nnear,2500,40000\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,unique\nnear,1\n", r"grid.csv: expected the columns source, unique, budget; missing: budget."),
        ("source,unique,budget\n", r"grid.csv has no rows below its head."),
        (f"{GRID}webb,5,9\n", r"grid.csv, line 3: expected one of near, web for source, got 'webb'."),
        (f"{GRID}web,10,9\n", r"grid.csv, line 3: 10 unique images cannot be seen with a budget of 9 samples."),
        (f"{GRID}web,1.5,9\n", r"grid.csv, line 3: expected a whole number of at least 1 for unique, got '1.5'."),
        (f"{GRID}web,0,9\n", r"grid.csv, line 3: expected a whole number of at least 1 for unique, got '0'."),
        (f"{GRID}web,9\n", r"grid.csv, line 3: expected a whole number of at least 1 for budget, got ''."),
        (
            f"{GRID}web,2500,80000\n",
            r"line 3: N = 2,500 and C = 80,000 of web lie beyond the pilots \(C = 40,000; N: near up to 20,000, web up to "
            r"20,000\), and pilots of one budget do not show what another one gives. Remove the row, or add pilots.",
        ),
        (f"{GRID}web,30000,40000\n", r"line 3: N = 30,000 and C = 40,000 of web lie beyond the pilots"),
    ],
)
def test_a_row_that_cannot_be_predicted_is_named(call, tmp_path, text, message):
    (tmp_path / "grid.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        call(
            rows(sources=("near", "web"), budgets=(40_000,), epochs=(2, 16)),
            prices="",
            money=None,
            predict=str(tmp_path / "grid.csv"),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prices": ""}, r"Expected --prices and --money for a plan, or --predict for predictions alone."),
        ({"money": None}, r"Expected --prices and --money"),
        ({"level": 90.0}, r"Expected a --level between 0 and 1, such as 0.9, got 90."),
        ({"money": -1.0}, r"Expected a positive amount of --money, got -1."),
        ({"target": 90.0}, r"target between 0 and 1, got 90. Accuracies are shares: 90% is 0.9."),
        ({"ignore": ["wob"]}, r"--ignore names wob, which the results do not have."),
        ({"flat": ["z"]}, r"Expected parameters among e, b_0, .*, got z."),
        ({"task": "cars"}, r"Expected one of parts for --task, got 'cars'."),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(tmp_path, changes, message):
    write_table(tmp_path / "results.csv", rows(sources=("near",), epochs=(2, 16)))
    (tmp_path / "prices.toml").write_text(one_source())
    settings = PlanSettings([str(tmp_path)], str(tmp_path / "prices.toml"), 1000.0, out=str(tmp_path / "plan"))
    with pytest.raises(ValueError, match=message):
        run_plan(dataclasses.replace(settings, **changes))


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ("", r'prices.toml has no price of near.*Add a table \[sources."near"\] with per_image'),
        ('[sources."near"]\nper_image = -1\n', r'\[sources."near"\]: expected a number of at least 0 for per_image, got -1.'),
        ('[sources."near"]\nowned = 10000\n', r'\[sources."near"\] has no per_image'),
        (
            one_source() + '[sources."wob"]\nper_image = 1\n',
            r"prices.toml names wob, which the results do not have. Their sources are near.",
        ),
        (
            one_source() + "owned = 30000\navailable = 25000\n",
            r"25,000 images are available in all, but 30,000 are owned.",
        ),
        (one_source() + "owned = 20\n", r"20 images are owned, but the pilots used 20,000."),
        (one_source() + "max_share = 1.5\n", r"expected a max_share between 0 and 1, got 1.5."),
        (one_source() + "max_share = 0.5\n", r"max_share add up to less than 1"),
        (one_source() + "[compute]\nper_hour = 2.5\n", r"price per hour and no samples_per_second"),
        (one_source() + "[compute]\nper_our = 2.5\n", r"unknown entries: per_our. Known are per_hour, samples_per_second."),
        ("currency = ", r"prices.toml is not a TOML file"),
    ],
)
def test_wrong_prices_are_reported_in_one_sentence(call, prices, message):
    with pytest.raises(ValueError, match=message):
        call(rows(sources=("near",), epochs=(2, 16)), prices=prices)


def one(**changes):
    return [rows(sources=("near",), epochs=(2, 16))[0] | changes]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (one(), r"Two rows have the same source near, N = 5,000, C = 10,000 and seed 0"),
        (one(linear=81.5), r"line 14: expected an accuracy between 0 and 1 in `linear`, got 81.5. It looks like a percentage"),
        (one(linear="nan"), r"line 14: expected a number in `linear`, got 'nan'."),
        (one(unique=20_000), r"line 14: 20,000 unique images cannot be seen with a budget of 10,000 samples."),
        (one(task="cars"), r"several values of task: cars, parts. Choose one with --task."),
        (one(metric="balanced_accuracy"), r"several values of metric: accuracy, balanced_accuracy. Choose one with --metric."),
        (one(method="byol"), r"several values of method: byol, simclr. Choose one with --method."),
        (one(encoder="resnet18"), r"several values of encoder: patch_mlp, resnet18. Choose one with --encoder."),
        (
            one(source="web", shift_index="", linear="", unique=""),
            r"web: neither pilots nor a shift index. Train pilots on it, measure its shift, or exclude it with --ignore.",
        ),
    ],
)
def test_a_wrong_table_is_reported_in_one_sentence(call, more, message):
    with pytest.raises(ValueError, match=message):
        call(rows(sources=("near",), epochs=(2, 16)) + more, prices=one_source())


def test_a_study_that_measured_the_shift_anew_is_read_with_the_latest_index(tmp_path):
    found = rows(sources=("near",), epochs=(2, 16))
    again = [row | {"shift_index": 0.2, "shift_low": 0.1, "shift_high": 0.3} for row in found]
    text = csv_text((*found[0], "fingerprint"), [[*row.values(), f"print{i}"] for i, row in enumerate(found + again)])
    (tmp_path / "results.csv").write_text(text)
    pilots = read_pilots([tmp_path])
    assert pilots.places.tolist() == [0.2]
    assert len(pilots.runs) == len(found)


def test_names_of_all_kinds_are_shown_as_they_are(call, tmp_path):
    name = "parts <b>&amp; $x_1$ Größe, 50%"
    found = [row | {"source": name} for row in rows(sources=("near",), epochs=(2, 16))]
    report = call(found, prices=f'[sources."{name}"]\nper_image = 0.2\n')
    report.write()
    page = (tmp_path / "plan" / "plan.html").read_text()
    assert "<b>&amp;" not in page
    assert "parts &lt;b&gt;&amp;amp; $x_1$ Größe, 50%" in page
    assert read(tmp_path)["plan"]["unique"] == {name: 20_000}


def test_a_flag_chooses_one_of_several_tasks(call):
    found = rows(sources=("near",), epochs=(2, 16))
    report = call(found + [row | {"task": "cars", "linear": 0.5} for row in found], prices=one_source(), task="cars")
    assert report.outlook.facts["task"] == "cars"
    assert report.outlook.decision.kept.value == pytest.approx(0.5, abs=0.01)


def test_too_few_seeds_name_a_pilot_that_would_do(call):
    with pytest.raises(ValueError, match=r"For example, train near with N = 625 and C = 10,000 with 1 more seeds."):
        call(rows(sources=("near",), epochs=(2, 16), seeds=2), prices=one_source())


def test_too_few_pilots_name_those_that_would_do(call):
    report = call(rows(sources=("near", "web"), budgets=(40_000,), epochs=(2, 16)), prices=two_sources())
    assert report.answer[0].startswith("Train 4 more pilots, first near with N = 10,000 and C = 10,000, for 0.0046 EUR")
    text = "near with N = 625, 2,500 and 10,000 at C = 10,000, and N = 5,000 at C = 40,000."
    assert f"These pilots would do, one seed each: {text}" in report.record["warnings"]
    assert report.record["plan"]["action"] == "pilot"
    pilot = report.record["next_pilot"]
    assert (pilot["source"], pilot["unique"], pilot["budget"], pilot["value"]) == ("near", 10_000, 10_000, None)
    assert pilot["cost"] == pytest.approx(10_000 * 2.5 / 3600 / 1500, abs=1e-6)


def test_the_pilots_that_are_named_would_do(call):
    found = rows(sources=("near", "web"), budgets=(40_000,), epochs=(2, 16))
    pilots = call(found, prices=two_sources()).outlook.candidates
    more = [
        found[0] | {"unique": each.unique, "budget": each.budget, "linear": truth("near", each.unique, each.budget)}
        for each in pilots
    ]
    assert call(found + more, prices=two_sources()).outlook.forecast.extrapolates


def test_one_budget_is_planned_inside_its_range_alone(call):
    report = call(rows(sources=("near", "web"), budgets=(40_000,)), prices=two_sources())
    plan = report.record
    # JSON has no NaN.
    json.dumps(plan, allow_nan=False)
    assert plan["plan"]["budget"] == 40_000
    assert all(max(each["unique"].values()) <= 20_000 for each in [plan["plan"], *plan["options"]])


def test_a_target_above_the_ceiling_is_refused(planned):
    report, _ = planned
    with pytest.raises(ValueError, match=r"A target of 99.9% is above what the laws allow .*: \d+.\d% \(\d+.\d to \d+.\d%\)"):
        run_plan(dataclasses.replace(report.settings, target=0.999))


def test_a_target_that_is_sure_needs_no_pilot_and_the_cheapest_plan(planned):
    report, _ = planned
    sure = run_plan(dataclasses.replace(report.settings, target=0.805))
    assert sure.outlook.decision.chosen.reaches >= 0.9
    assert sure.record["next_pilot"] is None
    assert sure.record["plan"]["action"] in ("train", "collect")
    assert sure.answer[0].startswith("The cheapest way to the target is to buy ")
    reached = run_plan(dataclasses.replace(report.settings, target=0.6))
    assert reached.record["plan"]["action"] == "nothing"
    assert reached.answer[0] == (
        "Buy and train nothing: the best pilot so far reaches the target already (near, N = 20,000, C = 40,000)."
    )


def test_a_gain_that_is_not_shown_is_not_advised(planned):
    report, _ = planned
    decision = report.outlook.decision
    unshown = dataclasses.replace(decision, indistinguishable=(decision.kept, *decision.indistinguishable), target=None)
    outlook = dataclasses.replace(report.outlook, decision=unshown, candidates=())
    first, _, third = answer(outlook)
    assert first.startswith(
        "No plan for 1,000.00 EUR is shown to be better than the best pilot so far (near, N = 20,000, C = 40,000); "
    )
    assert outlook.describe(decision.chosen.plan) in first
    assert "keep the encoder" not in third


def test_what_rests_on_priors_is_said_once(planned):
    report, _ = planned
    forecast = report.outlook.forecast
    notes = (
        "x: b = 0.3 rests on its prior alone: the pilots do not identify it.",
        "x: R lies on its bound 2: the pilots do not fix it.",
    )
    results = tuple(law._replace(notes=notes if law.weight else ()) for law in forecast.results)
    noted = dataclasses.replace(forecast, results=results, warnings=("Something else.", *notes))
    found = qualified(dataclasses.replace(report.outlook, forecast=noted))
    assert found[:2] == ["Something else.", "The pilots do not identify b and R, which the priors of the laws decide instead."]
    assert not set(notes) & set(found)


def test_a_source_without_pilots_needs_a_shift_index(call):
    found = rows(sources=("near",))
    web = found[0] | {"source": "web", "linear": "", "unique": ""}
    report = call([*found, web | {"shift_index": 0.4}], prices=two_sources())
    assert "web" in {each["source"] for each in report.record["options"]}
    chosen = report.outlook.decision.options["web"]
    outlook = dataclasses.replace(report.outlook, decision=dataclasses.replace(report.outlook.decision, chosen=chosen))
    assert "web has no pilots: what it is worth rests on its shift index alone." in qualified(outlook)


def test_money_below_one_image_trains_or_does_nothing(call):
    report = call(rows(sources=("near",)), prices=one_source(), money=0.1)
    assert report.record["plan"]["buy"] == {}
    assert all(each["source"] is None for each in report.record["options"])
    assert any("No image of near can be bought" in each for each in report.record["warnings"])
    assert "The file of prices has no price of training ([compute]): training counts as free." in report.record["warnings"]


def test_a_study_is_planned_by_the_names_that_it_gives(call, tmp_path):
    found = [row | {"source": "folder:/data/near"} for row in rows(sources=("near",), epochs=(2, 16))]
    mixed = [row | {"source": "both"} for row in found[:3]]
    (tmp_path / "study").mkdir()
    names = {"sources": {"folder:/data/near": "near"}, "mixtures": ["both"]}
    (tmp_path / "study" / "names.json").write_text(json.dumps(names))
    calls = [{"samples": 1000, "samples_per_second": 500}, {"samples": 3000, "samples_per_second": 1000}, {"samples": 0}]
    (tmp_path / "study" / "timing.json").write_text(json.dumps({"calls": calls}))
    by_name = call(found + mixed, prices=one_source() + "[compute]\nper_hour = 3600\n", money=1e5)
    assert by_name.outlook.forecast.pilots.sources == ("near",)
    # 4,000 samples took 2 + 3 seconds.
    assert by_name.outlook.prices.per_sample == pytest.approx(5 / 4000)
    assert "Mixtures cannot be bought, so that their runs are excluded: both." in by_name.record["warnings"]
    by_uri = call(
        found + mixed, prices='[sources."folder:/data/near"]\nper_image = 0.2\n[compute]\nper_hour = 3600\n', money=1e5
    )
    assert by_uri.record == by_name.record
    both = one_source() + '[sources."folder:/data/near"]\nper_image = 0.2\n'
    with pytest.raises(ValueError, match="two tables of one source, under its name and under its URI"):
        call(found, prices=both)


def test_two_studies_that_disagree_on_names_are_refused(tmp_path):
    for number, name in enumerate(("near", "close")):
        write_table(tmp_path / str(number) / "results.csv", one())
        (tmp_path / str(number) / "names.json").write_text(json.dumps({"sources": {"folder:/a": name}, "mixtures": []}))
    with pytest.raises(ValueError, match="folder:/a is called close, and also near"):
        run_plan(PlanSettings([str(tmp_path / "0"), str(tmp_path / "1")], "prices.toml", 1.0))


def test_the_folder_of_a_study_is_not_overwritten(call, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "plan.json").write_text('{"calls": []}')
    with pytest.raises(ValueError, match=r"--out=.*study is the folder of a study, whose plan.json would be overwritten."):
        call(rows(sources=("near",), epochs=(2, 16)), prices=one_source(), out=str(tmp_path / "study"))


def test_the_command_plans_and_its_errors_are_sentences(tmp_path):
    write_table(tmp_path / "results.csv", rows(sources=("near",), epochs=(2, 16)))
    (tmp_path / "prices.toml").write_text(one_source())
    command = [sys.executable, "-m", "tools.plan", f"--results={tmp_path}", f"--out={tmp_path / 'plan'}"]
    options = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, f"--prices={tmp_path / 'prices.toml'}", "--money=100"], **options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"wrote .*plan.json, .*plan.html", done.stdout)
    failed = subprocess.run([*command, f"--prices={tmp_path / 'none.toml'}", "--money=100"], **options)
    assert failed.returncode == 1
    assert re.search(r"Error: --prices=.*none.toml does not exist. Expected a TOML file:\s+currency = ", failed.stderr)
    assert "Traceback" not in failed.stderr


@pytest.mark.slow
@pytest.mark.skipif(not find_chromium(), reason="needs Chromium")
def test_the_page_fits_a_telephone(planned):
    _, folder = planned
    with browsing() as browser:
        browser.open(folder / "plan" / "plan.html", 400)
        assert browser.run("document.documentElement.scrollWidth") == 400
        # Wide tables scroll in their own frames; nothing else is wider than the screen.
        wide = (
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 401 && !e.closest('.wide'))"
        )
        assert browser.run(f"{wide}.map(e => e.tagName).join()") == ""
        assert not [each for name, each in browser.events if name == "Log.entryAdded"]
