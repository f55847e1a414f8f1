"""Losses of embeddings that are tiny, huge, zero, constant or far from 0, against float64, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_losses import naive_nt_xent, naive_vicreg
from test_more_losses import naive

from sslshift import losses
from sslshift.arrays import unit
from sslshift.models import PrototypeHead

BARLOW = functools.partial(losses.barlow_twins, off_diagonal_weight=5e-3, scale=0.1)
VICREG = functools.partial(losses.vicreg, invariance_weight=25.0, variance_weight=25.0, covariance_weight=1.0)
# Those that depend on the embeddings' directions alone, as functions of two arrays.
DIRECTIONS = {
    "nt_xent": functools.partial(losses.nt_xent, temperature=0.2),
    "info_nce": functools.partial(losses.info_nce, temperature=0.2),
    "negative_cosine": losses.negative_cosine,
    "alignment": losses.alignment,
    "uniformity": lambda a, b: losses.uniformity(a) + 0 * b.sum(),
    "effective_rank": lambda a, b: losses.effective_rank(a) + 0 * b.sum(),
    "collapse": lambda a, b: losses.collapse(a) + 0 * b.sum(),
}


@pytest.fixture
def pair(random):
    return tuple(random.normal(size=(8, 5)) for _ in range(2))


def value_and_gradients(loss, a, b):
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(a, b)
    assert np.isfinite(value)
    for gradient in gradients:
        assert jnp.isfinite(gradient).all()
    return value, gradients


def test_nt_xent_at_tiny_norms_by_hand():
    """Four anchors in the plane; at a norm of 1e-7 the squares are below every epsilon in use."""
    z = np.array([[1.0, 0.0], [0.0, 1.0]])
    for norm in (1e-30, 1e-7, 1.0, 1e20):
        value = losses.nt_xent(jnp.asarray(norm * z, jnp.float32), jnp.asarray(norm * z, jnp.float32), temperature=0.5)
        assert float(value) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 2)), abs=1e-6)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_no_length_matters(name, pair):
    """From near float32's smallest normal number to near its largest, all rows alike and, but for the rank, each its own."""
    loss = DIRECTIONS[name]
    wanted, slopes = value_and_gradients(loss, *(jnp.asarray(z, jnp.float32) for z in pair))
    both = jax.jit(jax.value_and_grad(loss))
    for length in (1e-33, 1e-20, 1e-7, 1e7, 1e20, 1e33):
        scaled = [jnp.asarray(length * z, jnp.float32) for z in pair]
        value, gradient = both(*scaled)
        assert float(value) == pytest.approx(float(wanted), rel=1e-5)
        np.testing.assert_allclose(np.asarray(gradient, np.float64) * length, slopes[0], rtol=1e-3, atol=1e-5)
    if name != "effective_rank":
        lengths = 10.0 ** np.array([[-33, -20, -7, -1, 0, 7, 20, 33]]).T
        value, _ = value_and_gradients(loss, *(jnp.asarray(lengths * z, jnp.float32) for z in pair))
        assert float(value) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_tiny_lengths_in_narrow_dtypes(name, pair):
    # Rounded once, then scaled by powers of two, so that all mantissas stay.
    for dtype, exponents in ((jnp.bfloat16, (-110, -24, 100)), (jnp.float16, (-3, 8))):
        rounded = [jnp.clip(jnp.asarray(z, dtype), -4, 4) for z in pair]
        wanted = float(DIRECTIONS[name](*rounded))
        for exponent in exponents:
            value, _ = value_and_gradients(DIRECTIONS[name], *(z * jnp.asarray(2.0**exponent, dtype) for z in rounded))
            assert float(value) == pytest.approx(wanted, rel=2e-2 if dtype == jnp.float16 else 1e-5)
    # Below float16's normal numbers directions are rounded, but gradients stay in its range.
    value_and_gradients(DIRECTIONS[name], *(jnp.asarray(3e-7 * z, jnp.float16) for z in pair))


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("zeros", ["one row", "all"])
def test_zero_embeddings_have_cosine_zero_and_no_gradient(name, zeros, pair):
    rows = slice(1, 2) if zeros == "one row" else slice(None)
    a, b = (jnp.asarray(z, jnp.float32) for z in pair)
    a = a.at[rows].set(0)
    with jax.debug_nans(True):
        value, (gradient, _) = value_and_gradients(DIRECTIONS[name], a, b)
    if name != "effective_rank" or zeros == "all":
        assert (gradient[rows] == 0).all()
    expected = {
        # Every cosine is 0: the anchor's own is one of 15 alike; those of the second views see zeros too.
        ("negative_cosine", "all"): 0.0,
        ("info_nce", "all"): 2 * 0.2 * np.log(8),
        ("alignment", "all"): 1.0,
        ("uniformity", "all"): -4.0,
        ("effective_rank", "all"): 1.0,
        ("collapse", "all"): 0.0,
    }
    if (name, zeros) in expected:
        assert float(value) == pytest.approx(expected[name, zeros], abs=1e-5)


def test_unit_of_float64_and_other_axes(random):
    with jax.enable_x64(True):
        x = random.normal(size=(3, 4, 5))
        for length in (1e-305, 1e-200, 1.0, 1e200, 1e305):
            ours = unit(jnp.asarray(x * length), axis=1)
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-12)
        gradient = jax.grad(lambda x: unit(x)[0, 0, 0])(jnp.zeros((1, 1, 4)))
        assert (gradient == 0).all()
        # Forward mode and second derivatives agree with those at length 1, up to the power of the length.
        small, plain = (jax.hessian(lambda x: unit(x)[0])(jnp.asarray(x[0, 0]) * length) for length in (1e-100, 1.0))
        np.testing.assert_allclose(small * 1e-200, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 1e25])
def test_prototype_head_ignores_the_length_of_prototypes(scale, random):
    head = PrototypeHead((8, 4), 6)
    x = random.normal(size=(5, 7)).astype(np.float32)
    variables = head.init(jax.random.key(0), x, train=False)
    changed = variables["params"] | {"prototypes": scale * variables["params"]["prototypes"]}
    np.testing.assert_allclose(
        head.apply({"params": changed}, x, train=False), head.apply(variables, x, train=False), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("offset", [1e4, 1e6, -3e7])
def test_statistics_of_dimensions_far_from_zero(offset, random):
    """Deviations of a few thousandths of the offset or less; the reference sees the same float32 numbers."""
    z1, z2 = ((offset + abs(offset) * 1e-4 * random.normal(size=(16, 6))).astype(np.float32) for _ in range(2))
    assert float(BARLOW(z1, z2)) == pytest.approx(naive("barlow_twins", z1, z2), rel=1e-4)
    small = [((z - np.float32(offset)) / 64 + np.float32(offset)).astype(np.float32) for z in (z1, z2)]
    assert float(VICREG(*small)) == pytest.approx(naive_vicreg(*(z.astype(np.float64) for z in small)), rel=1e-4)
    patches = [z.reshape(2, 8, 6) for z in small]
    mask = jnp.ones((2, 8))
    target = patches[1].astype(np.float64)
    target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
    wanted = np.mean(np.square(0.5 - target))
    assert float(losses.masked_reconstruction(jnp.full((2, 8, 6), 0.5), patches[1], mask)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1.1, 1_000_003.3, 3e30])
def test_constant_dimensions(constant, random):
    z1, z2 = (random.normal(size=(10, 4)).astype(np.float32) for _ in range(2))
    z1[:, 1] = z2[:, 1] = constant
    value, _ = value_and_gradients(BARLOW, z1, z2)
    assert float(value) == pytest.approx(naive("barlow_twins", z1, z2), rel=1e-4)
    if constant < 1e20:
        value, _ = value_and_gradients(VICREG, z1, z2)
        assert float(value) == pytest.approx(naive_vicreg(*(z.astype(np.float64) for z in (z1, z2))), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e15, 1e25, 1e36])
def test_barlow_twins_at_any_scale(scale, random):
    """Beside the epsilon of 1e-5 small deviations vanish, as in the definition; large ones do not overflow."""
    z1, z2 = ((scale * random.normal(size=(10, 4))).astype(np.float32) for _ in range(2))
    value, _ = value_and_gradients(BARLOW, z1, z2)
    assert float(value) == pytest.approx(naive("barlow_twins", z1, z2), rel=1e-4)


def test_vicreg_sees_small_covariances_beside_large_variances(random):
    """The sum of all squares less that of the diagonal would have no digit of it left."""
    z = (3000 * random.normal(size=(64, 3))).astype(np.float32)
    # Decorrelated, then correlated by a little.
    z, _ = np.linalg.qr(z - z.mean(axis=0))
    z = (24_000 * z).astype(np.float32)
    z[:, 0] += 1e-4 * z[:, 1]
    covariance = functools.partial(losses.vicreg, invariance_weight=0.0, variance_weight=0.0, covariance_weight=1.0)
    exact = np.cov(z.astype(np.float64).T)
    wanted = 2 * (np.square(exact).sum() - np.square(np.diag(exact)).sum()) / 3
    assert float(covariance(z, z)) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("batch", [2, 3])
def test_smallest_batches(batch, random):
    a, b = (random.normal(size=(batch, 5)).astype(np.float32) for _ in range(2))
    assert float(DIRECTIONS["nt_xent"](a, b)) == pytest.approx(naive_nt_xent(a, b, 0.2), rel=1e-4)
    assert float(BARLOW(a, b)) == pytest.approx(naive("barlow_twins", a, b), rel=1e-4)
    assert float(VICREG(a, b)) == pytest.approx(naive_vicreg(a.astype(np.float64), b.astype(np.float64)), rel=1e-4)
    for loss in (*DIRECTIONS.values(), BARLOW, VICREG):
        value_and_gradients(loss, a, a)


@pytest.mark.parametrize(
    ("z", "rank"),
    [
        (np.zeros((4, 3)), 1.0),
        (np.eye(4, 3), 3.0),
        (1e-25 * np.eye(5), 5.0),
        (1e30 * np.ones((4, 6)), 1.0),
        (np.diag([1.0, 1.0, 0.0, 0.0]), 2.0),
        (np.outer([1.0, 2.0, 3.0], [1.0, -1.0]), 1.0),
    ],
)
def test_effective_rank_where_singular_values_vanish_or_repeat(z, rank):
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(losses.effective_rank)(jnp.asarray(z, jnp.float32))
    # RankMe adds 1e-7 to each share.
    assert float(value) == pytest.approx(rank, abs=1e-4)
    assert jnp.isfinite(gradient).all()


def test_prototypes_that_are_ruled_out(random):
    """A logit of -inf at student and teacher is as if there were no such prototype."""
    student, teacher = (random.normal(size=(2, 4, 5)).astype(np.float32) for _ in range(2))
    settings = {"student_temperature": 0.1, "teacher_temperature": 0.3}
    wanted, slope = jax.value_and_grad(losses.dino)(student, teacher, center=jnp.zeros(5), **settings)
    more = [np.concatenate([z, np.full((2, 4, 1), -np.inf, np.float32)], axis=2) for z in (student, teacher)]
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(losses.dino)(*more, center=jnp.zeros(6), **settings)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6)
    np.testing.assert_allclose(gradient[..., :5], slope, atol=1e-6)
    assert (gradient[..., 5] == 0).all()
    # Logits so large that their softmax is one prototype.
    huge, steep = jax.value_and_grad(losses.dino)(1e30 * student, 1e30 * teacher, center=jnp.zeros(5), **settings)
    assert np.isfinite(huge)
    assert np.isfinite(steep).all()


@pytest.mark.parametrize("mask", [np.zeros((2, 3)), np.zeros((2, 3), bool), np.zeros((2, 3), int)])
def test_a_mask_that_hides_nothing(mask, random):
    prediction, patches = (jnp.asarray(random.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(losses.masked_reconstruction)(prediction, patches, mask)
    assert float(value) == 0
    assert (gradient == 0).all()
    # Patches of one colour have no variance.
    value, gradient = jax.value_and_grad(losses.masked_reconstruction)(
        prediction, jnp.ones((2, 3, 4)), 1 - np.asarray(mask, int)
    )
    assert float(value) == pytest.approx(float(jnp.square(prediction).mean()), rel=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), np.float32(0), np.float64(-0.1), np.int32(0)])
def test_temperatures_that_are_none(value):
    with pytest.raises(ValueError, match="Expected temperature above 0"):
        losses.nt_xent(jnp.ones((4, 3)), jnp.ones((4, 3)), temperature=value)
    with pytest.raises(ValueError, match=r"Expected one number for temperature, got an array of shape \(2,\)"):
        losses.info_nce(jnp.ones((4, 3)), jnp.ones((4, 3)), temperature=jnp.ones(2))
