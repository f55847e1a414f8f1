"""Every method in a training step: the same on one device, on eight and inside shard_map; invariances; recipes."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from method_steps import STEPS, heads_of, plain, start, value_of, views_of

from sslshift.data.views import ViewSettings
from sslshift.methods import METHODS, Method, StepContext
from sslshift.methods.mae import visible_patches
from sslshift.models import ENCODERS, PatchMLP, ResNet, ViT
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import compiled_step, replicate, shard_batch, train_step


@functools.cache
def gelu_works_inside_shard_map() -> bool:
    """False for jax 0.12.0 on a CPU, whose erf cannot be lowered there."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    gelu = jax.shard_map(
        jax.grad(lambda x: jax.nn.gelu(x, approximate=False).sum()), mesh=mesh, in_specs=split, out_specs=split
    )
    try:
        jax.jit(gelu)(jnp.ones(8))
    except ValueError as error:
        return "varying manual axes" not in str(error)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_step_is_the_same_on_one_device_on_eight_and_inside_shard_map(name, small_method, images, canvas):
    """Loss, gradients, batch statistics, target and update agree: negatives and statistics are those of the global batch."""
    # Views of all kinds once: they are most of what is compiled, and the same for every method.
    views = METHODS[name].views if name == "simclr" else tuple(plain(view) for view in METHODS[name].views)
    method = small_method(name, views=views)
    mapped_method = small_method(name, method.networks.encoder.clone(axis_name="data"), views=views)
    outcomes = []
    forms = [(1, False), (8, False), (8, True)]
    if name in ("mae", "dino") and not gelu_works_inside_shard_map():
        forms.pop()
    for devices, mapped in forms:
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        optimiser, state = start(mapped_method if mapped else method, canvas)
        if mapped:
            step = functools.partial(train_step, method=mapped_method, optimiser=optimiser, steps=STEPS)
            split = PartitionSpec("data")
            everywhere = PartitionSpec()
            step = jax.jit(
                jax.shard_map(step, mesh=mesh, in_specs=(everywhere, split, everywhere), out_specs=everywhere),
                donate_argnums=0,
            )
        else:
            step = compiled_step(method, optimiser, STEPS, mesh)
        state, first = step(replicate(mesh, state), shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
        first = jax.device_get(first)
        for _ in range(2):
            state, _ = step(state, shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
        outcomes.append((first, jax.device_get(state)))
    for first, state in outcomes[1:]:
        chex.assert_trees_all_close(first, outcomes[0][0], rtol=1e-5)
        chex.assert_trees_all_close(state, outcomes[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_permuting_the_batch_and_swapping_views_change_nothing(name, small_method, images, canvas, random):
    method = small_method(name)
    _, state = start(method, canvas)
    views, context = views_of(method, images)
    loss = jax.jit(functools.partial(value_of, method))
    expected = float(loss(state, views, context))
    order = random.permutation(len(images))
    permuted = StepContext(context.keys[order], context.progress)
    assert float(loss(state, tuple(view[order] for view in views), permuted)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if len(views) == 2:
        assert float(loss(state, views[::-1], context)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        # It does see which views belong together.
        assert abs(float(loss(state, (views[0], views[1][order]), context)) - expected) > 1e-3


@pytest.mark.parametrize("name", ["moco_v3", "byol", "dino"])
def test_no_gradient_reaches_the_target(name, small_method, images, canvas):
    method = small_method(name)
    _, state = start(method, canvas)

    def loss(weights):
        return value_of(method, state.replace(target=state.target | {"params": weights}), *views_of(method, images))

    assert all((leaf == 0).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(state.target["params"])))
    # Not because the loss would not depend on it.
    other = method.init_target(method.init(jax.random.key(9), images))["params"]
    assert abs(float(loss(other)) - float(loss(state.target["params"]))) > 1e-3


@pytest.mark.parametrize("name", ["moco_v3", "byol", "dino"])
def test_target_follows_by_a_momentum_that_rises_to_one(name, small_method, canvas):
    method = small_method(name, momentum=0.9)
    _, state = start(method, canvas)
    moved = jax.tree.map(lambda x: x + 1.0, state.variables)
    assert "predictor" not in state.target["params"]
    for progress, share in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        target = method.update_target(state.target, moved, progress)
        difference = jax.tree.map(jnp.subtract, target["params"], state.target["params"])
        for leaf in jax.tree.leaves(difference):
            np.testing.assert_allclose(leaf, share, atol=1e-6)
        chex.assert_trees_all_equal(target["batch_stats"], state.target["batch_stats"])


@pytest.mark.parametrize("name", ["moco_v3", "byol", "dino"])
def test_target_has_batch_statistics_of_its_own(name, small_method, images, canvas):
    method = small_method(name)
    _, state = start(method, canvas)
    other = jax.tree.map(lambda x: 2 * x, state.target["params"])
    state = state.replace(target=state.target | {"params": other})
    _, output = method.loss(state.variables, state.target, *views_of(method, images))
    mean = output.target["batch_stats"]["encoder"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 2 * output.batch_stats["encoder"]["BatchNorm_0"]["mean"], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "projector", "predictor"),
    [
        ("simclr", "2048b 256b", ""),
        ("moco_v3", "4096a 256n", "4096a 256"),
        ("byol", "4096a 256b", "4096a 256b"),
        ("simsiam", "2048a 2048a 2048n", "512a 2048b"),
        ("barlow_twins", "2048a 2048a 2048b", ""),
        ("vicreg", "2048a 2048a 2048b", ""),
        ("nnclr", "2048a 2048a 256a", "4096a 256b"),
        ("swav", "2048a 128b", ""),
    ],
)
def test_heads_are_those_of_the_recipes(name, projector, predictor):
    assert heads_of(name, PatchMLP()) == (projector, predictor)


def test_optimisers_are_those_of_the_recipes():
    keys = ("name", "learning_rate", "weight_decay")
    assert {name: tuple(recipe.optimiser[key] for key in keys) for name, recipe in METHODS.items()} == {
        "simclr": ("lars", 0.4, 1e-4),
        "moco_v3": ("lars", 0.3, 1e-6),
        "byol": ("lars", 1.0, 1e-5),
        "simsiam": ("sgd", 0.5, 1e-5),
        "barlow_twins": ("lars", 0.3, 1e-4),
        "vicreg": ("lars", 0.3, 1e-4),
        "dino": ("lars", 0.3, 1e-6),
        "mae": ("adamw", 2e-4, 0.05),
        "nnclr": ("lars", 0.4, 1e-5),
        "swav": ("lars", 0.6, 1e-6),
    }


@pytest.mark.parametrize("name", METHODS)
def test_recipe_builds_on_every_kind_of_encoder(name):
    for encoder in (ENCODERS["resnet18_cifar"], ENCODERS["vit_ti4"]):
        if name == "mae" and not isinstance(encoder, ViT):
            continue
        method = METHODS[name].build(encoder.clone(dtype=jnp.bfloat16))
        batch = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
        variables = jax.eval_shape(method.init, jax.random.key(0), batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        target = jax.eval_shape(method.init_target, variables)
        views = jax.eval_shape(method.make_views, jax.random.key(0), batch)
        context = jax.eval_shape(method.step_context, jax.random.key(0), batch, jax.ShapeDtypeStruct((), jnp.float32))
        loss, output = jax.eval_shape(method.loss, variables, target, views, context)
        assert (loss.shape, loss.dtype) == ((), jnp.float32)
        chex.assert_trees_all_equal_shapes_and_dtypes(output.batch_stats, variables["batch_stats"])
        chex.assert_trees_all_equal_shapes_and_dtypes(output.target, target)
        Optimiser(**METHODS[name].optimiser_for(encoder)).build(10, 256, method.constant_rate)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_gives_nearly_the_same_loss(name, small_method, images, canvas):
    losses = []
    for dtype in (None, jnp.bfloat16):
        encoder = ViT(16, 2, 2, 4, dtype=dtype) if name == "mae" else PatchMLP(width=8, features=16, dtype=dtype)
        method = small_method(name, encoder)
        _, state = start(method, canvas)
        losses.append(float(jax.jit(functools.partial(value_of, method))(state, *views_of(method, images))))
    assert losses[1] == pytest.approx(losses[0], rel=0.05, abs=1e-3)
    assert losses[0] != losses[1]


def test_an_encoder_of_others_needs_no_settings_of_ours(images):
    import flax.linen as nn

    class Mean(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(8)(x.mean(axis=(1, 2)))

    method = METHODS["simclr"].build(Mean(), projector=(8, 4))
    variables = method.init(jax.random.key(0), images)
    assert method.features(variables, jnp.ones((3, 12, 12, 1))).shape == (3, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: METHODS["simclr"].build(PatchMLP(), local_views=4),
            r"option of simclr, got 'local_views'\. local_views is an option of dino, swav",
        ),
        (
            lambda: METHODS["byol"].build(PatchMLP(), temprature=1),
            r"Expected one of projector, .* option of byol, got 'temprature'",
        ),
        (lambda: METHODS["simclr"].build(PatchMLP(), (ViewSettings(),)), r"Expected settings of 2 view\(s\) for simclr, got 1"),
        (lambda: METHODS["mae"].build(PatchMLP()), r"Expected a ViT \(vit_\*\) as encoder of mae, .* got PatchMLP"),
        (lambda: METHODS["mae"].build(ViT(), mask_ratio=1.0), r"Expected mask_ratio between 0 and 1, got 1\.0"),
        (lambda: METHODS["byol"].build(PatchMLP(), momentum=1.5), r"momentum of the target in \[0, 1\], got 1\.5"),
        (lambda: METHODS["dino"].build(PatchMLP(), teacher_temperature=0.0), "Expected temperatures above 0 for DINO, got 0"),
        (lambda: METHODS["dino"].build(PatchMLP(), local_views=2, local_size=8), "patch_mlp takes images of only one size"),
        (lambda: METHODS["dino"].build(ViT(), local_size=8), "Expected local_views above 0 with a local_size"),
        (
            lambda: METHODS["byol"].build(PatchMLP(), projector=512),
            r"Expected widths for projector, .* such as \(512, 128\), got 512",
        ),
        (lambda: METHODS["byol"].build(PatchMLP(), projector=()), r"Expected widths for projector"),
        (lambda: METHODS["mae"].build(ViT(), decoder_width=100, decoder_heads=3), "got 100 and 3"),
        (lambda: METHODS["moco_v3"].build(PatchMLP(), frozen_embedding=True), "Expected a ViT, whose patches are embedded"),
        (lambda: ViT(heads=0), "192 by 0"),
        (lambda: METHODS["dino"].build(PatchMLP(), frozen=2.0), r"Expected frozen in \[0, 1\], got 2\.0"),
        (lambda: METHODS["nnclr"].build(PatchMLP(), queue=0), "queue of at least 1"),
        (lambda: visible_patches(jax.random.split(jax.random.key(0)), 2, 0.75), "leaves 0 visible"),
        (lambda: ViT(pool="max"), "Expected pool 'token' or 'mean'"),
        (lambda: ViT(100, heads=3), "100 by 3"),
    ],
)
def test_impossible_methods_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_batches_are_refused_before_anything_is_computed(small_method, canvas):
    method = small_method("byol")
    _, state = start(method, canvas)
    step = functools.partial(train_step, method=method, optimiser=None, steps=1)
    with pytest.raises(ValueError, match="at least 2 images, got 1: this method compares images of a batch"):
        step(state, jnp.zeros((1, 12, 12, 1), jnp.uint8), jax.random.key(0))
    with pytest.raises(ValueError, match=r"Expected a uint8 batch .*, got float32 of shape \(4, 12, 12, 1\)"):
        step(state, jnp.zeros((4, 12, 12, 1)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"14 x 14 cannot be cut into patches of 4; use .* such as 12 or 16"):
        small_method("mae").init(jax.random.key(0), jnp.zeros((2, 14, 14, 1), jnp.uint8))
    broken = small_method("simclr", temperature=0.0)
    with pytest.raises(ValueError, match="Expected temperature above 0, got 0"):
        value_of(broken, start(broken, canvas)[1], *views_of(broken, jnp.zeros((4, 12, 12, 1), jnp.uint8)))


def test_one_image_is_enough_for_mae(small_method):
    method = small_method("mae")
    assert len(method.make_views(jax.random.key(0), jnp.zeros((1, 12, 12, 1), jnp.uint8))) == 1


def test_resnet_runs_in_a_step_on_eight_devices(images, canvas, small_method):
    """Convolutions with our own gradient, under a mesh."""
    method = small_method("simclr", ResNet((1, 1), width=8, small_images=True))
    optimiser, state = start(method, canvas)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    step = compiled_step(method, optimiser, STEPS, mesh)
    expected, _ = jax.jit(functools.partial(train_step, method=method, optimiser=optimiser, steps=STEPS))(
        state, images, jax.random.key(5)
    )
    found, _ = step(replicate(mesh, state), shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-5)


def test_method_is_data(small_method):
    method = small_method("vicreg", projector=[32, 16])
    assert hash(method) == hash(method)
    weaker = dataclasses.replace(method, views=tuple(dataclasses.replace(view, hue=0.0) for view in method.views))
    assert isinstance(weaker, Method)
    assert weaker.networks is method.networks
