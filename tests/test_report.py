"""Files of a study's report: tables, figures and the page."""

import csv
import dataclasses
import html
import io
import shutil
import subprocess
import sys

import matplotlib
import pytest
from PIL import Image
from report_builders import NEAR, STUDY, results_of, truth
from rich.console import Console

from sslshift.study.analysis import Analysis
from sslshift.study.opened import open_study
from sslshift.study.report import figures, print_report, write_report
from sslshift.study.report.page import notes
from sslshift.study.report.sentences import answer, findings
from sslshift.study.results import describe_run
from sslshift.transfer.claims import Claim

# Importing the report and drawing must change none of them.
RC_PARAMS = matplotlib.rcParams.copy()


@pytest.fixture(scope="module")
def opened():
    return open_study(STUDY)


@pytest.fixture(scope="module")
def results(opened):
    return results_of(opened)


def written(results, out):
    results = dataclasses.replace(
        results, opened=dataclasses.replace(results.opened, design=dataclasses.replace(results.opened.design, out=out))
    )
    return write_report(Analysis(results))


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
    assert tables == {"kinds", "evaluations", "classes", "trends", "pairs", "order", "shift", "mixtures", "runs"}
    with (tmp_path / "tables/kinds.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["source"] for line in lines[-2:]] == ["untrained encoder", "raw pixels"]
    assert len(lines) == 9 + 2


def test_equal_results_make_equal_files(results, folder):
    out, _ = folder
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    written(results, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_drawing_leaves_matplotlib_as_it_was(folder):
    """The fixture has drawn all figures by now: a notebook would still have its backend and no new figures."""
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    # A copy, since reading `backend` of the original would choose one.
    assert matplotlib.rcParams.copy() == RC_PARAMS


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take longer than all the rest."""
    monkeypatch.setattr("sslshift.study.report.figures.draw_all", lambda analysis, folder: [])


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
    assert f"This study is not finished: {finished} of {planned_runs} runs are complete." in page
    assert f"Failed: {broken.source} N = {broken.unique}, seed 0: the loss is no longer a number <at step 7>" in page
    assert "Missing: staged N = 320, seed 0; " in page
    assert f"{NEAR} N = 8, seed 2; " in page
    assert "; and 3 more; see the table of every run." in page
    assert "(1 of 3 runs)" in page
    assert "(2 of 3 runs)" in page
    assert (
        "| staged (0 of 3 runs) | 320 | 0.20 [0.20, 0.20] | missing |  | missing | missing | 0.5 | 2 |"
        in (tmp_path / "tables/kinds.md").read_text()
    )
    runs = (tmp_path / "tables/runs.md").read_text()
    assert "failed: the loss is no longer a number" in runs
    assert runs.count("| missing |") >= len(part.missing)


def test_page_of_a_finished_study_has_no_warning(folder):
    assert "not finished" not in (folder[0] / "report.html").read_text()


def test_page_has_the_settings_and_versions_of_the_study(folder):
    page = html.unescape((folder[0] / "report.html").read_text())
    for part in ("--learning_rate", "jax version", "numpy version", "python version", "0, 1, 2", "1.5"):
        assert part in page
    assert "from sslshift.study import Study, run" in page
    assert "budget=640" in page


def test_page_shows_the_command_that_was_given(results, tmp_path, undrawn):
    opened = dataclasses.replace(results.opened, design=dataclasses.replace(results.opened.design, out=tmp_path))
    write_report(Analysis(dataclasses.replace(results, opened=opened)), "python -m experiments.mine --budget=640")
    assert "<pre>python -m experiments.mine --budget=640</pre>" in (tmp_path / "report.html").read_text()


def test_methods_and_encoders_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr("sslshift.reporting.figures.WIDTHS", {"narrow": 3.35})
    monkeypatch.setattr(figures, "_FIGURES", dict(list(figures._FIGURES.items())[:1]))
    opened = open_study(dataclasses.replace(STUDY, method="simclr,vicreg", seeds=2, mixture=()))
    results = results_of(opened, lambda run: truth(run) if run.method == "simclr" else 1.4 - truth(run))
    analysis = Analysis(results)
    assert {kind.learner[0] for kind in analysis.runs} == {"simclr", "vicreg"}
    sentences = answer(analysis)
    assert len(sentences) == 3
    assert "this verdict holds for 1 of 2 methods and encoders" in sentences[0]
    change = analysis.task.learners["vicreg", "patch_mlp"].change
    assert isinstance(change, Claim)
    assert change.value > 0
    written(results, tmp_path)
    assert (tmp_path / "tables/kinds.md").read_text().startswith("| method | source |")
    svg = (tmp_path / "figures/accuracy_vs_diversity.svg").read_text()
    assert "simclr on patch_mlp" in svg
    assert "vicreg on patch_mlp" in svg
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(Analysis(results), console)
    assert "vicreg on patch_mlp: " in console.export_text()


def test_a_further_task_has_figures_and_exploratory_verdicts(tmp_path, monkeypatch):
    monkeypatch.setattr("sslshift.reporting.figures.WIDTHS", {"narrow": 3.35})
    opened = open_study(dataclasses.replace(STUDY, task=("clothes = bundled:fashion_mnist; test=bundled:fashion_mnist/test",)))
    results = results_of(opened)
    written(results, tmp_path)
    names = {path.stem.rpartition("-")[0] for path in (tmp_path / "figures").iterdir()}
    assert {"accuracy_vs_shift-clothes", "order_comparison-clothes"} <= names
    analysis = Analysis(results)
    (learner,) = analysis.tasks["clothes"].learners.values()
    assert len(learner.trends) == 3
    assert isinstance(learner.change, Claim)
    assert all(each.exploratory for name, each in analysis.claims.items() if name.task == "clothes")
    # The first task's verdicts do not depend on how many others there are.
    alone = Analysis(results_of(open_study(STUDY))).claims
    assert {name: each.adjusted for name, each in analysis.claims.items() if name in alone} == {
        name: each.adjusted for name, each in alone.items()
    }
    assert "better, exploratory" in (tmp_path / "tables/tasks.md").read_text()


def test_axes_with_a_single_place_have_labels(tmp_path):
    one = results_of(open_study(dataclasses.replace(STUDY, sources=f"{NEAR}@320", mixture=(), seeds=1)))
    written(one, tmp_path)
    words = {name: (tmp_path / f"figures/accuracy_vs_{name}.svg").read_text() for name in ("diversity", "shift")}
    assert all(f">{tick}</text>" in words["diversity"] for tick in ("0.1", "1"))
    assert all(f">{tick}</text>" in words["shift"] for tick in ("0.0", "1.0"))
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "Verdicts are corrected" not in page
    assert "Verdicts need at least two seeds" in page
    assert "do not include the variation between seeds" in page


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX on this machine")
def test_latex_tables_compile(tmp_path, folder):
    tables = [path.read_text() for path in sorted((folder[0] / "tables").glob("*.tex"))]
    body = "".join(f"\\begin{{table}}\n{each}\\end{{table}}\\clearpage\n" for each in tables)
    text = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "tables.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "tables"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_runs_that_skipped_steps_or_collapsed_are_named(opened, results):
    first, second, *rest = results.runs
    text = "embedding rank 1.21 (expected at least 1.6) at step 10"
    changed = (
        dataclasses.replace(first, trained=first.trained._replace(skipped=3)),
        dataclasses.replace(second, trained=second.trained._replace(collapse=text)),
    )
    analysis = Analysis(dataclasses.replace(results, runs=(*changed, *rest)))
    (skipped,) = [note for note in notes(analysis) if "skipped" in note]
    assert skipped.startswith(f"{describe_run(opened, first.run)}: 3 of 10 training steps were skipped, because")
    (collapsed,) = [sentence for sentence in findings(analysis) if "collapsed" in sentence]
    assert collapsed.startswith(f"Warning: 1 of {len(results.runs)} runs collapsed, ")
    assert collapsed.endswith(f"e.g. {describe_run(opened, second.run)}: {text}.")
    sound = Analysis(results)
    assert not [each for each in (*notes(sound), *findings(sound)) if "skipped" in each or "collapsed" in each]
