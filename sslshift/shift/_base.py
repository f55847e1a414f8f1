"""Feature arrays as every distance takes them: checked once, then read as blocks of float64, so that memory stays bounded."""

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.storage import whole_file

# Numbers held at a time (16 MiB in float64).
AT_ONCE = 1 << 21
# Beyond it the cube of an inner product would leave the range of float64; no float32 lies there.
_LARGEST = 1e50
_KIND = "sslshift"
_VERSION = 1
# Errors of NumPy and of the zip format for files that are not whole.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def matrix(features: np.ndarray) -> np.ndarray:
    """Features `[n, dim]` in their own dtype.

    Raises:
      ValueError: not a matrix of real numbers, empty, or not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"Features must be a non-empty matrix [n, dim], not of shape {features.shape}.")
    if not any(jnp.issubdtype(features.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise ValueError(f"Features must be real numbers, not of dtype {features.dtype}.")
    for rows in slices(len(features), features.shape[1]):
        # A comparison with NaN is false.
        good = (np.abs(float64(features, rows)) < _LARGEST).all(axis=1)
        if not good.all():
            bad = rows.start + int(np.argmin(good))
            raise ValueError(f"Features must be finite; those of image {bad:,} are NaN, infinite, or beyond {_LARGEST:g}.")
    return features


def pair(x: np.ndarray, y: np.ndarray, what: str, least: int, least_y: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices of features of one dimension, of at least so many rows.

    Raises:
      ValueError: as `matrix` does, dimensions differ, or there are too few rows.
    """
    x = matrix(x)
    y = matrix(y)
    require_one_dimension(x.shape[1], y.shape[1])
    least_y = least if least_y is None else least_y
    if len(x) < least or len(y) < least_y:
        needed = f"at least {least} images on each side" if least == least_y else f"at least {least} and {least_y} images"
        raise ValueError(f"{what} needs {needed}, not {len(x)} and {len(y)}.")
    return x, y


def require_one_dimension(x: int, y: int) -> None:
    if x != y:
        raise ValueError(f"Features of {x} and {y} dimensions cannot be compared.")


def require_one_encoder(x: str, y: str) -> None:
    """Raises ValueError where two sketches are of features of different encoders (`""`: one without a name)."""
    if x != y:
        raise ValueError(f"Features of different encoders cannot be compared: one is {x!r}, the other {y!r}.")


def slices(rows: int, width: int) -> Iterator[slice]:
    """Blocks of rows of so many numbers each."""
    size = max(1, AT_ONCE // max(1, width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def tiles(rows: int, size: int = 1024) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def float64(features: np.ndarray, rows: slice) -> np.ndarray:
    return np.asarray(features[rows], np.float64)


def blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in order, in float64."""
    return (float64(features, rows) for rows in slices(*features.shape))


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Features divided by their length.

    Example:
      >>> import numpy as np
      >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
      [[0.6, 0.8]]

    Args:
      features: `[n, dim]`.

    Returns:
      float64 `[n, dim]`.

    Raises:
      ValueError: features are not a finite matrix, or a row of zeros has no direction.
    """
    return normalised(np.asarray(with_directions(matrix(features)), np.float64))


def with_directions(features: np.ndarray) -> np.ndarray:
    """The same features; raises ValueError if a row is all zeros."""
    for rows in slices(*features.shape):
        zero = ~np.any(features[rows], axis=1)
        if zero.any():
            raise ValueError(f"The features of image {rows.start + int(np.argmax(zero)):,} are all 0 and have no direction.")
    return features


def normalised(block: np.ndarray) -> np.ndarray:
    # By the largest entry first: squares of tiny ones would be 0.
    block = block / np.abs(block).max(axis=1, keepdims=True)
    return block / np.linalg.norm(block, axis=1, keepdims=True)


def generator(key: jax.Array) -> np.random.Generator:
    """NumPy's random numbers, fixed by a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


class DistanceEstimate(NamedTuple):
    """A distance and its errors.

    Attributes:
      value: the distance.
      standard_error: by chance; the docstring of the function that returns it says over which draws. NaN: not estimated.
      bound: the most that an approximation can have moved the value by; 0 for an exact one.
    """

    value: float
    standard_error: float = math.nan
    bound: float = 0.0


Function = Callable[[np.ndarray, np.ndarray], float]


class Distance(NamedTuple):
    """A distance between two sets of features as the shift index and tables use it.

    Attributes:
      title: its name in tables.
      least: the fewest images that each side needs.
      caveat: what a reader of its values must know.
      bind: takes a PRNG key and a pool of feature arrays, and returns a function of two sets of features. The key fixes what is
        drawn at random and the pool fixes ranges, so that values for different pairs of sets can be compared.
    """

    title: str
    least: int
    caveat: str
    bind: Callable[[jax.Array, Sequence[np.ndarray]], Function]

    def on(self, key: jax.Array, *pool: np.ndarray) -> Function:
        """Returns the distance as a function of two sets of features alone.

        Args:
          key: PRNG key of whatever is drawn at random.
          pool: features from which ranges are learned, for distances that need ranges; without any, each pair has its own.
        """
        return self.bind(key, pool)


class Stored:
    """Base of dataclasses that a file can hold: fields are arrays, numbers, text, other `Stored`, and dicts of these by name.

    Files are NumPy's npz without pickle, so that a file from elsewhere cannot run code.
    """

    def save(self, path: str | Path) -> None:
        """Writes an npz file; an earlier file stays until the new one is whole."""
        with whole_file(path) as out:
            np.savez_compressed(out, **{_KIND: np.array(_kind(type(self)))}, **_arrays(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Returns what `save` wrote.

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
