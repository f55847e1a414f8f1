"""Sketches in files: NumPy's npz without pickle, whole or not at all."""

import dataclasses
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, get_args, get_origin

import numpy as np

_KIND = "sslshift"
_VERSION = 1
# What NumPy and the zip format raise for files that are not whole.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Stored:
    """A dataclass of arrays, numbers, text, others of its kind, and dicts of these by names, which a file can hold."""

    def save(self, path: str | Path) -> None:
        """Writes an npz file: the old file stays until the new one is whole."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        with open(part, "wb") as out:
            np.savez_compressed(out, **{_KIND: np.array(_kind(type(self)))}, **_arrays(self))
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote.

        Raises:
          ValueError: there is no such file, it is damaged, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                held = str(arrays[_KIND])
                if held == _kind(cls):
                    return _built(cls, arrays)
        except _DAMAGED as error:
            raise ValueError(f"{path} cannot be read as {_kind(cls)} ({type(error).__name__}: {error}).") from error
        raise ValueError(f"{path} holds {held}, not {_kind(cls)}.")


def _kind(cls: type) -> str:
    return f"{cls.__name__} of version {_VERSION}"


def _arrays(stored: Stored, prefix: str = "") -> dict[str, np.ndarray]:
    arrays = {}
    for field in dataclasses.fields(stored):
        arrays |= dict(_flat(getattr(stored, field.name), prefix + field.name))
    return arrays


def _flat(value: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Stored):
        yield from _arrays(value, f"{name}.").items()
    elif isinstance(value, dict):
        # The names are kept beside the values: they may hold anything, and their order is kept too.
        yield name, np.array(list(value), np.str_)
        for place, each in enumerate(value.values()):
            yield from _flat(each, f"{name}.{place}")
    else:
        yield name, np.asarray(value)


def _built(cls: type, arrays, prefix: str = "") -> Stored:
    return cls(**{field.name: _value(field.type, arrays, prefix + field.name) for field in dataclasses.fields(cls)})


def _value(kind: Any, arrays, name: str) -> Any:
    if get_origin(kind) is dict:
        return {str(key): _value(get_args(kind)[1], arrays, f"{name}.{place}") for place, key in enumerate(arrays[name])}
    if issubclass(kind, Stored):
        return _built(kind, arrays, f"{name}.")
    return arrays[name] if kind is np.ndarray else kind(arrays[name].item())
