"""Files of encoders: weights as safetensors, everything else as a JSON card in the file's header and in a file beside it."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sslshift import storage
from sslshift.models.description import Modules, UnknownModuleError, describe, from_description
from sslshift.models.pretrained import PretrainedEncoder, flat_tensors, nested

# Name of the encoder's file in the folder of a run.
ENCODER = "encoder.safetensors"
_VERSION = 1
# A card with larger images is broken or hostile.
_LARGEST_SIDE = 1 << 14


def save_encoder(encoder: PretrainedEncoder, file: str | os.PathLike) -> Path:
    """Writes an encoder to a safetensors file, and its card to a JSON file of the same name for people to read.

    Loading needs only the safetensors file, whose header also contains the card.

    Args:
      encoder: an encoder with its weights; its network may be any linen module.
      file: path that ends in `.safetensors`.

    Returns:
      The path.

    Raises:
      ValueError: the name does not end in `.safetensors`, or a field of the module has a value that `describe` does not accept.
      OSError: the file cannot be written; an earlier file stays as it is.
    """
    file = Path(file).expanduser()
    if file.suffix != ".safetensors":
        raise ValueError(f"Expected a file name that ends in .safetensors, got {file.name!r}.")
    card = {
        "format": "sslshift encoder",
        "version": _VERSION,
        "architecture": describe(encoder.module),
        "image": {"shape": list(encoder.shape), "mean": encoder.mean, "std": encoder.std},
        "features": encoder.features,
    } | {"about": dict(encoder.card)}
    text = json.dumps(card, indent=2, default=_plain)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = save(flat_tensors(encoder.variables), metadata={"card": text})
    # The file that loading needs comes first; the card beside it is for people.
    storage.write(file, content)
    storage.write(file.with_suffix(".json"), text + "\n")
    return file


def read_encoder(path: str | os.PathLike, modules: Modules = ()) -> PretrainedEncoder:
    """Returns the encoder of a finished run, or of a file that `save_encoder` wrote.

    Args:
      path: a run's folder, or a `.safetensors` file.
      modules: encoder classes of other packages that the file may name.

    Raises:
      ValueError: there is no such file, the run is not finished, the encoder is of another class, or the file is damaged or
        does not fit its card.
    """
    path = Path(path).expanduser()
    file = path / ENCODER if path.is_dir() else path
    if not file.is_file():
        raise ValueError(_missing(path))
    try:
        with safe_open(file, framework="numpy") as opened:
            card = json.loads((opened.metadata() or {}).get("card", "null"))
            # keys() is needed, since an opened file is not iterable.
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    # JSON that is nested too deeply raises RecursionError.
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as an encoder: {error}.") from error
    return _checked(file, card, tensors, modules)


def _plain(value: Any) -> Any:
    """Returns a number or array of NumPy or JAX as a number or list of JSON."""
    return np.asarray(value).tolist()


def _missing(path: Path) -> str:
    if not path.is_dir():
        return f"There is no run folder or file {path}."
    if (path / "runs").is_dir():
        runs = sorted(str(each) for each in (path / "runs").iterdir() if (each / ENCODER).exists())
        named = f"such as {', '.join(runs[:3])}" if runs else "but none is finished"
        return f"{path} is the folder of a whole study; name one of its runs, {named}."
    if (path / "record.json").exists() or (path / "checkpoints").exists():
        return f"The run in {path} is not finished: it has no {ENCODER}. Give its command again to continue it."
    return f"{path} is not the folder of a run: it has no {ENCODER}."


def _checked(file: Path, card: Any, tensors: dict[str, np.ndarray], modules: Modules) -> PretrainedEncoder:
    """Returns the encoder of a card and tensors, which may be invalid."""
    if not isinstance(card, dict) or card.get("format") != "sslshift encoder":
        raise ValueError(f"{file} contains weights but no card of sslshift; save_encoder writes files with a card.")
    if card.get("version") != _VERSION:
        raise ValueError(
            f"{file} has version {card.get('version')} of the file format; this version of sslshift reads version {_VERSION}."
        )
    try:
        image = card["image"]
        shape = tuple(int(side) for side in image["shape"])
        if len(shape) != 3 or not all(0 < side <= _LARGEST_SIDE for side in shape):
            raise ValueError(f"expected images of shape [height, width, channels], got {list(shape)}")
        mean, std = (_normaliser(image[name], shape[2]) for name in ("mean", "std"))
        if np.min(std) <= 0:
            raise ValueError("std must be above 0")
        module = from_description(card["architecture"], modules)
        encoder = PretrainedEncoder(module, nested(tensors), shape, mean, std, card["features"], dict(card["about"]))
        _require_tensors(module, shape, tensors)
    except UnknownModuleError as error:
        raise UnknownModuleError(f"{file}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: the card and the weights do not belong to the same encoder: {error}") from error
    # `jnp.asarray` would compile a program for each shape.
    return dataclasses.replace(encoder, variables=jax.device_put(encoder.variables))


def _normaliser(value: Any, channels: int) -> float | tuple[float, ...]:
    values = [float(each) for each in value] if isinstance(value, list) else [float(value)]
    if len(values) not in (1, channels) or not all(map(math.isfinite, values)):
        raise ValueError(f"{value} does not normalise images of {channels} channels")
    return tuple(values) if isinstance(value, list) else values[0]


def _require_tensors(module: nn.Module, shape: tuple[int, ...], tensors: dict[str, np.ndarray]) -> None:
    """Raises ValueError if tensors are missing, unexpected, of another shape, or not finite, and names the first of them."""
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    # Tracing is enough: the shapes of weights do not depend on random numbers.
    expected = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    shapes = {name: leaf.shape for name, leaf in traverse_util.flatten_dict(expected, sep="/").items()}
    problems = {
        "missing": sorted(set(shapes) - set(tensors)),
        "extra": sorted(set(tensors) - set(shapes)),
        "of another shape": [
            f"{name} ({tensors[name].shape} in place of {shapes[name]})"
            for name in sorted(set(shapes) & set(tensors))
            if tensors[name].shape != shapes[name]
        ],
        "not floating-point": [name for name, tensor in tensors.items() if not np.issubdtype(tensor.dtype, np.floating)],
        "not finite": [name for name, tensor in tensors.items() if tensor.dtype.kind == "f" and not np.isfinite(tensor).all()],
    }
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"tensors are {what}: {', '.join(names[:5])}{more}.")
