"""SwAV as a method, step by step: its queue, its prototypes and its metrics."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from swav_by_hand import PAPER, naive_swav

from sslshift.data.views import ViewSettings
from sslshift.losses import swav
from sslshift.methods import StepContext
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import compiled_init, compiled_step, replicate, shard_batch, train_step

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
        ({"local_size": 8}, "Expected local_views above 0 with a local_size"),
        ({"local_views": 2, "local_size": 8}, "patch_mlp takes images of only one size"),
    ],
)
def test_impossible_settings_are_refused(options, message, small_method):
    with pytest.raises(ValueError, match=message):
        small_method("swav", **options)
