"""The loss of SwAV: by hand, by naive loops and on eight devices; its assignments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from swav_by_hand import PAPER, naive_assignments, naive_swav

from sslshift import losses
from sslshift.losses import sinkhorn, swav


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
        (
            lambda: swav(L, queue_mask=np.ones(4, bool), **PAPER),
            "Expected queue_logits, since queue_mask or queue_split is given",
        ),
        (lambda: losses.swapped_prediction(L, L[:, :3], temperature=0.1), r"first views of the logits .* got \(2, 3, 8\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
