"""Encoders as their trainers write them: beside heads and other encoders, wrapped, chunked."""

import re

import numpy as np
import pytest
from published import DINOV2, RESNET, VIT, head, under
from reference_originals import HEADS

from sslshift.models import open_encoder
from sslshift.models.opening import how_it_was_read
from sslshift.models.reference import load_reference


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
        (VIT, lambda w: w | under("_orig_mod.", w), "have the same name without wrappers"),
        (RESNET, lambda w: under("e.", w) | head("e.attnpool.positional_embedding"), "attention in place of mean pooling"),
        (RESNET, lambda w: under("visual.", numbered(w, (4, 5, 6, 7))) | head("visual.9.weight"), r"extra: visual\.9\.weight"),
        (RESNET, lambda w: numbered(w, (3, 4, 5, 6)), "belong to no known architecture"),
        (RESNET, lambda w: under("patch_embed.backbone.", w) | head("blocks.0.attn.qkv.weight"), "to no known architecture"),
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
            ValueError,
            match=r"8 x 3 x 3 x 3 in place of 8 x 3 x 7 x 7\)\)\. Add \?stem=cifar to its path if its 3x3 stem has stride 1",
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
