"""MoCo v3, BYOL/SimSiam, Barlow Twins, DINO, MAE and NNCLR: by hand, naive loops, finite differences, eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from sslshift import losses
from sslshift.training.step import make_mesh

pytestmark = pytest.mark.usefixtures("jax_promotion")


def mean_over_devices(loss):
    """A loss that is a mean over images, as it is used inside `shard_map`."""
    return lambda *args, axis_name: lax.pmean(loss(*args), axis_name)


CENTER = np.linspace(-1, 1, 6)


def dino_of_two(student, teacher):
    """Both arguments `[batch, 2 * prototypes]`: two views side by side, so that every loss here splits its batch alike."""
    split = [jnp.stack(jnp.split(z, 2, axis=1)) for z in (student, teacher)]
    center = jnp.asarray(CENTER, jnp.float64 if student.dtype == jnp.float64 else jnp.float32)
    return losses.dino(*split, center=center, student_temperature=0.1, teacher_temperature=0.3)


def mae(prediction, patches):
    tokens = [z.reshape(len(z), 3, -1) for z in (prediction, patches)]
    mask = jnp.broadcast_to(jnp.array([1, 0, 1]), (len(prediction), 3))
    return losses.masked_reconstruction(*tokens, mask)


QUEUE = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))[0][:7].astype(np.float32)


def nnclr(prediction, projection):
    return losses.nnclr(projection, prediction, queue=jnp.asarray(QUEUE), temperature=0.2)


def mapped_nnclr(prediction, projection, *, axis_name):
    return losses.nnclr(projection, prediction, queue=jnp.asarray(QUEUE), temperature=0.2, axis_name=axis_name)


PAIRS = {
    "info_nce": (functools.partial(losses.info_nce, temperature=0.2), None),
    "negative_cosine": (losses.negative_cosine, mean_over_devices(losses.negative_cosine)),
    "barlow_twins": (functools.partial(losses.barlow_twins, off_diagonal_weight=5e-3, scale=0.1), None),
    "dino": (dino_of_two, mean_over_devices(dino_of_two)),
    "masked_reconstruction": (mae, mean_over_devices(mae)),
    "nnclr": (nnclr, mapped_nnclr),
}


@pytest.fixture
def pair(random):
    return tuple(random.normal(size=(16, 12)).astype(np.float32) for _ in range(2))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def naive(name, a, b):
    a = a.astype(np.float64)
    b = b.astype(np.float64)
    count, dim = a.shape
    if name == "info_nce":
        a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
        return 2 * 0.2 * -np.mean([np.log(softmax(a[i] @ b.T / 0.2)[i]) for i in range(count)])
    if name == "nnclr":
        neighbours = [max(QUEUE.astype(np.float64), key=lambda past, z=z: past @ z) for z in b]
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        return -np.mean([np.log(softmax(neighbours[i] @ a.T / 0.2)[i]) for i in range(count)])
    if name == "negative_cosine":
        return -np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)])
    if name == "barlow_twins":
        a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b))
        total = 0.0
        for i in range(dim):
            for j in range(dim):
                c = a[:, i] @ b[:, j] / count
                total += (c - 1) ** 2 if i == j else 5e-3 * c**2
        return 0.1 * total
    if name == "dino":
        student, teacher = (np.stack(np.split(z, 2, axis=1)) for z in (a, b))
        terms = []
        for t in range(2):
            for s in range(2):
                if s != t:
                    target = softmax((teacher[t] - CENTER) / 0.3)
                    terms.append(-np.mean(np.sum(target * np.log(softmax(student[s] / 0.1)), axis=1)))
        return np.mean(terms)
    prediction, patches = (z.reshape(count, 3, -1) for z in (a, b))
    errors = []
    for i in range(count):
        for token in (0, 2):
            patch = patches[i, token]
            target = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            errors.append(np.mean((prediction[i, token] - target) ** 2))
    return np.mean(errors)


@pytest.mark.parametrize("name", PAIRS)
def test_against_naive_loops(name, pair):
    assert float(PAIRS[name][0](*pair)) == pytest.approx(naive(name, *pair), rel=2e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_gradient_against_finite_differences_in_float64(name, pair):
    with jax.enable_x64(True):
        loss = PAIRS[name][0]
        a, b = (jnp.asarray(z, jnp.float64) for z in pair)
        direction = jnp.asarray(np.random.default_rng(1).normal(size=a.shape))
        slope = float(loss(a + 1e-6 * direction, b) - loss(a - 1e-6 * direction, b)) / 2e-6
        gradient = jax.grad(loss)(a, b)
        assert gradient.dtype == jnp.float64
        assert float(jnp.sum(gradient * direction)) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_one_device_sharded_and_shard_map_agree(name, pair):
    loss, inside = PAIRS[name]
    mesh = make_mesh()
    split = PartitionSpec("data")
    expected = jax.value_and_grad(loss)(*pair)
    sharded = [jax.device_put(z, NamedSharding(mesh, split)) for z in pair]
    mapped = jax.shard_map(
        functools.partial(inside or loss, axis_name="data"), mesh=mesh, in_specs=(split, split), out_specs=PartitionSpec()
    )
    for form in (loss, mapped):
        value, gradient = jax.jit(jax.value_and_grad(form))(*sharded)
        assert float(value) == pytest.approx(float(expected[0]), rel=1e-5)
        np.testing.assert_allclose(gradient, expected[1], atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_low_precision_inputs_are_accumulated_in_float32(name, pair):
    low = [jnp.asarray(z, jnp.bfloat16) for z in pair]
    value = PAIRS[name][0](*low)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(float(PAIRS[name][0](*(z.astype(jnp.float32) for z in low))), rel=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_permuting_the_batch_changes_nothing_and_breaking_pairs_does(name, pair, random):
    loss = PAIRS[name][0]
    order = random.permutation(16)
    assert float(loss(pair[0][order], pair[1][order])) == pytest.approx(float(loss(*pair)), rel=1e-5)
    assert abs(float(loss(pair[0][order], pair[1]) - loss(*pair))) > 1e-4


@pytest.mark.parametrize("name", ["info_nce", "negative_cosine", "nnclr"])
def test_the_scale_of_each_embedding_is_ignored(name, pair, random):
    scale = random.uniform(0.1, 10, (16, 1)).astype(np.float32)
    assert float(PAIRS[name][0](pair[0] * scale, pair[1])) == pytest.approx(float(PAIRS[name][0](*pair)), rel=1e-5)


@pytest.mark.parametrize("name", ["info_nce", "negative_cosine", "dino", "nnclr"])
def test_no_gradient_reaches_the_target(name, pair):
    assert (jax.grad(PAIRS[name][0], argnums=1)(*pair) == 0).all()


def test_barlow_twins_ignores_scale_and_offset_of_each_dimension_and_swapped_views(pair):
    loss = PAIRS["barlow_twins"][0]
    assert float(loss(pair[0] * 3 + 5, pair[1])) == pytest.approx(float(loss(*pair)), rel=1e-3)
    assert float(loss(pair[1], pair[0])) == pytest.approx(float(loss(*pair)), rel=1e-5)


def test_info_nce_of_identical_embeddings():
    z = jnp.ones((6, 3))
    assert float(losses.info_nce(z, z, temperature=0.1)) == pytest.approx(2 * 0.1 * np.log(6), rel=1e-5)


def test_nnclr_of_two_images_by_hand():
    # The first image's neighbour is its own axis; the second's is (0, 1), although its projection points the other way more.
    queue = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    projection = jnp.array([[5.0, 1.0], [-9.0, 2.0]])
    prediction = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    expected = np.log(np.exp(2) + 1) - 2  # cosines 1 and 0 over a temperature of 1/2, for both
    assert float(losses.nnclr(projection, prediction, queue=queue, temperature=0.5)) == pytest.approx(expected, rel=1e-6)


def test_no_gradient_reaches_the_queue_of_nnclr(pair):
    loss = functools.partial(losses.nnclr, *pair, temperature=0.2)
    assert (jax.grad(lambda queue: loss(queue=queue))(jnp.asarray(QUEUE)) == 0).all()


def test_dino_skips_pairs_of_the_same_view_and_counts_local_views(random):
    """With two teacher and four student views there are 2 * 4 - 2 pairs; a student view's own pair never counts."""
    student = random.normal(size=(4, 5, 6))
    teacher = random.normal(size=(2, 5, 6))
    options = {"center": jnp.zeros(6), "student_temperature": 0.1, "teacher_temperature": 0.07}
    total = 0.0
    for t in range(2):
        for s in range(4):
            if s != t:
                total -= np.sum(softmax(teacher[t] / 0.07) * np.log(softmax(student[s] / 0.1))) / 5 / 6
    assert float(losses.dino(jnp.asarray(student), jnp.asarray(teacher), **options)) == pytest.approx(total, rel=1e-5)


def test_dino_center_is_a_moving_average_over_views_batch_and_devices(random):
    logits = random.normal(size=(2, 16, 6)).astype(np.float32)
    center = random.normal(size=6).astype(np.float32)
    expected = 0.9 * center + 0.1 * logits.mean((0, 1))
    np.testing.assert_allclose(losses.dino_center(center, logits, momentum=0.9), expected, rtol=1e-5, atol=1e-6)
    mapped = jax.shard_map(
        functools.partial(losses.dino_center, momentum=0.9, axis_name="data"),
        mesh=make_mesh(),
        in_specs=(PartitionSpec(), PartitionSpec(None, "data")),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(mapped(center, logits), expected, rtol=1e-5, atol=1e-6)


def test_masked_reconstruction_sees_hidden_patches_alone(random):
    prediction, patches = (jnp.asarray(random.normal(size=(2, 4, 9))) for _ in range(2))
    mask = jnp.array([[1, 0, 0, 1], [0, 1, 1, 0]])
    gradient = jax.grad(losses.masked_reconstruction)(prediction, patches, mask)
    assert ((gradient != 0).any(-1) == mask.astype(bool)).all()
    assert float(losses.masked_reconstruction(patches, patches, mask, normalize=False)) == 0


def test_diagnostics_against_naive_numpy(random):
    z1 = random.normal(size=(9, 5))
    z2 = random.normal(size=(9, 5))
    u1, u2 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2))
    pairs = [np.exp(-2 * np.square(u1[i] - u1[j]).sum()) for i in range(9) for j in range(9) if i != j]
    values = np.linalg.svd(z1, compute_uv=False)
    share = values / values.sum()
    z1, z2 = (jnp.asarray(z, jnp.float32) for z in (z1, z2))
    assert float(losses.alignment(z1, z2)) == pytest.approx(np.mean(np.square(u1 - u2).sum(1)), rel=1e-5)
    assert float(losses.uniformity(z1)) == pytest.approx(np.log(np.mean(pairs)), rel=1e-4)
    assert float(losses.effective_rank(z1)) == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-4)
    assert float(losses.collapse(z1)) == pytest.approx(np.square(u1.mean(0)).sum(), rel=1e-4)


def test_diagnostics_tell_collapse_from_spread(random):
    spread = jnp.asarray(random.normal(size=(256, 16)), jnp.float32)
    collapsed = 10 + 0.01 * spread
    assert float(losses.collapse(collapsed)) > 0.99 > 0.05 > float(losses.collapse(spread))
    assert float(losses.effective_rank(collapsed)) < 2 < 14 < float(losses.effective_rank(spread))
    assert float(losses.uniformity(collapsed)) > -0.01 > -2 > float(losses.uniformity(spread))


Z = jnp.ones((4, 3))
LOGITS = jnp.ones((2, 4, 3))
TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.07}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.info_nce(Z, Z[:3], temperature=0.2), "one shape"),
        (lambda: losses.info_nce(Z, Z, temperature=-1), "Expected temperature above 0"),
        (lambda: losses.negative_cosine(Z, Z[:, :2]), "one shape"),
        (lambda: losses.nnclr(Z, Z[:, :2], queue=Z, temperature=0.2), "one shape"),
        (lambda: losses.nnclr(Z, Z, queue=Z[:0], temperature=0.2), r"queue \[queue, \d\] of at least one embedding"),
        (lambda: losses.nnclr(Z, Z, queue=Z[:, :2], temperature=0.2), r"queue \[queue, \d\] of at least one embedding"),
        (lambda: losses.nnclr(Z, Z, queue=Z, temperature=0), "Expected temperature above 0"),
        (lambda: losses.barlow_twins(Z[:1], Z[:1], off_diagonal_weight=1.0), "at least two images"),
        (lambda: losses.dino(LOGITS, LOGITS[..., :2], center=jnp.zeros(3), **TEMPERATURES), "one number of prototypes"),
        (
            lambda: losses.dino(LOGITS[:1], LOGITS[:1], center=jnp.zeros(3), **TEMPERATURES),
            "Expected at least two student views",
        ),
        (lambda: losses.dino(LOGITS, LOGITS, center=jnp.zeros(4), **TEMPERATURES), r"one entry per prototype, \[3\]"),
        (
            lambda: losses.dino(LOGITS, LOGITS, center=jnp.zeros(3), student_temperature=0, teacher_temperature=1),
            "student_temperature",
        ),
        (lambda: losses.dino_center(jnp.zeros(2), LOGITS, momentum=0.9), "Expected a centre"),
        (lambda: losses.dino_center(jnp.zeros(3), LOGITS, momentum=1.1), "Expected momentum in"),
        (lambda: losses.uniformity(Z[:1]), "at least 2 rows"),
        (lambda: losses.effective_rank(Z[0]), "at least 1 rows"),
        (lambda: losses.masked_reconstruction(LOGITS, LOGITS, jnp.ones((2, 3))), "a mask"),
        (lambda: losses.masked_reconstruction(LOGITS[..., :1], LOGITS[..., :1], jnp.ones((2, 4))), "one pixel"),
    ],
)
def test_bad_input_is_refused_before_tracing(call, message):
    with pytest.raises(ValueError, match=message):
        call()
