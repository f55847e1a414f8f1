"""What each method does in a training step: the same on one device, on eight and inside shard_map, and what its paper says."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from sslshift.data.views import ViewSettings
from sslshift.methods import METHODS, Method, StepContext
from sslshift.methods.mae import visible_patches
from sslshift.models import ENCODERS, PatchMLP, PrototypeHead, ResNet, ViT, patchify
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import compiled_step, init_state, replicate, shard_batch, train_step

STEPS = 10


@pytest.fixture
def images(random, canvas):
    return random.integers(0, 256, (16, *canvas), np.uint8)


def start(method, canvas, optimiser=None):
    optimiser = optimiser or Optimiser("sgd", learning_rate=0.1).build(STEPS, 16, method.constant_rate)
    return optimiser, init_state(method, optimiser, jax.random.key(0), jnp.zeros(canvas, jnp.uint8))


def views_of(method, images, number=0):
    key = jax.random.key(number)
    return method.make_views(key, jnp.asarray(images)), method.step_context(key, images, jnp.float32(0.5))


def value_of(method, state, views, context):
    return method.loss(state.variables, state.target, views, context)[0]


def plain(view: ViewSettings) -> ViewSettings:
    """A view that is cropped and mirrored alone."""
    return dataclasses.replace(view, jitter_probability=0.0, blur_probability=0.0, solarise_probability=0.0)


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


def cosines(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def with_another_target(method, state, images):
    target = method.init_target(method.init(jax.random.key(9), images))
    return state.replace(target=state.target | {name: target[name] for name in ("params", "batch_stats")})


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco_v3"])
def test_loss_by_its_definition(name, small_method, images, canvas):
    """Recomputed in NumPy from predictions and projections, those of a target that is not the network."""
    method = small_method(name)
    _, state = start(method, canvas)
    if name != "simsiam":
        state = with_another_target(method, state, images)
    views, context = views_of(method, images)
    apply = functools.partial(method.networks.apply, train=True, mutable=["batch_stats"])
    (z, p), _ = apply(state.variables, views)
    if name != "simsiam":
        z, _ = apply(state.target, views, method="project")
    expected = 0
    for similarity in (cosines(p[0], z[1]), cosines(p[1], z[0])):
        own = np.diag(similarity)
        if name == "byol":
            expected += np.mean(2 - 2 * own)
        elif name == "simsiam":
            expected -= np.mean(own) / 2
        else:
            expected += 2 * 0.2 * np.mean(np.log(np.exp(similarity / 0.2).sum(axis=1)) - own / 0.2)
    assert float(value_of(method, state, views, context)) == pytest.approx(expected, rel=1e-4)
    assert method.constant_rate == (("predictor",) if name == "simsiam" else ())


def test_dino_by_its_definition(small_method, images, canvas):
    method = small_method("dino", teacher_temperature=0.05)
    _, state = start(method, canvas)
    state = with_another_target(method, state, images)
    center = np.linspace(-0.1, 0.1, 32)
    state = state.replace(target=state.target | {"center": jnp.asarray(center, jnp.float32)})
    views, context = views_of(method, images)
    apply = functools.partial(method.networks.apply, train=True, mutable=["batch_stats"])
    student, _ = apply(state.variables, views)
    teacher, _ = apply({name: state.target[name] for name in ("params", "batch_stats")}, views, method="project")

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    expected = 0
    for here, there in ((0, 1), (1, 0)):
        wanted = softmax((np.asarray(teacher[here], np.float64) - center) / 0.05)
        given = np.log(softmax(np.asarray(student[there], np.float64) / 0.1))
        expected -= np.mean(np.sum(wanted * given, axis=1)) / 2
    assert float(value_of(method, state, views, context)) == pytest.approx(expected, rel=1e-4)


def heads_of(name, encoder):
    """Of each head the widths of its layers, with `b` for a bias, `n` for a norm behind it and `a` for one with scale."""
    method = METHODS[name].build(encoder)
    batch = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)
    found = {}
    for head in ("projector", "predictor"):
        layers = variables["params"].get(head, {})
        stats = variables["batch_stats"].get(head, {})
        dense = [layers[f"Dense_{i}"] for i in range(sum(key.startswith("Dense") for key in layers))]
        marks = [str(layer["kernel"].shape[1]) + "b" * ("bias" in layer) for layer in dense]
        for i in range(len(stats)):
            marks[i] += "a" if f"BatchNorm_{i}" in layers else "n"
        found[head] = " ".join(marks)
    return found["projector"], found["predictor"]


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


def test_moco_v3_on_a_vit_has_its_own_heads_and_leaves_the_embedding_alone(canvas, images):
    assert heads_of("moco_v3", ViT(16, 1, 2, 4)) == ("4096a 4096a 256n", "4096a 256n")
    method = METHODS["moco_v3"].build(ViT(16, 1, 2, 4), projector=(32, 16), predictor=(24,))
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.1).build(STEPS, 16)
    _, state = start(method, canvas, optimiser)
    new, _ = jax.jit(functools.partial(train_step, method=method, optimiser=optimiser, steps=STEPS))(
        state, images, jax.random.key(0)
    )
    before = state.params["encoder"]
    after = new.params["encoder"]
    chex.assert_trees_all_equal(after["embed"], before["embed"])
    assert (after["block0"]["qkv"]["kernel"] != before["block0"]["qkv"]["kernel"]).any()


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


def test_dino_prototypes_start_at_the_length_of_a_linear_layer():
    # Ten times as long, they would turn ten times as slowly.
    head = PrototypeHead((512, 256), 1000)
    prototypes = head.init(jax.random.key(0), jnp.ones((2, 8)), train=False)["params"]["prototypes"]
    np.testing.assert_allclose(jnp.linalg.norm(prototypes, axis=0).mean(), 1 / np.sqrt(3), rtol=0.01)


def test_dino_frozen_prototypes_move_only_after_their_share_of_the_run(small_method, images, canvas):
    method = small_method("dino", frozen=0.3)
    # Weight decay and momentum must not move them either.
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.1).build(STEPS, 16)
    _, state = start(method, canvas, optimiser)
    step = jax.jit(functools.partial(train_step, method=method, optimiser=optimiser, steps=STEPS))
    prototypes = [state.params["projector"]["prototypes"]]
    for _ in range(5):
        mlp = state.params["projector"]["mlp"]["Dense_0"]["kernel"]
        state, _ = step(state, images, jax.random.key(1))
        prototypes.append(state.params["projector"]["prototypes"])
        assert (state.params["projector"]["mlp"]["Dense_0"]["kernel"] != mlp).any()
    moved = [bool((a != b).any()) for a, b in itertools.pairwise(prototypes)]
    assert moved == [False, False, False, True, True]


def test_dino_temperature_and_centre_by_step(small_method, images, canvas):
    method = small_method("dino", first_teacher_temperature=0.04, teacher_temperature=0.08, temperature_warmup=0.4)
    _, state = start(method, canvas)
    views, context = views_of(method, images)
    temperatures = []
    for progress in (0.0, 0.1, 0.2, 0.4, 0.9):
        _, output = method.loss(state.variables, state.target, views, StepContext(context.keys, progress))
        temperatures.append(float(output.metrics["teacher_temperature"]))
    assert temperatures == pytest.approx([0.04, 0.05, 0.06, 0.08, 0.08])
    teacher, _ = method.networks.apply(state.variables, views, train=True, mutable=["batch_stats"], method="project")
    mean = np.mean([np.asarray(logits).mean(axis=0) for logits in teacher], axis=0)
    np.testing.assert_allclose(output.target["center"], 0.1 * mean, atol=1e-6)


def test_dino_multi_crop_shows_small_views_to_the_student_alone(small_method, images, canvas):
    method = small_method("dino", ViT(16, 2, 2, 4), local_views=3, local_size=8, local_crop_scale=0.3)
    _, state = start(method, canvas)
    views, context = views_of(method, images)
    assert [view.shape[1:3] for view in views] == [(12, 12)] * 2 + [(8, 8)] * 3
    assert [(view.min_crop_scale, view.max_crop_scale) for view in method.views] == [(0.3, 1.0)] * 2 + [(0.05, 0.3)] * 3
    loss, output = method.loss(state.variables, state.target, views, context)
    changed = (*views[:2], views[2] + 1, *views[3:])
    other, other_output = method.loss(state.variables, state.target, changed, context)
    assert float(other) != float(loss)
    chex.assert_trees_all_equal(other_output.target, output.target)
    # Whole-size local views are for encoders that take one size only.
    whole = small_method("dino", local_views=1)
    assert [view.shape[1:3] for view in views_of(whole, images)[0]] == [(12, 12)] * 3


def test_dino_without_a_warm_up_starts_at_its_temperature(small_method, images, canvas):
    method = small_method("dino", first_teacher_temperature=0.01, teacher_temperature=0.06, temperature_warmup=0.0)
    _, state = start(method, canvas)
    views, context = views_of(method, images)
    _, output = method.loss(state.variables, state.target, views, StepContext(context.keys, jnp.float32(0)))
    assert float(output.metrics["teacher_temperature"]) == pytest.approx(0.06)


def test_mae_sees_visible_patches_and_judges_hidden_ones(small_method, images, canvas):
    method = small_method("mae", ViT(16, 2, 2, 4, positions="learned"), mask_ratio=0.5)
    _, state = start(method, canvas)
    views, context = views_of(method, images)
    keep = np.asarray(visible_patches(context.keys, 9, 0.5))
    assert keep.shape == (16, 4)
    assert all(len(set(row)) == 4 for row in keep)
    assert len({tuple(sorted(row)) for row in keep}) > 8
    patches = np.asarray(patchify(views[0], 4))
    hidden = np.ones((16, 9), bool)
    hidden[np.arange(16)[:, None], keep] = False

    def predict(patches):
        image = patches.reshape(16, 3, 3, 4, 4, 1).swapaxes(2, 3).reshape(16, 12, 12, 1)
        return np.asarray(method.networks.apply(state.variables, (image,), keep, train=True))

    prediction = predict(patches)
    np.testing.assert_array_equal(predict(np.where(hidden[..., None], 7.0, patches)), prediction)
    assert (predict(np.where(hidden[..., None], patches, patches + 1)) != prediction).any()
    target = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    expected = np.mean(np.square(prediction - target)[hidden])
    assert float(value_of(method, state, views, context)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("tokens", "ratio", "kept"), [(196, 0.75, 49), (10, 0.9, 1), (49, 0.75, 12), (20, 0.55, 9)])
def test_number_of_visible_patches(tokens, ratio, kept):
    keys = jax.random.split(jax.random.key(0), 3)
    assert visible_patches(keys, tokens, ratio).shape == (3, kept)


def test_cost_of_the_mae_encoder_falls_with_the_mask_ratio():
    encoder = ViT(32, 2, 2, 4)
    images = jnp.zeros((4, 32, 32, 3))
    variables = encoder.init(jax.random.key(0), images, train=False)

    def flops(ratio):
        keep = visible_patches(jax.random.split(jax.random.key(0), 4), 64, ratio)
        lowered = jax.jit(functools.partial(encoder.apply, method="tokens")).lower(variables, images, keep)
        return lowered.cost_analysis()["flops"]

    costs = [flops(ratio) for ratio in (0.25, 0.5, 0.75, 0.9)]
    assert costs == sorted(costs, reverse=True)
    assert costs[2] < 0.4 * costs[0]


def test_nnclr_finds_neighbours_in_a_queue_of_past_projections(small_method, images, canvas):
    method = small_method("nnclr", queue=24, temperature=0.5)
    _, state = start(method, canvas)
    queue = np.asarray(state.target["queue"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
    views, context = views_of(method, images)
    (z, p), _ = method.networks.apply(state.variables, views, train=True, mutable=["batch_stats"])
    z, p = (
        [np.asarray(x, np.float64) / np.linalg.norm(np.asarray(x, np.float64), axis=1, keepdims=True) for x in part]
        for part in (z, p)
    )
    expected = 0
    for here, there in ((0, 1), (1, 0)):
        for i in range(16):
            neighbour = queue[np.argmax(queue @ z[here][i])]
            logits = p[there] @ neighbour / 0.5
            expected += (np.log(np.exp(logits).sum()) - logits[i]) / 32
    loss, output = method.loss(state.variables, state.target, views, context)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(output.target["queue"], np.concatenate([z[0], queue[:8]]), atol=1e-5)


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
        (lambda: METHODS["dino"].build(PatchMLP(), local_views=2, local_size=8), "patch_mlp takes images of one size only"),
        (lambda: METHODS["dino"].build(ViT(), local_size=8), "local_size without local_views would change nothing"),
        (
            lambda: METHODS["byol"].build(PatchMLP(), projector=512),
            r"Expected widths for projector, .* such as \(512, 128\), got 512",
        ),
        (lambda: METHODS["byol"].build(PatchMLP(), projector=()), r"Expected widths for projector"),
        (lambda: METHODS["mae"].build(ViT(), decoder_width=100, decoder_heads=3), "got 100 with 3 heads"),
        (lambda: METHODS["moco_v3"].build(PatchMLP(), frozen_embedding=True), "Expected a ViT, whose patches are embedded"),
        (lambda: ViT(heads=0), "192 by 0"),
        (lambda: METHODS["dino"].build(PatchMLP(), frozen=2.0), r"Expected frozen in \[0, 1\], got 2\.0"),
        (lambda: METHODS["nnclr"].build(PatchMLP(), queue=0), "queue of at least 1"),
        (lambda: visible_patches(jax.random.split(jax.random.key(0)), 2, 0.75), "leaves 0 visible"),
        (lambda: ViT(pool="max"), "pools by 'token' or 'mean'"),
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
