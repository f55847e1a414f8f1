"""The experiment of the bundled encoder at a tiny size: it trains, and its run can be shipped and opened."""

import dataclasses
import re

import pytest

from experiments.reference_encoder import GPU, REFERENCE_ENCODER
from sslshift.models import ENCODERS
from sslshift.models.bundled import LARGEST_FILE, load_bundled, write_bundled
from sslshift.models.resnet import PatchResNet
from sslshift.models.weights import read_encoder
from sslshift.study import run
from sslshift.study.learners import parse_learners


@pytest.mark.slow
def test_the_run_of_the_experiment_can_be_shipped(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "resnet_nano4", PatchResNet((8, 16), (1, 1)))
    tiny = dataclasses.replace(
        REFERENCE_ENCODER,
        mixture=tuple(re.sub(r"size=\d+", "size=20&side=16", text) for text in REFERENCE_ENCODER.mixture),
        downstream="objects = synthetic:objects?size=100&seed=1&side=16",
        task=("digits = bundled:mnist",),
        image_size=16,
        budget=128,
        batch_size=64,
        untrained_seeds=1,
        labelled=50,
        evaluations="linear",
        head="8",
        out=str(tmp_path / "out"),
    )
    run(tiny)
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    write_bundled(read_encoder(folder), {"trained": "in a test"}, tmp_path / "shipped")
    card = load_bundled(tmp_path / "shipped").card
    assert card["trained_on"].startswith("generated = fractals:")
    assert {source["licence"] for source in card["sources"].values()} == {"CC0-1.0 (generated)"}
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("study", [REFERENCE_ENCODER, GPU], ids=["small", "gpu"])
def test_every_scale_has_a_network_that_fits_into_the_package(study):
    (learner,) = parse_learners(study)
    encoder = ENCODERS[learner.encoder]
    # Convolutions of two layers in a block, without stem, shortcuts and norms, in two bytes each.
    blocks = [width for width, depth in zip(encoder.widths, encoder.depths, strict=True) for _ in range(depth)]
    assert sum(2 * 9 * width**2 for width in blocks) * 2 < 1.1 * LARGEST_FILE
