"""Declarations: what flags mean, and that every mistake is reported before anything is trained."""

import dataclasses
import importlib
import re
import subprocess
import sys

import pytest
from tiny_studies import learner, tiny

from sslshift.data.sources import SCHEMES
from sslshift.methods import METHODS
from sslshift.study.declare import Study, parse_own, without_given
from sslshift.study.design import SourceLevels, parse_sources, parse_study
from sslshift.study.learners import parse_learners
from sslshift.study.opened import open_study
from sslshift.training.optimiser import Optimiser


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sources=bundled:cifar"], "expected one of fashion_mnist, mnist"),
        (["--sources=bundled:mnist@5000"], "expected 1 to 4,000 unique samples, since the source has 4,000 images"),
        (["--sources=bundled:mnist@2000"], "at most 1,280"),
        (["--sources=bundled:mnist@9,9"], "repeats a number of unique samples"),
        (["--image_size=30"], "30 x 30 cannot be cut into patches of 4"),
        (["--head=32,0"], "whole numbers above 0"),
        (["--downstream_test=bundled:mnist"], "expected different images in the test split"),
        (["--downstream=bundled:mnist; test=bundled:mnist/test"], "both name a test split; give one of them"),
        (["--sources=synthetic:noise?size=99999999999999999999"], "expected a size from 1 to 2^62"),
        (["--budget=63"], "smaller than one batch of 64"),
        (["--method=simclear"], "Expected one of simclr, moco_v3, byol"),
        (["--method=mae"], "Expected a ViT (vit_*) as encoder of mae"),
        (["--method_options=local_views=4"], "local_views is an option of dino, swav"),
        (["--method_options=temperature=warm"], "Expected a number for --method_options: temperature, got 'warm'"),
        (["--method_options=temperature=0"], "Expected temperature above 0, got 0.0"),
        (["--method_options=temperature"], "Expected --method_options as 'name=value; name=value', got 'temperature'"),
        (["--dtype=float16"], "Expected one of float32, bfloat16 for --dtype, got 'float16'"),
        (["--downstream=synthetic:noise", "--downstream_test="], "has no labels"),
        (["--min_crop_scale=0"], "Expected crop scales above 0"),
        (["--seeds=0"], "--seeds must be at least 1"),
        (["--mixture=bundled:mnist@40*0.7 + synthetic:noise*0.7"], "sum to 100%, got 140%"),
        (["--mixture=bundled:minst"], "expected one of fashion_mnist, mnist"),
        (
            ["--sources=synthetic:noise@40", "--mixture=synthetic:nois%65@40"],
            "are the same source; write it the same way everywhere",
        ),
        (["--mixture=synthetic:noise@40/balanced"], "has no labels to draw a subset by"),
        (
            ["--mixture=a = bundled:mnist@40", "--mixture=a = synthetic:noise@50"],
            "two mixtures are called 'a', but differ in more than N; give each a name of its own",
        ),
        (
            ["--mixture=a = bundled:mnist@40 for 50%; bundled:mnist@40", "--mixture=a = bundled:mnist@40"],
            "two mixtures are called 'a', but differ in more than N",
        ),
        (
            ["--mixture=a = bundled:mnist@40", "--mixture=a = bundled:mnist@40"],
            "two mixtures are called 'a' and have 40 unique samples",
        ),
        (["--primary=gain"], "Expected one of diversity, shift, source, mixture for --primary, got 'gain'."),
        (["--primary=mixture"], "--primary=mixture compares the first --mixture with the nearest of --sources"),
        (["--max_broken=-1"], "--max_broken must not be negative"),
        (["--evaluations=knn"], "--evaluations=knn must include linear"),
        (["--evaluations=linear,kn"], "Did you mean knn?"),
        (["--evaluation_options=linear.strength=1"], "--evaluation_options: expected one of"),
        (["--features=cls"], "for --features, got 'cls'"),
        (["--task=bundled:mnist; test=bundled:mnist/test"], "two tasks are called bundled:mnist"),
        (["--task=bundled:mnist; tset=bundled:mnist/test"], "expected one of validation, test, metric, labelled, got 'tset'"),
        (["--online_every=-1"], "--online_every must not be negative"),
        (["--wanted_difference=0"], "Expected --wanted_difference above 0 percentage points, got 0.0."),
    ],
)
def test_studies_that_cannot_be_are_refused_before_anything_is_trained(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_study(tiny(*flags))


def test_flags_change_the_recipe_and_nothing_else():
    recipe = learner(method="dino", encoder="resnet18_cifar").training()
    assert recipe.optimiser == Optimiser("lars", 0.3, 1e-6, 0.01)
    assert [view.solarise_probability for view in recipe.method.views] == [0.0, 0.2]
    assert learner(method="dino").options["momentum"] == 0.9995
    assert learner(method="dino", encoder="vit_s8").options["momentum"] == 0.996
    assert learner(method="simclr", encoder="vit_s8").optimiser == Optimiser("adamw", 1.5e-4, 0.1, 0.1)
    changed = learner(
        method="dino",
        head="64,8",
        method_options="local_views=2; momentum=0.9;",
        blur=0.25,
        min_crop_scale=0.2,
        weight_decay=0.0,
    )
    options = changed.options
    assert (options["projector"], options["local_views"], options["momentum"]) == ((64, 8), 2, 0.9)
    training = changed.training()
    assert [view.blur_probability for view in training.method.views] == [0.25] * 4
    assert [view.min_crop_scale for view in training.method.views] == [0.4, 0.4, 0.05, 0.05]
    assert training.optimiser == Optimiser("lars", 0.3, 0.0, 0.01)
    # Of another optimiser than the recipe's the learning rate must be given.
    assert learner(method="dino", optimiser="adamw", learning_rate=1e-3).optimiser == Optimiser("adamw", 1e-3)
    with pytest.raises(ValueError, match="dino on patch_mlp has a learning rate for lars, not for adamw: give --learning_rate"):
        learner(method="dino", optimiser="adamw")
    # Images to be reconstructed keep their colours.
    mae = learner(method="mae", encoder="vit_nano4", jitter=0.8, blur=0.5, min_crop_scale=0.5).training()
    assert mae.method.views == (dataclasses.replace(METHODS["mae"].views[0], min_crop_scale=0.5),)


def test_what_differs_from_the_recipe_is_said():
    byol = learner(method="byol", optimiser="adamw", learning_rate=5e-3, head="64,8", method_options="momentum=0.9")
    assert str(byol) == (
        "optimiser adamw (recipe: lars), learning rate 0.005 (recipe: 1), weight decay 0.0001 (recipe: 1e-05), "
        "projector 64-8 (recipe: 4096-256), momentum 0.9 (recipe: 0.99)"
    )
    assert str(learner(method="simclr")) == "optimiser lars, learning rate 0.4, weight decay 0.0001, projector 2048-256"


def test_booleans_are_words():
    assert learner(method="moco_v3", method_options="prediction_norm=true").options["prediction_norm"] is True


def test_sources_as_text():
    assert parse_sources("bundled:mnist@5, 10;folder:/a b@c@3; folder:/a@b") == [
        SourceLevels("bundled:mnist", (5, 10)),
        SourceLevels("folder:/a b@c", (3,)),
        SourceLevels("folder:/a@b"),
    ]
    assert parse_sources("csv:/me@home/list.csv@9; bundled:mnist?keep=/a@b/kept.parquet@3") == [
        SourceLevels("csv:/me@home/list.csv", (9,)),
        SourceLevels("bundled:mnist?keep=/a@b/kept.parquet", (3,)),
    ]
    with pytest.raises(ValueError, match="each source only once"):
        parse_sources("folder:/a b; folder:/a%20b@3")
    with pytest.raises(ValueError, match="at least one"):
        parse_sources(" ; ")
    for text in ("bundled:mnist@1k", "bundled:mnist@40, bundled:fashion_mnist@40", "bundled:mnist@_", "bundled:mnist@-5"):
        with pytest.raises(
            ValueError,
            match=rf"expected a URI with '@' and whole numbers \(or all\) separated by ',', got '{text}'; sources are",
        ):
            parse_sources(text)
    with pytest.raises(ValueError, match="each source only once"):
        parse_sources("folder:a@1; folder:a@2")


def test_settings_of_one_method_make_a_study_of_its_own():
    study = Study(
        method="simclr, mae",
        encoder="patch_mlp,resnet18_cifar",
        method_options="",
        for_method=("mae: encoder=vit_nano4; learning_rate=2e-3; decoder_depth=1", "byol: predictor=64"),
    )
    found = parse_learners(study)
    assert [(each.method, each.encoder) for each in found] == [
        ("simclr", "patch_mlp"),
        ("simclr", "resnet18_cifar"),
        ("mae", "vit_nano4"),
    ]
    assert (found[2].optimiser.learning_rate, found[2].options["decoder_depth"]) == (2e-3, 1)
    both = Study(method="dino", method_options="momentum=0.5; local_views=2", for_method=("dino: momentum=0.9",))
    (learner,) = parse_learners(both)
    assert (learner.options["momentum"], learner.options["local_views"]) == (0.9, 2)
    assert without_given(("mae: encoder=vit_nano4; decoder_depth=1", "byol: blur=0.1"), {"encoder", "blur"}) == (
        "mae: decoder_depth=1",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("byol", "Expected --for_method as 'METHOD: NAME=VALUE; NAME=VALUE'"),
        ("bool: blur=1", "with METHOD one of simclr"),
        ("byol: blur", "Expected --for_method as 'name=value; name=value', got 'blur'"),
        ("byol: budget=5", "--for_method: budget is not a setting of one method. Expected one of encoder"),
        ("byol: blur=much", "Expected a number for --for_method: blur, got 'much'"),
    ],
)
def test_settings_of_one_method_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_own(text)


def test_a_method_named_twice_or_unknown_is_refused():
    for names, message in (
        ("simclr,simclr", "names one of them twice"),
        ("simclr,sim", "Expected one of simclr, .* for --method, got 'sim'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_learners(Study(method=names))


def test_a_flag_given_by_hand_wins_over_the_settings_of_one_method(tmp_path):
    flags = ("--method=mae", "--encoder=resnet18", "--image_size=32", f"--out={tmp_path}", "--dry_run")
    done = subprocess.run([sys.executable, "-m", "experiments.methods", *flags], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"Expected a ViT .* got ResNet", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["in_distribution", "raise_diversity", "out_of_distribution", "near_then_external"])
def test_full_scale_is_declared_so_that_it_can_be_built(name):
    design = parse_study(importlib.import_module(f"experiments.{name}").FULL)
    assert design.learners
    assert {each.source.split(":")[0] for each in design.tasks} <= set(SCHEMES)
