"""Conversion of an encoder's architecture to JSON values and back; nothing in a file can run code.

A description names a class by its kind. The kinds of this package are `resnet`, `patch_resnet`, `vit` and `patch_mlp`; the
kind of any other class is the name of the class, and the caller passes that class: `load_encoder(path, modules=[MyEncoder])`. A
class is never looked up or imported by a name in a file.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from sslshift.models.patch_mlp import PatchMLP
from sslshift.models.resnet import BasicBlock, Bottleneck, PatchResNet, ResNet
from sslshift.models.vit import ViT

Modules = Sequence[type[nn.Module]]

_KINDS: dict[str, type[nn.Module]] = {"resnet": ResNet, "patch_resnet": PatchResNet, "vit": ViT, "patch_mlp": PatchMLP}
_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
_DTYPES = ("float32", "bfloat16", "float16", "float64")
# These fields change how an encoder is computed, not its architecture.
_EXCLUDED = ("parent", "name", "axis_name", "drop_path", "remat")
# No published encoder comes near these limits; a file with larger values is broken or hostile.
_LARGEST_NUMBER = 1 << 16
_LARGEST_DEPTH = 1000


class UnknownModuleError(ValueError):
    """A description names a class that was not passed."""


def describe(module: nn.Module) -> dict[str, Any]:
    """Returns the architecture as JSON values.

    Example:
      >>> describe(PatchMLP(features=64))
      {'kind': 'patch_mlp', 'patch': 4, 'width': 48, 'features': 64, 'dtype': None}

    Args:
      module: any linen module. If its class is not one of this package, fields with their default value are omitted, and every
        other field must be a number, text, True, False, None, a dtype, a module or class of modules, or a tuple or FrozenDict
        of such values.

    Raises:
      ValueError: a field holds another value, such as a function.
    """
    # `isinstance` would also accept a subclass, which may compute something else.
    kind = next((kind for kind, cls in _KINDS.items() if type(module) is cls), None)
    if kind is not None:
        return {"kind": kind} | {name: _plain(name, getattr(module, name)) for name in _fields(type(module))}
    return {"kind": _kind_of(type(module))} | _changed_fields(module)


def from_description(description: Any, modules: Modules = ()) -> nn.Module:
    """Returns the module that `describe` described.

    Args:
      description: JSON values; they need not be valid.
      modules: classes of other packages that a description may name.

    Raises:
      UnknownModuleError: the description names a class that is neither in this package nor in `modules`.
      ValueError: the description is not that of a module.
    """
    description = dict(description) if isinstance(description, dict) else {}
    name = description.pop("kind", None)
    if not isinstance(name, str):
        raise ValueError(f"Expected an architecture with a 'kind', such as {', '.join(_KINDS)}, got {name!r}.")
    kind = _KINDS.get(name) or _passed(name, modules)
    unknown = set(description) - set(_fields(kind))
    if unknown:
        raise ValueError(f"{kind.__name__} has no setting {', '.join(sorted(unknown))}; it has {', '.join(_fields(kind))}.")
    try:
        if name in _KINDS:
            return kind(**{field: _module_value(field, value) for field, value in description.items()})
        return kind(**{field: _decoded(value, modules) for field, value in description.items()})
    except UnknownModuleError:
        raise
    except (TypeError, KeyError) as error:
        raise ValueError(f"{description} does not describe a {kind.__name__}: {error}.") from error


def _fields(kind: type[nn.Module]) -> list[str]:
    # In a class of another package a field called `drop_path` may be part of the architecture.
    excluded = _EXCLUDED if kind in _KINDS.values() else ("parent", "name")
    return [field.name for field in dataclasses.fields(kind) if field.name not in excluded]


def _plain(name: str, value: Any) -> Any:
    """Returns the value of a field of a class of this package as JSON."""
    if name == "block":
        return next(word for word, block in _BLOCKS.items() if block is value)
    if name == "dtype":
        return None if value is None else jnp.dtype(value).name
    return list(value) if isinstance(value, tuple) else value


def _module_value(name: str, value: Any) -> Any:
    """Returns the value of a field of a class of this package from JSON."""
    if name == "block":
        return _BLOCKS[value]
    if name == "dtype":
        if value is not None and value not in _DTYPES:
            raise ValueError(f"Expected one of {', '.join(_DTYPES)} for dtype, got {value!r}.")
        return None if value is None else jnp.dtype(value)
    numbers = value if isinstance(value, list) else [value]
    whole = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
    depth = sum(whole) if name in ("depth", "depths") else 0
    if any(not 0 < number <= _LARGEST_NUMBER for number in whole) or depth > _LARGEST_DEPTH:
        raise ValueError(f"{name} = {value} is out of range for an encoder.")
    return tuple(value) if isinstance(value, list) else value


def _kind_of(cls: type[nn.Module]) -> str:
    if cls.__name__ in _KINDS:
        raise ValueError(f"A class called {cls.__name__} cannot be kept in a file: sslshift has an encoder of that name.")
    return cls.__name__


def _passed(name: str, modules: Modules) -> type[nn.Module]:
    named = [cls for cls in modules if cls.__name__ == name]
    if not named:
        others = ", ".join(cls.__name__ for cls in modules)
        raise UnknownModuleError(
            f"the encoder is of the class {name}, which is not one of sslshift's"
            + (f" nor one of those passed ({others})" if others else "")
            + f". Import the class and pass it: load_encoder(path, modules=[{name}])."
        )
    return named[-1]


def _changed_fields(module: nn.Module) -> dict[str, Any]:
    """Returns the fields of a module of another class that differ from their defaults, as JSON."""
    found = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if field.name not in _fields(type(module)) or value is default or _equal(value, default):
            continue
        found[field.name] = _encoded(value, f"{type(module).__name__}.{field.name}")
    return found


def _equal(value: Any, default: Any) -> bool:
    # 1, 1.0 and True compare as equal but are different settings.
    return type(value) is type(default) and bool(value == default)


def _encoded(value: Any, where: str) -> Any:
    """Returns a value as JSON that `_decoded` reads back; a value that JSON cannot hold becomes an object with one key."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encoded(each, where) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encoded(each, where) for key, each in value.items()}}
    if isinstance(value, nn.Module):
        return {"module": describe(value)}
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {"class": _kind_of(value)}
    if isinstance(value, np.dtype | type) and jnp.dtype(value).kind != "O":
        return {"dtype": jnp.dtype(value).name}
    raise ValueError(
        f"Expected a number, text, dtype, module, or a tuple or FrozenDict of these as {where}, got {value!r}: a file can hold "
        "nothing else. Make the value the default of the field, or replace it by a name that the module understands."
    )


def _decoded(value: Any, modules: Modules) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(each, modules) for each in value)
    if not isinstance(value, dict):
        return value
    ((key, content),) = value.items() if len(value) == 1 else (("", None),)
    if key == "dict" and isinstance(content, dict):
        # Frozen, since the cache of compiled functions needs a hash, and a module with a plain dict has none.
        return FrozenDict({name: _decoded(each, modules) for name, each in content.items()})
    if key == "module":
        return from_description(content, modules)
    if key == "class" and isinstance(content, str):
        return _passed(content, modules)
    if key == "dtype" and isinstance(content, str):
        return jnp.dtype(content)
    raise ValueError(f"{str(value)[:80]} is not a possible value of a setting.")
