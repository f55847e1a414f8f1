"""A published encoder out of a local file."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.models.positions import RESIZE
from sslshift.models.pretrained import PretrainedEncoder, nested
from sslshift.models.reference import resnets, vits
from sslshift.models.reference.checkpoints import CHECKPOINTS
from sslshift.models.reference.files import read_tensors, sha256
from sslshift.models.reference.naming import Recognised, Tensors, converted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KNOWN = (
    "DINOv2 in its own names or those of transformers, ViTs in the names of timm or transformers, and ResNets in those of "
    "torchvision"
)
_LARGEST_SIDE = 1 << 14


def load_reference(
    path: str | os.PathLike,
    *,
    features: str = "pooled",
    heads: int | None = None,
    size: int | None = None,
    mean: float | tuple[float, ...] = IMAGENET_MEAN,
    std: float | tuple[float, ...] = IMAGENET_STD,
) -> PretrainedEncoder:
    """An encoder that others published, from a file of weights whose names and shapes tell its architecture.

    Read are DINOv2 (with and without registers) under the names of its own code and of `transformers`, ViTs under the names of
    timm (DINO and MAE use them too) and of `transformers`, and ResNets under those of torchvision, all in float32. Heads,
    decoders and mask tokens are left out. `python -m tools.fetch_encoder` fetches the best-known files.

    What no tensor tells, and is therefore taken as published:
    - attention heads have 64 features each, in all published sizes from ViT-Ti to ViT-L;
    - images are normalised by ImageNet's mean and standard deviation. Some are not trained so, such as timm's `augreg` ViTs and
      Google's (mean 0.5, std 0.5): say it with `mean` and `std`;
    - a bottleneck's stride lies on its 3x3 convolution, as in torchvision;
    - learned positions meet other image sizes as the code does whose names the file has, see `RESIZE` in
      `sslshift.models.positions`. DINO's files have timm's names, but its own code interpolated otherwise; at the size of its
      training there is no difference.

    Args:
      path: a `.safetensors` or `.npz` file of arrays.
      features: which of `FEATURES` the encoder gives; `pooled` is the class token of a ViT, the mean over places of a ResNet.
      heads: attention heads of a ViT; None: one for every 64 features.
      size: side of the images in pixels; None: that of the training, and 224 for DINOv2, which was trained at 224 pixels for
        the most part and at 518 at the end.
      mean, std: images in [0, 1] are normalised to (image - mean) / std.

    Returns:
      The encoder of images `[batch, size, size, 3]`. Its card has name, architecture, file, sha256, and licence and source of
      a file that `CHECKPOINTS` lists.

    Raises:
      ValueError: there is no such file, it is none of the formats, damaged, or not of one of these architectures; then it is
        said which tensors are missing, extra, or of another shape.

    References:
      Oquab et al., `DINOv2: Learning Robust Visual Features without Supervision <https://arxiv.org/abs/2304.07193>`_, 2023
      Darcet et al., `Vision Transformers Need Registers <https://arxiv.org/abs/2309.16588>`_, 2023
      Wightman, `PyTorch Image Models <https://github.com/huggingface/pytorch-image-models>`_, 2019
    """
    file = Path(path).expanduser()
    tensors = read_tensors(file)
    try:
        recognised, variables = _variables(tensors, heads)
    except ValueError as error:
        raise ValueError(f"{file} cannot be loaded: {error}") from error
    side = recognised.side if size is None else size
    patch = getattr(recognised.module, "patch", 1)
    if not 0 < side <= _LARGEST_SIDE or side % patch:
        raise ValueError(f"{file} takes images whose side is a multiple of {patch} and at most {_LARGEST_SIDE}, not {side}.")
    if any(np.shape(value) not in ((), (3,)) for value in (mean, std)) or not np.min(std) > 0:
        raise ValueError(f"mean and std are numbers, or three of them, and std is above 0, not {mean} and {std}.")
    card = _card(file, recognised)
    return PretrainedEncoder(recognised.module, variables, (side, side, 3), mean, std, features, card)


def _variables(tensors: Tensors, heads: int | None) -> tuple[Recognised, Any]:
    if found := vits.recognise(tensors, heads):
        ignored = vits.IGNORED
    elif found := resnets.recognise(tensors):
        ignored = resnets.IGNORED
    else:
        if any(name.startswith("params/") for name in tensors):
            raise ValueError("it is an encoder of a run; load_encoder loads it.")
        some = ", ".join(sorted(tensors)[:5]) or "none"
        raise ValueError(f"its tensors ({some}, {len(tensors)} in all) are of no known architecture; known are {_KNOWN}.")
    recognised, named = found
    return recognised, jax.tree.map(jnp.asarray, nested(converted(named, recognised, ignored)))


def _card(file: Path, recognised: Recognised) -> dict[str, Any]:
    digest = sha256(file)
    name = next((name for name, checkpoint in CHECKPOINTS.items() if checkpoint.sha256 == digest), None)
    card = {"name": name or file.stem, "architecture": recognised.title, "file": file.name, "sha256": digest}
    card |= {"licence": CHECKPOINTS[name].licence if name else None, "source": CHECKPOINTS[name].url if name else None}
    return card | ({"positions": RESIZE[recognised.resize]} if recognised.resize else {})
