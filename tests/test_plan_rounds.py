"""Rounds of `tools.plan`: what earlier ones predicted, what changed since, and rounds that cannot be read."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from planning_tables import BUDGETS, one_source, plan_from, rows, two_sources, write_table, written_plan

from sslshift.planning import Exposure, forecast, read_pilots
from sslshift.planning.rounds import read_history


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


def test_a_round_predicts_as_it_did(planned):
    report, folder = planned
    other = forecast(read_pilots([write_table(folder / "less.csv", rows(epochs=(2, 16)))]))
    outlook = dataclasses.replace(report.outlook, forecast=other)
    (earlier,) = read_history(folder / "plan", outlook, ()).earlier
    training = Exposure.of_rows([[(0, 5000, 20_000), (1, 9000, 60_000)], [(2, 100, 10_000)], [(1, 40_000, 160_000)]])
    np.testing.assert_array_equal(earlier.forecast.predict(training), report.outlook.forecast.predict(training))
    np.testing.assert_array_equal(earlier.forecast.interval(training).high, report.outlook.forecast.interval(training).high)


def test_a_second_round_says_what_changed_and_scores_the_first(call, tmp_path):
    call(rows(sources=("near", "web"), epochs=(2, 16)), prices=two_sources()).write()
    first = (tmp_path / "plan" / "rounds" / "001.json").read_bytes()
    report = call(rows(sources=("near", "web"), epochs=(2, 16, 64)), prices=two_sources())
    report.write()
    assert (tmp_path / "plan" / "rounds" / "001.json").read_bytes() == first
    assert sorted(path.name for path in (tmp_path / "plan" / "rounds").iterdir()) == [
        "001.json", "001.npz", "002.json", "002.npz"
    ]  # fmt: skip
    assert "New since then: 6 runs of near and 6 runs of web." in report.history.changes
    cells = {(each.source, each.unique, each.budget) for each in report.history.scores}
    # Without a law, nothing beyond the pilots is predicted; all of these are below the smallest N.
    assert cells == {(source, budget // 64, budget) for source in ("near", "web") for budget in BUDGETS}
    assert all(each.low <= each.value <= each.high and each.round == 1 for each in report.history.scores)
    assert all(tuple(sorted(each.inside)) == each.inside for each in report.history.scores)
    (sentence,) = report.hits
    assert sentence.startswith("Of 4 pilots that earlier rounds had predicted, 50% intervals contained ")
    page = (tmp_path / "plan" / "plan.html").read_text()
    assert "Earlier predictions and what came" in page
    assert sentence in page


def test_another_amount_of_money_is_the_same_round(call, tmp_path):
    found = rows(sources=("near", "web"), epochs=(2, 16))
    call(found, prices=two_sources()).write()
    call(found, prices=two_sources(), money=50.0).write()
    assert len(list((tmp_path / "plan" / "rounds").glob("*.json"))) == 1
    assert read(tmp_path)["money"] == 50


def test_a_folder_of_another_question_is_refused(call):
    found = rows(sources=("near",), epochs=(2, 16))
    call(found, prices=one_source()).write()
    with pytest.raises(ValueError, match=r"keeps the rounds of another question \(task parts\). Give another --out."):
        call([row | {"task": "cars"} for row in found], prices=one_source())


def test_a_damaged_round_is_reported_with_its_file(call, tmp_path):
    call(rows(sources=("near",), epochs=(2, 16)), prices=one_source()).write()
    (tmp_path / "plan" / "rounds" / "001.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"001.npz cannot be read .* Delete 001.json and 001.npz"):
        call(rows(sources=("near",), epochs=(2, 16, 64)), prices=one_source())


def test_a_round_with_pickled_objects_is_not_loaded(call, tmp_path):
    call(rows(sources=("near",), epochs=(2, 16)), prices=one_source()).write()
    with (tmp_path / "plan" / "rounds" / "001.npz").open("wb") as file:
        np.savez(file, **{"monotone/shares": np.array([{}], object)})
    with pytest.raises(ValueError, match=r"001.npz cannot be read"):
        call(rows(sources=("near",), epochs=(2, 16, 64)), prices=one_source())


def test_a_round_is_kept_with_its_json_file_which_comes_last(call, tmp_path):
    found = rows(sources=("near",), epochs=(2, 16))
    call(found, prices=one_source()).write()
    # As if the process had been killed between the two files.
    (tmp_path / "plan" / "rounds" / "001.json").unlink()
    (tmp_path / "plan" / "rounds" / "001.npz").write_bytes(b"half")
    report = call(found, prices=one_source())
    assert (report.history.number, report.history.earlier) == (1, ())
    report.write()
    assert call(rows(sources=("near",)), prices=one_source()).history.number == 2


def test_a_round_of_another_process_is_not_overwritten(call):
    first = call(rows(sources=("near",), epochs=(2, 16)), prices=one_source())
    call(rows(sources=("near",), epochs=(2, 64)), prices=one_source()).write()
    with pytest.raises(RuntimeError, match=r"another process has written .*001.json in the meantime"):
        first.write()


def test_a_file_that_is_no_round_is_reported(call, tmp_path):
    (tmp_path / "plan" / "rounds").mkdir(parents=True)
    (tmp_path / "plan" / "rounds" / "001.json").write_text('{"digest": "x", "known": {}}')
    with pytest.raises(
        ValueError, match=r"001.json is no round \(question, plan, weights, inflation missing\). Delete 001.json"
    ):
        call(rows(sources=("near",), epochs=(2, 16)), prices=one_source())
