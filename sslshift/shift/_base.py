"""Parts that all files of this package share: feature arrays, the record of a distance, and sketches in files.

Feature arrays are checked once and then read in blocks of float64, so that memory stays bounded.
"""

import contextlib
import dataclasses
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args, get_origin

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sslshift.storage import whole_file

# Numbers held at a time: 16 MiB in float64, which stays small beside the features themselves.
AT_ONCE = 1 << 21
# The cube of an inner product of larger features would leave the range of float64. No float32 is this large.
_LARGEST = 1e50
# Name of the entry of a file that states the class of the object in the file, and the version of the format.
_KIND = "sslshift"
_VERSION = 1
# Errors of NumPy and of the zip format for files that are not whole.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def shape_error(sentence: str) -> Iterator[None]:
    """Raises ValueError with this sentence if an assertion of chex fails: the message of chex does not name the input."""
    try:
        yield
    except AssertionError:
        raise ValueError(sentence) from None


def matrix(features: np.ndarray) -> np.ndarray:
    """Returns features `[n, dim]` in their own dtype.

    Raises:
      ValueError: not a matrix of real numbers, empty, or not finite.
    """
    features = np.asarray(features)
    with shape_error(f"Expected features as a non-empty matrix [n, dim], got an array of shape {features.shape}."):
        chex.assert_rank(features, 2)
        chex.assert_axis_dimension_gteq(features, 0, 1)
        chex.assert_axis_dimension_gteq(features, 1, 1)
    if not any(jnp.issubdtype(features.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise ValueError(f"Expected features that are real numbers, got dtype {features.dtype}.")
    # In blocks, so that no copy of all features in float64 is ever made.
    for rows in slices(len(features), features.shape[1]):
        # A comparison with NaN is false, so this also finds NaN.
        good = (np.abs(float64(features, rows)) < _LARGEST).all(axis=1)
        if not good.all():
            bad = rows.start + int(np.argmin(good))
            raise ValueError(
                f"Expected finite features, but features of image {bad:,} are NaN, infinite, or beyond {_LARGEST:g}."
            )
    return features


def pair(x: np.ndarray, y: np.ndarray, what: str, least: int, least_y: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns two matrices of features of one dimension.

    Raises:
      ValueError: as by `matrix`, dimensions differ, or there are too few rows.
    """
    x = matrix(x)
    y = matrix(y)
    require_one_dimension(x.shape[1], y.shape[1])
    least_y = least if least_y is None else least_y
    if len(x) < least or len(y) < least_y:
        needed = f"at least {least} images on each side" if least == least_y else f"at least {least} and {least_y} images"
        raise ValueError(f"{what} needs {needed}, got {len(x)} and {len(y)}.")
    return x, y


def require_one_dimension(x: int, y: int) -> None:
    """Raises ValueError unless both numbers of dimensions are equal."""
    if x != y:
        raise ValueError(f"Features of {x} and {y} dimensions cannot be compared.")


def require_one_encoder(x: str, y: str) -> None:
    """Raises ValueError unless the features of both sketches come from one encoder (`""`: an encoder without a name)."""
    if x != y:
        raise ValueError(f"Features of different encoders cannot be compared: one is {x!r}, the other {y!r}.")


def slices(rows: int, width: int) -> Iterator[slice]:
    """Yields slices of rows that hold at most `AT_ONCE` numbers each."""
    size = max(1, AT_ONCE // max(1, width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def tiles(rows: int, size: int = 1024) -> list[slice]:
    """Returns slices of at most `size` rows that cover all rows."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def float64(features: np.ndarray, rows: slice) -> np.ndarray:
    """Returns some rows in float64."""
    return np.asarray(features[rows], np.float64)


def blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows in order, in blocks of float64."""
    return (float64(features, rows) for rows in slices(*features.shape))


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Returns features divided by their length.

    Example:
      >>> import numpy as np
      >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
      [[0.6, 0.8]]

    Args:
      features: `[n, dim]`.

    Returns:
      float64 `[n, dim]`.

    Raises:
      ValueError: features are not a finite matrix, or a row is all zeros.
    """
    return normalised(np.asarray(with_directions(matrix(features)), np.float64))


def with_directions(features: np.ndarray) -> np.ndarray:
    """Returns the same features; raises ValueError if a row is all zeros and thus has no direction."""
    for rows in slices(*features.shape):
        zero = ~np.any(features[rows], axis=1)
        if zero.any():
            raise ValueError(f"The features of image {rows.start + int(np.argmax(zero)):,} are all 0 and have no direction.")
    return features


def normalised(block: np.ndarray) -> np.ndarray:
    """Returns rows divided by their length."""
    # Division by the largest entry comes first: the squares of tiny entries would underflow to 0.
    block = block / np.abs(block).max(axis=1, keepdims=True)
    return block / np.linalg.norm(block, axis=1, keepdims=True)


def generator(key: jax.Array) -> np.random.Generator:
    """Returns a generator of NumPy's random numbers that is determined by a JAX key."""
    # NumPy permutes on the host; JAX would compile a program for every number of images.
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def signed_root(squared: float) -> float:
    """Returns the root of an estimated squared distance, with its sign.

    An estimate of a squared distance can be negative. Its sign is kept, or near sources would be biased upwards.
    """
    return math.copysign(math.sqrt(abs(squared)), squared)


class DistanceEstimate(NamedTuple):
    """A distance and its errors.

    Attributes:
      value: the distance.
      standard_error: standard error over random draws, which the function that returns it describes. NaN: not estimated.
      bound: largest possible error of the value by an approximation; 0 for an exact value.
    """

    value: float
    standard_error: float = math.nan
    bound: float = 0.0


class Ratio(NamedTuple):
    """A ratio of means over draws.

    Attributes:
      value: the ratio.
      deviations: half the difference of the two draws of each pair; their mean square is the variance within pairs.
      within: variance of the ratio over samples of images, from within pairs.
      less: the same without the part that differs between pairs.
      growth: change of the variance for each unit of the ratio, whose linear part is in proportion to the ratio.
    """

    value: float
    deviations: np.ndarray
    within: float
    less: float
    growth: float

    @classmethod
    def of_draws(cls, numbers: np.ndarray, scale: np.ndarray) -> Self:
        """Returns the ratio of numbers and scale `[draws]`, where draws 2k and 2k + 1 are halves of the same images."""
        value = float(numbers.mean() / scale.mean())
        # Linear in both means: source and noise of a draw share its half of the target.
        first, second = ((numbers - value * scale) / scale.mean()).reshape(-1, 2).T
        deviations = (first - second) / 2
        within = float(np.square(deviations).mean())
        between = float(((first + second) / 2).var(ddof=1))
        # The quadratic part is at most half of what varies within pairs. The mean over pairs has an error of its own.
        error = between / len(first)
        growth = max(0.0, within - 2 * between) / max(value, math.sqrt(within)) if value > 0 else 0.0
        return cls(value, deviations, within + error, max(within - between, within / 2) + error, growth)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the ratio."""
        times = float(special.stdtrit(len(self.deviations), 0.975))
        # The upper end is the value at which this ratio would be at the lower end, with the variance at that value.
        more = times**2 * self.growth / 2
        return self.value - times * math.sqrt(self.less), self.value + more + math.hypot(more, times * math.sqrt(self.within))


Function = Callable[[np.ndarray, np.ndarray], float]
Spread = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Distance(NamedTuple):
    """A distance between two sets of features, for the shift index and for tables.

    Attributes:
      title: name of the distance in tables.
      least: smallest number of images of each side.
      caveat: text for readers of the values.
      beside: whether tables show the distance beside the index by default.
      bind: function that takes a PRNG key and a pool of feature arrays, and returns a function of two sets of features. The key
        fixes random draws and the pool fixes ranges, so that values for different pairs of sets can be compared.
      squared: like `bind`, for the squared distance that an index is formed from; its chance parts of either side add up. None:
        the index is formed from the distance itself.
      unbiased: whether few images change the distance (its square, if there is one) by chance alone, and not on average.
      no_index: reason why there is no shift index by this distance, as the end of a sentence; empty: there is one.
      of_parts: function of two sets and of the rows of several parts of each, int64 `[parts, n]`, which returns the number that
        an index is formed from for each pair of parts, if this is faster than one after the other. None: it is not.
      spread: like `bind`, for a function of one set and of the rows of several parts, which returns for each part the mean over
        pairs of its images of the number that an index is formed from. None: there is no index by this distance.
    """

    title: str
    least: int
    caveat: str
    bind: Callable[[jax.Array, Sequence[np.ndarray]], Function]
    beside: bool = True
    squared: Callable[[jax.Array, Sequence[np.ndarray]], Function] | None = None
    unbiased: bool = False
    no_index: str = ""
    of_parts: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    spread: Callable[[jax.Array, Sequence[np.ndarray]], Spread] | None = None

    def on(self, key: jax.Array, *pool: np.ndarray) -> Function:
        """Returns the distance as a function of two sets of features alone.

        Args:
          key: PRNG key of all random draws.
          pool: features from which ranges are learned, for distances that need ranges; without it, ranges differ between pairs.
        """
        return self.bind(key, pool)


class Stored:
    """Base of dataclasses that a file can hold; fields are arrays, numbers, text, other `Stored`, and dicts of these by name.

    Files are NumPy's npz without pickle, so that a file from elsewhere cannot run code.
    """

    def save(self, path: str | Path) -> None:
        """Writes an npz file; an earlier file stays until the new one is whole."""
        with whole_file(path) as out:
            np.savez_compressed(out, **{_KIND: np.array(_kind(type(self)))}, **_arrays(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Returns the object that `save` wrote.

        Raises:
          ValueError: there is no such file, it is damaged, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                # A file of another class raises an error even if its fields have the same names.
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
        # Names are an array beside the values: names of entries in an npz file could not contain any character.
        yield name, np.array(list(value), np.str_)
        for place, each in enumerate(value.values()):
            yield from _flat(each, f"{name}.{place}")
    else:
        yield name, np.asarray(value)


def _built(cls: type, arrays, prefix: str = "") -> Stored:
    return cls(**{field.name: _value(field.type, arrays, prefix + field.name) for field in dataclasses.fields(cls)})


def _value(kind: Any, arrays, name: str) -> Any:
    # Fields are annotated with types, not strings: a module of a `Stored` class must not postpone its annotations.
    if get_origin(kind) is dict:
        return {str(key): _value(get_args(kind)[1], arrays, f"{name}.{place}") for place, key in enumerate(arrays[name])}
    if issubclass(kind, Stored):
        return _built(kind, arrays, f"{name}.")
    return arrays[name] if kind is np.ndarray else kind(arrays[name].item())
