"""Facts about an encoder besides its tensors: in the header of its file, or in the JSON files that a hub keeps beside it."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# `eps` alone may belong to an optimiser, and `activation` to a projector.
_NAMES = {
    "heads": ("heads", "num_heads", "n_heads", "num_attention_heads"),
    "epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "activation": ("act_layer", "hidden_act"),
    "width": ("hidden_size",),
    "depth": ("num_hidden_layers",),
    "pool": ("global_pool",),
    "image_size": ("image_size", "img_size", "input_size"),
    "mean": ("mean", "image_mean"),
    "std": ("std", "image_std"),
}
_NESTED = ("config", "args", "model_args", "pretrained_cfg", "vision_config")
# A folder of a hub holds one model, under this name, and the JSON files beside it describe it.
_HUB_FILE = "model.safetensors"
_BESIDE = ("config.json", "preprocessor_config.json")
_LONGEST = 1 << 20
_DEEPEST = 3


class Fact(NamedTuple):
    """A value and its origin."""

    value: Any
    where: str


def read_facts(file: Path, metadata: Mapping[str, str], settled: Collection[str] = ()) -> dict[str, Fact]:
    """Returns the stated facts about an encoder, those of `_NAMES` that were found.

    Args:
      file: file of weights. Beside a `model.safetensors`, a `config.json` and a `preprocessor_config.json` are read.
      metadata: text by name from the header of the file; a value may be JSON, such as a whole `config`.
      settled: names of facts that are not looked for, since the user stated them.

    Raises:
      ValueError: two places disagree, or a value is impossible, such as a number of heads that is not a whole number above 0.
    """
    facts: dict[str, Fact] = {}
    for where, content in _sources(file, metadata):
        for name, value in _said(content):
            if name in settled:
                continue
            value = _checked(name, value, where)
            if name in facts and facts[name].value != value:
                raise ValueError(
                    f"{facts[name].where} states {name} = {facts[name].value}, but {where} states {value}; "
                    f"give the right one with {name}=."
                )
            facts.setdefault(name, Fact(value, where))
    return facts


def normaliser(tensors: Mapping[str, np.ndarray], within: str) -> dict[str, Fact]:
    """Returns the `mean` and `std` of pixels that a model stores beside its encoder; empty unless there is exactly one pair.

    Args:
      tensors: tensors of a file.
      within: prefix of the names of the encoder's tensors, which are ignored here.
    """
    found: dict[tuple[float, ...], dict[str, Fact]] = {}
    for name, std in tensors.items():
        mean = tensors.get(f"{name.removesuffix('std')}mean")
        outside = within and not name.startswith(within)
        if not name.endswith("std") or not outside or mean is None or (mean.size, std.size) != (3, 3):
            continue
        pair = {"mean": np.ravel(mean).astype(float), "std": np.ravel(std).astype(float)}
        if not all(np.isfinite(each).all() for each in pair.values()) or pair["std"].min() <= 0:
            continue
        # Some models have pixels from 0 to 255.
        scale = 255 if pair["std"].min() > 1 else 1
        where = f"its tensors {name.removesuffix('std')}mean and {name.rpartition('.')[2]}"
        both = {each: Fact(tuple((value / scale).tolist()), where) for each, value in pair.items()}
        found[both["mean"].value + both["std"].value] = both
    return next(iter(found.values())) if len(found) == 1 else {}


def _sources(file: Path, metadata: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "the file's metadata", {name: _json(text) for name, text in metadata.items()}
    beside = [file.parent / name for name in _BESIDE] if file.name == _HUB_FILE else []
    for each in beside:
        if each.is_file():
            content = _json(each.read_text(errors="replace")) if each.stat().st_size < _LONGEST else None
            if not isinstance(content, dict):
                raise ValueError(f"expected a JSON object that describes an encoder in {each.name} beside it.")
            yield f"{each.name} beside it", content


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _said(content: Mapping[str, Any], deep: int = _DEEPEST) -> Iterator[tuple[str, Any]]:
    for name, others in _NAMES.items():
        yield from (
            (name, content[other]) for other in others if content.get(other) is not None and _meant(other, content[other])
        )
    # Such a preprocessor only scales pixels to [0, 1] and does not normalise them.
    if content.get("do_normalize") is False:
        yield from (("mean", 0.0), ("std", 1.0))
    for name in _NESTED:
        if deep and isinstance(content.get(name), dict):
            yield from _said(content[name], deep - 1)


def _meant(name: str, value: Any) -> bool:
    """Returns whether a value describes the attention: `heads` may also be the heads of the losses."""
    return name != "heads" or str(value).isdecimal()


def _checked(name: str, value: Any, where: str) -> Any:
    """Returns the value as a number, a tuple of three, or text."""
    try:
        if name in ("activation", "pool"):
            return str(value)
        if name == "image_size":
            sides = value if isinstance(value, list) else [value]
            # timm's input_size has the channels first.
            return tuple(int(side) for side in sides[-2:])
        if name in ("heads", "width", "depth"):
            # True would pass for 1.
            if isinstance(value, bool) or int(value) != float(value) or not 0 < int(value) < 1 << 16:
                raise ValueError
            return int(value)
        values = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
        numbers = tuple(float(each) for each in values)
        wrong = len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers))
        if wrong or (name == "epsilon" and not (len(numbers) == 1 and 0 < numbers[0] < 1)):
            raise ValueError
        # One number for all channels is the same fact as three equal numbers.
        return numbers[0] if len(set(numbers)) == 1 else numbers
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} states {name} = {str(value)[:80]!r}, which is not a possible value.") from None
