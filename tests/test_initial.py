"""Pretraining that continues from an encoder: what stays of it, where every network starts, and what learns at which rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import RESNET, VIT

from sslshift.data.views import Normalisation, normalise
from sslshift.methods import METHODS
from sslshift.methods.base import continued
from sslshift.models import ENCODERS, PatchMLP, PatchResNet, PretrainedEncoder, ResNet, ViT, load_encoder, save_encoder
from sslshift.models.initial import architecture_name, fitted
from sslshift.models.reference import IMAGENET_MEAN, IMAGENET_STD, load_reference
from sslshift.training import Optimiser, Training, train
from sslshift.training.step import init_state, make_mesh, placed_init, train_step
from sslshift.transfer.features import encoder_of

SMALL = PatchMLP(width=8, features=16)
OTHERS = sorted(set(METHODS) - {"byol"})


@pytest.fixture
def published(originals, tensors, write):
    """Reads random weights under the names of a library."""

    def read(name=VIT, **options):
        found = originals.get(name) or tensors(name)[0]
        heads = {} if name == RESNET else {"heads": 3}
        return load_reference(write(found, f"{name.replace('/', '_')}.safetensors"), **heads | options)

    return read


@pytest.fixture
def own_encoder():
    """Makes an encoder of this package with random weights, for gray images of 12 x 12."""

    def make(module=SMALL):
        variables = module.init(jax.random.key(7), jnp.zeros((1, 12, 12, 1)), train=False)
        return PretrainedEncoder(module, {"batch_stats": {}, **variables}, (12, 12, 1))

    return make


def built(small_method, name, initial, frozen=0.0):
    """A method that continues from an encoder, and the encoder's variables."""
    return continued(small_method(name, initial.module), initial, frozen), initial.variables


def started(method, variables, canvas, optimiser=None):
    optimiser = optimiser or Optimiser("sgd", learning_rate=0.1).build(4, 8, method.constant_rate)
    init = jax.jit(functools.partial(init_state, method, optimiser))
    return init(jax.random.key(0), jnp.zeros(canvas, jnp.uint8), variables)


@pytest.mark.parametrize(("name", "channels"), [(VIT, 1), (RESNET, 1), ("timm/dinov2_registers", 3)])
def test_features_before_the_first_step_are_those_of_the_published_encoder(name, channels, published, small_method, random):
    reference = published(name)
    canvas = (20, 24, channels)
    method, variables = built(small_method, "simclr", fitted(reference, *canvas))
    images = random.integers(0, 256, (3, *canvas), np.uint8)
    expected = jax.jit(reference.apply)(np.broadcast_to(images, (3, 20, 24, 3)))
    start = {kind: {"encoder": own} for kind, own in variables.items()}
    features = jax.jit(lambda images: method.features(start, method.normalised(images)))
    np.testing.assert_allclose(features(images), expected, rtol=1e-5, atol=1e-5)
    # The encoder that a run saves takes gray images too.
    np.testing.assert_allclose(jax.jit(encoder_of(method, start, canvas).apply)(images), expected, rtol=1e-5, atol=1e-5)


def test_gray_images_meet_the_sum_of_the_first_layer_over_its_channels(published, random):
    vit = published(VIT)
    gray = random.random((1, 4, 4, 1), np.float32)
    kernel = np.asarray(vit.variables["params"]["embed"]["kernel"]).reshape(16, 3, -1)
    one_channel = (kernel / np.array(IMAGENET_STD)[:, None]).sum(axis=1)
    offset = -(kernel * (np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD))[:, None]).sum(axis=(0, 1))
    views = normalise(gray, Normalisation(IMAGENET_MEAN, IMAGENET_STD))
    assert views.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(views.reshape(48) @ kernel.reshape(48, -1), gray.reshape(16) @ one_channel + offset, atol=1e-5)


def test_normalisation_of_one_number_keeps_the_bits_of_earlier_versions(random):
    images = jnp.asarray(random.integers(0, 256, (2, 4, 4, 3), np.uint8))
    np.testing.assert_array_equal(normalise(images), (images.astype(jnp.float32) / 255 - 0.5) / 0.25)


def test_normalisation_promotes_nothing(jax_promotion, random):
    images = jnp.asarray(random.integers(0, 256, (2, 4, 4, 1), np.uint8))
    assert normalise(images, Normalisation(IMAGENET_MEAN, IMAGENET_STD)).shape == (2, 4, 4, 3)


def test_learned_positions_get_the_grid_of_the_images_and_all_else_stays(published):
    reference = published(VIT)
    found = fitted(reference, 20, 24, 3)
    # On the grid of its training an encoder keeps its table to the bit.
    same = fitted(reference, 28, 28, 3).variables["params"]["positions"]
    np.testing.assert_array_equal(same, reference.variables["params"]["positions"])
    assert (reference.module.grid, found.module.grid) == (7, None)
    assert found.variables["params"]["positions"].shape == (5, 6, 24)
    rest = {**reference.variables["params"], "positions": 0}
    assert jax.tree.all(jax.tree.map(np.array_equal, {**found.variables["params"], "positions": 0}, rest))


def test_narrow_weights_are_trained_in_float32(published):
    reference = published(VIT)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), reference.variables)
    narrow = PretrainedEncoder(reference.module.clone(dtype=jnp.bfloat16), half, reference.shape)
    found = fitted(narrow, 28, 28, 3)
    assert found.module.dtype is None
    assert {leaf.dtype for leaf in jax.tree.leaves(found.variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", ["dino", *(pytest.param(name, marks=pytest.mark.slow) for name in ("byol", "moco_v3"))])
def test_targets_start_from_the_same_weights_and_heads_from_the_seed(name, own_encoder, small_method):
    method, variables = built(small_method, name, own_encoder())
    state = started(method, variables, (12, 12, 1))
    same = functools.partial(jax.tree.map, np.array_equal)
    assert jax.tree.all(same(state.params["encoder"], variables["params"]))
    assert jax.tree.all(same(state.target["params"]["encoder"], state.params["encoder"]))
    untrained = started(method, None, (12, 12, 1))
    assert jax.tree.all(same(state.params["projector"], untrained.params["projector"]))
    assert not jax.tree.all(same(state.params["encoder"], untrained.params["encoder"]))


# Compiling takes a few seconds for each: the others are tested in the second stage.
@pytest.mark.parametrize("name", ["byol", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_method_trains_its_heads_first_and_then_the_encoder_too(name, own_encoder, small_method, random):
    canvas = (12, 12, 1)
    method, variables = built(small_method, name, own_encoder(ViT(16, 1, 2, 4) if name == "mae" else SMALL), 0.5)
    optimiser = Optimiser(learning_rate=0.01).build(2, 8, method.constant_rate)
    first = started(method, variables, canvas, optimiser)
    step = jax.jit(functools.partial(train_step, method=method, optimiser=optimiser, steps=2))
    images = random.integers(0, 256, (8, *canvas), np.uint8)
    second, _ = step(first, images, jax.random.key(1))
    third, metrics = step(second, images, jax.random.key(1))

    def moved(before, after, part):
        same = jax.tree.map(np.array_equal, before.params[part], after.params[part])
        return not jax.tree.all(same)

    heads = "decoder" if name == "mae" else "projector"
    assert moved(first, second, heads)
    assert not moved(first, second, "encoder")
    assert moved(second, third, "encoder")
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))


def test_a_split_state_starts_from_the_same_bits(own_encoder, small_method):
    method, variables = built(small_method, "byol", own_encoder())
    optimiser = Optimiser().build(4, 8)
    whole, split = (
        placed_init(method, optimiser, jax.random.key(0), np.zeros((12, 12, 1), np.uint8), make_mesh(), sharding, variables)
        for sharding in ("replicated", "fsdp")
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.params, split.params))
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.target, split.target))


def test_a_killed_run_continues_to_the_bits_of_an_uninterrupted_one(own_encoder, small_method, reader, tmp_path):
    initial = own_encoder()
    method, _ = built(small_method, "simclr", initial, 0.3)
    training = Training(method, Optimiser(encoder_rate=0.1), checkpoint_every=4, initial=initial)
    whole = train(training, reader, 0, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(step, scalars):
        if step == 6:
            raise KilledError

    with pytest.raises(KilledError):
        train(training, reader, 0, tmp_path / "killed", kill)
    resumed = train(training, reader, 0, tmp_path / "killed")
    assert jax.tree.all(jax.tree.map(np.array_equal, resumed, whole))


def test_an_encoder_of_other_shapes_is_refused_before_training(published, small_method):
    method = small_method("simclr", ViT(24, 1, 3, 4))
    with pytest.raises(ValueError, match=r"does not fit the method's encoder: \d+ arrays differ, e\.g\. \['params'\]"):
        started(method, published(VIT).variables, (12, 12, 3))


def test_rates_of_the_encoder_its_layers_and_its_heads():
    params = {
        "encoder": {"embed": jnp.ones(1), "block0": jnp.ones(1), "block1": jnp.ones(1), "norm": jnp.ones(1)},
        "projector": jnp.ones(1),
    }
    params["encoder"] = {name: {"bias": leaf} for name, leaf in params["encoder"].items()}
    params["projector"] = {"bias": params["projector"]}
    built = Optimiser("sgd", 1.0, 0.0, warmup=0.0, layer_decay=0.5, encoder_rate=0.1).build(10, 256)
    updates, _ = built.update(jax.tree.map(jnp.ones_like, params), built.init(params), params)
    found = {name: -float(leaf["bias"][0]) for name, leaf in (updates["encoder"] | {"heads": updates["projector"]}).items()}
    # Layers count from the heads: those and the last norm are 3, block 1 is 2, block 0 is 1, the embedding 0.
    assert found == pytest.approx({"embed": 0.1 / 8, "block0": 0.1 / 4, "block1": 0.1 / 2, "norm": 0.1, "heads": 1.0})


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"an encoder's rate in \(0, 1\]"):
        Optimiser(encoder_rate=rate)


def test_shares_out_of_range_are_refused(small_method, own_encoder):
    with pytest.raises(ValueError, match=r"share of steps with a frozen encoder in \[0, 1\), got 1"):
        continued(small_method("simclr"), own_encoder(), 1.0)


@pytest.mark.parametrize(
    ("module", "shape", "canvas", "message"),
    [
        (SMALL, (12, 12, 1), (12, 12, 3), "it takes grey images, and these images have colour"),
        (SMALL, (12, 12, 1), (16, 12, 1), "takes images of 12 x 12 only, and these have 12 x 16"),
        (ViT(16, 1, 2, 4), (12, 12, 1), (14, 14, 1), "14 x 14 cannot be cut into patches of 4"),
    ],
)
def test_images_that_an_encoder_does_not_take_are_named(module, shape, canvas, message):
    variables = module.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    with pytest.raises(ValueError, match=message):
        fitted(PretrainedEncoder(module, variables, shape), *canvas)


def test_an_encoder_of_ours_in_colour_takes_gray_images(random, tmp_path):
    module = PatchMLP(width=8, features=16)
    variables = {"batch_stats": {}, **module.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)), train=False)}
    own = PretrainedEncoder(module, variables, (12, 12, 3))
    gray = random.integers(0, 256, (2, 12, 12, 1), np.uint8)
    found = fitted(load_encoder(save_encoder(own, tmp_path / "own.safetensors")), 12, 12, 1)
    assert found.shape == (12, 12, 3)
    np.testing.assert_allclose(found.apply(gray), own.apply(np.repeat(gray, 3, axis=3)), atol=1e-6)


def test_architectures_have_the_names_of_the_flag_and_published_ones_their_own():
    assert {name: architecture_name(module) for name, module in ENCODERS.items()} == {name: name for name in ENCODERS}
    others = {
        ViT(384, 12, 6, 14, positions="learned", layer_scale=1.0, registers=4): "vit_s14",
        ViT(1024, 24, 16, 16): "vit_l16",
        ViT(24, 2, 3, 4): "vit_24x2x3_4",
        ResNet((3, 4, 23, 3), ENCODERS["resnet50"].block): "resnet101",
        ResNet((1, 1, 1, 1), width=32): "resnet1-1-1-1_w32",
        PatchMLP(width=8): "patch_mlp_4x8x256",
        PatchResNet((8, 16), (1, 2)): "resnet_8-16_1-2_4",
    }
    assert [architecture_name(module) for module in others] == list(others.values())
