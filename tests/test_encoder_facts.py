"""Facts about a published encoder that no tensor shows: from the user, the file, or its published relatives."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from published import VIT, head, under
from reference_originals import HEADS, random_images, random_tensors
from safetensors.numpy import save_file

import sslshift
from sslshift.models import open_encoder, save_encoder
from sslshift.models.opening import how_it_was_read
from sslshift.models.reference import IMAGENET_MEAN, files, load_reference
from sslshift.models.vit import sincos_positions
from sslshift.transfer.encoders import encoder_named
from sslshift.transfer.matrix import by_kind


def vit_shapes(width, depth, grid=2, patch=2):
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid**2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
    }
    shapes |= {"patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,)}
    wide = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    for i in range(depth):
        shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in wide.items()}
        shapes |= {f"blocks.{i}.{name}.bias": shape[:1] for name, shape in wide.items()}
        shapes |= {f"blocks.{i}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    return shapes


def naive_vit(weights, images, heads, depth):
    """The class token after the last norm, image by image and head by head."""

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        )

    def layer(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def gelu(x):
        from math import erf

        return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))

    kernel = weights["patch_embed.proj.weight"]
    found = []
    patch = kernel.shape[-1]
    width = kernel.shape[0]
    for image in images:
        rows = [
            (kernel * image[i : i + patch, j : j + patch].transpose(2, 0, 1)).sum((1, 2, 3))
            for i in range(0, len(image), patch)
            for j in range(0, image.shape[1], patch)
        ]
        x = (
            np.concatenate([weights["cls_token"][0], np.array(rows) + weights["patch_embed.proj.bias"]])
            + weights["pos_embed"][0]
        )
        for i in range(depth):
            query, key, value = np.split(layer(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x)), 3, axis=1)
            outputs = []
            for part in np.split(np.arange(width), heads):
                scores = np.exp(query[:, part] @ key[:, part].T / np.sqrt(len(part)))
                outputs.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
            x = x + layer(f"blocks.{i}.attn.proj", np.concatenate(outputs, 1))
            x = x + layer(f"blocks.{i}.mlp.fc2", gelu(layer(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x))))
        found.append(norm("norm", x)[0])
    return np.array(found)


@pytest.fixture
def shapes_alone(monkeypatch, tmp_path):
    """Makes an encoder of shapes and a few true tensors, since files of the published sizes are large."""

    def make(shapes, tensors, **options):
        found = {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in shapes.items()} | tensors
        monkeypatch.setattr("sslshift.models.reference.loading.read_tensors", lambda file: found)
        monkeypatch.setattr("sslshift.models.reference.loading.converted", lambda *_: {})
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
        return load_reference(tmp_path / "x.safetensors", **options)

    return make


def test_the_heads_of_moco_v3_are_never_guessed(shapes_alone):
    shapes = vit_shapes(384, 12)
    # MoCo v3's order: width before height.
    places = sincos_positions(2, 2, 384).swapaxes(0, 1).reshape(1, 4, 384)
    fixed = {"pos_embed": np.concatenate([np.zeros((1, 1, 384), np.float32), places], axis=1)}
    learned = {"pos_embed": np.random.RandomState(0).standard_normal((1, 5, 384)).astype(np.float32)}
    projector = {"head.0.weight": (4, 384), "head.1.running_mean": (4,), "head.3.weight": (4, 4)}
    base = "module.base_encoder."
    momentum = "module.momentum_encoder."
    files = [
        (shapes, fixed, {}),
        (shapes, {"pos_embed": fixed["pos_embed"].astype(np.float16)}, {}),
        (
            {base + name: shape for name, shape in shapes.items()} | {"module.predictor.0.weight": (3, 3)},
            under(base, fixed),
            {},
        ),
        (
            {prefix + name: shape for name, shape in shapes.items() for prefix in (base, momentum)},
            under(base, learned) | under(momentum, learned, 1.0),
            {"part": "momentum"},
        ),
        (shapes | projector, learned, {}),
    ]
    for several, tensors, options in files:
        with pytest.raises(
            ValueError, match=r"width of 384 does not determine .* heads=: ViTs of MoCo v3 have 12 \(\?heads=12\), others .* 6 "
        ):
            shapes_alone(several, tensors, **options)
        assert shapes_alone(several, tensors, heads=12, **options).module.heads == 12
    assert shapes_alone(shapes, learned).module.heads == 6


def test_the_number_of_heads_shows_in_features(write):
    weights = random_tensors(vit_shapes(96, 1))
    file = write(weights)
    images = random_images((4, 4))
    with pytest.raises(
        ValueError, match="width of 96 does not determine the number of attention heads; give it with heads=, as in"
    ):
        open_encoder(file)
    expected = naive_vit(weights, (images / 255 - 0.5) / 0.25, 12, 1)
    encoder = open_encoder(f"{file}?heads=12&mean=0.5&std=0.25&epsilon=1e-6")
    np.testing.assert_allclose(encoder.apply(images), expected, atol=1e-4)
    assert np.abs(open_encoder(f"{file}?heads=3&mean=0.5&std=0.25").apply(images) - expected).max() > 0.05
    stated = open_encoder(write(weights, "stated.safetensors", num_heads="12"))
    assert (stated.module.heads, stated.card["stated"]) == (12, ["heads = 12 (the file's metadata)"])


@pytest.mark.parametrize(
    ("width", "depth", "heads"),
    [(192, 12, 3), (384, 36, 6), (768, 8, 12), (1280, 32, 16), (128, 2, None), (512, 8, None), (1152, 27, None)],
)
def test_heads_are_those_of_published_widths_or_said(width, depth, heads, shapes_alone):
    shapes = vit_shapes(width, depth)
    if heads is None:
        with pytest.raises(
            ValueError, match=f"width of {width} does not determine the number of attention heads; give it with heads="
        ):
            shapes_alone(shapes, {})
    else:
        encoder = shapes_alone(shapes, {})
        assert encoder.module.heads == heads
        assert encoder.card["assumed"][0].startswith(f"{heads} attention heads, as published")
    assert shapes_alone(shapes, {}, heads=width // 32).module.heads == width // 32


def test_a_hub_s_folder_says_what_tensors_do_not(originals, write, tmp_path):
    file = write(originals["transformers/vit"], "model.safetensors", format="pt")
    config = {
        "num_attention_heads": HEADS,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "hidden_size": 24,
        "num_hidden_layers": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": 28}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.4, 0.3]})
    )
    for path in (file, tmp_path):
        encoder = sslshift.load_encoder(path)
        assert (encoder.module.heads, encoder.module.epsilon) == (HEADS, 1e-5)
        assert (encoder.mean, encoder.std) == (0.5, (0.5, 0.4, 0.3))
        assert not any("ImageNet" in text or "heads" in text for text in encoder.card["assumed"])
    assert open_encoder(f"{tmp_path}?heads=2").module.heads == 2
    # Other libraries mean their losses' heads, and their optimiser's epsilon.
    assert (
        open_encoder(
            write(originals[VIT], "other.safetensors", heads="contrastive", eps="1e-8").as_posix() + "?heads=3"
        ).module.epsilon
        == 1e-6
    )
    for wrong, message in (
        ({"hidden_act": "quick_gelu"}, r"config\.json beside it states the activation 'quick_gelu'; only exact GELU"),
        ({"hidden_size": 768}, r"config\.json beside it states width = 768, but its tensors have 24"),
        ({"num_attention_heads": "many"}, r"states heads = 'many', which is not a possible value"),
        ({"num_attention_heads": 5}, "cannot be divided among 5"),
        ({"layer_norm_eps": -1.0}, "states epsilon = '-1.0', which is not a possible value"),
        ({"image_size": [28, 56]}, r"states images of \(28, 56\); only square"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(ValueError, match=message):
            load_reference(file)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"expected a JSON object that describes an encoder in config\.json"):
        load_reference(file, heads=HEADS)
    # Beside a file of another name they may belong to anything.
    assert load_reference(write(originals["transformers/vit"], "mine.safetensors"), heads=HEADS).module.epsilon == 1e-12


def test_a_mean_that_the_trainer_pooled_or_subtracted_is_the_trainer_s(originals, write):
    colours = {
        "normalize.mean": np.float32([123.0, 117.0, 104.0]).reshape(3, 1, 1),
        "normalize.std": np.float32([58.0, 57.0, 57.5]),
    }
    model = under("model.", originals[VIT])
    encoder = load_reference(write(model | colours, global_pool="avg"), heads=HEADS)
    np.testing.assert_allclose(encoder.mean, np.array([123, 117, 104]) / 255, rtol=1e-6)
    np.testing.assert_allclose(encoder.std, np.array([58, 57, 57.5]) / 255, rtol=1e-6)
    assert encoder.module.pool == "mean"
    assert [text.partition(" ")[0] for text in encoder.card["stated"]] == ["heads", "pool", "mean", "std"]
    images = random_images((28, 28))
    plain = load_reference(write(model), heads=HEADS, mean=encoder.mean, std=encoder.std, features="mean")
    np.testing.assert_allclose(encoder.apply(images), plain.apply(images), atol=1e-5)
    assert load_reference(write(model | colours), heads=HEADS, mean=0.5).mean == 0.5
    two = colours | {"other.mean": np.zeros(3, np.float32), "other.std": np.ones(3, np.float32)}
    assert load_reference(write(model | two), heads=HEADS).mean == IMAGENET_MEAN
    with pytest.raises(ValueError, match="the file's metadata states the pooling 'map'; only token and avg are supported"):
        load_reference(write(model, global_pool="map"), heads=HEADS)


@pytest.mark.parametrize("whose", ["torchvision", "mmpretrain"])
def test_vits_under_other_names(whose, originals, write):
    spellings = {
        "torchvision": {
            "cls_token": "class_token",
            "pos_embed": "encoder.pos_embedding",
            "patch_embed.proj": "conv_proj",
            "blocks.": "encoder.layers.encoder_layer_",
            "norm1": "ln_1",
            "norm2": "ln_2",
            "norm.": "encoder.ln.",
            "attn.qkv.": "self_attention.in_proj_",
            "attn.proj": "self_attention.out_proj",
            "mlp.fc1": "mlp.0",
            "mlp.fc2": "mlp.3",
        },
        "mmpretrain": {
            "patch_embed.proj": "patch_embed.projection",
            "blocks.": "layers.",
            "norm1": "ln1",
            "norm2": "ln2",
            "norm.": "ln1.",
            "mlp.fc1": "ffn.layers.0.0",
            "mlp.fc2": "ffn.layers.1",
        },
    }[whose]
    weights = originals[VIT]
    for old, new in spellings.items():
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    encoder = load_reference(write(under("backbone.", weights) | head("neck.0.weight")), heads=HEADS)
    assert encoder.card["architecture"] == f"ViT-24/4 under the names of {whose}"
    plain = load_reference(write(originals[VIT]), heads=HEADS)
    images = random_images((28, 28))
    np.testing.assert_array_equal(encoder.apply(images), plain.apply(images))


def test_two_places_that_disagree_are_refused_until_the_user_says(originals, write):
    config = json.dumps(
        {"architecture": "vit", "model_args": {"num_heads": 4}, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    )
    file = write(originals[VIT], num_heads="3", config=config)
    with pytest.raises(
        ValueError,
        match=r"the file's metadata states heads = 3, but the file's metadata states 4; give the right one with heads=",
    ):
        load_reference(file)
    encoder = open_encoder(f"{file}?heads=3&std=0.25")
    assert (encoder.module.heads, encoder.mean, encoder.std) == (3, 0.5, 0.25)


def test_options_follow_the_path(originals, write, tmp_path):
    file = write(originals[VIT])
    encoder = open_encoder(f"{file}?heads=3&size=20&features=token_mean&mean=0.1,0.2,0.3&std=0.5")
    assert (encoder.shape, encoder.features, encoder.mean) == ((20, 20, 3), "token_mean", (0.1, 0.2, 0.3))
    for path in (tmp_path / "a?heads=3.safetensors", tmp_path / "a+b%20c.safetensors"):
        path.write_bytes(file.read_bytes())
        assert open_encoder(f"{path}?heads=3").card["file"] == path.name
    named = open_encoder(
        write(
            under("student%26", {}) | under("a&b.", originals[VIT]) | under("c.", originals[VIT], 1), "b.safetensors"
        ).as_posix()
        + "?part=a%26b&heads=3"
    )
    assert named.card["part"] == "a&b"
    for query, message in (
        (
            "head=3",
            r"'head=3' is not an option of an encoder; write NAME=VALUE with one of part, heads.* Did you mean heads=\?",
        ),
        ("heads", "'heads' is not an option"),
        ("", "'' is not an option"),
        ("heads=3&heads=4", "'heads=4' is given twice"),
        ("heads=three", "heads= takes a whole number, not 'three'"),
        ("epsilon=small", "epsilon= takes a number"),
        ("mean=a,b", "mean= takes a number, or three"),
        ("part=", "part= has no value"),
        ("heads=0", "cannot be divided among 0"),
        ("heads=3&stem=cifar", "ViT, which has no option stem"),
        ("heads=3&epsilon=-1", "expected an epsilon above 0"),
        ("heads=3&features=cls", "Expected one of pooled"),
        ("heads=3&mean=123.7,116.3,103.5", "Expected the mean of images in"),
    ):
        with pytest.raises(ValueError, match=message):
            open_encoder(f"{file}?{query}")
    with pytest.raises(ValueError, match=r"There is no run folder or file .*none\.safetensors;"):
        open_encoder(f"{tmp_path}/none.safetensors?heads=3")
    ours = save_encoder(encoder, tmp_path / "ours.safetensors")
    with pytest.raises(
        ValueError, match=r"is an encoder of sslshift, whose card contains all settings: it takes no options\. Remove .heads="
    ):
        open_encoder(f"{ours}?heads=3")


def test_encoders_of_one_file_are_lines_of_their_own_in_a_table(originals, write):
    file = write(under("teacher.", originals[VIT]) | under("student.", originals[VIT], 1))
    kinds = by_kind(
        [Path(f"{file}?{query}") for query in ("part=student&heads=3", "part=teacher&heads=3", "part=teacher&heads=6")]
    )
    names = [kind.name for kind in kinds]
    assert names == ["checkpoint student", *(f"checkpoint teacher ({file}?part=teacher&heads={heads})" for heads in (3, 6))]
    assert [kind.encoders[0][2].module.heads for kind in kinds] == [3, 3, 6]


def test_whatever_names_and_facts_a_file_has_is_one_line(originals, write):
    model = under("e\n<b>\x1b[31m.", originals[VIT])
    rest = {f"m{i}\n.weight": np.ones(1, np.float32) for i in range(50)}
    encoder = load_reference(write(model | rest), heads=HEADS)
    assert (len(encoder.card["left_behind"]), encoder.card["left_behind"][-1]) == (21, "30 more modules")
    assert how_it_was_read(encoder).isprintable()
    second = under("f\n.", originals[VIT], 1)
    file = write(model | second)
    with pytest.raises(ValueError, match=r"add \?part=e%0A%3Cb%3E%1B%5B31m or \?part=f%0A to its path") as raised:
        load_reference(file, heads=HEADS)
    assert str(raised.value).isprintable()
    assert open_encoder(f"{file}?part=f%0A&heads=3").card["part"] == "f\n"
    with pytest.raises(ValueError, match=r"extra: e\.a.b") as raised:
        load_reference(write(under("e.", originals[VIT]) | {"e.a\nb": np.ones(1, np.float32)}), heads=HEADS)
    assert str(raised.value).isprintable()
    with pytest.raises(ValueError, match="has 2,000 characters, more than in any supported encoder"):
        load_reference(write({"a." * 1000: np.ones(1, np.float32)}))


def test_a_named_encoder_says_how_it_was_read(originals, write):
    file = write(under("teacher.", originals[VIT]) | under("student.", originals[VIT], 1) | head("teacher.head.weight"))
    named = encoder_named(f"{file}?part=teacher&heads=3")
    assert named.title == "checkpoint teacher (ViT-24/4 under the names of timm)"
    start = "Read from checkpoint.safetensors, part teacher. Left behind: student (30 tensors), teacher.head (1 tensor). "
    assert named.read.startswith(f"{start}Stated: heads = 3 (as asked). Assumed: an epsilon of 1e-06 in layer norms")


def test_the_command_that_converts_a_pickle_flattens_it(tmp_path):
    torch = pytest.importorskip("torch")
    import argparse

    state = {"backbone.x": torch.ones(2, 3).T, "head.y": torch.zeros(2)}
    content = {"student": {"module": state}, "teacher": state, "optimizer": {"state": {0: {"exp": torch.ones(1)}}}, "epoch": 3}
    torch.save(content | {"args": argparse.Namespace(arch="vit_small")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is a pickle") as raised:
        load_reference(tmp_path / "x.pth")
    code = re.search(r'python -c "(.*)" x\.pth x\.safetensors$', str(raised.value))[1]
    subprocess.run([sys.executable, "-c", code, "x.pth", "x.safetensors"], cwd=tmp_path, check=True)
    tensors = files.read_tensors(tmp_path / "x.safetensors")
    assert set(tensors) == {f"{at}{name}" for at in ("student.module.", "teacher.") for name in state}
    np.testing.assert_array_equal(tensors["teacher.backbone.x"], np.ones((3, 2)))
