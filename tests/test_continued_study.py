"""Studies with --init: which encoder they take, what their runs depend on, and gains over the encoder as it is."""

import csv
import dataclasses
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from published import RESNET, VIT
from tiny_studies import tiny

from sslshift.data.decode import Canvas
from sslshift.models import ENCODERS, PatchMLP, PretrainedEncoder, save_encoder
from sslshift.reporting.ledger import append
from sslshift.study import cli
from sslshift.study.analysis import Analysis
from sslshift.study.design import parse_study
from sslshift.study.evaluate import INITIAL, initial_encoder, untrained_encoder
from sslshift.study.learners import parse_learners
from sslshift.study.opened import open_study
from sslshift.study.report.sentences import answer
from sslshift.study.results import run_record
from sslshift.study.runner import read_results

HEADS = "heads=3"


@pytest.fixture
def vit_file(originals, write):
    return write(originals[VIT], "vit.safetensors")


@pytest.fixture
def own_file(tmp_path):
    """A file of save_encoder: the default encoder with random weights, for the images of `tiny`."""
    variables = PatchMLP().init(jax.random.key(3), jnp.zeros((1, 28, 28, 1)), train=False)
    own = PretrainedEncoder(PatchMLP(), {"batch_stats": {}, **variables}, (28, 28, 1), card={"name": "ours"})
    return save_encoder(own, tmp_path / "own.safetensors")


def of_init(file, *flags):
    return tiny(f"--init={file}", "--encoder=", *flags)


def test_the_file_gives_the_architecture_and_the_recipe_that_belongs_to_it(vit_file):
    (found,) = parse_learners(of_init(f"{vit_file}?{HEADS}"))
    assert (found.encoder, found.module.positions, found.frozen) == ("vit_24x2x3_4", "learned", 0.1)
    assert found.optimiser.name == "adamw"
    assert (found.optimiser.encoder_rate, found.optimiser.layer_decay) == (0.1, 0.9)
    assert "encoder's rate 0.1 of it, layer decay 0.9, frozen for 10% of the steps" in str(found)
    (found,) = parse_learners(of_init(f"{vit_file}?{HEADS}", "--init_rate=0.5", "--layer_decay=0.7", "--init_frozen=0"))
    assert (found.optimiser.encoder_rate, found.optimiser.layer_decay, found.frozen) == (0.5, 0.7, 0.0)


def test_the_bundled_encoder_is_one_word():
    (found,) = parse_learners(of_init("bundled"))
    assert (found.encoder in ENCODERS, found.module) == (True, ENCODERS[found.encoder])
    # It was trained on images in colour, and takes the digits of the study too.
    assert found.fitted(Canvas(28, 28, 1)).initial.shape == (28, 28, 3)


def test_without_init_nothing_enters_a_record():
    learner = open_study(tiny()).learners[0]
    assert not {"init", "init_frozen"} & set(learner.record)
    assert "encoder_rate" not in learner.record["optimiser"]


def test_the_record_has_the_content_of_the_file_and_not_its_path(own_file, tmp_path):
    def record(file):
        opened = open_study(of_init(file))
        return json.dumps(run_record(opened, opened.runs[0]), sort_keys=True)

    moved = tmp_path / "moved" / "another.safetensors"
    moved.parent.mkdir()
    shutil.copy(own_file, moved)
    assert record(own_file) == record(moved)
    assert str(own_file) not in record(own_file)
    own = parse_learners(of_init(own_file))[0].initial
    shifted = jax.tree.map(lambda leaf: leaf + 0.01, own.variables)
    other = save_encoder(dataclasses.replace(own, variables=shifted), tmp_path / "other.safetensors")
    assert record(other) != record(own_file)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder=vit_s16"], r"--init=\S+ is of the architecture patch_mlp, but --encoder names vit_s16: remove --encoder"),
        (["--encoder=patch_mlp,vit_s16"], "but --encoder names vit_s16"),
        (["--method=mae"], r"Expected a ViT \(vit_\*\) as encoder of mae, which hides tokens, got PatchMLP"),
        (["--for_method=simclr: encoder=resnet18"], "but --encoder names resnet18"),
        (["--init_frozen=1"], "share of steps with a frozen encoder"),
        (["--init_rate=0"], "an encoder's rate in"),
        (
            ["--image_size=32"],
            r"--init: the encoder does not fit the images of the study: its patch_mlp takes images of 28 x 28 only",
        ),
        (
            ["--downstream=folder:{colours}", "--sources=synthetic:noise?size=9", "--image_size=28"],
            "it takes grey images, and these images have colour",
        ),
    ],
)
def test_what_does_not_fit_the_encoder_is_one_sentence(flags, message, own_file, image_folder):
    flags = [flag.replace("{colours}", str(image_folder)) for flag in flags]
    extra = ["--downstream_test="] if len(flags) > 1 else []
    with pytest.raises(ValueError, match=message):
        open_study(of_init(own_file, *flags, *extra))


@pytest.fixture
def image_folder(tmp_path, random):
    for name in "ab":
        (tmp_path / "colours" / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 256, (28, 28, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "colours" / name / f"{number}.png")
    return tmp_path / "colours"


@pytest.mark.parametrize("kind", ["missing", "cut", "pickle", "features", "torchvision on 7 pixels"])
def test_files_that_are_no_encoder_are_refused_before_anything_is_opened(kind, own_file, tmp_path, originals, write):
    file = tmp_path / "broken.safetensors"
    if kind == "cut":
        file.write_bytes(own_file.read_bytes()[:-100])
    elif kind == "pickle":
        file = tmp_path / "checkpoint.pth"
        file.write_bytes(pickle.dumps({"model": [1.0]}))
    elif kind == "features":
        file = f"{write(originals[VIT], 'vit.safetensors')}?{HEADS}&features=mean"
    elif kind != "missing":
        file = write({"conv1.weight": np.ones((8, 3, 7, 7), np.float32)}, "half.safetensors")
    messages = {
        "missing": "There is no run folder or file",
        "cut": "is incomplete",
        "pickle": "checkpoint.pth",
        "features": "--features names the features to evaluate",
    }
    with pytest.raises(ValueError, match=messages.get(kind, "cannot be loaded")):
        parse_study(of_init(file))


def test_a_resnet_keeps_its_architecture_and_refuses_mae(originals, write):
    file = write(originals[RESNET], "resnet.safetensors")
    (found,) = parse_learners(of_init(file))
    assert found.encoder.startswith("resnet")
    with pytest.raises(ValueError, match="as encoder of mae, which hides tokens, got ResNet"):
        parse_learners(of_init(file, "--method=simclr,mae"))


def test_the_untrained_baseline_has_random_weights_and_the_initial_one_those_of_the_file(own_file, random):
    opened = open_study(of_init(own_file))
    learner = opened.learners[0]
    images = random.integers(0, 256, (4, 28, 28, 1), np.uint8)
    own = parse_learners(of_init(own_file))[0].initial
    np.testing.assert_allclose(initial_encoder(opened, learner)(images), own.apply(images), rtol=1e-5, atol=1e-5)
    untrained = untrained_encoder(opened, learner, 0)(images)
    assert not np.allclose(untrained, own.apply(images), atol=1e-2)
    expected = untrained_encoder(open_study(tiny()), open_study(tiny()).learners[0], 0)(images)
    np.testing.assert_array_equal(untrained, expected)


def test_a_study_reports_gains_over_the_encoder_that_it_continued_from(own_file, tmp_path):
    flags = ("--sources=bundled:mnist@40,400", "--budget=640", "--evaluations=linear", "--shift_images=0", "--labelled=100")
    study = of_init(own_file, *flags, f"--out={tmp_path / 'out'}")
    cli.run(study)
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    (initial,) = [row for row in rows if row["source"] == INITIAL]
    assert (initial["kind"], initial["method"], initial["encoder"], initial["seed"]) == ("floor", "simclr", "patch_mlp", "")
    runs = [row for row in rows if row["kind"] == "run"]
    assert len(runs) == 4
    for row in runs:
        assert float(row["linear_gain_over_initial"]) == pytest.approx(
            float(row["linear"]) - float(initial["linear"]), abs=1e-6
        )
    # Both gains are kept, and the untrained encoder has as many seeds as the runs.
    assert sum(row["source"] == "untrained encoder" for row in rows) == 2
    assert all(row["linear_gain_over_untrained"] for row in runs)
    analysis = Analysis(read_results(open_study(study)))
    assert any("the initial encoder" in sentence for sentence in answer(analysis))
    assert [row.kind.source for row in analysis.rows][2:] == [INITIAL, "untrained encoder", "raw pixels"]
    kind = analysis.task.learners["simclr", "patch_mlp"].kinds[0]
    values = [float(row["linear_gain_over_initial"]) for row in runs if int(row["unique"]) == kind.unique]
    assert analysis.task.gains[kind].value == pytest.approx(np.mean(values), abs=1e-6)
    card = json.loads(next((tmp_path / "out/runs").glob("*/encoder.json")).read_text())
    assert card["about"]["init"]["name"] == "ours"
    # A second call finds everything, and changes no row.
    before = (tmp_path / "out/results.csv").read_bytes()
    cli.run(study)
    assert (tmp_path / "out/results.csv").read_bytes() == before


def test_tables_without_an_initial_encoder_have_no_column_for_it(tmp_path):
    append([], [{"kind": "run", "linear_gain_over_untrained": 0.5, "fingerprint": "a"}], tmp_path)
    assert "linear_gain_over_initial" not in (tmp_path / "results.csv").read_text()
