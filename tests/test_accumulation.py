"""A batch in parts: the gradient of the whole batch where that is possible, and a reason where it is not."""

import functools

import chex
import jax
import numpy as np
import pytest
from method_steps import plain
from tiny_studies import learner, tiny

from sslshift import Budget
from sslshift.data.decode import Canvas
from sslshift.methods import METHODS
from sslshift.methods.base import BatchPart
from sslshift.models import PatchMLP, ViT
from sslshift.study import learners
from sslshift.study.design import parse_study
from sslshift.study.learners import Learner
from sslshift.training import Optimiser, Training
from sslshift.training.loop import traced_step
from sslshift.training.programs import step_cost
from sslshift.training.sharding import FSDP, REPLICATED
from sslshift.training.step import StepSettings, compiled_step, init_state, make_mesh, placed_init, replicate, shard_batch

CANVAS = (12, 12, 1)
# The methods whose loss is a mean over images.
EXACT = ("mae", "dino")


def method_on(small_method, name):
    # Views take longest to compile; how they are drawn has a test of its own.
    return small_method(name, ViT(16, 2, 2, 4), views=tuple(plain(view) for view in METHODS[name].views))


@pytest.mark.parametrize("parts", [2, 4])
def test_views_of_a_part_are_those_of_the_whole_batch(parts, small_method, images):
    method = small_method("mae")
    key = jax.random.key(3)
    make_views = jax.jit(method.make_views, static_argnames="part")
    whole = make_views(key, images)
    keys = method.step_context(key, images, 0.0).keys
    for number in range(parts):
        part = BatchPart(number, parts)
        some = images[number::parts]
        (found,) = make_views(key, some, part=part)
        # The smallest difference between views of two images is thousands of times as large.
        np.testing.assert_allclose(found, whole[0][number::parts], atol=1e-4)
        chex.assert_trees_all_equal(method.step_context(key, some, 0.0, part).keys, keys[number::parts])


@pytest.mark.parametrize("name", [pytest.param("mae"), pytest.param("dino", marks=pytest.mark.slow)])
def test_parts_give_the_numbers_of_the_whole_batch(name, small_method, random):
    """Losses, parameters, momentum and targets over several steps, in one part, two and four, replicated and split."""
    method = method_on(small_method, name)
    # AdamW would turn the rounding of a gradient that is zero, as that of a key's bias, into steps of full length.
    optimiser = Optimiser("sgd", learning_rate=0.1, warmup=0.0).build(10, 32)
    batches = random.integers(0, 256, (4, 32, *CANVAS), np.uint8)
    mesh = make_mesh()
    outcomes = []
    for parts, sharding in ((1, REPLICATED), *((2, REPLICATED),) * (name == "dino"), (4, FSDP)):
        state = placed_init(method, optimiser, jax.random.key(0), np.zeros(CANVAS, np.uint8), mesh, sharding)
        step = compiled_step(method, optimiser, 10, mesh, StepSettings(parts=parts, sharding=sharding))
        metrics = []
        for batch in batches:
            state, scalars = step(state, shard_batch(mesh, batch), replicate(mesh, jax.random.key(5)))
            metrics.append(scalars)
        outcomes.append(jax.device_get((metrics, state)))
    for found in outcomes[1:]:
        chex.assert_trees_all_close(found, outcomes[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_parts_take_less_memory(small_method):
    method = method_on(small_method, "mae")
    optimiser = Optimiser().build(10, 128)
    image = jax.ShapeDtypeStruct(CANVAS, np.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(functools.partial(init_state, method, optimiser), key, image)
    batch = jax.ShapeDtypeStruct((512, *CANVAS), np.uint8)
    temporary = []
    for parts in (1, 4):
        compiled = (
            compiled_step(method, optimiser, 10, make_mesh(), StepSettings(parts=parts)).lower(state, batch, key).compile()
        )
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temporary[1] < temporary[0] / 2


def test_the_cost_of_a_step_depends_on_neither_parts_nor_blocks_that_are_computed_again(small_method, monkeypatch):
    method = method_on(small_method, "mae")
    costs = {step_cost(Training(method, Optimiser(), accumulate=parts), Canvas(*CANVAS), 16) for parts in (1, 4)}
    assert len(costs) == 1
    settings = learner(method="mae", encoder="vit_nano4", remat=True)
    assert settings.training().method.remat
    monkeypatch.setattr(learners, "step_flops", lambda training, canvas, batch_size: training.method.remat)
    assert not Learner(settings, settings.training(), Budget(64), 64, Canvas(*CANVAS)).flops


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_not_a_mean_over_images_is_refused_with_the_reason(name, small_method):
    encoders = [ViT(16, 1, 2, 4)] if name == "mae" else [ViT(16, 1, 2, 4), PatchMLP(width=8, features=16)]
    for encoder in encoders:
        training = Training(small_method(name, encoder), Optimiser(), accumulate=2)
        if name in EXACT and isinstance(encoder, ViT):
            traced_step(training, Canvas(*CANVAS), 16)
            continue
        reason = "batch norm" if name in ("byol", "simsiam", "dino") else "the images of a batch|the others of its batch"
        with pytest.raises(
            ValueError, match=f"accumulate=1 for this method, got 2: .*({reason}).* use remat, or sharding=fsdp"
        ):
            traced_step(training, Canvas(*CANVAS), 16)


def test_a_method_of_a_user_is_refused_unless_it_says_that_its_loss_is_a_mean(small_method):
    method = method_on(small_method, "mae")
    unknown = type(method)(method.views, method.networks, method.loss)
    with pytest.raises(ValueError, match="its loss may compare the images of a batch"):
        traced_step(Training(unknown, Optimiser(), accumulate=2), Canvas(*CANVAS), 16)


def test_mistakes_are_reported_before_anything_is_opened():
    mae = ("--method=mae", "--encoder=vit_nano4")
    with pytest.raises(ValueError, match="--batch_size=64 cannot be divided among 8 devices in 3 parts each"):
        parse_study(tiny(*mae, "--accumulate=3"))
    with pytest.raises(ValueError, match="--accumulate must be at least 1, got 0"):
        tiny(*mae, "--accumulate=0")
    with pytest.raises(ValueError, match="Expected one of replicated, fsdp for --sharding, got 'zero'"):
        parse_study(tiny("--sharding=zero"))
    with pytest.raises(ValueError, match="Expected an encoder with blocks, a ResNet or a ViT, for --remat, got patch_mlp"):
        parse_study(tiny("--remat=true"))
    # Of several methods only one takes its batches in parts.
    both = parse_study(tiny("--method=simclr,mae", "--for_method=mae: encoder=vit_nano4; accumulate=2; remat=true"))
    assert [(each.accumulate, each.remat) for each in both.learners] == [(1, False), (2, True)]
    with pytest.raises(ValueError, match="A batch of 8 cannot be divided among 1 device in 3 parts"):
        traced_step(Training(METHODS["mae"].build(ViT(16, 1, 2, 4)), Optimiser(), accumulate=3), Canvas(*CANVAS), 8)
