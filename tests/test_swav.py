"""SwAV: its loss by hand, by naive loops and on eight devices, its assignments, and its method step by step."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sslshift import losses
from sslshift.data.views import ViewSettings
from sslshift.losses import sinkhorn, swav
from sslshift.methods import StepContext
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import compiled_init, compiled_step, replicate, shard_batch, train_step

PAPER = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}


def naive_assignments(scores, epsilon, iterations):
    """Of one view, `[images, prototypes]`, as the paper writes it: a matrix whose rows and columns are scaled in turn."""
    q = np.exp(scores.astype(np.float64) / epsilon)
    q /= q.sum()
    images, prototypes = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[:, k] /= q[:, k].sum() * prototypes
        for i in range(images):
            q[i] /= q[i].sum() * images
    return q * images


def naive_swav(logits, queue=None, assigned_views=2, temperature=0.1, epsilon=0.05, iterations=3):
    views, batch, _ = logits.shape
    terms = []
    for assigned in range(assigned_views):
        together = logits[assigned] if queue is None else np.concatenate([queue[assigned], logits[assigned]])
        targets = naive_assignments(together, epsilon, iterations)[-batch:]
        for view in range(views):
            if view == assigned:
                continue
            for image in range(batch):
                x = logits[view, image].astype(np.float64) / temperature
                terms.append(-np.sum(targets[image] * (x - np.log(np.exp(x).sum()))))
    return np.mean(terms)


def cosines(random, *shape):
    return random.uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture
def logits(random):
    return cosines(random, 2, 16, 6)


@pytest.fixture
def queue(random):
    return cosines(random, 2, 24, 6)


def test_two_images_and_two_prototypes_by_hand():
    # Row sums after the prototypes' scaling are equal already: each assignment is the softmax of its logits over 0.5.
    logits = jnp.array([[[1.0, 0.0], [0.0, 1.0]]] * 2)
    share = np.exp(2) / (np.exp(2) + 1)
    np.testing.assert_allclose(
        sinkhorn(logits, epsilon=0.5, iterations=1)[0], [[share, 1 - share], [1 - share, share]], rtol=1e-6
    )
    expected = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert swav(logits, temperature=0.5, epsilon=0.5, iterations=1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("views", "assigned", "batch", "prototypes"), [(2, 2, 16, 6), (5, 2, 7, 40), (3, 1, 5, 2), (3, 3, 1, 9)]
)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("queued", [0, 11])
def test_against_naive_loops(views, assigned, batch, prototypes, iterations, queued, random):
    """Also with fewer images than prototypes, a single image, more views than are assigned."""
    logits = cosines(random, views, batch, prototypes)
    queue = cosines(random, assigned, queued, prototypes) if queued else None
    given = PAPER | {"iterations": iterations, "assigned_views": assigned}
    expected = naive_swav(logits, queue, assigned, iterations=iterations)
    assert swav(logits, queue_logits=queue, **given) == pytest.approx(expected, rel=1e-5)


def test_assignments_share_the_images_among_the_prototypes(random):
    # All images prefer the first prototype by far.
    logits = cosines(random, 1, 64, 4) * 0.2 + np.array([0.8, 0, 0, 0], np.float32)
    found = np.asarray(sinkhorn(logits, epsilon=0.05, iterations=30))
    np.testing.assert_allclose(found.sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 16, rtol=1e-3)


def test_the_mean_of_many_iterations_is_that_of_the_paper_in_float64(random):
    with jax.enable_x64(True):
        logits = random.uniform(-1, 1, (3, 9, 5))
        value = swav(logits, temperature=0.1, epsilon=0.05, iterations=10)
        assert value.dtype == jnp.float64
        assert value == pytest.approx(naive_swav(logits, iterations=10), rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("offset", [0.0, -50.0, 1e4])
def test_logits_of_any_size_are_finite(size, offset, logits):
    """exp(logits / 0.05) would be infinite in float32 above 4.4, and 0 below -5.2."""
    value, gradient = jax.value_and_grad(functools.partial(swav, **PAPER))(logits * size + offset)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_an_offset_of_an_image_or_a_prototype_changes_no_assignment(logits, random):
    expected = sinkhorn(logits, epsilon=0.5, iterations=3)
    moved = logits + cosines(random, 2, 16, 1) * 5
    np.testing.assert_allclose(sinkhorn(logits + 7 * cosines(random, 2, 1, 6), epsilon=0.5, iterations=3), expected, atol=1e-5)
    # An image's own offset is its weight at the first scaling of the prototypes, and lost with more of them.
    far = sinkhorn(moved, epsilon=0.5, iterations=50)
    np.testing.assert_allclose(far, sinkhorn(logits, epsilon=0.5, iterations=50), atol=1e-4)


def test_no_gradient_passes_through_assignments_or_the_queue(logits, queue):
    def loss(logits, queue):
        return swav(logits, queue_logits=queue, **PAPER)

    by_logits, by_queue = jax.grad(loss, argnums=(0, 1))(logits, queue)
    assert (by_queue == 0).all()
    assert loss(logits, queue) != loss(logits, -queue)
    # The gradient of a softmax's cross-entropy with a constant target.
    targets = np.stack([naive_assignments(np.concatenate([queue[v], logits[v]]), 0.05, 3)[-16:] for v in range(2)])
    expected = (np.asarray(jax.nn.softmax(logits / 0.1)) - targets[::-1]) / 0.1 / 32
    np.testing.assert_allclose(by_logits, expected, atol=1e-6)


def test_masked_entries_of_the_queue_might_as_well_not_be_there(logits, queue):
    mask = np.arange(24) % 3 > 0
    garbage = np.where(mask[None, :, None], queue, np.nan)
    expected = swav(logits, queue_logits=queue[:, mask], **PAPER)
    assert swav(logits, queue_logits=garbage, queue_mask=mask, **PAPER) == pytest.approx(float(expected), rel=1e-6)
    none = swav(logits, queue_logits=garbage, queue_mask=np.zeros(24, bool), **PAPER)
    assert none == pytest.approx(float(swav(logits, **PAPER)), rel=1e-6)


@pytest.mark.parametrize("where", ["logits", "queue"])
def test_nan_is_not_hidden(where, logits, queue):
    (logits if where == "logits" else queue)[1, 3, 2] = np.nan
    assert np.isnan(swav(logits, queue_logits=queue, **PAPER))


def test_permuting_images_prototypes_or_the_queue_changes_nothing(logits, queue, random):
    loss = functools.partial(swav, **PAPER)
    expected = float(loss(logits, queue_logits=queue))
    images, prototypes, entries = (random.permutation(n) for n in (16, 6, 24))
    assert loss(logits[:, images], queue_logits=queue[:, entries]) == pytest.approx(expected, rel=1e-5)
    assert loss(logits[:, :, prototypes], queue_logits=queue[:, :, prototypes]) == pytest.approx(expected, rel=1e-5)
    assert loss(logits[::-1], queue_logits=queue[::-1]) == pytest.approx(expected, rel=1e-5)
    assert abs(loss(np.stack([logits[0], logits[1, images]]), queue_logits=queue) - expected) > 1e-3


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_low_precision_is_accumulated_in_float32(dtype, promotion, logits, queue):
    logits = jnp.asarray(logits, dtype)
    queue = jnp.asarray(queue, dtype)
    with jax.numpy_dtype_promotion(promotion), jax.numpy_rank_promotion("raise"):
        loss = jax.jit(jax.value_and_grad(lambda x: swav(x, queue_logits=queue, queue_mask=jnp.arange(24) < 20, **PAPER)))
        value, gradient = loss(logits)
        # The queue may be kept in another precision.
        mixed = swav(logits, queue_logits=queue.astype(jnp.float32), **PAPER)
    assert (value.dtype, mixed.dtype, gradient.dtype) == (jnp.float32, jnp.float32, jnp.dtype(dtype))
    expected = naive_swav(np.asarray(logits, np.float32), np.asarray(queue[:, :20], np.float32))
    assert value == pytest.approx(expected, rel=1e-5)


def forms(axis_type, with_queue, queue_spec):
    """The loss on one device, jitted over a sharded batch, and inside shard_map, each as `(function, arguments)`."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    split = PartitionSpec(None, "data")
    everywhere = PartitionSpec()
    specs = (split, split if queue_spec == "split" else everywhere)[: 1 + with_queue]

    def loss(logits, queue=None, axis_name=None):
        return swav(logits, queue_logits=queue, axis_name=axis_name, **PAPER)

    mapped = jax.shard_map(functools.partial(loss, axis_name="data"), mesh=mesh, in_specs=specs, out_specs=everywhere)
    placed = [NamedSharding(mesh, spec) for spec in specs]
    return mesh, placed, loss, mapped


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("queue_spec", ["none", "split", "whole"])
def test_one_device_sharded_and_shard_map_agree(axis_type, queue_spec, random):
    arrays = [cosines(random, 4, 16, 6), cosines(random, 2, 24, 6)][: 1 + (queue_spec != "none")]
    mesh, placed, loss, mapped = forms(axis_type, queue_spec != "none", queue_spec)
    expected, expected_gradient = jax.value_and_grad(loss)(*arrays)
    sharded = [jax.device_put(array, sharding) for array, sharding in zip(arrays, placed, strict=True)]
    with jax.set_mesh(mesh):
        for form in (loss, mapped):
            value, gradient = jax.jit(jax.value_and_grad(form))(*sharded)
            assert value == pytest.approx(float(expected), rel=1e-6)
            np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_batch_and_queue_may_lie_on_a_mesh_of_two_axes(random):
    """Inside shard_map over both axes; and jitted where batch, queue and prototypes lie along different ones."""
    logits = cosines(random, 3, 16, 6)
    queue = cosines(random, 2, 24, 6)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    expected = float(swav(logits, queue_logits=queue, **PAPER))

    def over_both(logits, queue):
        return swav(logits, queue_logits=queue, axis_name=("data", "model"), **PAPER)

    everywhere = PartitionSpec()
    both = PartitionSpec(None, ("data", "model"))
    for spec in (everywhere, both):
        mapped = jax.shard_map(over_both, mesh=mesh, in_specs=(both, spec), out_specs=everywhere)
        arguments = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in ((logits, both), (queue, spec))]
        assert jax.jit(mapped)(*arguments) == pytest.approx(expected, rel=1e-6)
    placed = jax.device_put(logits, NamedSharding(mesh, PartitionSpec(None, "data", "model")))
    queued = jax.device_put(queue, NamedSharding(mesh, PartitionSpec(None, "model")))
    jitted = jax.jit(lambda logits, queue: swav(logits, queue_logits=queue, **PAPER))
    assert jitted(placed, queued) == pytest.approx(expected, rel=1e-6)


def split_or_whole(logits, queue, queue_split, gather=False):
    queue = jax.lax.all_gather(queue, "data", axis=1, tiled=True) if gather else queue
    return swav(logits, queue_logits=queue, queue_split=queue_split, axis_name="data", **PAPER)


def test_split_queue_is_said_where_types_do_not_say_it(logits, queue):
    def over_devices(queue_split, split):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        parts = PartitionSpec(None, "data")
        everywhere = PartitionSpec()
        loss = functools.partial(split_or_whole, queue_split=queue_split)
        specs = (parts, parts if split else everywhere)
        return jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False))(logits, queue)

    expected = float(swav(logits, queue_logits=queue, **PAPER))
    assert over_devices(True, split=True) == pytest.approx(expected, rel=1e-6)
    assert over_devices(False, split=False) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="'data': give queue_split=True if each device holds its own part"):
        over_devices(None, split=True)
    # A gathered queue is whole, whatever its type says.
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    gather = functools.partial(split_or_whole, queue_split=False, gather=True)
    parts = PartitionSpec(None, "data")
    gathered = jax.jit(jax.shard_map(gather, mesh=mesh, in_specs=(parts, parts), out_specs=PartitionSpec()))(logits, queue)
    assert gathered == pytest.approx(expected, rel=1e-6)


def test_vmap_over_runs_and_over_a_named_axis(logits, queue):
    both = jax.vmap(lambda x, q, t: swav(x, queue_logits=q, temperature=t, epsilon=0.05, iterations=3))(
        jnp.stack([logits, -logits]), jnp.stack([queue, -queue]), jnp.array([0.1, 0.2])
    )
    assert both[1] == pytest.approx(naive_swav(-logits, -queue, temperature=0.2), rel=1e-5)
    parts = jnp.stack(jnp.split(jnp.asarray(logits), 4, axis=1))
    named = jax.vmap(lambda x: swav(x, axis_name="data", **PAPER), axis_name="data")(parts)
    np.testing.assert_allclose(named, float(swav(logits, **PAPER)), rtol=1e-6)


L = np.zeros((2, 4, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: swav(L, **PAPER | {"iterations": 0}), "whole number of at least 1 for iterations, got 0"),
        (lambda: swav(L, **PAPER | {"iterations": 2.5}), r"whole number of at least 1 for iterations, got 2\.5"),
        (lambda: swav(L, **PAPER | {"epsilon": 0}), "Expected epsilon above 0, got 0"),
        (lambda: swav(L, **PAPER | {"epsilon": float("nan")}), "Expected epsilon above 0, got nan"),
        (lambda: swav(L, **PAPER | {"temperature": -0.1}), r"Expected temperature above 0, got -0\.1"),
        (lambda: swav(L[:1], assigned_views=1, **PAPER), "at least two views, .* got 1"),
        (lambda: swav(L[:1], **PAPER), "Expected assigned_views from 1 to the 1 views"),
        (lambda: swav(L, assigned_views=0, **PAPER), "from 1 to the 2 views of the logits, got 0"),
        (lambda: swav(L, assigned_views=3, **PAPER), "from 1 to the 2 views of the logits, got 3"),
        (lambda: swav(L[0], **PAPER), r"one array \[views, batch, prototypes\].*, got \(4, 8\)"),
        (lambda: swav([L[0], L[1, :3]], **PAPER), r"one array \[views, batch, prototypes\].*, got list"),
        (lambda: swav(L[:, :0], **PAPER), r"without empty dimensions, got \(2, 0, 8\)"),
        (lambda: swav(L.astype(int), **PAPER), "floating dtype, got int64"),
        (lambda: swav(L, queue_logits=L[:1], **PAPER), r"with 2 views and 8 prototypes, got \(1, 4, 8\)"),
        (lambda: swav(L, queue_logits=L[..., :7], **PAPER), r"with 2 views and 8 prototypes, got \(2, 4, 7\)"),
        (
            lambda: swav(L, queue_logits=L, queue_mask=np.ones(3, bool), **PAPER),
            r"bool of shape \(4,\), got bool of shape \(3,\)",
        ),
        (lambda: swav(L, queue_logits=L, queue_mask=np.ones(4), **PAPER), "Expected queue_mask as bool"),
        (lambda: swav(L, queue_mask=np.ones(4, bool), **PAPER), "describe queue_logits, which are not given"),
        (lambda: losses.swapped_prediction(L, L[:, :3], temperature=0.1), r"first views of the logits .* got \(2, 3, 8\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def images(random):
    return random.integers(0, 256, (16, 12, 12, 1), np.uint8)


# Cropped and mirrored alone: jitter and blur are most of what is compiled, and not what is tested here.
PLAIN = (ViewSettings(jitter_probability=0.0, grayscale_probability=0.0),) * 2


def views_and_projections(method, state, images, number):
    """The views of a step of the fixture below, and the unit projections of all of them, `[views, batch, dim]`."""
    views = jax.jit(method.make_views)(jax.random.fold_in(jax.random.key(1), number), images)
    (z, _), _ = jax.jit(lambda: method.networks.apply(state.variables, views, train=True, mutable=["batch_stats"]))()
    z = np.stack([np.asarray(one, np.float64) for one in z])
    return views, z / np.linalg.norm(z, axis=2, keepdims=True)


@pytest.fixture
def stepped(small_method, images):
    """Builds a SwAV method, steps it some times on the same images, and returns `(method, states, metrics)`."""

    def run(steps, of=10, learning_rate=0.5, **options):
        method = small_method("swav", views=PLAIN, **options)
        optimiser = Optimiser("sgd", learning_rate=learning_rate, weight_decay=0.1).build(of, 16)
        state = compiled_init(method, optimiser)(jax.random.key(0), jnp.zeros((12, 12, 1), jnp.uint8))
        step = jax.jit(functools.partial(train_step, method=method, optimiser=optimiser, steps=of))
        states = [state]
        metrics = []
        for _ in range(steps):
            state, scalars = step(state, images, jax.random.key(1))
            states.append(state)
            metrics.append({name: float(value) for name, value in scalars.items()})
        return method, states, metrics

    return run


def test_method_by_its_definition(stepped, images):
    """Loss, queue and metrics of the fourth step, recomputed in NumPy; a local view is predicted from and not assigned."""
    method, states, metrics = stepped(4, queue=40, queue_start=0.0, local_views=1)
    assert [line["queue_used"] for line in metrics] == [0, 0, 0, 1]
    assert [int(state.target["filled"]) for state in states] == [0, 16, 32, 40, 40]
    before = states[3]
    views, z = views_and_projections(method, before, images, 3)
    assert len(views) == 3
    weights = np.asarray(before.params["predictor"]["prototypes"], np.float64)
    past = np.asarray(before.target["queue"], np.float64)
    expected = naive_swav(z @ weights, past @ weights)
    assert metrics[3]["loss"] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(states[4].target["queue"], np.concatenate([z[:2], past[:, :24]], axis=1), atol=1e-5)
    assert 0 < metrics[3]["assignment_entropy"] < 1
    assert 1 < metrics[3]["prototype_perplexity"] <= 32


def test_queue_and_prototypes_wait_for_their_shares_of_the_run(stepped):
    """A queue may be smaller than a batch; prototypes have length 1 before every step."""
    _, states, metrics = stepped(4, of=8, queue=8, queue_start=0.3, frozen=0.2, learning_rate=5.0)
    assert [line["queue_used"] for line in metrics] == [0, 0, 0, 1]
    assert states[-1].target["queue"].shape == (2, 8, 16)
    prototypes = [np.asarray(state.params["predictor"]["prototypes"]) for state in states]
    for weights in prototypes:
        np.testing.assert_allclose(np.linalg.norm(weights, axis=0), 1, rtol=1e-5)
    moved = [float(np.abs(b - a).max()) > 1e-5 for a, b in itertools.pairwise(prototypes)]
    assert moved == [False, False, True, True]


def test_a_step_moves_prototypes_as_if_their_length_were_not_in_the_loss(stepped, images):
    """By the authors: gradient of the plain product, a step, then the length taken off."""
    method, states, _ = stepped(1, frozen=0.0, queue=0)
    before, after = states
    # Without a queue there is no state beside the networks.
    assert after.target == ()
    _, z = views_and_projections(method, before, images, 0)
    weights = before.params["predictor"]["prototypes"]
    gradient = jax.grad(lambda w: swav(jnp.asarray(z, jnp.float32) @ w, **PAPER))(weights)
    # A warm-up of a tenth of ten steps begins at the whole rate.
    moved = np.asarray(weights - 0.5 * 16 / 256 * (gradient + 0.1 * weights))
    expected = moved / np.linalg.norm(moved, axis=0)
    np.testing.assert_allclose(after.params["predictor"]["prototypes"], expected, atol=1e-5)


def test_collapsed_embeddings_are_seen_in_the_metrics(small_method, images):
    method = small_method("swav", views=PLAIN, queue=0)
    variables = jax.jit(method.init)(jax.random.key(0), images)
    views = jax.jit(method.make_views)(jax.random.key(1), images)
    context = StepContext(jax.random.split(jax.random.key(2), 16), jnp.float32(0.5))
    last = variables["params"]["projector"]["Dense_1"]
    alike = last | {"kernel": jnp.zeros_like(last["kernel"]), "bias": jnp.arange(16.0)}
    params = variables["params"] | {"projector": variables["params"]["projector"] | {"Dense_1": alike}}
    for kind, changed in (("healthy", variables), ("collapsed", variables | {"params": params})):
        loss, output = jax.jit(method.loss)(changed, (), views, context)
        if kind == "collapsed":
            assert output.metrics["assignment_entropy"] == pytest.approx(1, abs=1e-4)
            # Worse than guessing: predictions prefer some prototypes, assignments do not.
            assert loss > np.log(32)
        else:
            assert output.metrics["assignment_entropy"] < 0.9


def test_step_with_a_queue_is_the_same_on_one_device_on_eight_and_inside_shard_map(small_method, images):
    given = {"queue": 24, "queue_start": 0.0, "prototypes": 100, "local_views": 1, "views": PLAIN}
    method = small_method("swav", **given)
    mapped_method = small_method("swav", method.networks.encoder.clone(axis_name="data"), **given)
    optimiser = Optimiser("sgd", learning_rate=0.1).build(10, 16)
    outcomes = []
    for devices, mapped in ((1, False), (8, False), (8, True)):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        if mapped:
            split = PartitionSpec("data")
            everywhere = PartitionSpec()
            step = functools.partial(train_step, method=mapped_method, optimiser=optimiser, steps=10)
            step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(everywhere, split, everywhere), out_specs=everywhere))
        else:
            step = compiled_step(method, optimiser, 10, mesh)
        state = replicate(mesh, compiled_init(method, optimiser)(jax.random.key(0), jnp.zeros((12, 12, 1), jnp.uint8)))
        for _ in range(3):
            state, metrics = step(state, shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
        assert metrics["queue_used"] == 1
        outcomes.append((jax.device_get(metrics), jax.device_get(state)))
    for outcome in outcomes[1:]:
        chex.assert_trees_all_close(outcome, outcomes[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "at least 1 iteration, 2 prototypes and a queue of at least 0 for SwAV, got 0, 32 and 64"),
        ({"queue": -1}, "and -1"),
        ({"prototypes": 1}, "2 prototypes"),
        ({"epsilon": 0.0}, r"epsilon above 0 for SwAV, got 0\.1 and 0\.0"),
        ({"temperature": float("nan")}, "got nan and"),
        ({"queue_start": 1.5}, r"Expected queue_start in \[0, 1\], got 1\.5"),
        ({"frozen": -0.1}, r"Expected frozen in \[0, 1\], got -0\.1"),
        ({"local_size": 8}, "local_size without local_views"),
        ({"local_views": 2, "local_size": 8}, "patch_mlp takes images of one size only"),
    ],
)
def test_impossible_settings_are_refused(options, message, small_method):
    with pytest.raises(ValueError, match=message):
        small_method("swav", **options)
