"""The scale for one GPU: it has the size that diversity needs, and its studies open and run at cut sizes."""

import dataclasses
import importlib
import re

import pytest

from sslshift.models import ENCODERS, ResNet, ViT
from sslshift.study import cli
from sslshift.study.design import parse_sources, parse_study
from sslshift.study.opened import open_study

NAMES = ["quickstart", "in_distribution", "near_then_external", "raise_diversity"]
# The others take a minute or more.
ONE_IN_ALL_STAGES = [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]


def declared(name):
    return importlib.import_module(f"experiments.{name}").GPU


def cut(text: str) -> str:
    """Returns sources or a mixture with a hundredth of the images."""
    fewer = re.sub(r"@[\d,]+", lambda each: "@" + ",".join(str(2 + int(n) // 100) for n in each[0][1:].split(",")), text)
    return re.sub(r"size=\d+", "size=50", fewer)


@pytest.fixture
def narrow(monkeypatch):
    """Puts encoders that compile in seconds in the places of those of the scale."""
    monkeypatch.setitem(ENCODERS, "resnet18_cifar", ResNet((1, 1), width=4, small_images=True))
    monkeypatch.setitem(ENCODERS, "vit_s4", ViT(16, 1, 2, 4))


@pytest.fixture
def small(narrow, tmp_path):
    """Returns a study of the scale with narrow encoders and few images, steps and seeds."""

    def of(name):
        study = declared(name)
        return dataclasses.replace(
            study,
            sources=cut(study.sources),
            mixture=tuple(map(cut, study.mixture)),
            image_size=12,
            budget=256,
            batch_size=128,
            seeds=1,
            evaluations="linear",
            head="16,8",
            labelled=100,
            untrained_seeds=1,
            shift_images=min(study.shift_images, 100),
            out=str(tmp_path / "out"),
        )

    return of


@pytest.mark.parametrize("name", NAMES)
def test_diversity_can_show_at_the_scale_for_a_gpu(name):
    study = declared(name)
    assert "--scale=gpu" in importlib.import_module(f"experiments.{name}").__doc__
    assert study.budget >= 500_000
    assert study.seeds >= 2
    assert (study.encoder, study.dtype) == ("resnet18_cifar", "bfloat16")
    assert "simclr" in study.method.split(",")
    assert len(study.method.split(",")) >= (4 if name == "in_distribution" else 1)
    near = parse_sources(study.sources)[0]
    assert near.uri.startswith("bundled:fashion_mnist")
    assert max(near.unique) / min(near.unique) >= 1000


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", NAMES)
def test_the_scale_for_a_gpu_opens_as_declared(name, tmp_path):
    opened = open_study(parse_study(dataclasses.replace(declared(name), out=str(tmp_path / "out"))))
    # Every run sees all of its images, and each step is full.
    assert opened.design.budget.samples == opened.design.steps * 512 >= 500_000
    assert {learner.settings.optimiser.name for learner in opened.learners} == {"adamw"}
    assert {learner.settings.optimiser.warmup for learner in opened.learners} == {0.1}


@pytest.mark.parametrize("name", ONE_IN_ALL_STAGES)
def test_a_dry_run_of_the_scale_for_a_gpu_prints_its_cost(name, small, capsys):
    study = small(name)
    cli.dry_run(study)
    printed = capsys.readouterr().out
    assert "Training the missing runs takes about" in printed
    for method in study.method.split(","):
        assert re.search(rf"{method} +(resnet18_cifar|vit_s4) ", printed)


@pytest.mark.parametrize("name", ONE_IN_ALL_STAGES)
def test_the_scale_for_a_gpu_runs_at_cut_sizes(name, small, capsys):
    study = small(name)
    cli.run(study)
    assert "raw pixels" in capsys.readouterr().out
    opened = open_study(parse_study(study))
    finished = list((opened.design.out / "runs").glob("*/result.json"))
    assert len(finished) == len(opened.runs) == len(opened.candidates) * len(opened.learners)
