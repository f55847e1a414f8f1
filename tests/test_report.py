"""What a study leaves for people: sentences, tables, figures, and the page, of results whose truth is known."""

import csv
import dataclasses
import html
import io
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sslshift.reporting import Table
from sslshift.study import figures
from sslshift.study.compared import against, gains, judged_together, kinds, pairs
from sslshift.study.console import print_results
from sslshift.study.declare import Study
from sslshift.study.findings import answer, findings
from sslshift.study.judged import Judged
from sslshift.study.notes import caption
from sslshift.study.opened import open_study
from sslshift.study.report import write_results
from sslshift.study.results import Results
from sslshift.study.sampled import PIXELS, UNTRAINED, Kind, sampled
from sslshift.study.trending import trend_change, trends
from sslshift.transfer.inference import Estimate, Trend, compare, runs_interval
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import Predictions

NEAR = "bundled:mnist"
MIDDLE = "bundled:fashion_mnist"
FAR = "synthetic:noise?size=400"
SHIFTS = {NEAR: 0.0, MIDDLE: 0.4, FAR: 0.9, "staged": 0.2}
STUDY = Study(
    sources=f"{NEAR}@8,64,320; {MIDDLE}@8,64,320; {FAR}@8,320",
    mixture=(f"staged = near:{NEAR}@160 -> far:{MIDDLE}@160",),
    downstream="bundled:mnist",
    downstream_test="bundled:mnist/test",
    labelled=100,
    budget=640,
    batch_size=64,
    seeds=3,
    head="32,16",
    shift_images=0,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Planned(Judged):
    """An encoder whose predictions are made up."""

    found: Predictions | None = None

    def predicted(self, task):
        return self.found


def planned(opened, accuracy, seed):
    """Right on about this share of the test images, on much the same ones whatever the seed."""
    task = opened.task
    labels = task.test.source.labels[task.test.indices]
    ease = (np.random.default_rng(0).permutation(len(labels)) + 0.5) / len(labels)
    ease += np.random.default_rng([seed, int(accuracy * 1e6)]).normal(0, 0.02, len(labels))
    predictions = {name: np.where(ease < accuracy, labels, (labels + 1) % 10) for name in ("knn", "linear")}
    scores = {"metric": "accuracy", "test_images": len(labels), "notes": [], "chosen": {"knn": {}, "linear": {}}}
    for name, each in predictions.items():
        value = float(np.mean(each == labels))
        scores |= {name: value, f"{name}_low": value, f"{name}_high": value, f"{name}_validation": value}
    trained = {"unique_read": 0, "broken": 0, "loss_first": 2.0, "loss_last": 1.0, "seconds": 1.5}
    found = Predictions("accuracy", labels, task.test.indices, predictions)
    return Planned(Path("none"), trained, {task.name: scores}, {}, found)


def truth(run):
    """Near the task diversity helps, far from it not."""
    rise = {NEAR: 0.04, MIDDLE: 0.02, FAR: 0.0, "staged": 0.03}[run.source]
    wobble = 0.002 * (run.seed - 1) + 0.001 * ((run.unique + run.seed) % 3)
    return 0.75 - 0.1 * SHIFTS[run.source] + rise * math.log10(run.unique / 8) + wobble


def results_of(opened, accuracy=truth, keep=lambda run: True, failed=(), shifts=SHIFTS):
    """Results of a study with this accuracy of each run; runs that are not kept are missing, if they have not failed."""
    runs = []
    for run in (run for run in opened.runs if keep(run) and run not in dict(failed)):
        judged = planned(opened, accuracy(run), run.seed)
        judged.trained["unique_read"] = run.unique
        runs.append((run, judged))
    floors = {
        (*learner.key, seed): planned(opened, 0.7 + 0.001 * seed, 100 + seed)
        for learner in opened.learners
        for seed in range(3)
    }
    known = ("value", "low", "high", "distance", "floor", "ceiling")
    shifts = {
        each.name: dict.fromkeys(known, shifts[each.name]) | {"sample_size": 100, "dimensions": 16}
        for each in opened.candidates
    }
    missing = tuple(run for run in opened.runs if not keep(run) and run not in dict(failed))
    pixels = planned(opened, 0.72, 200)
    return Results(opened, tuple(runs), floors, pixels, {opened.task.name: shifts}, {}, tuple(failed), missing)


@pytest.fixture(scope="module")
def opened():
    return open_study(STUDY)


@pytest.fixture(scope="module")
def results(opened):
    return results_of(opened)


LEARNER = ("simclr", "patch_mlp")


def test_trends_find_what_was_planned(results):
    found = {each.source: each for each in trends(results, NEAR, LEARNER)}
    assert list(found) == [NEAR, MIDDLE, FAR]
    for source, slope in ((NEAR, 0.04), (MIDDLE, 0.02), (FAR, 0.0)):
        assert found[source].trend.slope == pytest.approx(slope, abs=0.006)
        assert found[source].trend.low < found[source].trend.slope < found[source].trend.high
    assert found[NEAR].adjusted == found[NEAR].trend.p_value < 0.05
    change = trend_change(results, NEAR, LEARNER)
    assert change.slope == pytest.approx(-0.04 / 0.9, abs=0.012)
    assert change.low < change.slope < change.high


def test_the_answer_is_three_sentences_with_the_two_findings_numbers(results):
    use, near, change = answer(results)
    assert use.startswith(f"Pretrain on {NEAR} with 320 different images: it ends highest, at 81.")
    assert "shown to be better; it is shown to be ahead of" in use
    slope = trends(results, NEAR, LEARNER)[0].trend
    assert (
        f"{slope.slope * 100:+.2f} points ({slope.low * 100:+.2f} to {slope.high * 100:+.2f}): more diversity is better" in near
    )
    assert re.search(r"one unit of the shift index\) that effect changes by -\d\.\d\d points \(", change)


def test_a_source_whose_gain_is_shown_is_named_before_a_higher_one_that_varies(opened):
    """FAR ends highest on average, but by one lucky seed; NEAR gains in every seed."""
    lucky = {0: 0.99, 1: 0.75, 2: 0.74}
    use = answer(results_of(opened, lambda run: lucky[run.seed] if run.source == FAR else truth(run)))[0]
    assert use.startswith(f"Pretrain on {NEAR} with 320 different images: it reaches 81.")
    assert f"which is shown to be better; {FAR} ends higher, at 82." in use
    assert "but its gain is not shown" in use


def test_where_nothing_is_nothing_is_shown(opened):
    flat = results_of(opened, lambda run: 0.7 + 0.01 * ((run.seed * 7 + run.unique) % 5 - 2))
    use, near, change = answer(flat)
    assert use.startswith("No gain from pretraining is shown: ")
    assert "no trend shown" in near
    assert "no change is shown" in change
    assert {each.verdict for each in pairs(flat, NEAR, LEARNER).values()} <= {
        "no difference shown",
        "better, but not after correction",
    }
    assert any("raw pixels" in sentence for sentence in findings(flat))


def test_gains_are_paired_with_the_same_seeds_untrained(results):
    kind = Kind(LEARNER, NEAR, 320)
    numbers = sampled(results, NEAR, "linear")
    trained, floor = (numbers.grid([each]).values[0, :, 0] for each in (kind, Kind(LEARNER, UNTRAINED, None)))
    assert gains(results, NEAR)[kind].mean == pytest.approx((trained - floor).mean())
    pixels = results.pixels.scores[NEAR]["linear"]
    assert numbers.difference(kind, Kind(None, PIXELS, None)).value == pytest.approx(trained.mean() - pixels)


def test_intervals_are_those_of_finished_encoders_elsewhere(results):
    """`tools.evaluate` compares by `transfer.inference`: the same predictions must give the same numbers."""
    kinds_ = Kind(LEARNER, NEAR, 320), Kind(LEARNER, FAR, 320)
    several = [
        [judged.predicted(NEAR) for run, judged in results.runs if (run.source, run.unique) == kind[1:]] for kind in kinds_
    ]
    sides = [[each.predictions["linear"] for each in side] for side in several]
    labels = several[0][0].labels
    numbers = sampled(results, NEAR, "linear")
    assert numbers.difference(*kinds_)[:3] == compare(METRICS["accuracy"], *sides, labels, resamples=1000)[:3]
    assert numbers.score(kinds_[0])[:3] == runs_interval(METRICS["accuracy"], sides[0], labels, resamples=1000)


def test_of_an_unfinished_study_only_shared_seeds_are_compared(opened):
    # The near source lacks seed 0 at its most images, the far one seed 2: one seed is left to both.
    lacking = {(NEAR, 320, 0), (FAR, 320, 2)}
    part = results_of(opened, keep=lambda run: (run.source, run.unique, run.seed) not in lacking)
    near = Kind(LEARNER, NEAR, 320)
    far = Kind(LEARNER, FAR, 320)
    found = next(each for pair, each in pairs(part, NEAR, LEARNER).items() if set(pair) == {near, far})
    whole = dict(part.runs)
    runs = {run: judged.scores[NEAR]["linear"] for run, judged in whole.items() if run.unique == 320 and run.seed == 1}
    scores = {run.source: value for run, value in runs.items()}
    assert found.mean == pytest.approx(scores[NEAR] - scores[FAR])
    assert found.verdict == "one seed, nothing shown"
    assert trends(part, NEAR, LEARNER)[0].trend.seeds == 2


def test_many_pairs_are_corrected(results):
    found = pairs(results, NEAR, LEARNER)
    assert len(found) == 6
    assert all(each.adjusted >= each.p_value for each in found.values())
    assert max(each.adjusted / each.p_value for each in found.values() if each.adjusted < 1) == pytest.approx(6)


def test_mixtures_are_compared_with_the_nearest_source_alone(results):
    reference, found = against(results, NEAR, LEARNER)
    assert reference == Kind(LEARNER, NEAR, 320)
    assert {kind.source for kind in found} == {MIDDLE, FAR, "staged"}
    assert any(
        sentence.startswith(f"Mixtures against {NEAR} with 320 different images: staged") for sentence in findings(results)
    )


def written(results, out):
    results = dataclasses.replace(
        results, opened=dataclasses.replace(results.opened, study=dataclasses.replace(results.opened.study, out=str(out)))
    )
    return write_results(results)


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return out, written(results, out)


def test_folder_holds_figures_tables_and_page(folder):
    tmp_path, paths = folder
    assert tmp_path / "report.html" in paths
    names = {
        f"{name}{wide}" for name in ("accuracy_vs_diversity", "accuracy_vs_shift", "order_comparison") for wide in ("", "-wide")
    }
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("png", "pdf", "svg")
    }
    for name in names:
        # The column of a paper, and its page; letters in it can be selected.
        with Image.open(tmp_path / f"figures/{name}.png") as image:
            assert image.width / 300 == pytest.approx(7.0 if "wide" in name else 3.35, abs=0.01)
        pdf = (tmp_path / f"figures/{name}.pdf").read_bytes()
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf
    tables = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert tables == {"kinds", "trends", "pairs", "order", "shift", "mixtures", "runs"}
    with (tmp_path / "tables/kinds.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["source"] for line in lines[-2:]] == ["untrained encoder", "raw pixels"]
    assert len(lines) == 9 + 2


def test_equal_results_make_equal_files(results, folder):
    out, _ = folder
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    written(results, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take longer than all the rest."""
    monkeypatch.setattr("sslshift.study.report.draw_all", lambda results, folder: ([], []))


def test_page_of_an_unfinished_study_says_what_is_missing(opened, tmp_path, undrawn):
    broken = opened.runs[0]
    part = results_of(
        opened,
        keep=lambda run: run.seed < 2 and run.source != "staged",
        failed=((broken, "the loss is no longer a number <at step 7>"),),
    )
    written(part, tmp_path)
    page = html.unescape((tmp_path / "report.html").read_text())
    planned_runs = len(opened.runs)
    finished = len(part.runs)
    assert f"This study is not finished: {finished} of {planned_runs} runs are." in page
    assert f"Failed: {broken.source} N = {broken.unique}, seed 0: the loss is no longer a number <at step 7>" in page
    assert "Missing: staged N = 320, seed 0; " in page
    assert f"{NEAR} N = 8, seed 2; " in page
    assert "; and 3 more, see the table of every run." in page
    assert "(1 of 3 runs)" in page
    assert "(2 of 3 runs)" in page
    assert (
        "| staged (0 of 3 runs) | 320 | 0.5 | 2 | 0.20 [0.20, 0.20] | missing | missing | missing |  |"
        in (tmp_path / "tables/kinds.md").read_text()
    )
    runs = (tmp_path / "tables/runs.md").read_text()
    assert "failed: the loss is no longer a number" in runs
    assert runs.count("| missing |") >= len(part.missing)


def test_page_of_a_finished_study_says_nothing_of_it(folder):
    assert "not finished" not in (folder[0] / "report.html").read_text()


def test_page_tells_how_it_was_made(folder):
    page = html.unescape((folder[0] / "report.html").read_text())
    for part in ("--learning_rate=-1.0", "jax version", "numpy version", "python version", "0, 1, 2", "--budget=640", "1.5"):
        assert part in page


def test_methods_and_encoders_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "WIDTHS", {"narrow": 3.35})
    monkeypatch.setattr(figures, "_FIGURES", dict(list(figures._FIGURES.items())[:1]))
    opened = open_study(dataclasses.replace(STUDY, method="simclr,vicreg", seeds=2, mixture=()))
    results = results_of(opened, lambda run: truth(run) if run.method == "simclr" else 1.4 - truth(run))
    assert {kind.learner[0] for kind in kinds(results)} == {"simclr", "vicreg"}
    sentences = answer(results)
    assert len(sentences) == 3
    assert "the same verdict with 1 of 2 methods and encoders" in sentences[0]
    assert isinstance(trend_change(results, NEAR, ("vicreg", "patch_mlp")), Trend)
    assert trend_change(results, NEAR, ("vicreg", "patch_mlp")).slope > 0
    written(results, tmp_path)
    assert (tmp_path / "tables/kinds.md").read_text().startswith("| method | source |")
    svg = (tmp_path / "figures/accuracy_vs_diversity.svg").read_text()
    assert "simclr on patch_mlp" in svg
    assert "vicreg on patch_mlp" in svg
    console = Console(width=200, record=True, file=io.StringIO())
    print_results(results, console)
    assert "vicreg on patch_mlp: " in console.export_text()


def test_one_seed_shows_nothing(opened):
    one = results_of(opened, keep=lambda run: run.seed == 0)
    use, near, change = answer(one)
    assert "(one seed, nothing shown)" in use
    assert "of one seed, with an interval that does not count what other seeds would give, so that nothing is shown" in near
    assert ": of one seed, so that nothing is shown; of these" in change
    assert {each.verdict for each in gains(one, NEAR).values()} == {"one seed, nothing shown"}
    low = results_of(opened, lambda run: 0.5, keep=lambda run: run.seed == 0)
    assert not any("stays below" in sentence for sentence in findings(low))
    assert any("is not shown to pass raw pixels: -2" in sentence for sentence in findings(low))


def test_draws_of_one_training_seed_show_nothing_of_others():
    """Subsets differ, the seed does not: chance between seeds is unknown, whatever the number of runs."""
    opened = open_study(dataclasses.replace(STUDY, seeds=1, draws=3, mixture=()))
    results = results_of(opened, lambda run: truth(run) + 0.001 * run.draw)
    assert {each.verdict for each in gains(results, NEAR).values()} == {"one seed, nothing shown"}
    assert {each.verdict for each in pairs(results, NEAR, LEARNER).values()} == {"one seed, nothing shown"}
    assert all("nothing is shown" in sentence or "(one seed, nothing shown)" in sentence for sentence in answer(results))
    assert "one seed: intervals are over 3 draws of each subset and the test images, and nothing is shown" in caption(results)


def test_who_is_shown_to_be_behind_is_not_said_to_be_ahead(results, monkeypatch):
    """The highest one's gain is not shown, so that another one is named; but it is shown to be ahead of that one."""
    best = Kind(LEARNER, MIDDLE, 320)
    highest = Kind(LEARNER, NEAR, 320)
    shown = {
        kind: each._replace(verdict="better" if kind == best else "no difference shown")
        for kind, each in gains(results, NEAR).items()
    }
    monkeypatch.setattr("sslshift.study.findings.gains", lambda *_: shown)
    assert pairs(results, NEAR, LEARNER)[highest, best].verdict == "better"
    use = answer(results)[0]
    assert use.startswith(f"Pretrain on {MIDDLE} with 320 different images")
    assert f"it is shown to be ahead of {FAR}; it is shown to be behind {NEAR} and staged." in use


def test_the_nearest_of_far_sources_is_not_called_near(results):
    shifts = {name: each | {"value": each["value"] + 0.8} for name, each in results.shifts.items()}
    _, near, _ = answer(dataclasses.replace(results, task_shifts={NEAR: shifts}))
    assert near.startswith(f"With the source nearest to the task ({NEAR}, shift index 0.80) each factor of ten")
    unknown = {name: each | {"value": math.nan} for name, each in results.shifts.items()}
    _, near, change = answer(dataclasses.replace(results, task_shifts={NEAR: unknown}))
    assert "(no shift index is known) each factor of ten" in near
    assert "at least 3 sources with a shift index" in change
    assert "there are none" in change


def test_axes_of_a_single_place_can_be_read(tmp_path):
    one = results_of(open_study(dataclasses.replace(STUDY, sources=f"{NEAR}@320", mixture=(), seeds=1)))
    written(one, tmp_path)
    words = {name: (tmp_path / f"figures/accuracy_vs_{name}.svg").read_text() for name in ("diversity", "shift")}
    assert all(f">{tick}</text>" in words["diversity"] for tick in ("0.1", "1"))
    assert all(f">{tick}</text>" in words["shift"] for tick in ("0.0", "1.0"))
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "corrected for the" not in page
    assert "needs two seeds at least" in page
    assert "nothing is shown of other seeds" in page


def test_two_sources_have_no_change_with_shift(opened):
    few = results_of(opened, keep=lambda run: run.source in (NEAR, FAR))
    assert "at least 3 sources" in answer(few)[2]


def test_nothing_finished_is_no_answer(opened):
    assert answer(results_of(opened, keep=lambda run: False)) == ["No run of this study is finished: there is no answer yet."]


AWKWARD = Table("t", "T", ("source", "gain %"), (("a_b & c#|~^\\{x}", "-1.0 ± 0.5"), ("100% → <i>", "")), text_columns=1)


def test_tables_escape_what_their_form_reads_otherwise():
    assert AWKWARD.markdown.splitlines()[2] == r"| a_b & c#\|~^\\{x} | -1.0 ± 0.5 |"
    tex = AWKWARD.latex
    assert r"a\_b \& c\#\textbar{}\textasciitilde{}\textasciicircum{}\textbackslash{}\{x\} & $-$1.0 $\pm$ 0.5 \\" in tex
    assert r"100\% $\to$ \textless{}i\textgreater{} &  \\" in tex
    assert all(rule in tex for rule in (r"\begin{tabular}{lr}", r"\toprule", r"\midrule", r"\bottomrule", "booktabs"))
    assert "<i>" not in AWKWARD.html
    assert "<td>&lt;0.001</td>" in Table("t", "T", ("p",), (("<0.001",),), text_columns=0).html
    assert "a:<wbr>b?<wbr>c=<wbr>1&amp;<wbr>d" in Table("t", "T", ("p",), (("a:b?c=1&d",),)).html
    assert list(csv.reader(AWKWARD.csv.splitlines()))[1:] == [list(line) for line in AWKWARD.lines]


HARD = Table(
    "t", "T", ("source", "p"), (('[1] *a--b `q` "q"', "≤0.1"), ("*é ł 日本\x07\u200b", ""), *AWKWARD.lines), text_columns=1
)


def test_latex_takes_every_name():
    lines = HARD.latex.splitlines()
    assert r"{[}1] {*}a-{}-b {`}q{`} {''}q{''} & {\ifdefined\Umathchar ≤\else U+2264\fi}0.1 \\" in lines
    assert r"{*}é ł {\ifdefined\Umathchar 日本\else U+65E5 U+672C\fi}  &  \\" in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX on this machine")
def test_latex_tables_are_set(tmp_path, folder):
    tables = [HARD.latex, *(path.read_text() for path in sorted((folder[0] / "tables").glob("*.tex")))]
    body = "".join(f"\\begin{{table}}\n{each}\\end{{table}}\\clearpage\n" for each in tables)
    text = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "tables.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "tables"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_lines_of_a_table_are_as_long_as_its_head():
    with pytest.raises(ValueError, match="expected 2 cells in every row"):
        Table("t", "T", ("a", "b"), (("1",),))


def test_verdicts_claim_no_more_than_the_whole_table_does():
    sure, weak, none = (Estimate(value, value - 0.1, value + 0.1, p) for value, p in ((-0.3, 0.001), (0.12, 0.03), (0.02, 0.7)))
    found = judged_together([sure, weak, None, none, sure], [False, False, False, False, True])
    verdicts = [each and each.verdict for each in found]
    assert verdicts == ["worse", "better, but not after correction", None, "no difference shown", "one seed, nothing shown"]
    # Three were compared: what is missing, and what one seed cannot show, does not count.
    assert [each.adjusted for each in found[:2]] == pytest.approx([0.003, 0.06])
    assert math.isnan(found[4].half)
