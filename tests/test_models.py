import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special

from sslshift.data.decode import Canvas
from sslshift.models import (
    ENCODERS,
    Bottleneck,
    MAEDecoder,
    MLPHead,
    PatchMLP,
    PatchResNet,
    PrototypeHead,
    ResNet,
    ViT,
    patchify,
    sincos_positions,
)
from sslshift.models.convolution import convolve
from sslshift.training import Training
from sslshift.training.optimiser import layer_numbers
from sslshift.training.programs import step_flops
from tools.bench_convolution import without_remedy

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((9, 9), (3, 3), (1, 1), "SAME"),
        ((9, 8), (3, 3), (2, 2), "SAME"),
        ((8, 8), (1, 1), (2, 2), "VALID"),
        ((11, 10), (4, 2), (3, 1), ((1, 2), (0, 1))),
        ((8, 8), (8, 8), (4, 4), ((2, 2), (2, 2))),
        ((12, 12), (4, 4), (4, 4), "VALID"),
        ((10, 10), (7, 7), (2, 2), ((3, 3), (3, 3))),
        # Larger than a block: rows are taken apart.
        ((60, 44), (3, 3), (1, 1), "SAME"),
        ((122, 80), (5, 3), (2, 2), ((2, 2), (1, 1))),
    ],
)
def test_convolution_has_the_gradients_of_xla(size, kernel, stride, padding, random):
    images = random.normal(size=(5, *size, 3)).astype(np.float32)
    weights = random.normal(size=(*kernel, 3, 4)).astype(np.float32)

    def value(convolution, images, weights):
        out = convolution(images, weights, stride, padding, dimension_numbers=LAYOUT)
        return jnp.sum(jnp.sin(out)), out

    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(value, f), argnums=(0, 1), has_aux=True))(images, weights)
        for f in (convolve, lax.conv_general_dilated)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(np.abs(b).max()))


@pytest.mark.parametrize("options", [{"feature_group_count": 2}, {"rhs_dilation": (2, 2)}])
def test_other_convolutions_pass_through(options, random):
    images = random.normal(size=(2, 9, 9, 4)).astype(np.float32)
    weights = random.normal(size=(3, 3, 4 // options.get("feature_group_count", 1), 4)).astype(np.float32)
    ours, theirs = (
        f(images, weights, (1, 1), "SAME", dimension_numbers=LAYOUT, **options) for f in (convolve, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_only_a_cpu_sees_the_loop_of_the_kernel_gradient():
    encoder = ResNet((1,), width=8, small_images=True)
    images = jnp.zeros((4, 40, 40, 3))
    variables = encoder.init(jax.random.key(0), images, train=False)

    def loops(platform):
        traced = jax.jit(jax.grad(lambda v: encoder.apply(v, images, train=False).sum())).trace(variables)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")

    # One for each of the three convolutions.
    assert (loops("cpu"), loops("tpu")) == (3, 0)
    training = Training.from_recipe("simclr", encoder, projector=(8,))
    flops = step_flops(training, Canvas(40, 40, 3), 4)
    with without_remedy():
        assert loops("cpu") == 0
        # XLA would count the body of a loop once.
        assert step_flops(training, Canvas(40, 40, 3), 4) == flops


SMALL_ENCODERS = {
    "patch_mlp": ENCODERS["patch_mlp"],
    "resnet": ResNet((1, 1, 1, 1), width=8),
    "patch_resnet": PatchResNet((8, 12), (1, 2)),
    "resnet_bottleneck_cifar": ResNet((1, 1), Bottleneck, width=8, small_images=True),
    "vit": ENCODERS["vit_nano4"],
    "vit_mean_learned": ViT(16, 2, 2, 8, pool="mean", positions="learned"),
}


@pytest.mark.parametrize("name", SMALL_ENCODERS)
def test_encoder_gives_features_and_learns_nothing_in_evaluation(name, random):
    encoder = SMALL_ENCODERS[name]
    images = random.normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = encoder.init(jax.random.key(0), images, train=False)
    features, updated = encoder.apply(variables, images, train=False, mutable=["batch_stats"])
    assert features.ndim == 2
    assert np.isfinite(features).all()
    jax.tree.map(np.testing.assert_array_equal, updated.get("batch_stats", {}), variables.get("batch_stats", {}))
    alone = encoder.apply(variables, images[:1], train=False)
    np.testing.assert_allclose(alone[0], features[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL_ENCODERS)
def test_bfloat16_computes_low_and_keeps_parameters(name, random):
    encoder = SMALL_ENCODERS[name]
    images = random.normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = encoder.init(jax.random.key(0), images, train=False)
    low = encoder.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(low.init(jax.random.key(0), images, train=False))} == {jnp.dtype("float32")}
    exact, rough = (model.apply(variables, images, train=False) for model in (encoder, low))
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # torchvision's less their last layer: 11,689,512 - 513,000, 21,797,672 - 513,000, 25,557,032 - 2,049,000.
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        # The CIFAR stem is 3 x 3 in place of 7 x 7.
        ("resnet18_cifar", 11_168_832),
        ("resnet50_cifar", 23_500_352),
        # Ours. Stem, blocks, shortcuts, and two numbers for each output of a norm:
        # 48 * 48 + 9 * (2 * 48^2 + 48 * 96 + 96^2 + 96 * 192 + 192^2) + 48 * 96 + 96 * 192 + 2 * (3 * 48 + 3 * 96 + 3 * 192).
        ("resnet_nano4", 690912),
        # timm's less their last layer and the learned positions: ViT-B 86,567,656 - 769,000 - 197 * 768, S and Ti alike.
        ("vit_b16", 85_647_360),
        ("vit_s16", 22_050_664 - 385_000 - 197 * 384),
        ("vit_ti16", 5_717_416 - 193_000 - 197 * 192),
    ],
)
def test_published_encoders_have_their_known_number_of_parameters(name, count):
    model = ENCODERS[name]
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(("height", "width", "patch", "channels"), [(8, 12, 4, 3), (6, 6, 2, 1), (5, 10, 5, 2), (7, 3, 1, 1)])
def test_patches_are_the_squares_of_the_image_row_by_row(height, width, patch, channels, random):
    images = random.normal(size=(3, height, width, channels)).astype(np.float32)
    squares = [
        images[:, row : row + patch, column : column + patch].reshape(3, -1)
        for row in range(0, height, patch)
        for column in range(0, width, patch)
    ]
    np.testing.assert_array_equal(patchify(images, patch), np.stack(squares, axis=1))


def test_sincos_positions_by_hand():
    table = sincos_positions(14, 14, 8)
    assert table.shape == (14, 14, 8)
    # Rates 1 and 1/100; sines and cosines of the row, then of the column.
    expected = [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03), np.sin(5), np.sin(0.05), np.cos(5), np.cos(0.05)]
    np.testing.assert_allclose(table[3, 5], expected, atol=1e-6)
    # A grid of half the side samples the same extent: its points lie between pairs of the finer grid's.
    np.testing.assert_allclose(sincos_positions(7, 7, 8)[0, 0, 4], np.sin(0.5), atol=1e-6)
    with pytest.raises(ValueError, match=r"a width that 4 divides for .*, got 10"):
        sincos_positions(2, 2, 10)


def gelu(x):
    return x * special.ndtr(x)


def naive_vit(params, images, patch, heads):
    """The class token of a ViT with one block, one image and one head at a time, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(x, name, of):
        return x @ of[name]["kernel"] + of[name]["bias"]

    def norm(x, of):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * of["scale"] + of["bias"]

    outputs = []
    for image in images.astype(np.float64):
        rows = image.shape[0] // patch
        columns = image.shape[1] // patch
        pieces = [
            image[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].ravel() for r in range(rows) for c in range(columns)
        ]
        places = params["positions"].reshape(rows * columns, -1)
        x = np.vstack([params["class_token"], dense(np.stack(pieces), "embed", params) + places])
        block = params["block0"]
        qkv = dense(norm(x, block["norm1"]), "qkv", block)
        query, key, value = np.split(qkv, 3, axis=1)
        size = x.shape[1] // heads
        attended = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = special.softmax(query[:, part] @ key[:, part].T / np.sqrt(size), axis=1)
            attended.append(weights @ value[:, part])
        x = x + dense(np.hstack(attended), "out", block)
        x = x + dense(gelu(dense(norm(x, block["norm2"]), "up", block)), "down", block)
        outputs.append(norm(x, params["norm"])[0])
    return np.stack(outputs)


def test_vit_against_a_naive_one(random):
    model = ViT(16, 1, 2, 4, positions="learned")
    images = random.normal(size=(3, 8, 12, 2)).astype(np.float32)
    params = model.init(jax.random.key(0), images, train=False)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * random.normal(size=leaf.shape).astype(np.float32), params)
    ours = model.apply({"params": params}, images, train=False)
    np.testing.assert_allclose(ours, naive_vit(params, images, 4, 2), rtol=1e-4, atol=1e-5)
    tokens = model.apply({"params": params}, images, method="tokens")
    mean = model.clone(pool="mean").apply({"params": params}, images, train=False)
    np.testing.assert_allclose(mean, tokens[:, 1:].mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_vit_takes_images_of_another_size_than_it_was_made_with(positions, random):
    """Positions are interpolated: a smooth image at twice the size looks much the same, and patch order still matters."""
    model = ViT(32, 2, 2, 4, positions=positions)
    coarse = random.normal(size=(4, 4, 4, 1)).astype(np.float32)
    small, large = (jax.image.resize(coarse, (4, side, side, 1), "linear") for side in (16, 32))
    variables = model.init(jax.random.key(0), small, train=False)
    features = [np.asarray(model.apply(variables, images, train=False)) for images in (small, large)]
    assert features[1].shape == (4, 32)
    # Nearer to itself at another size than to any other image; the common offset of all features left aside.
    a, b = (part - part.mean(axis=0) for part in features)
    similarity = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    assert (similarity.argmax(axis=1) == np.arange(4)).all()
    if positions == "learned":
        # A constant table stays constant at every size.
        flat = {"params": variables["params"] | {"positions": jnp.ones((4, 4, 32))}}
        shifted = model.apply(flat, np.roll(large, 4, axis=1), train=False)
        np.testing.assert_allclose(shifted, model.apply(flat, large, train=False), atol=1e-4)
    moved = np.asarray(model.apply(variables, np.roll(small, 4, axis=1), train=False))
    assert np.abs(moved - features[0]).max() > 1e-3


def test_vit_that_sees_all_patches_in_any_order_gives_the_same_class_token(random):
    model = ViT(16, 2, 2, 4)
    images = random.normal(size=(3, 12, 12, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    order = np.stack([random.permutation(9) for _ in range(3)])
    tokens = model.apply(variables, images, order, method="tokens")
    np.testing.assert_allclose(tokens[:, 0], model.apply(variables, images, train=False), atol=1e-5)
    assert model.apply(variables, images, order[:, :2], method="tokens").shape == (3, 3, 16)


def test_decoder_knows_which_patch_is_which(random):
    decoder = MAEDecoder(16, 1, 2)
    tokens = random.normal(size=(2, 4, 8)).astype(np.float32)
    keep = np.array([[0, 4, 7], [8, 1, 2]])
    size = {"rows": 3, "columns": 3, "pixels": 12}
    variables = decoder.init(jax.random.key(0), tokens, keep, **size)
    out = decoder.apply(variables, tokens, keep, **size)
    assert out.shape == (2, 9, 12)
    # The order in which visible patches are listed means nothing, their numbers do.
    order = [0, 3, 1, 2]
    same = decoder.apply(variables, tokens[:, order], keep[:, [2, 0, 1]], **size)
    np.testing.assert_allclose(same, out, atol=1e-5)
    assert np.abs(decoder.apply(variables, tokens, keep[::-1], **size) - out).max() > 1e-3


@pytest.mark.parametrize(
    ("head", "normalised"),
    [
        (MLPHead((32, 8), batch_norm=True, output_norm="plain"), True),
        (MLPHead((32, 8), batch_norm=True, output_norm="affine"), True),
        (MLPHead((32, 8), batch_norm=True), False),
        (MLPHead((32, 8)), False),
    ],
)
def test_heads_normalise_where_they_say(head, normalised, random):
    x = random.normal(size=(64, 16)).astype(np.float32)
    variables = head.init(jax.random.key(0), x, train=False)
    z, _ = head.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.allclose(np.std(z, axis=0), 1, atol=1e-2) == normalised
    norms = [name for name in variables["params"] if name.startswith("BatchNorm")]
    assert len(norms) == head.batch_norm + (head.output_norm == "affine")
    biases = [name for name, layer in variables["params"].items() if name.startswith("Dense") and "bias" in layer]
    # No bias in front of a batch norm.
    assert len(biases) == (not head.batch_norm) + (head.output_norm == "none")


def test_prototype_head_gives_cosines(random):
    head = PrototypeHead((32, 8), 20)
    x = random.normal(size=(16, 16)).astype(np.float32)
    variables = head.init(jax.random.key(0), x, train=False)
    logits = head.apply(variables, x, train=True)
    assert logits.shape == (16, 20)
    assert np.abs(logits).max() <= 1 + 1e-5
    scaled = variables["params"] | {"prototypes": 3 * variables["params"]["prototypes"]}
    np.testing.assert_allclose(head.apply({"params": scaled}, x, train=True), logits, atol=1e-5)


def test_layer_numbers_of_encoders():
    images = jnp.zeros((1, 16, 16, 3))
    for model, last in ((ViT(16, 3, 2, 4, positions="learned"), 4), (ResNet((2, 1), width=8), 4), (PatchMLP(), 1)):
        shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
        numbers = layer_numbers({"encoder": shapes["params"], "head": jnp.zeros(1)})
        assert numbers["head"] == last
        found = {name: set(jax.tree.leaves(part)) for name, part in numbers["encoder"].items()}
        for name, part in found.items():
            number = int(name[5:]) + 1 if name.startswith("block") else last if name == "norm" else 0
            assert part == {number}
    with pytest.raises(ValueError, match="of an 'encoder', got parameters of backbone"):
        layer_numbers({"backbone": jnp.zeros(1)})


def test_patches_must_divide_the_image():
    with pytest.raises(ValueError, match="30 x 30 cannot be cut into patches of 4"):
        PatchMLP().init(jax.random.key(0), jnp.zeros((1, 30, 30, 1)), train=False)
