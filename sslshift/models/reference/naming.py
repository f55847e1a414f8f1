"""Conversion of the tensors of published architectures to arrays of this package."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import numpy as np

Tensors = Mapping[str, np.ndarray]
_SHOWN = 5
# Batch norms count their updates in this tensor; no feature depends on it.
COUNTED = r"(.*\.)?num_batches_tracked"
# Names of parts that only unsupported architectures have.
_OTHERS = (
    (r"(^|\.)rope(_embed)?\.|(^|\.)storage_tokens$", "rotary positions, as DINOv3 has, which are not supported"),
    (
        r"\.(w12|w1|w2|w3|gate_proj|fc1_g|fc1_x)\.",
        "gated dense layers (SwiGLU), as DINOv2 ViT-g has, which are not supported",
    ),
    (r"(^|\.)fc_norm\.", "a norm after the mean over patches (fc_norm), as fine-tuned MAE has, which is not supported"),
    (r"(^|\.)(norm_pre|pre_norm|ln_pre|pre_layrnorm)\.", "a norm before its blocks, as CLIP has, which is not supported"),
    (r"\.(q_norm|k_norm)\.", "norms of queries and keys, which are not supported"),
    (r"relative_position|rel_pos", "relative positions, as BEiT has, which are not supported"),
    (r"(^|\.)dist_token$", "a distillation token, as distilled DeiT has, which is not supported"),
    (r"(^|\.)conv1\.0\.weight$", "a stem of several convolutions (ResNet-D), which is not supported"),
    (r"(^|\.)attnpool\.", "attention in place of mean pooling, as CLIP has, which is not supported"),
)


class Entry(NamedTuple):
    """An array of this package and its published tensors.

    Args:
      ours: path of the array, such as `params/norm/scale`.
      theirs: shapes of the published tensors that the array is made of, by name.
      convert: function that makes the array from these tensors, in that order.
    """

    ours: str
    theirs: Mapping[str, tuple[int, ...]]
    convert: Callable[..., np.ndarray]


class Recognised(NamedTuple):
    """An architecture that a file's names and shapes show.

    Args:
      title: usual name of the architecture.
      module: network of this package.
      side: side of the training images in pixels.
      entries: entries for all arrays of the network.
      resize: text for the card on how positions are resized for images of another size; empty without learned positions.
      assumed: texts for the card on facts that no tensor shows, each with the option that states another value.
    """

    title: str
    module: nn.Module
    side: int
    entries: Sequence[Entry]
    resize: str = ""
    assumed: Sequence[str] = ()


def same(x: np.ndarray) -> np.ndarray:
    return x


def joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def dense(*parts: np.ndarray) -> np.ndarray:
    """Returns published kernels `[outputs, inputs]`, concatenated along their outputs, as one kernel `[inputs, outputs]`."""
    return np.concatenate(parts).T


def convolution(x: np.ndarray) -> np.ndarray:
    """Returns a published kernel `[outputs, inputs, height, width]` as a kernel `[height, width, inputs, outputs]`."""
    return x.transpose(2, 3, 1, 0)


def numbers(names: Iterable[str], pattern: str) -> int:
    """Returns how many different numbers the pattern's group matches in the names; at most the number of names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def converted(tensors: Tensors, recognised: Recognised, written: Mapping[str, str], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns float32 arrays of this package by path.

    Args:
      tensors: tensors of an encoder, without heads.
      recognised: architecture that the tensors are converted to.
      written: names in the file by the names in `tensors`, for error messages.
      prefix: prefix of the names in the file, for error messages about missing tensors.

    Raises:
      ValueError: tensors are missing, extra, of another shape, not of a floating-point dtype, or not finite.
    """
    expected = {name: shape for entry in recognised.entries for name, shape in entry.theirs.items()}
    written_as = {name: prefix + name for name in expected} | dict(written)
    problems = {
        "missing": sorted(written_as[name] for name in set(expected) - set(tensors)),
        "extra": sorted(written_as[name] for name in set(tensors) - set(expected) if not re.fullmatch(COUNTED, name)),
        "of another shape": [
            f"{written_as[name]} ({_shape(tensors[name].shape)} in place of {_shape(shape)})"
            for name, shape in sorted(expected.items())
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if any(problems.values()):
        raise ValueError(misfit(recognised.title, problems, tensors))
    wide = {name: _as_float32(written_as[name], tensors[name]) for name in expected}
    return {entry.ours: entry.convert(*(wide[name] for name in entry.theirs)) for entry in recognised.entries}


def misfit(title: str, problems: Mapping[str, list[str]], names: Iterable[str]) -> str:
    """Returns sentences on how a file differs from the architecture it looks like, and on unsupported parts in it."""
    listing = "; ".join(f"{what}: {_first(listed)}" for what, listed in problems.items() if listed)
    names = list(names)
    known = [what for pattern, what in _OTHERS if any(re.search(pattern, name) for name in names)]
    return f"it looks like a {title}, but not all its tensors fit ({listing})." + "".join(f" It has {what}." for what in known)


def _as_float32(name: str, tensor: np.ndarray) -> np.ndarray:
    # bfloat16 is not a dtype of NumPy itself, and its kind is V.
    if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
        raise ValueError(f"its tensor {shown(name)} holds {tensor.dtype}, not floating-point numbers.")
    wide = tensor.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError(f"its tensor {shown(name)} holds values that are not finite.")
    return wide


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def shown(text: str) -> str:
    """Returns a name from a file as text without line breaks and control characters."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _first(names: list[str]) -> str:
    return ", ".join(map(shown, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
