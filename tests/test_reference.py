"""Published encoders from local files: the outputs of the original code, activations of all blocks, resized positions."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from published import VIT
from reference_originals import HEADS, ORIGINALS, SIDE, normalised, projected, random_images, random_tensors

from sslshift.data.decode import Canvas, fit
from sslshift.models import PatchMLP, PretrainedEncoder, ResNet, ViT, layer_activations, load_encoder, save_encoder
from sslshift.models.description import describe, from_description
from sslshift.models.patches import RESIZE, resized_positions
from sslshift.models.reference import CHECKPOINTS, load_reference, loading

TOLERANCE = 1e-4


@pytest.fixture
def vit(tensors, write):
    return load_reference(write(tensors(VIT)[0], "tiny.safetensors"), heads=HEADS)


def require_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * max(1.0, np.abs(expected).max()))


def sizes_of(pairs, name):
    prefix = f"{name}/pooled/"
    return [tuple(map(int, key.removeprefix(prefix).split("x"))) for key in pairs if key.startswith(prefix)]


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_naming_gives_what_its_original_gave_at_every_size(name, pairs, tensors, write):
    weights, heads = tensors(name)
    encoder = load_reference(write(weights, "x.npz" if "basic" in name else "x.safetensors"), heads=heads)
    places = encoder.with_features("map")
    assert len(sizes_of(pairs, name)) > 1
    for size in sizes_of(pairs, name):
        images = random_images(size)
        key = f"{size[0]}x{size[1]}"
        pooled = encoder.apply(images)
        require_close(pooled, pairs[f"{name}/pooled/{key}"])
        expected = pairs[f"{name}/places/{key}"]
        require_close(projected(np.asarray(places.apply(images)).reshape(*expected.shape, pooled.shape[1])), expected)


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_stored_pairs_are_those_of_the_original_code(name, pairs, tensors, write):
    pytest.importorskip("torch")
    package = name.split("/")[0]
    if package != "dinov2":
        pytest.importorskip(package, exc_type=ImportError)
    original = ORIGINALS[name]()
    weights, heads = tensors(name)
    assert {key: tensor.shape for key, tensor in weights.items()} == {key: tuple(s) for key, s in original.shapes.items()}
    assert heads == original.heads
    encoder = load_reference(write(weights), heads=heads)
    for size in original.sizes:
        images = random_images(size)
        key = f"{size[0]}x{size[1]}"
        pooled, places = original.forward(weights, normalised(images))
        require_close(pooled, pairs[f"{name}/pooled/{key}"])
        require_close(projected(places), pairs[f"{name}/places/{key}"])
        require_close(encoder.apply(images), pooled)
        require_close(encoder.with_features("map").apply(images), places.reshape(len(images), -1))


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_registers"])
def test_activations_are_the_hidden_states_of_the_original(kind, tensors, write):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    weights, heads = tensors(f"transformers/{kind}")
    images = random_images((SIDE, SIDE))
    hidden = ORIGINALS[f"transformers/{kind}"]().forward(weights, normalised(images), hidden=True)
    seen = layer_activations(load_reference(write(weights), heads=heads), images)
    assert list(seen) == ["block0", "block1"]
    for ours, theirs in zip(seen.values(), hidden[1:], strict=True):
        require_close(ours, theirs)


def test_activations_of_a_vit_lead_to_its_features(tensors, write):
    weights, heads = tensors("transformers/dinov2_registers")
    encoder = load_reference(write(weights), heads=heads)
    images = random_images((20, 12))
    seen = jax.jit(lambda images: layer_activations(encoder, images))(images)
    assert {name: layer.shape for name, layer in seen.items()} == dict.fromkeys(["block0", "block1"], (2, 1 + 4 + 15, 24))
    last = np.asarray(seen["block1"], np.float64)
    scaled = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    tokens = scaled * weights["layernorm.weight"] + weights["layernorm.bias"]
    require_close(encoder.apply(images), tokens[:, 0])
    require_close(encoder.with_features("map").apply(images), tokens[:, 5:].reshape(2, -1))


def test_activations_of_a_resnet_and_of_an_encoder_without_blocks(tensors, write):
    encoder = load_reference(write(tensors("torchvision/basic")[0]))
    images = random_images((40, 72))
    seen = layer_activations(encoder, images)
    expected = {
        "block0": (10 * 18, 64),
        "block1": (5 * 9, 128),
        "block2": (5 * 9, 128),
        "block3": (15, 256),
        "block4": (6, 512),
    }
    assert {name: layer.shape[1:] for name, layer in seen.items()} == expected
    np.testing.assert_allclose(seen["block4"].mean(axis=1), encoder.apply(images), rtol=1e-5)
    module = PatchMLP(width=8, features=16)
    variables = module.init(jax.random.key(0), jnp.zeros((2, 12, 12, 3)), train=False)
    seen = layer_activations(PretrainedEncoder(module, variables, (12, 12, 3)), random_images((12, 12)))
    assert {name: layer.shape for name, layer in seen.items()} == {"map": (2, 9, 8)}
    with pytest.raises(ValueError, match="images \\[batch"):
        layer_activations(encoder, images[..., :2])


@pytest.mark.parametrize("precision", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_are_widened(precision, tensors, write, vit):
    half = {name: tensor.astype(precision) for name, tensor in tensors(VIT)[0].items()}
    encoder = load_reference(write(half), heads=HEADS)
    assert {leaf.dtype for leaf in jax.tree.leaves(encoder.variables)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(encoder.apply(random_images((28, 28))), vit.apply(random_images((28, 28))), atol=0.1)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "teacher.", "module.encoder_q."])
def test_prefixes_and_what_is_no_encoder_are_left_out(prefix, tensors, write, vit):
    weights = {prefix + name: tensor for name, tensor in tensors(VIT)[0].items() if not name.startswith("head")}
    more = {"head.mlp.0.weight": (5, 5), "decoder_embed.weight": (7, 24), "decoder_blocks.0.norm1.weight": (7,)}
    weights |= random_tensors(more | {"mask_token": (1, 1, 24), "decoder_pos_embed": (1, 50, 7)})
    # The key of a mask token alone does not make a ViT without scaled branches a DINOv2.
    assert load_reference(write(weights), heads=HEADS).fingerprint == vit.fingerprint


def test_a_classifier_of_transformers_is_its_encoder(tensors, write):
    weights, _ = tensors("transformers/dinov2")
    inner = {f"dinov2.{name}": tensor for name, tensor in weights.items()} | random_tensors({"classifier.weight": (5, 48)})
    fingerprints = [load_reference(write(each), heads=HEADS).fingerprint for each in (weights, inner)]
    assert fingerprints[0] == fingerprints[1]


def test_the_card_says_what_a_file_is(vit, tensors, write, monkeypatch):
    file = write(tensors(VIT)[0], "tiny.safetensors")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert vit.card == {
        "name": "tiny",
        "architecture": "ViT-24/4 under the names of timm",
        "file": "tiny.safetensors",
        "sha256": digest,
        "licence": None,
        "source": None,
        "positions": RESIZE["antialias"],
        "part": None,
        "left_behind": ["head (2 tensors)"],
        "stated": ["heads = 3 (as asked)"],
        "assumed": [
            "an epsilon of 1e-06 in layer norms (?epsilon=)",
            "exact GELU, patches that do not overlap, positions on a square of 7 x 7",
            "positions interpolated for other image sizes as timm does it",
            "the class token after the last norm as pooled features (?features=mean gives the patches' mean)",
            "ImageNet's mean of RGB pixels (?mean=)",
            "ImageNet's standard deviation of RGB pixels (?std=)",
        ],
    }
    known = CHECKPOINTS["dinov2-small"]._replace(sha256=digest)
    monkeypatch.setattr(loading, "CHECKPOINTS", {"dinov2-small": known})
    card = load_reference(file, heads=HEADS).card
    assert (card["name"], card["licence"], card["source"]) == ("dinov2-small", "Apache-2.0", known.url)


def test_a_reference_goes_to_a_file_of_ours_and_back(tensors, write, tmp_path):
    weights, heads = tensors("dinov2/registers")
    encoder = load_reference(write(weights), heads=heads, size=20, features="token_mean")
    back = load_encoder(save_encoder(encoder, tmp_path / "ours.safetensors"))
    assert (back.fingerprint, back.shape, back.card) == (encoder.fingerprint, (20, 20, 3), encoder.card)
    np.testing.assert_array_equal(back.apply(random_images((36, 32))), encoder.apply(random_images((36, 32))))
    with pytest.raises(ValueError, match="it is an encoder of a run; use load_encoder to load it"):
        load_reference(tmp_path / "ours.safetensors")


def test_sizes_heads_normalisation_and_features(tensors, write):
    shapes = json.loads(json.dumps({name: tensor.shape for name, tensor in tensors("dinov2/plain")[0].items()}))
    shapes |= {"patch_embed.proj.weight": [24, 3, 14, 14], "pos_embed": [1, 1 + 37 * 37, 24]}
    file = write(random_tensors(shapes))
    assert load_reference(file, heads=2).shape == (224, 224, 3)
    assert load_reference(file, heads=2, size=518).shape == (518, 518, 3)
    encoder = load_reference(file, heads=2, size=28, mean=0.5, std=(0.5, 0.4, 0.3), features="map")
    assert (encoder.mean, encoder.std, encoder.module.heads, encoder.features) == (0.5, (0.5, 0.4, 0.3), 2, "map")
    for settings, message in (
        ({}, "its width of 24 does not determine the number of attention heads; give it with heads="),
        ({"heads": 5}, "cannot be divided among 5"),
        ({"heads": 2, "size": 225}, "side that is a multiple of 14"),
        ({"heads": 2, "std": 0.0}, "std above 0"),
        ({"heads": 2, "mean": (0.1, 0.2)}, "Expected one number or three"),
        ({"heads": 2, "features": "cls"}, "for features, got 'cls'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reference(file, **settings)


def test_gray_images_come_to_three_channels_on_the_canvas(vit, random):
    gray = random.integers(0, 256, (40, 30, 1), np.uint8)
    image = fit(gray, Canvas(*vit.shape))
    assert image.shape == (28, 28, 3)
    assert np.array_equal(image[..., 0], image[..., 2])
    assert np.isfinite(vit.apply(image[None])).all()


@pytest.mark.parametrize("how", RESIZE)
def test_resized_positions_keep_what_every_rule_keeps(how, random):
    table = jnp.asarray(random.normal(size=(7, 7, 4)), jnp.float32)
    assert resized_positions(table, 7, 7, how) is table
    for rows, columns in ((3, 5), (16, 7), (9, 1)):
        assert resized_positions(table, rows, columns, how).shape == (rows, columns, 4)
        np.testing.assert_allclose(resized_positions(jnp.ones((7, 7, 2)), rows, columns, how), 1, atol=1e-5)
    turned = resized_positions(table.swapaxes(0, 1), 5, 9, how).swapaxes(0, 1)
    np.testing.assert_allclose(resized_positions(table, 9, 5, how), turned, atol=1e-5)


def test_rules_of_resizing_differ_enough_to_be_told_apart(random):
    table = jnp.asarray(random.normal(size=(7, 7, 4)), jnp.float32)
    resized = {how: np.asarray(resized_positions(table, 5, 3, how)) for how in RESIZE}
    for one in RESIZE:
        for other in RESIZE:
            assert one == other or np.abs(resized[one] - resized[other]).max() > 100 * TOLERANCE


def initialised(module, images):
    return jax.jit(lambda key: module.init(key, images, train=False))(jax.random.key(0))["params"]


def test_new_settings_of_a_vit_are_described_and_its_default_is_as_before():
    module = ViT(16, 1, 2, 4, positions="learned", registers=2, layer_scale=1e-5, grid=3, resize="torch", epsilon=1e-5)
    assert from_description(json.loads(json.dumps(describe(module)))) == module
    images = jnp.zeros((1, 8, 8, 3))
    params = initialised(module, images)
    assert params["positions"].shape == (3, 3, 16)
    assert params["registers"].shape == (2, 16)
    np.testing.assert_allclose(params["block0"]["scale1"], 1e-5)
    assert module.apply({"params": params}, images, method="tokens").shape == (1, 1 + 4, 16)
    plain = initialised(ViT(16, 1, 2, 4), images)
    assert set(plain) == {"embed", "class_token", "block0", "norm"}
    assert set(plain["block0"]) == {"norm1", "qkv", "out", "norm2", "up", "down"}
    for settings in ({"resize": "nearest"}, {"grid": 3}):
        with pytest.raises(ValueError, match="Expected one of bicubic, torch"):
            ViT(16, 1, 2, 4, **settings)


def test_a_resnet_of_torchvision_is_ours(tensors, write):
    encoder = load_reference(write(tensors("torchvision/bottleneck")[0]))
    assert isinstance(encoder.module, ResNet)
    assert (encoder.module.depths, encoder.shape) == ((2, 1, 1, 1), (224, 224, 3))
    assert encoder.apply(random_images((64, 64))).shape == (2, 2048)


def test_known_checkpoints_are_pinned():
    for name, each in CHECKPOINTS.items():
        assert re.fullmatch(r"https://huggingface\.co/\w+/[\w.-]+/resolve/[0-9a-f]{40}/model\.safetensors", each.url), name
        assert re.fullmatch(r"[0-9a-f]{64}", each.sha256), name
        assert each.size > 1e7
        assert each.licence in ("Apache-2.0", "BSD-3-Clause")
    assert len({each.sha256 for each in CHECKPOINTS.values()}) == len(CHECKPOINTS)
