"""Every loss under the settings of today's JAX: meshes of Auto and Explicit axes, strict promotion, x64, each dtype."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sslshift import losses
from sslshift.methods import METHODS
from sslshift.models import Bottleneck, PatchMLP, PrototypeHead, ResNet, ViT


def dino(a, b, *, axis_name=None, **options):
    """Logits side by side, `[batch, 2 * prototypes]`, so that every loss here splits its batch alike."""
    logits = [jnp.stack(jnp.split(z, 2, axis=1)) for z in (a, b)]
    options = {"student_temperature": 0.1, "teacher_temperature": 0.3} | options
    value = losses.dino(*logits, center=jnp.linspace(-1, 1, a.shape[1] // 2, dtype=jnp.float32), **options)
    return value if axis_name is None else lax.pmean(value, axis_name)


def dino_center(a, b, *, axis_name=None, momentum=0.9):
    del b
    logits = jnp.stack(jnp.split(a, 2, axis=1))
    return losses.dino_center(jnp.ones(a.shape[1] // 2, jnp.float32), logits, momentum=momentum, axis_name=axis_name).sum()


def masked_reconstruction(a, b, *, axis_name=None):
    patches = [z.reshape(len(z), 3, 4) for z in (a, b)]
    mask = jnp.tile(jnp.array([[1, 0, 1]]), (len(a), 1))
    value = losses.masked_reconstruction(*patches, mask)
    return value if axis_name is None else lax.pmean(value, axis_name)


def swav(a, b, *, axis_name=None, temperature=0.1, epsilon=0.3):
    logits = jnp.stack([a, b.astype(a.dtype)])
    return losses.swav(logits, temperature=temperature, epsilon=epsilon, iterations=3, axis_name=axis_name)


def negative_cosine(a, b, *, axis_name=None):
    value = losses.negative_cosine(a, b)
    return value if axis_name is None else lax.pmean(value, axis_name)


# Functions of two arrays [batch, 12], their hyperparameters plain numbers that can also be given.
LOSSES = {
    "nt_xent": (losses.nt_xent, {"temperature": 0.2}),
    "info_nce": (losses.info_nce, {"temperature": 0.2}),
    "negative_cosine": (negative_cosine, {}),
    "barlow_twins": (losses.barlow_twins, {"off_diagonal_weight": 5e-3, "scale": 0.1}),
    "vicreg": (losses.vicreg, {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0}),
    "dino": (dino, {"student_temperature": 0.1, "teacher_temperature": 0.3}),
    "swav": (swav, {"temperature": 0.1, "epsilon": 0.3}),
    "dino_center": (dino_center, {"momentum": 0.9}),
    "masked_reconstruction": (masked_reconstruction, {}),
}
DIAGNOSTICS = {
    "alignment": (losses.alignment, {}),
    "uniformity": (lambda a, b: losses.uniformity(a), {}),
    "effective_rank": (lambda a, b: losses.effective_rank(a), {}),
    "collapse": (lambda a, b: losses.collapse(a), {}),
}
ALL = LOSSES | DIAGNOSTICS
EXPLICIT = AxisType.Explicit
AUTO = AxisType.Auto
# Shape of the mesh, kind of its axes, and how a batch [batch, dim] lies on it; one that is `set` is that of the context.
MESHES = {
    "auto": ((8,), AUTO, PartitionSpec("data")),
    "explicit": ((8,), EXPLICIT, PartitionSpec("data")),
    "explicit, set": ((8,), EXPLICIT, PartitionSpec("data")),
    "explicit 4x2 over both": ((4, 2), EXPLICIT, PartitionSpec(("data", "model"))),
    "explicit 4x2 with features, set": ((4, 2), EXPLICIT, PartitionSpec("data", "model")),
    "mixed 4x2": ((4, 2), None, PartitionSpec("data")),
}
STRICT = {"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict"}


@contextlib.contextmanager
def configured(settings):
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture
def pair(random):
    return tuple(random.normal(size=(16, 12)).astype(np.float32) for _ in range(2))


def of(name, **changes):
    function, options = ALL[name]
    return functools.partial(function, **options | changes)


@functools.cache
def _expected(name, key):
    a, b = (np.frombuffer(part, np.float32).reshape(16, 12) for part in key)
    return jax.device_get(jax.jit(jax.value_and_grad(of(name), argnums=(0, 1)))(a, b))


def expected(name, pair):
    """Value and gradients on one device in float32."""
    return _expected(name, tuple(z.tobytes() for z in pair))


def check(found, wanted, tolerance=1e-5):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=tolerance, atol=tolerance)


def laid_out(pair, kind):
    """The mesh, and the two arrays on it."""
    shape, axis_type, spec = MESHES[kind]
    types = (axis_type,) * len(shape) if axis_type else (EXPLICIT, AUTO)
    mesh = jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=types)
    return mesh, [jax.device_put(z, NamedSharding(mesh, spec)) for z in pair]


@pytest.mark.parametrize(
    ("name", "kind"),
    # The patches here are made from the features, by a reshape that JAX refuses where those are split.
    [(name, kind) for name in ALL for kind in MESHES if name != "masked_reconstruction" or "features" not in kind],
)
def test_batch_on_a_mesh(name, kind, pair):
    mesh, sharded = laid_out(pair, kind)
    with jax.set_mesh(mesh) if "set" in kind else contextlib.nullcontext():
        found = jax.jit(jax.value_and_grad(of(name), argnums=(0, 1)))(*sharded)
    check(found, expected(name, pair))
    # On Auto axes the compiler decides where a gradient lies.
    if kind != "auto":
        assert all(ours.sharding.is_equivalent_to(z.sharding, 2) for ours, z in zip(found[1], sharded, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_value_outside_of_jit_on_a_mesh(name, pair):
    _, sharded = laid_out(pair, "explicit")
    check(of(name)(*sharded), expected(name, pair)[0])


def test_gradient_outside_of_jit_on_a_mesh(pair):
    """JAX itself takes it over Explicit axes only where the mesh is set."""
    mesh, sharded = laid_out(pair, "explicit, set")
    with jax.set_mesh(mesh):
        check(jax.grad(of("barlow_twins"))(*sharded), expected("barlow_twins", pair)[1][0])


def test_runs_side_by_side_on_a_mesh(pair):
    _, sharded = laid_out([np.stack([z, 2 * z], axis=1) for z in pair], "explicit")
    for name in ("nt_xent", "vicreg", "uniformity"):
        values = jax.jit(jax.vmap(of(name), in_axes=1))(*sharded)
        wanted = [expected(name, tuple(factor * z for z in pair))[0] for factor in (1, 2)]
        np.testing.assert_allclose(values, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis_type", "axes", "check_vma"),
    [((8,), AUTO, "data", True), ((4, 2), EXPLICIT, ("data", "model"), True), ((4, 2), EXPLICIT, "data", False)],
)
@pytest.mark.parametrize("name", LOSSES)
def test_inside_shard_map(name, shape, axis_type, axes, check_vma, pair):
    mesh = jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=(axis_type,) * len(shape))
    split = PartitionSpec(axes)
    loss = of(name, axis_name=axes)
    mapped = jax.shard_map(loss, mesh=mesh, in_specs=split, out_specs=PartitionSpec(), check_vma=check_vma)
    sharded = [jax.device_put(z, NamedSharding(mesh, split)) for z in pair]
    check(jax.jit(jax.value_and_grad(mapped, argnums=(0, 1)))(*sharded), expected(name, pair))


def test_inside_a_shard_map_that_leaves_an_axis_explicit(pair):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    sharded = [jax.device_put(z, NamedSharding(mesh, PartitionSpec("data"))) for z in pair]
    with jax.set_mesh(mesh):
        loss = of("nt_xent", axis_name="data")
        mapped = jax.shard_map(loss, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(), axis_names={"data"})
        check(jax.jit(jax.value_and_grad(mapped, argnums=(0, 1)))(*sharded), expected("nt_xent", pair))


@pytest.mark.parametrize(
    ("dtypes", "settings"),
    [
        (("float32", "float32"), STRICT | {"jax_debug_nans": True}),
        (("bfloat16", "bfloat16"), STRICT),
        (("float16", "float16"), STRICT),
        (("bfloat16", "float32"), STRICT | {"jax_enable_x64": True}),
        (("float64", "float64"), STRICT | {"jax_enable_x64": True}),
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_dtypes_under_strict_promotion(name, dtypes, settings, pair):
    wanted = expected(name, pair)
    with configured(settings):
        low = [jnp.asarray(z, dtype) for z, dtype in zip(pair, dtypes, strict=True)]
        value, gradient = jax.jit(jax.value_and_grad(of(name), argnums=(0, 1)))(*low)
        assert value.dtype == (jnp.float64 if "float64" in dtypes else jnp.float32)
        assert [part.dtype for part in gradient] == [z.dtype for z in low]
        check((value, gradient), wanted, 1e-5 if dtypes[0] in ("float32", "float64") else 5e-2)


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name][1]])
def test_hyperparameters_may_be_traced_and_learnt(name, pair):
    options = ALL[name][1]
    loss = jax.jit(jax.value_and_grad(lambda traced: of(name, **traced)(*pair)))
    with configured(STRICT):
        rough, _ = loss({key: jnp.asarray(value, jnp.bfloat16) for key, value in options.items()})
        value, slopes = loss(options)
    check(rough, expected(name, pair)[0], 3e-2)
    check(value, expected(name, pair)[0])
    # No gradient passes through SwAV's assignments.
    assert slopes.pop("epsilon", 0) == 0
    for key, slope in slopes.items():
        step = 1e-2 * options[key]
        up, down = (float(loss(options | {key: options[key] + sign * step})[0]) for sign in (1, -1))
        np.testing.assert_allclose(float(slope), (up - down) / (2 * step), rtol=0.1, atol=1e-2)


NETWORKS = {
    "patch_mlp": PatchMLP(width=8, features=16),
    "resnet": ResNet((1, 1), Bottleneck, width=8),
    "vit": ViT(16, 1, 2, 4, pool="mean", positions="learned", registers=2, layer_scale=0.1, grid=3, drop_path=0.5),
    "prototypes": PrototypeHead((8, 4), 6),
}


def network_loss(model, params, x):
    variables = {"params": params, "batch_stats": model.init(jax.random.key(0), x, train=False).get("batch_stats", {})}
    rngs = {"drop_path": jax.random.key(1)}
    output, _ = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
    return jnp.sum(jnp.sin(output.astype(jnp.float32)))


@pytest.mark.parametrize("kind", ["explicit", "explicit 4x2 over both"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_on_a_mesh_under_strict_promotion(name, kind, random):
    model = NETWORKS[name]
    x = random.normal(size=(8, 16) if name == "prototypes" else (8, 8, 8, 3)).astype(np.float32)
    loss = jax.jit(jax.value_and_grad(functools.partial(network_loss, model), argnums=(0, 1)))
    params = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)["params"]
    wanted = jax.device_get(loss(params, x))
    mesh, (sharded,) = laid_out([x], kind)
    with configured(STRICT):
        found = loss(jax.device_put(params, NamedSharding(mesh, PartitionSpec())), sharded)
    check(found, wanted, 1e-4)
    assert found[1][1].sharding.is_equivalent_to(sharded.sharding, x.ndim)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_narrow_dtypes(name, dtype, random):
    x = random.normal(size=(8, 16) if name == "prototypes" else (8, 8, 8, 3)).astype(np.float32)
    model = NETWORKS[name].clone(dtype=dtype)
    params = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)["params"]
    gradient = jax.jit(jax.grad(functools.partial(network_loss, model)))(params, x)
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_on_a_mesh_under_strict_promotion(name, small_method, random):
    """Views, networks and loss; the training step itself asks for Auto axes."""
    views = tuple(dataclasses.replace(view, jitter_probability=0.0, blur_probability=0.0) for view in METHODS[name].views)
    method = small_method(name, views=views)
    images = random.integers(0, 256, (16, 12, 12, 1), np.uint8)
    variables = method.init(jax.random.key(0), images[:2])
    target = method.init_target(variables)

    def loss(params, variables, target, images):
        key = jax.random.key(1)
        parts = method.make_views(key, images), method.step_context(key, images, jnp.float32(0.5))
        value, output = method.loss(variables | {"params": params}, target, *parts)
        return value, output

    form = jax.jit(jax.value_and_grad(loss, has_aux=True))
    wanted = jax.device_get(form(variables["params"], variables, target, images))
    mesh, (sharded,) = laid_out([images], "explicit")
    variables, target = jax.device_put((variables, target), NamedSharding(mesh, PartitionSpec()))
    with configured(STRICT | {"jax_debug_nans": True}):
        check(jax.device_get(form(variables["params"], variables, target, sharded)), wanted, 1e-4)
