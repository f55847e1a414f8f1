"""How a study measures distances: on which features, to which task, and that nothing is measured twice."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from tiny_studies import tiny

from sslshift.clock import Clock
from sslshift.models import ENCODERS, PretrainedEncoder, save_encoder
from sslshift.shift import ShiftIndex
from sslshift.storage import Store
from sslshift.study.analysis import Analysis
from sslshift.study.cost import reference_cost
from sslshift.study.declare import Study
from sslshift.study.opened import open_study
from sslshift.study.progress import Progress
from sslshift.study.report.page import notes
from sslshift.study.results import Results
from sslshift.study.shifts import MeasuredShift, measure_shifts, name_of_features, read_shifts, seen_by
from sslshift.transfer.scores import EvaluatedEncoder

SILENT = Progress(Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose distances stand on an encoder in a file, which takes other images than the study's."""
    folder = tmp_path_factory.mktemp("shifts")
    module = ENCODERS["patch_mlp"]
    variables = module.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    save_encoder(
        PretrainedEncoder(module, {"batch_stats": {}} | dict(variables), (32, 32, 3)), folder / "well_known.safetensors"
    )
    return Study(
        sources="bundled:fashion_mnist@400; bundled:mnist@400",
        mixture=("half = clothes:bundled:fashion_mnist@200*0.5 + digits:bundled:mnist@200*0.5",),
        downstream="bundled:fashion_mnist",
        downstream_test="bundled:fashion_mnist/test",
        task=("digits = bundled:mnist; test=bundled:mnist/test",),
        budget=640,
        batch_size=64,
        labelled=200,
        untrained_seeds=1,
        head="32,16",
        shift_images=150,
        shift_encoder=str(folder / "well_known.safetensors"),
        out=str(folder / "out"),
    )


def measured(study, tmp_path):
    opened = open_study(dataclasses.replace(study, out=str(tmp_path)))
    return measure_shifts(opened, Store(), SILENT)


def test_every_task_has_distances_of_its_own_and_mixtures_lie_between(study, tmp_path):
    shifts = measured(study, tmp_path)
    clothes, digits = (shifts[name] for name in ("bundled:fashion_mnist", "digits"))
    for shift, near, far in (
        (clothes, "bundled:fashion_mnist", "bundled:mnist"),
        (digits, "bundled:mnist", "bundled:fashion_mnist"),
    ):
        assert shift[near].value < shift["half"].value < shift[far].value
        assert shift[near].index.high < shift[far].index.low
        assert {each.index.sample_size for each in shift.values()} == {150}
    assert name_of_features(open_study(study).design.shift) == "the encoder of well_known.safetensors"


def test_what_is_known_is_read_and_what_differs_is_measured_anew(study, tmp_path):
    first = measured(study, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    more = measured(dataclasses.replace(study, sources=study.sources + "; synthetic:noise?size=300@300"), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert {task: {name: more[task][name] for name in found} for task, found in first.items()} == first
    assert more["digits"]["synthetic:noise?size=300"].value > more["digits"]["half"].value
    other = measured(dataclasses.replace(study, shift_distance="rbf_mmd"), tmp_path)
    assert other["digits"]["half"].index.distance != first["digits"]["half"].index.distance
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_the_report_names_what_stands_behind_the_index(study, tmp_path):
    opened = open_study(study)
    results = Results(opened, (), {}, EvaluatedEncoder({}, {}), measured(study, tmp_path), {})
    said = " ".join(notes(Analysis(results)))
    assert "between features of the encoder of well_known.safetensors" in said


def test_too_few_images_and_missing_encoders_are_told(study, tmp_path):
    few = measured(dataclasses.replace(study, sources="bundled:mnist@10; synthetic:noise?size=12@12", mixture=()), tmp_path)
    assert math.isnan(few["digits"]["synthetic:noise?size=12"].value)
    assert "at least 20 images" in few["digits"]["synthetic:noise?size=12"].why
    # Before anything is trained or evaluated.
    with pytest.raises(ValueError, match=r"no run folder or file .*fetch_encoder"):
        open_study(dataclasses.replace(study, shift_encoder=str(tmp_path / "none.safetensors")))
    with pytest.raises(ValueError, match=r"Expected one of kernel, .* as the name of a distance, got 'fid'"):
        open_study(dataclasses.replace(study, shift_distance="fid"))
    with pytest.raises(ValueError, match=r"no shift index by proxy_a: .*Use one of kernel, kernel_root"):
        open_study(dataclasses.replace(study, shift_distance="proxy_a"))


def an_index(value, *draws):
    return ShiftIndex(value, value - 0.1, value + 0.1, 1.0, 0.5, 2.0, 50, len(draws), draws)


def test_the_mean_over_encoders_has_their_scatter_and_that_of_the_images():
    """By hand: the images' variance is that of the mean of the draws, and explains a part of the scatter of encoders."""
    draws = np.array([[0.3, 0.5, 0.4, 0.4], [0.5, 0.7, 0.6, 0.6], [0.1, 0.3, 0.2, 0.2]])
    each = [MeasuredShift(an_index(value, *own), "", 8, (value,)) for value, own in zip((0.4, 0.6, 0.2), draws, strict=True)]
    found = MeasuredShift.mean(each)
    assert found.by_encoder == (0.4, 0.6, 0.2)
    assert found.value == pytest.approx(0.4)
    # Draws vary alike for all encoders, so that images explain nothing of the scatter: 0.04 / 3, and 0.02 / 3 for images.
    images, encoders = 0.02 / 3, 0.04 / 3
    freedom = (images + encoders) ** 2 / (images**2 / 2 + encoders**2 / 2)
    half = max(stats.t.ppf(0.975, freedom) * np.sqrt(images + encoders), stats.t.ppf(0.975, 2) * np.sqrt(encoders))
    assert found.index.high - found.value == pytest.approx(half)
    assert found.index.draws == pytest.approx((0.3, 0.5, 0.4, 0.4))
    assert (found.index.distance, found.index.floor, found.index.sample_size, found.index.repeats) == (1.0, 0.5, 50, 4)
    assert MeasuredShift.of_result(found.as_result()) == found
    # One encoder has the interval of its images; if an encoder has no index, the source has none.
    assert MeasuredShift.mean(each[:1]) == each[0]
    assert MeasuredShift.mean([each[0], MeasuredShift.unknown("no scale")]).why == "no scale"
    # Results of earlier versions do not name encoders.
    earlier = {name: value for name, value in each[0].as_result().items() if name != "by_encoder"}
    assert MeasuredShift.of_result(earlier).by_encoder == (0.4,)


def test_reference_encoders_share_the_budget_of_a_run_and_are_trained_once(tmp_path):
    """Two encoders of half a budget each, whose indices are kept; a report reads them, and one encoder gives another index."""
    opened = open_study(tiny("--reference_seeds=2", f"--out={tmp_path}"))
    assert opened.reference.budget.samples == 640
    assert (opened.learners[0].budget.samples, opened.learners[0].key) == (1280, opened.reference.key)
    clock = Clock()
    (shifts,) = measure_shifts(opened, Store(), Progress(Console(file=io.StringIO()), clock)).values()
    assert clock.samples == 2 * 640
    assert clock.timing().training > 0
    digits = shifts["bundled:mnist"]
    assert len(digits.by_encoder) == len(set(digits.by_encoder)) == 2
    assert digits.value == pytest.approx(np.mean(digits.by_encoder))
    assert len(list((tmp_path / "shift").glob("reference-*/encoder.safetensors"))) == 2
    assert read_shifts(opened, Store(read_only=True), SILENT)[opened.task.name] == shifts
    assert seen_by(opened.design.shift) == "over 2 reference encoders"
    cost = reference_cost(opened)
    assert (cost.runs, cost.missing, cost.samples) == (2, 0, 2 * 640)
    # Encoders that see another part of the budget are others: nothing of these is used, and nothing is known yet.
    alone = open_study(tiny("--reference_seeds=1", f"--out={tmp_path}"))
    assert read_shifts(alone, Store(read_only=True), SILENT)[alone.task.name]["bundled:mnist"].why == "It is not measured yet"
    assert seen_by(alone.design.shift) == "as this encoder sees it"
