"""The first sentences of a report, of results whose truth is known: decision, evaluations that disagree, leaks and money."""

import dataclasses
import re

import numpy as np
import pytest
from report_builders import FAR, LEARNER, MIDDLE, NEAR, STUDY, planned, results_of, truth

from sslshift.study.analysis import Analysis
from sslshift.study.learner_analysis import Kind
from sslshift.study.opened import open_study
from sslshift.study.report.decision import decision
from sslshift.study.report.figures import accuracy_vs_money
from sslshift.study.report.page import leak_sections
from sslshift.study.report.sentences import findings
from sslshift.study.report.tables import all_tables, class_table, main_table, money_table
from sslshift.transfer.claims import GAIN
from sslshift.transfer.leaks import LeakedPair, SourceLeaks


@pytest.fixture(scope="module")
def opened():
    return open_study(STUDY)


def by_knn(results, accuracy):
    """The results with other accuracies by kNN."""
    runs = []
    for each in results.runs:
        other = planned(results.opened, accuracy(each.run), each.run.seed)
        found = {
            task: mine._replace(predictions=mine.predictions | {"knn": other.found[task].predictions["knn"]})
            for task, mine in each.evaluated.found.items()
        }
        runs.append(dataclasses.replace(each, evaluated=dataclasses.replace(each.evaluated, found=found)))
    return dataclasses.replace(results, runs=tuple(runs))


def test_the_first_sentence_names_what_to_collect_and_what_hurts(opened):
    first, *others = decision(Analysis(results_of(opened)))
    assert first == (
        f"Collect {NEAR}: pretraining on 320 of its images raises the accuracy by 11.0 ± 1.7 points over the untrained encoder "
        f"(by the linear probe); staged and {MIDDLE} help as well; do not collect {FAR} (-4.2 ± 1.0 points by the linear "
        "probe), which hurts."
    )
    # Both evaluations agree, nothing has a cost, and there are no leaks.
    assert others == []


def test_the_first_sentence_compares_with_the_encoder_that_training_continued_from(opened):
    initial = {LEARNER: planned(opened, 0.76, 300)}
    results = dataclasses.replace(results_of(opened), initial=initial)
    analysis = Analysis(results)
    task = opened.task.name
    near = [each.evaluated for each in results.runs if (each.run.source, each.run.unique) == (NEAR, 320)]
    gain = np.mean([each.scores[task].linear for each in near]) - initial[LEARNER].scores[task].linear
    start = f"Collect {NEAR}: pretraining on 320 of its images raises the accuracy by {gain * 100:.1f} ± "
    assert decision(analysis)[0].startswith(start)
    assert "points over the initial encoder (by the linear probe)" in decision(analysis)[0]
    assert [row.kind.source for row in analysis.rows][-3:] == ["initial encoder", "untrained encoder", "raw pixels"]
    flat = results_of(opened, lambda run: 0.76 + 0.01 * ((run.seed * 7 + run.unique) % 5 - 2))
    (only,) = decision(Analysis(dataclasses.replace(flat, initial=initial)))
    assert re.search(
        r"or to hurt; with the best, .+, the accuracy is at [+-]\S+ ± \S+ points from the initial encoder \(", only
    )


def test_an_initial_encoder_below_an_untrained_one_is_said_first(opened):
    results = dataclasses.replace(results_of(opened), initial={LEARNER: planned(opened, 0.6, 300)})
    warning, text, *_ = decision(Analysis(results))
    assert warning == (
        "Warning: the encoder of --init has a linear-probe accuracy of 60.4%, less than an untrained network of its "
        "architecture (70.4%): a gain over it need not be worth having."
    )
    assert text.startswith("Collect ")


def test_without_an_effect_the_first_sentence_is_the_price_of_one(opened):
    flat = Analysis(results_of(opened, lambda run: 0.7 + 0.01 * ((run.seed * 7 + run.unique) % 5 - 2)))
    (only,) = decision(flat)
    assert only.startswith("Nothing can be decided yet: none of the 4 sources is shown to help or to hurt (")
    assert " points would be, with 80% probability; a gain of 1.0 points takes " in only
    assert decision(Analysis(results_of(opened, keep=lambda run: run.seed == 0)))[0].startswith(
        "With one seed, nothing can be decided; with variances as in quickstart, a gain of 1.0 points takes "
    )
    assert decision(Analysis(results_of(opened, keep=lambda run: False))) == []


def test_a_loss_that_only_one_evaluation_shows_is_said(opened):
    """The middle source changes nothing by the linear probe, and costs six points by kNN."""
    flat = lambda run: 0.701 if run.source == MIDDLE else truth(run)  # noqa: E731
    results = by_knn(results_of(opened, flat), lambda run: 0.64 if run.source == MIDDLE else truth(run))
    analysis = Analysis(results)
    kind = Kind(LEARNER, MIDDLE, 320)
    claims = analysis.task.claims_by_evaluation(LEARNER, GAIN, kind)
    assert list(claims) == ["linear", "knn"]
    assert [each.verdict for each in claims.values()] == ["no difference shown", "worse"]
    first, disagree = decision(analysis)
    assert f"do not collect {MIDDLE} (-6.3 ± " in first
    assert " points by kNN) and " in first
    assert disagree.startswith(f"By kNN, {MIDDLE} hurts by 6.3 ± ")
    assert "; by the linear probe, no difference is shown (" in disagree
    assert disagree.endswith(" would be, with 80% probability).")
    # The tables say it beside the numbers.
    tables = {table.name: table for table in all_tables(analysis)}
    row = next(line for line in tables["kinds"].lines if line[:2] == [MIDDLE, "320"])
    assert row[4] == "no difference shown; kNN: worse"
    row = next(line for line in tables["evaluations"].lines if line[:2] == [MIDDLE, "320"])
    assert row[2].endswith(": no difference shown")
    assert row[3].startswith("-6.3 ± ")
    assert row[3].endswith(": worse")
    assert {line[1] for line in tables["trends"].lines} == {"linear", "kNN"}


def test_a_loss_with_few_images_alone_is_no_advice(opened):
    few = Analysis(results_of(opened, lambda run: 0.5 if (run.source, run.unique) == (MIDDLE, 8) else truth(run)))
    assert few.task.gains[Kind(LEARNER, MIDDLE, 8)].verdict == "worse"
    first = decision(few)[0]
    assert f"staged and {MIDDLE} help as well; do not collect {FAR} (" in first


def test_sources_with_the_same_verdicts_share_a_sentence(opened):
    flat = results_of(opened, lambda run: 0.701)
    analysis = Analysis(by_knn(flat, lambda run: {MIDDLE: 0.64, FAR: 0.62}.get(run.source, 0.701)))
    disagree = decision(analysis)[-1]
    assert disagree.startswith(f"By kNN, {MIDDLE} and {FAR} hurt (by 6.3 ± ")
    assert " points, by 8.5 ± " in disagree


def test_leaks_stand_beside_the_answer(opened):
    leaks = {NEAR: SourceLeaks(count=12, equal=12, same=12), MIDDLE: SourceLeaks()}
    analysis = Analysis(dataclasses.replace(results_of(opened), leaks=leaks))
    _, warning = decision(analysis)
    assert warning.startswith(f"Warning: 12 of the 1,000 test images are also in {NEAR}, pixel for pixel; accuracies after ")
    assert not any("pixel for pixel" in each for each in findings(analysis))
    verdicts = {line[0]: line[4] for line in main_table(analysis).lines}
    assert verdicts[NEAR] == "better; 12 possible leaks"
    # A mixture has the leaks of its sources.
    assert verdicts["staged"].endswith("; 12 possible leaks")
    assert "leaks" not in verdicts[MIDDLE]


def test_leaks_are_shown_in_pairs_with_their_paths(opened):
    pairs = tuple(LeakedPair(k, k, 0.0, "same pixels", f"photos/{k}.png", f"test/{k}.jpg") for k in range(15))
    leaks = {NEAR: SourceLeaks(count=15, equal=15, same=15, pairs=pairs)}
    (section,) = leak_sections(Analysis(dataclasses.replace(results_of(opened), leaks=leaks)))
    assert [each.caption for each in section.pairs] == [[f"photos/{k}.png", f"test/{k}.jpg"] for k in range(12)]
    assert all(len(each.pictures) == 2 for each in section.pairs)
    assert section.table.lines[-1] == ("photos/14.png", "test/14.jpg", "same pixels", "0")
    assert section.table.title == "15 pairs with their paths"


@pytest.fixture
def priced(opened, monkeypatch):
    for uri, cost in ((NEAR, 0.5), (MIDDLE, 0.01)):
        monkeypatch.setattr(opened.sources[uri], "cost_per_image", cost)
    design = dataclasses.replace(opened.design, price_per_hour=3600.0)
    return Analysis(results_of(dataclasses.replace(opened, design=design)))


def test_accuracy_is_drawn_against_money(priced):
    drawing = accuracy_vs_money(priced.task, "narrow")
    assert [panel.get_title("left") for panel in drawing.axes] == ["linear probe", "kNN"]
    # The axis is logarithmic, has at least two labels, and shows all costs.
    low, high = drawing.axes[0].get_xlim()
    assert low < min(cost.total for cost in priced.costs.values()) < max(cost.total for cost in priced.costs.values()) < high
    assert drawing.axes[0].get_xscale() == "log"
    assert np.log10(high / low) > 1


def test_gains_have_a_price(priced):
    # Each run took 1.5 seconds, at a price of 1 for a second.
    assert priced.costs[Kind(LEARNER, NEAR, 320)] == (160.0, pytest.approx(1.5))
    assert priced.costs[Kind(LEARNER, "staged", 320)].images == pytest.approx(160 * 0.51)
    lines = money_table(priced).lines
    costs = [float(line[2].replace(",", "")) for line in lines]
    assert costs == sorted(costs)
    found = {tuple(line[:2]): line for line in lines}
    gain = priced.task.gains[Kind(LEARNER, MIDDLE, 320)]
    row = found[MIDDLE, "320"]
    assert row[2] == "4.70"
    assert row[4] == "better"
    value, half = map(float, row[5].split(" ± "))
    assert [value, half] == pytest.approx([100 * gain.value / 4.7, 100 * gain.half_width / 4.7], abs=0.05)
    sentence = decision(priced)[1]
    assert sentence.startswith("Most gain for the money, of the gains that are shown: ")
    assert f"; the highest accuracy costs more: 320 images of {NEAR}: 11.0 ± 1.7 points for 161.50, +0.068 ± " in sentence


def test_without_costs_there_is_no_money(opened):
    analysis = Analysis(results_of(opened))
    assert analysis.costs == {}
    assert money_table(analysis).lines == []
    assert accuracy_vs_money(analysis.task, "narrow") is None


def test_gains_within_classes_add_up_to_the_gain(opened):
    analysis = Analysis(results_of(opened))
    kind = Kind(LEARNER, NEAR, 320)
    own = {group: claim for (each, group), claim in analysis.task.class_gains.items() if each == kind}
    assert len(own) == 10
    images = sum(group.images for group in own)
    assert images == 1000
    total = sum(group.images * claim.value for group, claim in own.items()) / images
    assert total == pytest.approx(analysis.task.gains[kind].value)
    assert all(claim.exploratory and claim.low < claim.value < claim.high for claim in own.values())
    table = class_table(analysis)
    values = [float(line[2]) for line in table.lines]
    assert values == sorted(values)
    # Ten classes of four sources: the four lowest and the two highest of each, and equal ones.
    assert 24 <= len(table.lines) < 40
    assert "exploratory, and corrected for all 40 of them" in table.note
