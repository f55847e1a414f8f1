"""Encoders as their trainers write them: beside heads and other encoders, wrapped, chunked; and facts that no tensor tells."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference_originals import HEADS, PAIRS, random_images, random_tensors
from safetensors.numpy import save_file

import sslshift
from sslshift.models import open_encoder, save_encoder
from sslshift.models.opening import how_it_was_read
from sslshift.models.reference import IMAGENET_MEAN, files, load_reference
from sslshift.models.vit import sincos_positions
from sslshift.transfer.encoders import encoder_named
from sslshift.transfer.matrix import by_kind

RESNET = "torchvision/basic"
VIT = "timm/vit"
DINOV2 = "dinov2/plain"


@pytest.fixture(scope="module")
def originals():
    """Random weights under the original architectures' names, without their heads."""
    with np.load(PAIRS, allow_pickle=False) as pairs:
        shapes = {name: json.loads(str(pairs[f"{name}/about"]))["shapes"] for name in (RESNET, VIT, DINOV2, "transformers/vit")}
    # ResNets of a stem of 8 features: what counts here are names.
    shapes[RESNET] = {name: [side // 8 if side > 7 else side for side in shape] for name, shape in shapes[RESNET].items()}
    return {
        name: random_tensors({k: v for k, v in each.items() if not k.startswith(("head", "fc"))})
        for name, each in shapes.items()
    }


@pytest.fixture
def write(tmp_path):
    def to_file(tensors, name="checkpoint.safetensors", **metadata):
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / name, metadata or None)
        return tmp_path / name

    return to_file


def under(prefix, tensors, shift=0.0):
    """The tensors with longer names; those of a second encoder differ."""
    return {prefix + name: tensor + np.asarray(shift, tensor.dtype) for name, tensor in tensors.items()}


def head(*names):
    return {name: np.ones((3, 3), np.float32) for name in names}


def numbered(tensors, stages):
    """A ResNet's layers as children of an `nn.Sequential`."""
    places = {"conv1": 0, "bn1": 1} | {f"layer{stage + 1}": number for stage, number in enumerate(stages)}
    return {f"{places[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor for name, tensor in tensors.items()}


def chunked(tensors, anew=False):
    """Two blocks in two chunks, with one count for both as DINOv2 has it, or a new one in each."""
    new = r"blocks.\1.0." if anew else r"blocks.\1.\1."
    return {re.sub(r"blocks\.(\d)\.", new, name): tensor for name, tensor in tensors.items()}


def mmcv_average(tensors):
    return {f"ema_{name}".replace(".", "_"): tensor for name, tensor in tensors.items()}


# A name of the trainer: of which original, what the file holds, and what is left behind.
LAYOUTS = {
    "SwAV": (
        RESNET,
        lambda w: (
            under("module.", w)
            | head("module.projection_head.0.weight", "module.projection_head.3.weight", "module.prototypes.weight")
        ),
        ["module.projection_head (2 tensors)", "module.prototypes (1 tensor)"],
    ),
    "SimSiam": (
        RESNET,
        lambda w: (
            under("state_dict.module.encoder.", w)
            | head("state_dict.module.encoder.fc.0.weight", "state_dict.module.predictor.0.weight")
        ),
        ["state_dict.module.encoder.fc (1 tensor)", "state_dict.module.predictor (1 tensor)"],
    ),
    "Barlow Twins": (
        RESNET,
        lambda w: under("model.module.backbone.", w) | head("model.module.projector.0.weight", "model.module.bn.running_mean"),
        ["model.module.bn (1 tensor)", "model.module.projector (1 tensor)"],
    ),
    "lightly SimCLR": (
        RESNET,
        lambda w: under("backbone.", numbered(w, (4, 5, 6, 7))) | head("projection_head.layers.0.weight"),
        ["projection_head (1 tensor)"],
    ),
    "VISSL": (
        RESNET,
        lambda w: (
            under("classy_state_dict.base_model.model.trunk._feature_blocks.", w)
            | head("classy_state_dict.base_model.model.heads.0.clf.0.weight")
        ),
        ["classy_state_dict.base_model.model.heads (1 tensor)"],
    ),
    "mmcv with an average": (
        RESNET,
        lambda w: under("backbone.", w) | head("neck.mlp.0.weight", "head.predictor.0.weight") | mmcv_average(w),
        ["ema_... (84 tensors)", "head (1 tensor)", "neck (1 tensor)"],
    ),
    "kuangliu's shortcuts": (
        RESNET,
        lambda w: (
            {name.replace("downsample", "shortcut"): tensor for name, tensor in under("encoder.", w).items()}
            | head("head.0.weight")
        ),
        ["head (1 tensor)"],
    ),
    "MAE": (
        VIT,
        lambda w: (
            under("model.", w) | head("model.mask_token", "model.decoder_embed.weight", "model.decoder_blocks.0.norm1.weight")
        ),
        ["model.decoder_blocks (1 tensor)", "model.decoder_embed (1 tensor)", "model.mask_token (1 tensor)"],
    ),
    "a compiled lightning module": (
        VIT,
        lambda w: (
            {
                f"state_dict.model._orig_mod.{name.replace('blocks.1.', 'blocks.1._checkpoint_wrapped_module.')}": t
                for name, t in w.items()
            }
            | head("state_dict.projector.0.weight", "state_dict.loss.center")
        ),
        ["state_dict.loss (1 tensor)", "state_dict.projector (1 tensor)"],
    ),
    "DINOv2's chunks": (
        DINOV2,
        lambda w: (
            under("teacher.backbone.", chunked(w)) | head("teacher.dino_head.mlp.0.weight", "teacher.ibot_head.mlp.0.weight")
        ),
        ["teacher.backbone.mask_token (1 tensor)", "teacher.dino_head (1 tensor)", "teacher.ibot_head (1 tensor)"],
    ),
    "chunks that count anew": (DINOV2, lambda w: chunked(w, anew=True), ["mask_token (1 tensor)"]),
    "ViTMAE of transformers": (
        "transformers/vit",
        lambda w: under("vit.", w) | head("decoder.decoder_layers.0.output.dense.weight", "decoder.mask_token"),
        ["decoder (2 tensors)"],
    ),
}


@pytest.mark.parametrize("trainer", LAYOUTS)
def test_the_encoder_of_a_checkpoint_is_loaded_and_the_rest_is_listed(trainer, originals, write):
    original, layout, expected = LAYOUTS[trainer]
    heads = None if original == RESNET else HEADS
    plain = load_reference(write(originals[original], "plain.safetensors"), heads=heads)
    encoder = load_reference(write(layout(originals[original])), heads=heads)
    assert encoder.fingerprint == plain.fingerprint
    assert [text for text in encoder.card["left_behind"] if "pooler" not in text] == expected
    assert all(text in how_it_was_read(encoder) for text in expected)


# Of which original, the prefixes of both encoders, names of the first, and names of the second.
PAIRS_OF_ENCODERS = {
    "DINO": (VIT, "student.module.backbone.", "teacher.backbone.", ["student"], ["teacher", "teacher.backbone", "momentum"]),
    "MoCo v2": (RESNET, "module.encoder_q.", "module.encoder_k.", ["encoder_q", "online"], ["encoder_k", "momentum"]),
    "MoCo v3": (VIT, "module.base_encoder.", "module.momentum_encoder.", ["base_encoder", "student"], ["momentum", "teacher"]),
    "solo-learn": (RESNET, "backbone.", "momentum_backbone.", ["backbone", "student"], ["momentum_backbone", "momentum"]),
    "lightly's DINO": (VIT, "student_backbone.vit.", "teacher_backbone.vit.", ["student"], ["teacher", "teacher_backbone"]),
    "mmselfsup's MoCo": (RESNET, "backbone.", "encoder_k.0.", ["backbone", "online"], ["encoder_k", "teacher"]),
    "an average beside the model": (VIT, "", "model_ema.module.", [".", "student"], ["ema", "model_ema"]),
    "BYOL": (RESNET, "online_network.", "target_network.", ["online", "online_network"], ["target", "teacher"]),
}


@pytest.mark.parametrize("trainer", PAIRS_OF_ENCODERS)
def test_of_two_encoders_one_is_named(trainer, originals, write):
    original, first, second, *names = PAIRS_OF_ENCODERS[trainer]
    heads = None if original == RESNET else HEADS
    more = head("queue", f"{first}fc.0.weight", f"{second}fc.0.weight", "predictor.0.weight")
    file = write(under(first, originals[original]) | under(second, originals[original], 0.25) | more)
    plain = [under("", originals[original], shift) for shift in (0.0, 0.25)]
    each = [load_reference(write(tensors, "plain.safetensors"), heads=heads).fingerprint for tensors in plain]
    with pytest.raises(
        ValueError, match=r"it holds 2 encoders: .* \(.*tensors\), .*; add \?part=\S+ or \?part=\S+ to "
    ) as raised:
        load_reference(file, heads=heads)
    ready = re.findall(r"\?part=(\S+)", str(raised.value))
    assert {load_reference(file, heads=heads, part=part).fingerprint for part in ready} == set(each)
    for number, part in [(number, name) for number, several in enumerate(names) for name in several]:
        encoder = open_encoder(f"{file}?part={part}{'' if heads is None else f'&heads={heads}'}")
        assert encoder.fingerprint == each[number], part
        assert encoder.card["part"]
        left = [text.partition(" ")[0] for text in encoder.card["left_behind"]]
        assert {"queue", "predictor"} < set(left)
        assert any(
            f"{name}.".startswith((first, second)[1 - number]) or (first, second)[1 - number].startswith(name) for name in left
        )
    with pytest.raises(ValueError, match="none of its encoders matches part=nobody; it holds"):
        load_reference(file, heads=heads, part="nobody")


def test_one_encoder_under_two_names_is_one(originals, write):
    weights = originals[RESNET]
    file = write(under("net.", weights) | under("online_encoder.net.", weights) | under("target_encoder.net.", weights, 0.5))
    with pytest.raises(ValueError, match=r"it holds 2 encoders: .*\?part=net or \?part=target_encoder"):
        load_reference(file)
    one = load_reference(write(under("net.", weights) | under("online_encoder.net.", weights), "one.safetensors"))
    assert one.card["left_behind"] == [f"online_encoder ({sum('num_batches' not in name for name in weights)} tensors)"]
    assert one.fingerprint == load_reference(file, part="online").fingerprint


@pytest.mark.parametrize(
    ("original", "change", "message"),
    [
        (
            VIT,
            lambda w: under("backbone.", w) | head("backbone.blocks.0.adapter.weight"),
            r"extra: backbone\.blocks\.0\.adapter\.weight",
        ),
        (VIT, lambda w: under("backbone.", w) | head("backbone.extra.weight"), r"extra: backbone\.extra\.weight"),
        (
            VIT,
            lambda w: under("m.", w) | {"m.fc_norm.weight": np.ones(24, np.float32)},
            r"a norm after the mean over patches \(fc_norm\)",
        ),
        (
            VIT,
            lambda w: under("m.", w) | {"m.blocks.0.attn.q_norm.weight": np.ones(8, np.float32)},
            "norms of queries and keys",
        ),
        (
            VIT,
            lambda w: {k: v for k, v in under("m.", w).items() if k != "m.blocks.1.attn.qkv.bias"},
            r"missing: m\.blocks\.1\.attn\.qkv\.bias\)",
        ),
        (DINOV2, lambda w: {k: v for k, v in w.items() if k != "blocks.1.ls2.gamma"}, r"missing: blocks\.1\.ls2\.gamma\)"),
        (
            DINOV2,
            lambda w: {k: v for k, v in w.items() if k != "pos_embed"} | {"rope_embed.periods": np.ones(4, np.float32)},
            r"missing: pos_embed\)\. It has rotary positions, as DINOv3 has",
        ),
        (DINOV2, lambda w: {k.replace("blocks.1.", "blocks.1.3."): v for k, v in w.items()}, r"missing: blocks\.1\."),
        (DINOV2, lambda w: {re.sub(r"blocks\.(\d)", r"blocks.\1.5", k): v for k, v in w.items()}, r"extra: blocks\.0\.5\."),
        (VIT, lambda w: w | under("_orig_mod.", w), "have the same place"),
        (RESNET, lambda w: under("e.", w) | head("e.attnpool.positional_embedding"), "attention in place of mean pooling"),
        (RESNET, lambda w: under("visual.", numbered(w, (4, 5, 6, 7))) | head("visual.9.weight"), r"extra: visual\.9\.weight"),
        (RESNET, lambda w: numbered(w, (3, 4, 5, 6)), "of no known architecture"),
        (RESNET, lambda w: under("patch_embed.backbone.", w) | head("blocks.0.attn.qkv.weight"), "of no known architecture"),
    ],
)
def test_what_is_inside_an_encoder_is_never_left_behind(original, change, message, originals, write):
    with pytest.raises(ValueError, match=message):
        load_reference(write(change(originals[original])), heads=None if original == RESNET else HEADS)


def test_the_stem_of_small_images_is_said_since_no_tensor_shows_its_stride_and_pooling(originals, write):
    small = originals[RESNET] | {"conv1.weight": originals[RESNET]["conv1.weight"][..., 2:5, 2:5]}
    files = [
        write(under("f.", tensors), f"{i}.safetensors") for i, tensors in enumerate((small, numbered(small, (3, 4, 5, 6))))
    ]
    for file in files:
        with pytest.raises(
            ValueError, match=r"8 x 3 x 3 x 3 in place of 8 x 3 x 7 x 7\)\)\. Say \?stem=cifar if its 3x3 stem has stride 1"
        ):
            load_reference(file)
    encoders = [open_encoder(f"{file}?stem=cifar") for file in files]
    assert encoders[0].fingerprint == encoders[1].fingerprint
    assert (encoders[0].module.small_images, encoders[0].shape) == (True, (32, 32, 3))
    with pytest.raises(ValueError, match=r"conv1\.weight \(8 x 3 x 7 x 7 in place of 8 x 3 x 3 x 3\)"):
        load_reference(write(originals[RESNET]), stem="cifar")
    with pytest.raises(ValueError, match="expected stem=cifar or no stem, got 'small'"):
        load_reference(files[0], stem="small")
    with pytest.raises(ValueError, match="ResNet, which has no option heads; remove heads="):
        load_reference(files[0], heads=4, stem="cifar")


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
            ValueError, match=r"width of 384 does not tell .* heads=: MoCo v3's have 12 \(\?heads=12\), others .* 6 "
        ):
            shapes_alone(several, tensors, **options)
        assert shapes_alone(several, tensors, heads=12, **options).module.heads == 12
    assert shapes_alone(shapes, learned).module.heads == 6


def test_the_number_of_heads_shows_in_features(write):
    weights = random_tensors(vit_shapes(96, 1))
    file = write(weights)
    images = random_images((4, 4))
    with pytest.raises(ValueError, match="width of 96 does not tell the number of attention heads; say it with heads=, as in"):
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
            ValueError, match=f"width of {width} does not tell the number of attention heads; say it with heads="
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
        ({"hidden_act": "quick_gelu"}, r"config\.json beside it says that its activation is 'quick_gelu'; only exact GELU"),
        ({"hidden_size": 768}, r"config\.json beside it says width = 768, but its tensors have 24"),
        ({"num_attention_heads": "many"}, r"says heads = 'many', which is no such value"),
        ({"num_attention_heads": 5}, "cannot be divided among 5"),
        ({"layer_norm_eps": -1.0}, "says epsilon = '-1.0', which is no such value"),
        ({"image_size": [28, 56]}, r"says that its images are \(28, 56\); only square"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(ValueError, match=message):
            load_reference(file)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json beside it is not the JSON object"):
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
    with pytest.raises(ValueError, match="the file's metadata says that it pools by 'map'; only token and avg are supported"):
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
        ValueError, match=r"the file's metadata says heads = 3, and the file's metadata says 4; say which with heads="
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
        ("head=3", r"'head=3' is no option of an encoder; write NAME=VALUE with one of part, heads.* Did you mean heads=\?"),
        ("heads", "'heads' is no option"),
        ("", "'' is no option"),
        ("heads=3&heads=4", "'heads=4' is given twice"),
        ("heads=three", "heads= takes a whole number, not 'three'"),
        ("epsilon=small", "epsilon= takes a number"),
        ("mean=a,b", "mean= takes a number, or three"),
        ("part=", "part= has no value"),
        ("heads=0", "cannot be divided among 0"),
        ("heads=3&stem=cifar", "ViT, which has no option stem"),
        ("heads=3&epsilon=-1", "epsilon is above 0"),
        ("heads=3&features=cls", "Expected one of pooled"),
        ("heads=3&mean=123.7,116.3,103.5", "Expected the mean of images in"),
    ):
        with pytest.raises(ValueError, match=message):
            open_encoder(f"{file}?{query}")
    with pytest.raises(ValueError, match=r"There is no run folder or file .*none\.safetensors;"):
        open_encoder(f"{tmp_path}/none.safetensors?heads=3")
    ours = save_encoder(encoder, tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=r"is an encoder of sslshift, whose card says everything; remove .heads="):
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
    with pytest.raises(ValueError, match="has 2,000 characters, more than any encoder's"):
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
