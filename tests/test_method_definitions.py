"""Each method against the definition in its paper, recomputed in NumPy."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import STEPS, heads_of, start, value_of, views_of

from sslshift.methods import METHODS, StepContext
from sslshift.methods.mae import visible_patches
from sslshift.models import PrototypeHead, ViT, patchify
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import train_step


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
