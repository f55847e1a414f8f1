"""An encoder's architecture as plain data that a JSON file can hold, and back; nothing in it can run code."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from sslshift.models.patch_mlp import PatchMLP
from sslshift.models.resnet import BasicBlock, Bottleneck, ResNet
from sslshift.models.vit import ViT

_KINDS: dict[str, type[nn.Module]] = {"resnet": ResNet, "vit": ViT, "patch_mlp": PatchMLP}
_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
_DTYPES = ("float32", "bfloat16", "float16", "float64")
# How an encoder is run, not what it is.
_LEFT_OUT = ("parent", "name", "axis_name", "convolution", "drop_path")
# No published encoder comes near these; a file that asks for more is broken or hostile.
_LARGEST_NUMBER = 1 << 16
_LARGEST_DEPTH = 1000


def describe(module: nn.Module) -> dict[str, Any]:
    """The architecture as JSON values.

    Example:
      >>> describe(PatchMLP(features=64))
      {'kind': 'patch_mlp', 'patch': 4, 'width': 48, 'features': 64, 'dtype': None}

    Raises:
      ValueError: the module is of a class that is not one of ours.
    """
    kind = next((kind for kind, cls in _KINDS.items() if type(module) is cls), None)
    if kind is None:
        raise ValueError(f"Encoders that can be described are {', '.join(_KINDS)}, not {type(module).__name__}.")
    return {"kind": kind} | {name: _plain(name, getattr(module, name)) for name in _fields(type(module))}


def from_description(description: dict[str, Any]) -> nn.Module:
    """The module that `describe` described.

    Raises:
      ValueError: the description is none.
    """
    description = dict(description) if isinstance(description, dict) else {}
    kind = _KINDS.get(description.pop("kind", None))
    if kind is None:
        raise ValueError(f"An architecture is described with a 'kind', one of {', '.join(_KINDS)}.")
    unknown = set(description) - set(_fields(kind))
    if unknown:
        raise ValueError(f"{kind.__name__} has no setting {', '.join(sorted(unknown))}; it has {', '.join(_fields(kind))}.")
    try:
        return kind(**{name: _module_value(name, value) for name, value in description.items()})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{description} does not describe a {kind.__name__}: {error}.") from error


def _fields(kind: type[nn.Module]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.name not in _LEFT_OUT]


def _plain(name: str, value: Any) -> Any:
    if name == "block":
        return next(word for word, block in _BLOCKS.items() if block is value)
    if name == "dtype":
        return None if value is None else jnp.dtype(value).name
    return list(value) if isinstance(value, tuple) else value


def _module_value(name: str, value: Any) -> Any:
    if name == "block":
        return _BLOCKS[value]
    if name == "dtype":
        if value is not None and value not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {value!r}.")
        return None if value is None else jnp.dtype(value)
    numbers = value if isinstance(value, list) else [value]
    whole = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
    depth = sum(whole) if name in ("depth", "depths") else 0
    if any(not 0 < number <= _LARGEST_NUMBER for number in whole) or depth > _LARGEST_DEPTH:
        raise ValueError(f"{name} = {value} is out of range for an encoder.")
    return tuple(value) if isinstance(value, list) else value
