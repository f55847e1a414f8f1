"""Loading of a published encoder from a local file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslshift.models.patches import RESIZE
from sslshift.models.pretrained import PretrainedEncoder, nested
from sslshift.models.reference import resnets, vits
from sslshift.models.reference.checkpoints import CHECKPOINTS
from sslshift.models.reference.facts import Fact, normaliser, read_facts
from sslshift.models.reference.files import read_metadata, read_tensors, sha256
from sslshift.models.reference.naming import Recognised, Tensors, converted, shown
from sslshift.models.reference.parts import EncoderPart, choose, find_parts, left_behind
from sslshift.models.vit import ViT

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_NORMALISATION = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_USUAL = {"mean": "ImageNet's mean of RGB pixels", "std": "ImageNet's standard deviation of RGB pixels"}
_STATED = ("heads", "epsilon", "pool", "mean", "std")
_KNOWN = (
    "DINOv2 in the names of its authors or of transformers, ViTs in the names of timm, transformers, torchvision or mmpretrain"
    ", and ResNets in the names of torchvision"
)
_LARGEST_SIDE = 1 << 14


def load_reference(
    path: str | os.PathLike,
    *,
    part: str | None = None,
    features: str = "pooled",
    heads: int | None = None,
    epsilon: float | None = None,
    stem: str | None = None,
    size: int | None = None,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
) -> PretrainedEncoder:
    """Returns a published encoder from a file of weights, whose names and shapes show the architecture.

    The package docstring lists the architectures, and describes how facts that no tensor shows are determined.

    Args:
      path: a `.safetensors` or `.npz` file of arrays.
      part: name of the encoder if the file has several: the prefix of its tensors' names, a word of that prefix
        (`encoder_q`), or its role (`teacher`, `momentum`; `student`, `online`).
      features: name of the features that the encoder returns, one of `FEATURES`; `pooled` is the class token of a ViT, and the
        mean over the feature map of a ResNet.
      heads: number of attention heads of a ViT.
      epsilon: small number that the layer norms of a ViT add to a variance.
      stem: `cifar` for a ResNet whose 3x3 stem has stride 1, padding 1 and no max-pool.
      size: side of the images in pixels; None: the size of the training.
      mean, std: images in [0, 1] are normalised to (image - mean) / std.

    Returns:
      The encoder, for images `[batch, size, size, 3]`. Its card has name, architecture, file and sha256; licence and source if
      `CHECKPOINTS` lists the file; the `part`; and three lists: the tensors that were `left_behind`, and the facts that were
      `stated` (with the origin) and `assumed`.

    Raises:
      ValueError: there is no such file; the file is damaged, of another format, or of another architecture (the message names
        the tensors that are missing, unexpected, or of another shape); it holds several encoders and `part` names none of them;
        or a fact that no tensor shows is uncertain.
    """
    file = Path(path).expanduser()
    tensors = read_tensors(file)
    options = {"heads": heads, "epsilon": epsilon, "stem": stem, "mean": mean, "std": std}
    said = {name: Fact(value, "as asked") for name, value in options.items() if value is not None}
    try:
        facts = read_facts(file, read_metadata(file), said) | said
        chosen, name = choose(_parts(tensors), part)
        recognised = chosen.dialect.recognise(chosen, facts)
        # Stated facts come last, since they replace facts that were found in tensors.
        facts = normaliser(tensors, chosen.prefix) | facts
        arrays = converted(chosen.tensors, recognised, chosen.written, chosen.prefix)
        _require_fitting(recognised.module, said)
    except ValueError as error:
        raise ValueError(f"{file} cannot be loaded: {error}") from error
    side = _checked_side(file, recognised, size)
    card = _card(file, recognised, name) | {
        "left_behind": left_behind(chosen, tensors),
        "stated": [f"{each} = {facts[each].value} ({facts[each].where})" for each in _STATED if each in facts],
        "assumed": [*recognised.assumed, *(f"{usual} (?{each}=)" for each, usual in _USUAL.items() if each not in facts)],
    }
    variables = jax.tree.map(jnp.asarray, nested(arrays))
    return PretrainedEncoder(recognised.module, variables, (side, side, 3), *_normalisation(facts), features, card)


def _checked_side(file: Path, recognised: Recognised, size: int | None) -> int:
    side = recognised.side if size is None else size
    patch = getattr(recognised.module, "patch", 1)
    if not 0 < side <= _LARGEST_SIDE or side % patch:
        raise ValueError(f"{file}: expected a side that is a multiple of {patch} and at most {_LARGEST_SIDE}, got {side}.")
    return side


def _normalisation(facts: Mapping[str, Fact]) -> list[float | tuple[float, ...]]:
    """Returns mean and std of pixels; ImageNet's values if no fact states other values."""
    mean, std = (facts[name].value if name in facts else usual for name, usual in _NORMALISATION.items())
    if any(np.shape(value) not in ((), (3,)) for value in (mean, std)) or not np.min(std) > 0:
        raise ValueError(f"Expected one number or three for mean and std, and std above 0, got {mean} and {std}.")
    if np.max(np.abs(mean)) > 1:
        raise ValueError(f"Expected the mean of images in [0, 1], got {mean}; divide mean and std of values up to 255 by 255.")
    return [mean, std]


def _parts(tensors: Tensors) -> list[EncoderPart]:
    if any(name.startswith("params/") for name in tensors):
        raise ValueError("it is an encoder of a run; use load_encoder to load it.")
    parts = find_parts(tensors, [*vits.DIALECTS, *resnets.DIALECTS])
    if not parts:
        some = ", ".join(map(shown, sorted(tensors)[:5])) or "none"
        raise ValueError(
            f"it has no card of sslshift, and its tensors ({some}, {len(tensors)} in all) belong to no known architecture. "
            f"Expected {_KNOWN}."
        )
    return parts


def _require_fitting(module: nn.Module, said: Mapping[str, Fact]) -> None:
    """Raises ValueError if the user states a fact that the architecture does not have."""
    other = [name for name in (("stem",) if isinstance(module, ViT) else ("heads", "epsilon")) if name in said]
    if other:
        raise ValueError(f"it is a {type(module).__name__}, which has no option {other[0]}; remove {other[0]}=.")


def _card(file: Path, recognised: Recognised, part: str) -> dict[str, Any]:
    digest = sha256(file)
    name = next((name for name, checkpoint in CHECKPOINTS.items() if checkpoint.sha256 == digest), None)
    title = f"{file.stem} {part}" if part else file.stem
    card = {"name": name or title, "architecture": recognised.title, "file": file.name, "sha256": digest}
    card |= {"licence": CHECKPOINTS[name].licence if name else None, "source": CHECKPOINTS[name].url if name else None}
    return card | {"part": part or None} | ({"positions": RESIZE[recognised.resize]} if recognised.resize else {})
