"""Losses against hand-computed cases, naive NumPy loops, finite differences, and themselves over eight devices."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sslshift.losses import nt_xent, vicreg
from sslshift.training.step import make_mesh

pytestmark = pytest.mark.usefixtures("jax_promotion")

WEIGHTS = {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0}
LOSSES = {
    "nt_xent": functools.partial(nt_xent, temperature=0.2),
    "vicreg": functools.partial(vicreg, **WEIGHTS),
}


def naive_nt_xent(z1, z2, temperature):
    z = np.concatenate([z1, z2])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(z)):
        positive = (i + len(z1)) % len(z)
        terms = [np.exp(z[i] @ z[j] / temperature) for j in range(len(z)) if j != i]
        total -= np.log(np.exp(z[i] @ z[positive] / temperature) / sum(terms))
    return total / len(z)


def naive_vicreg(z1, z2):
    n, dim = z1.shape
    invariance = sum((z1[i, k] - z2[i, k]) ** 2 for i in range(n) for k in range(dim)) / (n * dim)
    variance = covariance = 0.0
    for z in (z1, z2):
        centred = z - z.mean(axis=0)
        for k in range(dim):
            variance += max(0.0, 1 - np.sqrt((centred[:, k] ** 2).sum() / (n - 1) + 1e-4)) / dim / 2
            for m in range(dim):
                if m != k:
                    covariance += ((centred[:, k] @ centred[:, m]) / (n - 1)) ** 2 / dim
    return 25 * invariance + 25 * variance + covariance


@pytest.fixture
def pair(random):
    return random.normal(size=(16, 6)).astype(np.float32), random.normal(size=(16, 6)).astype(np.float32)


def test_nt_xent_of_two_orthogonal_pairs_by_hand():
    # Each anchor: positive at cosine 1, two negatives at cosine 0.
    z = jnp.eye(2)
    assert nt_xent(z, z, temperature=0.5) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 2)), abs=1e-6)


def test_vicreg_by_hand():
    # Means (1, 1); variances 2 and 2 (n - 1 = 1), covariance 2; every variance is above 1, views agree.
    z = jnp.array([[0.0, 0.0], [2.0, 2.0]])
    assert vicreg(z, z, **WEIGHTS) == pytest.approx(2 * (2 * 2**2) / 2, abs=1e-5)


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_identical_embeddings_cannot_be_told_apart(batch):
    z = jnp.ones((batch, 3))
    assert nt_xent(z, z, temperature=0.1) == pytest.approx(np.log(2 * batch - 1), abs=1e-5)


def test_constant_embeddings_pay_the_whole_variance_term():
    z = jnp.full((8, 4), 3.0)
    assert vicreg(z, z, invariance_weight=1.0, variance_weight=1.0, covariance_weight=1.0) == pytest.approx(1 - 0.01, abs=1e-6)


def test_against_naive_loops(pair):
    assert LOSSES["nt_xent"](*pair) == pytest.approx(naive_nt_xent(*pair, 0.2), rel=1e-5)
    assert LOSSES["vicreg"](*pair) == pytest.approx(naive_vicreg(*pair), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_swapping_views_and_permuting_the_batch_change_nothing(loss, pair, random):
    order = random.permutation(len(pair[0]))
    assert loss(pair[1], pair[0]) == pytest.approx(float(loss(*pair)), rel=1e-5)
    assert loss(pair[0][order], pair[1][order]) == pytest.approx(float(loss(*pair)), rel=1e-5)
    assert abs(float(loss(pair[0], pair[1][order]) - loss(*pair))) > 1e-3


def test_nt_xent_ignores_the_scale_of_each_embedding(pair, random):
    scale = random.uniform(0.1, 10, (16, 1)).astype(np.float32)
    expected = float(LOSSES["nt_xent"](*pair))
    assert LOSSES["nt_xent"](pair[0] * scale, pair[1]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_low_precision_inputs_are_accumulated_in_float32(loss, pair):
    low = [jnp.asarray(z, jnp.bfloat16) for z in pair]
    value = loss(*low)
    assert value.dtype == jnp.float32
    assert value == pytest.approx(float(loss(*(z.astype(jnp.float32) for z in low))), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradient_against_finite_differences_in_float64(loss, pair):
    with jax.enable_x64(True):
        z1, z2 = (jnp.asarray(z, jnp.float64) for z in pair)
        direction = jnp.asarray(np.random.default_rng(1).normal(size=z1.shape))
        slope = (loss(z1 + 1e-6 * direction, z2) - loss(z1 - 1e-6 * direction, z2)) / 2e-6
        gradient = jax.grad(loss)(z1, z2)
        assert gradient.dtype == jnp.float64
        assert jnp.sum(gradient * direction) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_device_sharded_and_shard_map_agree(loss, pair):
    mesh = make_mesh()
    assert mesh.size == 8
    expected = jax.value_and_grad(loss, argnums=(0, 1))(*pair)
    split = PartitionSpec("data")
    sharded = [jax.device_put(z, NamedSharding(mesh, split)) for z in pair]
    mapped = jax.shard_map(
        functools.partial(loss, axis_name="data"), mesh=mesh, in_specs=(split, split), out_specs=PartitionSpec()
    )
    for form in (loss, mapped):
        value, gradient = jax.jit(jax.value_and_grad(form, argnums=(0, 1)))(*sharded)
        assert value == pytest.approx(float(expected[0]), rel=1e-5)
        for ours, theirs in zip(gradient, expected[1], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_vmap_over_runs(loss, pair):
    stacked = [jnp.stack([z, 2 * z + 1]) for z in pair]
    both = jax.vmap(loss)(*stacked)
    assert both[1] == pytest.approx(float(loss(stacked[0][1], stacked[1][1])), rel=1e-5)


def test_zero_embeddings_have_finite_gradients():
    gradient = jax.grad(LOSSES["nt_xent"])(jnp.zeros((4, 3)), jnp.ones((4, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nt_xent(jnp.ones((4, 3)), jnp.ones((5, 3)), temperature=0.2), r"one shape \[batch, dim\]"),
        (lambda: nt_xent(jnp.ones(4), jnp.ones(4), temperature=0.2), r"one shape \[batch, dim\]"),
        (lambda: nt_xent(jnp.ones((4, 3), int), jnp.ones((4, 3), int), temperature=0.2), "floating dtype"),
        (lambda: nt_xent(jnp.ones((4, 3)), jnp.ones((4, 3)), temperature=0), "Expected temperature above 0"),
        (lambda: vicreg(jnp.ones((1, 3)), jnp.ones((1, 3)), **WEIGHTS), "at least two images"),
    ],
)
def test_bad_input_is_refused_before_tracing(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_losses_import_nothing_of_ours_and_nothing_heavy():
    code = "import sys, sslshift.losses; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"flax", "optax", "orbax", "grain", "tensorflow", "matplotlib", "PIL", "rich"}
