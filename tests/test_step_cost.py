"""The cost of each method's training step: another pass through an encoder, or float64, would change it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sslshift.data.decode import Canvas
from sslshift.methods import METHODS
from sslshift.models import ENCODERS
from sslshift.training.loop import Training
from sslshift.training.optimiser import Optimiser
from sslshift.training.programs import step_cost

CANVAS = Canvas(28, 28, 1)
BATCH = 16

# Millions of FLOPs and of bytes accessed by a step with small heads, before XLA optimises it.
COSTS = {
    "simclr": (142.4, 218.9),
    "moco_v3": (183.4, 255.6),
    "byol": (183.4, 255.5),
    "simsiam": (142.5, 219.5),
    "barlow_twins": (139.3, 214.5),
    "vicreg": (139.4, 215.1),
    "dino": (183.5, 257.4),
    "mae": (638.1, 612.6),
    "nnclr": (139.6, 215.2),
    "swav": (142.7, 221.7),
}


def encoder_for(name):
    return ENCODERS["vit_nano4" if name == "mae" else "patch_mlp"]


def cost(method):
    found = step_cost(Training(method, Optimiser()), CANVAS, BATCH)
    return found.flops / 1e6, found.bytes_accessed / 1e6


@pytest.mark.parametrize("name", METHODS)
def test_a_step_costs_what_it_did(name, small_method):
    # JAX versions differ by a few per cent; a pass through an encoder is much more (see below).
    assert cost(small_method(name, encoder_for(name))) == pytest.approx(COSTS[name], rel=0.06)


def test_another_pass_through_the_encoder_shows(small_method):
    method = small_method("simclr", encoder_for("simclr"))

    def twice(variables, target, views, context):
        loss, output = method.loss(variables, target, views, context)
        return loss + 1e-9 * method.features(variables, views[0]).sum(), output

    flops, accessed = cost(dataclasses.replace(method, loss=twice))
    assert flops > 1.3 * COSTS["simclr"][0]
    assert accessed > 1.08 * COSTS["simclr"][1]


def test_float64_shows(small_method):
    with jax.enable_x64(True):
        method = small_method("simclr", encoder_for("simclr").clone(dtype=jnp.float64))
        assert cost(method)[1] > 1.2 * COSTS["simclr"][1]
