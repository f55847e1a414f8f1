"""How a study measures distances: on which features, to which task, and that nothing is measured twice."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest
from rich.console import Console

from sslshift.models import ENCODERS, PretrainedEncoder, save_encoder
from sslshift.storage import Store
from sslshift.study.analysis import Analysis
from sslshift.study.declare import Study
from sslshift.study.opened import open_study
from sslshift.study.progress import Progress
from sslshift.study.report.page import notes
from sslshift.study.results import Results
from sslshift.study.shifts import measure_shifts, name_of_features
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
    other = measured(dataclasses.replace(study, shift_distance="frechet"), tmp_path)
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
