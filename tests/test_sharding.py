"""A state that is split over the devices: the same numbers as a replicated one, an eighth of the memory, any change between."""

import contextlib
import json

import chex
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from method_steps import plain

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.methods import METHODS
from sslshift.models import PatchMLP, ViT
from sslshift.training import Optimiser, Training, train
from sslshift.training import loop as training_loop
from sslshift.training.sharding import FSDP, REPLICATED, SMALLEST, bytes_per_device, gathered, state_shardings
from sslshift.training.step import (
    StepSettings,
    compiled_init,
    compiled_step,
    init_state,
    make_mesh,
    placed_init,
    replicate,
    shard_batch,
)
from sslshift.transfer.features import NetworkEncoder, encoder_of

STEPS = 20
CANVAS = (12, 12, 1)
# Wide enough that networks, targets, queues and optimiser states have arrays that are split.
WIDE = {
    "projector": (256, 128),
    "predictor": (256,),
    "prototypes": 256,
    "queue": 256,
    "queue_start": 0.2,
    "decoder_width": 128,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


def mesh_of(devices):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def wide_method(name):
    recipe = METHODS[name]
    encoder = ViT(128, 1, 2, 4) if name == "mae" else PatchMLP(width=32, features=256)
    options = {key: value for key, value in WIDE.items() if key in recipe.options}
    # Views take longest to compile, and a sharding does not concern them.
    views = tuple(plain(view) for view in recipe.views)
    return recipe.build(encoder, views, **options), Optimiser(**recipe.optimiser_for(encoder) | {"warmup": 0.2})


def batches(count, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, *CANVAS), np.uint8)


def trained(method, optimiser, mesh, sharding, images):
    """The losses of some steps, and the state after them, on the devices."""
    built = optimiser.build(STEPS, len(images[0]), method.constant_rate)
    state = placed_init(method, built, jax.random.key(0), np.zeros(CANVAS, np.uint8), mesh, sharding)
    step = compiled_step(method, built, STEPS, mesh, StepSettings(sharding=sharding))
    losses = []
    for batch in images:
        state, metrics = step(state, shard_batch(mesh, batch), replicate(mesh, jax.random.key(5)))
        losses.append(metrics)
    return jax.device_get(losses), state


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_split_state_gives_the_numbers_of_a_replicated_one(name):
    method, optimiser = wide_method(name)
    images = batches(STEPS)
    mesh = make_mesh()
    expected, whole = trained(method, optimiser, mesh, REPLICATED, images)
    found, split = trained(method, optimiser, mesh, FSDP, images)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(jax.device_get(split), jax.device_get(whole), rtol=1e-5, atol=1e-5)
    # Every large array stays split after 20 steps: none was gathered on the way.
    for leaf, sharding in zip(jax.tree.leaves(split), jax.tree.leaves(state_shardings(split, mesh, FSDP)), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    large = [leaf for leaf in jax.tree.leaves(split) if leaf.size >= SMALLEST]
    assert len(large) >= 4
    assert all(leaf.addressable_data(0).size * 8 == leaf.size for leaf in large)


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, np.float32)


def test_large_arrays_are_split_along_their_largest_side_that_the_devices_divide():
    mesh = make_mesh()
    cases = {
        (256, 512): PartitionSpec(None, "data"),
        (512, 256): PartitionSpec("data"),
        # The first of two equal ones.
        (3, 3, 256, 256): PartitionSpec(None, None, "data"),
        # 8 does not divide 1001.
        (1001, 64): PartitionSpec(None, "data"),
        (127, 129): PartitionSpec(),
        # Smaller than 16,384 elements.
        (128, 127): PartitionSpec(),
        (SMALLEST,): PartitionSpec("data"),
        (): PartitionSpec(),
        (0, 8): PartitionSpec(),
    }
    for sides, spec in cases.items():
        assert state_shardings(shape(*sides), mesh, FSDP).spec == spec, sides
        assert state_shardings(shape(*sides), mesh, REPLICATED).spec == PartitionSpec(), sides
    assert bytes_per_device([shape(256, 512), shape(7)], mesh, FSDP) == 256 * 512 * 4 // 8 + 28
    assert bytes_per_device([shape(256, 512), shape(7)], mesh, REPLICATED) == 256 * 512 * 4 + 28
    # One device holds everything, in either way.
    assert bytes_per_device([shape(256, 512)], mesh_of(1), FSDP) == 256 * 512 * 4
    with pytest.raises(ValueError, match="Expected one of replicated, fsdp for sharding, got 'zero'"):
        state_shardings(shape(3), mesh, "zero")
    with pytest.raises(ValueError, match="Expected one of replicated, fsdp for sharding, got 'zero'"):
        Training(*wide_method("simclr"), sharding="zero")


def test_each_device_holds_an_eighth_of_the_state_before_and_in_a_step():
    method, optimiser = wide_method("byol")
    built = optimiser.build(STEPS, 16, method.constant_rate)
    mesh = make_mesh()
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = jax.ShapeDtypeStruct(CANVAS, np.uint8)
    state = jax.eval_shape(lambda key, image: init_state(method, built, key, image), key, image)
    whole = bytes_per_device(state, mesh, REPLICATED)
    part = bytes_per_device(state, mesh, FSDP)
    assert whole > 2e6
    assert part < whole / 7
    memory = {}
    for sharding in (REPLICATED, FSDP):
        step = compiled_step(method, built, STEPS, mesh, StepSettings(sharding=sharding))
        placed = jax.tree.map(
            lambda leaf, of: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=of),
            state,
            state_shardings(state, mesh, sharding),
        )
        compiled = step.lower(placed, jax.ShapeDtypeStruct((16, *CANVAS), np.uint8), key).compile()
        memory[sharding] = compiled.memory_analysis()
    # A device's share of the batch and the key are arguments too.
    assert memory[REPLICATED].argument_size_in_bytes == pytest.approx(whole, rel=0.01)
    assert memory[FSDP].argument_size_in_bytes == pytest.approx(part, rel=0.01)
    # The new state takes the place of the old one.
    assert memory[FSDP].alias_size_in_bytes == pytest.approx(part, rel=0.01)
    # Nor does a device hold all of it when it starts.
    start = compiled_init(method, built, mesh).lower(key, image).compile().memory_analysis()
    assert start.output_size_in_bytes == pytest.approx(part, rel=0.01)
    assert start.temp_size_in_bytes < whole / 2


def reader_of(source, steps, size=16):
    mixture = single(source.name, len(source), 32)
    plan = SamplePlan(mixture, Budget(steps * size), size, seed=0, subset_seed=0)
    return BatchReader(plan, {source.name: source}, CANVAS)


@pytest.mark.slow
def test_a_run_continues_with_another_sharding_and_on_another_number_of_devices(gray_source, tmp_path, monkeypatch):
    """Replicated to fsdp and back, on 8, 2 and 1 devices, with single steps and with several; the same numbers throughout."""
    method, optimiser = wide_method("dino")
    reader = reader_of(gray_source, 6)
    expected = train(Training(method, optimiser, checkpoint_every=2), reader, 0, tmp_path / "whole")
    stages = [(8, REPLICATED, 1), (2, FSDP, 1), (8, FSDP, 2), (1, FSDP, 1), (2, REPLICATED, 1)]
    starts = []
    for number, (devices, sharding, most) in enumerate(stages):
        seen = []
        monkeypatch.setattr(training_loop, "make_mesh", lambda devices=devices: mesh_of(devices))
        training = Training(method, optimiser, checkpoint_every=1, sharding=sharding, steps_per_dispatch=most)

        def stop(step, scalars, number=number, seen=seen):
            seen.append(step)
            # The step before this one is saved, and this one is not.
            if step == number + 2 and number < len(stages) - 1:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            state = train(training, reader, 0, tmp_path / "changing", stop)
        starts.append(seen[0])
    assert starts == [1, 2, 3, 4, 5]
    chex.assert_trees_all_close(jax.device_get(state), jax.device_get(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_run_with_a_split_state_ends_with_the_same_bits(gray_source, tmp_path):
    method, optimiser = wide_method("moco_v3")
    reader = reader_of(gray_source, 8)
    training = Training(method, optimiser, checkpoint_every=3, sharding=FSDP, steps_per_dispatch=3)
    expected = train(training, reader, 0, tmp_path / "whole")

    def stop(step, scalars):
        if step == 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(training, reader, 0, tmp_path / "resumed", stop)
    state = train(training, reader, 0, tmp_path / "resumed")
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(expected))
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "resumed")]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_reports_and_features_see_whole_weights(gray_source, online, tmp_path):
    method, optimiser = wide_method("simclr")
    reader = reader_of(gray_source, 3)
    states = {}
    lines = {}
    for sharding in (REPLICATED, FSDP):
        folder = tmp_path / sharding
        states[sharding] = train(Training(method, optimiser, sharding=sharding), reader, 0, folder, online=online)
        lines[sharding] = (folder / "metrics.jsonl").read_text().splitlines()
    encoders = {sharding: encoder_of(method, state.variables, CANVAS) for sharding, state in states.items()}
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(states[FSDP].params["encoder"]))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(encoders[FSDP].variables))
    images = np.stack([each["image"] for each in gray_source])
    features = [np.asarray(NetworkEncoder(encoder)(images)) for encoder in encoders.values()]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)
    for one, other in zip(*lines.values(), strict=True):
        assert json.loads(one) == pytest.approx(json.loads(other), rel=1e-3)
    assert "online_accuracy" in lines[FSDP][-1]


def test_gathering_leaves_whole_arrays_as_they_are():
    mesh = make_mesh()
    whole = replicate(mesh, np.arange(16.0))
    split = jax.device_put(np.arange(16.0), jax.sharding.NamedSharding(mesh, PartitionSpec("data")))
    host = np.ones(3)
    found = gathered({"whole": whole, "split": split, "host": host})
    assert found["whole"] is whole
    assert found["host"] is host
    assert found["split"].is_fully_replicated
    np.testing.assert_array_equal(found["split"], split)
