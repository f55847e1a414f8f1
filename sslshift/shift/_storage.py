"""Sketches in files: NumPy's npz without pickle, whole or not at all."""

import dataclasses
import zipfile
from pathlib import Path
from typing import Self

import numpy as np

_KIND = "sslshift"
_VERSION = 1


class Stored:
    """A dataclass of arrays, numbers, text, and others of its kind, which a file can hold."""

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
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read as {_kind(cls)} ({type(error).__name__}: {error}).") from error
        raise ValueError(f"{path} holds {held}, not {_kind(cls)}.")


def _kind(cls: type) -> str:
    return f"{cls.__name__} of version {_VERSION}"


def _arrays(stored: Stored, prefix: str = "") -> dict[str, np.ndarray]:
    arrays = {}
    for field in dataclasses.fields(stored):
        value, name = getattr(stored, field.name), prefix + field.name
        arrays |= _arrays(value, f"{name}.") if isinstance(value, Stored) else {name: np.asarray(value)}
    return arrays


def _built(cls: type, arrays, prefix: str = "") -> Stored:
    values = {}
    for field in dataclasses.fields(cls):
        name, kind = prefix + field.name, field.type
        if issubclass(kind, Stored):
            values[field.name] = _built(kind, arrays, f"{name}.")
        else:
            values[field.name] = arrays[name] if kind is np.ndarray else kind(arrays[name].item())
    return cls(**values)
