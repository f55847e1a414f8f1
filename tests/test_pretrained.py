"""Encoders out of runs, into files and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sslshift
from sslshift.models import ENCODERS, FEATURES, PatchMLP, PretrainedEncoder, ResNet, ViT
from sslshift.models.description import describe, from_description

SHAPE = (12, 12, 1)


def pretrained(module, shape=SHAPE, **settings):
    variables = jax.jit(lambda key: module.init(key, jnp.zeros((2, *shape)), train=False))(jax.random.key(0))
    return PretrainedEncoder(module, {"batch_stats": {}} | variables, shape, **settings)


@pytest.fixture
def encoder():
    return pretrained(PatchMLP(width=8, features=16), card={"method": {"name": "simclr"}, "licence": "CC0-1.0"})


@pytest.fixture
def images(random):
    return random.integers(0, 256, (5, *SHAPE), np.uint8)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_architecture_is_described_as_json_and_built_again(name):
    for module in (ENCODERS[name], ENCODERS[name].clone(dtype=jnp.bfloat16)):
        assert from_description(json.loads(json.dumps(describe(module)))) == module


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "transformer"}, "class transformer, which is not one of sslshift's"),
        (["resnet"], "'kind'"),
        ({"kind": "vit", "widht": 8}, "ViT has no setting widht"),
        ({"kind": "vit", "depth": 10**9}, "out of range"),
        ({"kind": "resnet", "depths": [0, 1]}, "out of range"),
        ({"kind": "resnet", "block": "os.system"}, "does not describe a ResNet"),
        ({"kind": "vit", "dtype": "object"}, "Expected one of float32, .* for dtype"),
        ({"kind": "vit", "width": 10, "heads": 3}, "a width that its heads divide"),
    ],
)
def test_descriptions_that_are_none_are_refused(description, message):
    with pytest.raises(ValueError, match=message):
        from_description(description)


def test_an_encoder_is_a_pure_function_and_its_parameters(encoder, images):
    apply, params = encoder
    features = apply(images)
    assert features.shape == (5, 16)
    assert features.dtype == jnp.float32
    np.testing.assert_array_equal(features, apply(images, params))
    np.testing.assert_allclose(jax.jit(apply)(images), features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(images / np.float32(255)), features, rtol=1e-5, atol=1e-6)
    zero = jax.tree.map(jnp.zeros_like, params)
    assert not np.array_equal(apply(images, zero), features)
    gradient = jax.grad(lambda params: apply(images, {**encoder.variables, "params": params}).sum())(params["params"])
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0


def test_features_are_those_of_the_module_on_normalised_images(images):
    module = PatchMLP(width=8, features=16)
    encoder = pretrained(module, mean=(0.4,), std=(0.2,))
    expected = module.apply(encoder.variables, (images / np.float32(255) - 0.4) / np.float32(0.2), train=False)
    np.testing.assert_allclose(encoder.apply(images), expected, rtol=1e-5, atol=1e-6)


def test_named_features(images):
    vit = pretrained(ViT(16, 2, 2, 4, pool="mean"))
    seen = {name: np.asarray(jax.jit(vit.with_features(name).apply)(images)) for name in FEATURES}
    tokens = vit.module.apply(vit.variables, (images / np.float32(255) - 0.5) / 0.25, method="tokens")
    np.testing.assert_allclose(seen["token"], tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(seen["mean"], tokens[:, 1:].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(seen["pooled"], seen["mean"], atol=1e-5)
    np.testing.assert_allclose(seen["map"], tokens[:, 1:].reshape(5, -1), atol=1e-5)
    np.testing.assert_allclose(seen["token_mean"], np.concatenate([seen["token"], seen["mean"]], axis=1))
    resnet = pretrained(ResNet((1, 1), width=4, small_images=True))
    places = np.asarray(jax.jit(resnet.with_features("map").apply)(images)).reshape(5, 36, 8)
    np.testing.assert_allclose(jax.jit(resnet.apply)(images), places.mean(axis=1), atol=1e-5)
    with pytest.raises(ValueError, match="ResNet has no features 'token'; it has pooled, map, mean"):
        resnet.with_features("token").apply(images)
    with pytest.raises(ValueError, match="for features, got 'cls'"):
        resnet.with_features("cls")


def test_out_to_a_file_and_back(encoder, images, tmp_path):
    file = sslshift.save_encoder(encoder, tmp_path / "new" / "encoder.safetensors")
    back = sslshift.load_encoder(file)
    assert back.module == encoder.module
    assert (back.shape, back.mean, back.std, back.features) == (SHAPE, 0.5, 0.25, "pooled")
    assert back.card == encoder.card
    assert back.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(back.apply(images), encoder.apply(images))
    card = json.loads(file.with_suffix(".json").read_text())
    assert card["about"] == {"method": {"name": "simclr"}, "licence": "CC0-1.0"}
    assert card["architecture"]["kind"] == "patch_mlp"
    assert sorted(path.name for path in file.parent.iterdir()) == ["encoder.json", "encoder.safetensors"]
    # The folder of a run is one that holds such a file.
    assert sslshift.load_encoder(file.parent).fingerprint == encoder.fingerprint


def test_the_fingerprint_is_of_all_that_features_depend_on(encoder):
    other = pretrained(PatchMLP(width=8, features=16), std=0.3)
    changed = jax.tree.map(lambda leaf: leaf, encoder.variables)
    changed["params"]["Dense_0"] = {"kernel": changed["params"]["Dense_0"]["kernel"].at[0, 0].add(1e-6)}
    moved = PretrainedEncoder(encoder.module, changed, SHAPE)
    prints = [encoder.fingerprint, other.fingerprint, moved.fingerprint, encoder.with_features("map").fingerprint]
    assert len(set(prints)) == 4
    assert pretrained(PatchMLP(width=8, features=16)).fingerprint == encoder.fingerprint


def test_images_of_another_kind_are_refused(encoder, random):
    for shape, message in (
        ((2, 12, 12, 3), r"Expected images \[batch, height, width, 1\]"),
        ((12, 12, 1), r"images \[batch"),
        ((2, 16, 16, 1), "Expected images of 12 x 12, on which this .* was trained, got 16 x 16"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.apply(random.integers(0, 256, shape, np.uint8))
    with pytest.raises(ValueError, match="uint8, or floats"):
        encoder.apply(np.zeros((2, *SHAPE), np.int32))


def rewritten(tmp_path, encoder, tensors=None, **card):
    """The file of an encoder with some tensors or lines of its card changed."""
    file = sslshift.save_encoder(encoder, tmp_path / "encoder.safetensors")
    whole = json.loads(file.with_suffix(".json").read_text()) | card
    content = load_file(file)
    for name, tensor in (tensors or {}).items():
        if tensor is None:
            del content[name]
        else:
            content[name] = tensor
    save_file(content, file, metadata={"card": json.dumps(whole)})
    return file


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"params/Dense_0/kernel": None}, "tensors are missing: params/Dense_0/kernel"),
        ({"params/Dense_1/kernel": np.zeros((2, 2), np.float32)}, "tensors are extra: params/Dense_1/kernel"),
        (
            {"params/Dense_0/kernel": np.zeros((2, 2), np.float32)},
            r"of another shape: params/Dense_0/kernel \(\(2, 2\) in place",
        ),
        ({"params/BatchNorm_1/bias": np.full(16, np.nan, np.float32)}, "not finite: params/BatchNorm_1/bias"),
        ({"params/BatchNorm_1/bias": np.zeros(16, np.int32)}, "not floating-point: params/BatchNorm_1/bias"),
    ],
)
def test_weights_of_another_encoder_are_named(encoder, tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        sslshift.load_encoder(rewritten(tmp_path, encoder, tensors))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"format": "other"}, "no card of sslshift"),
        ({"version": 2}, "has version 2 of the file format; this version of sslshift reads version 1"),
        ({"architecture": {"kind": "vit", "width": 8, "depth": 1, "heads": 2, "patch": 4}}, "tensors are missing"),
        ({"architecture": None}, "'kind'"),
        ({"image": {"shape": [12, 12], "mean": 0.5, "std": 0.25}}, "expected images of shape"),
        ({"image": {"shape": [12, 12, 1], "mean": 0.5, "std": 0.0}}, "std must be above 0"),
        ({"image": {"shape": [12, 12, 1], "mean": [0.5, 0.5], "std": 0.25}}, "does not normalise"),
        ({"features": "cls"}, "Expected one of pooled"),
        ({"about": 3}, "card and the weights"),
    ],
)
def test_cards_that_are_none_are_refused(encoder, tmp_path, card, message):
    with pytest.raises(ValueError, match=message):
        sslshift.load_encoder(rewritten(tmp_path, encoder, **card))


def test_what_is_no_encoder_is_told_apart(encoder, tmp_path):
    with pytest.raises(ValueError, match="There is no run folder or file"):
        sslshift.load_encoder(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no encoder\.safetensors"):
        sslshift.load_encoder(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(sslshift.save_encoder(encoder, tmp_path / "a.safetensors").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read as an encoder"):
        sslshift.load_encoder(tmp_path / "cut.safetensors")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "torch.safetensors")
    with pytest.raises(ValueError, match="it has no card of sslshift"):
        sslshift.load_encoder(tmp_path / "torch.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="is not finished"):
        sslshift.load_encoder(tmp_path / "run")
    (tmp_path / "study" / "runs" / "one").mkdir(parents=True)
    with pytest.raises(ValueError, match="folder of a whole study; name one of its runs, but none is finished"):
        sslshift.load_encoder(tmp_path / "study")
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        sslshift.save_encoder(encoder, tmp_path / "encoder.npz")
