"""Blocks that are computed again in the backward pass: the same numbers, and memory for one block in place of all."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import plain

from sslshift.methods import METHODS
from sslshift.models import PretrainedEncoder, ResNet, ViT, layer_activations
from sslshift.models.description import describe, from_description
from sslshift.training import Optimiser
from sslshift.training.sharding import FSDP, REPLICATED
from sslshift.training.step import StepSettings, compiled_step, init_state, make_mesh, placed_init, replicate, shard_batch

CANVAS = (16, 16, 3)
DEEP = {
    "mae": (ViT(32, 4, 2, 4), {"decoder_width": 32, "decoder_depth": 2}),
    "simclr": (ResNet((2, 2), width=8, small_images=True), {"projector": (32, 16)}),
}


def build(name, **fields):
    encoder, options = DEEP[name]
    # Views take longest to compile.
    views = tuple(plain(view) for view in METHODS[name].views)
    method = METHODS[name].build(encoder.clone(**fields), views, **options)
    # AdamW would turn the rounding of a gradient that is zero, as that of a key's bias, into steps of full length.
    return method, Optimiser("sgd", learning_rate=0.1).build(10, 64)


def compiled(method, optimiser, mesh, **how):
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(functools.partial(init_state, method, optimiser), key, jax.ShapeDtypeStruct(CANVAS, np.uint8))
    step = compiled_step(method, optimiser, 10, mesh, StepSettings(**how))
    return step.lower(state, jax.ShapeDtypeStruct((64, *CANVAS), np.uint8), key).compile()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae", "simclr"])
def test_same_numbers_in_less_memory(name):
    mesh = make_mesh()
    images = np.random.default_rng(0).integers(0, 256, (64, *CANVAS), np.uint8)
    outcomes = []
    memory = []
    for remat in (False, True):
        method, optimiser = build(name, remat=remat)
        program = compiled(method, optimiser, mesh)
        memory.append(program.memory_analysis().temp_size_in_bytes)
        state = placed_init(method, optimiser, jax.random.key(0), np.zeros(CANVAS, np.uint8), mesh)
        for _ in range(3):
            state, metrics = program(state, shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
        outcomes.append(jax.device_get((metrics, state)))
    chex.assert_trees_all_close(outcomes[1], outcomes[0], rtol=1e-5, atol=1e-5)
    assert memory[1] < 0.75 * memory[0]


@pytest.mark.slow
def test_it_composes_with_bfloat16_a_split_state_and_parts():
    """The state stays in float32, and so do losses: only the networks' arithmetic is in bfloat16."""
    mesh = make_mesh()
    images = np.random.default_rng(0).integers(0, 256, (64, *CANVAS), np.uint8)
    losses = []
    for fields, how in (
        ({}, {}),
        ({"dtype": jnp.bfloat16}, {}),
        ({"dtype": jnp.bfloat16, "remat": True}, {"sharding": FSDP, "parts": 2}),
    ):
        method, optimiser = build("mae", **fields)
        sharding = how.get("sharding", REPLICATED)
        state = placed_init(method, optimiser, jax.random.key(0), np.zeros(CANVAS, np.uint8), mesh, sharding)
        step = compiled_step(method, optimiser, 10, mesh, StepSettings(**how))
        for _ in range(3):
            state, metrics = step(state, shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
        assert metrics["loss"].dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
        losses.append(float(metrics["loss"]))
    # Rounding to 8 bits, and no more.
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[2] == pytest.approx(losses[1], rel=2e-3)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("encoder", [ViT(16, 2, 2, 4), ResNet((1, 1), width=8, small_images=True)])
def test_weights_files_and_layers_do_not_depend_on_it(encoder):
    images = jnp.ones((2, *CANVAS))
    variables = encoder.init(jax.random.key(0), images, train=False)
    again = encoder.clone(remat=True)
    chex.assert_trees_all_equal(again.init(jax.random.key(0), images, train=True), variables)
    assert describe(again) == describe(encoder)
    assert not from_description(describe(again)).remat
    layers = [layer_activations(PretrainedEncoder(each, variables, CANVAS), images) for each in (encoder, again)]
    chex.assert_trees_all_equal(*layers)
