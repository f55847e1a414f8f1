"""What a published architecture calls its tensors, and how they become ours."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import numpy as np

Tensors = Mapping[str, np.ndarray]
_SHOWN = 5


class Entry(NamedTuple):
    """One of our arrays.

    Args:
      ours: its path, such as `params/norm/scale`.
      theirs: the tensors that it is made of, names to shapes.
      convert: makes our array of them, in that order.
    """

    ours: str
    theirs: Mapping[str, tuple[int, ...]]
    convert: Callable[..., np.ndarray]


class Recognised(NamedTuple):
    """An architecture that a file's names and shapes show.

    Args:
      title: what people call it.
      module: ours.
      side: of the images that it was trained on, in pixels.
      entries: of all its arrays.
      resize: how it meets images of another size, for people; empty where nothing depends on it.
    """

    title: str
    module: nn.Module
    side: int
    entries: Sequence[Entry]
    resize: str = ""


def same(x: np.ndarray) -> np.ndarray:
    return x


def joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def dense(*parts: np.ndarray) -> np.ndarray:
    """Kernels `[outputs, inputs]`, one after the other, as ours, `[inputs, outputs]`."""
    return np.concatenate(parts).T


def convolution(x: np.ndarray) -> np.ndarray:
    """A kernel `[outputs, inputs, height, width]` as ours, `[height, width, inputs, outputs]`."""
    return x.transpose(2, 3, 1, 0)


def numbers(names: Iterable[str], pattern: str) -> int:
    """How many different numbers a pattern's group finds in the names: never more than there are names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def without_prefix(tensors: Tensors, prefixes: Sequence[str], marks: Sequence[str]) -> Tensors | None:
    """The tensors with the prefix taken off under which most marks are found, the first of equals; None: there is no mark.

    Where none of the prefixes has a mark, any other under which all marks are found is as good (`teacher.`,
    `module.encoder_q.`). Names without the prefix stay as they are.
    """

    def found(prefix):
        return sum(prefix + mark in tensors for mark in marks)

    best = max(prefixes, key=found)
    if not found(best):
        others = sorted(name.removesuffix(marks[0]) for name in tensors if name.endswith(f".{marks[0]}"))
        best = next((other for other in others if found(other) == len(marks)), best)
    return {name.removeprefix(best): tensor for name, tensor in tensors.items()} if found(best) else None


def require_marks(title: str, tensors: Tensors, marks: Sequence[str]) -> None:
    """Raises ValueError if a tensor is missing that tells an architecture's size."""
    missing = [mark for mark in marks if mark not in tensors]
    if missing:
        raise ValueError(_misfit(title, {"missing": missing}))


def converted(tensors: Tensors, recognised: Recognised, ignored: str) -> dict[str, np.ndarray]:
    """Our float32 arrays by path.

    Args:
      tensors: of a file.
      recognised: what they are to be.
      ignored: a pattern of names that are not needed.

    Raises:
      ValueError: tensors are missing, extra, of another shape, no numbers with a fraction, or not finite.
    """
    expected = {name: shape for entry in recognised.entries for name, shape in entry.theirs.items()}
    problems = {
        "missing": sorted(set(expected) - set(tensors)),
        "extra": sorted(name for name in set(tensors) - set(expected) if not re.fullmatch(ignored, name)),
        "of another shape": [
            f"{name} ({_shape(tensors[name].shape)} in place of {_shape(shape)})"
            for name, shape in sorted(expected.items())
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if any(problems.values()):
        raise ValueError(_misfit(recognised.title, problems))
    wide = {name: _as_float32(name, tensors[name]) for name in expected}
    return {entry.ours: entry.convert(*(wide[name] for name in entry.theirs)) for entry in recognised.entries}


def _misfit(title: str, problems: Mapping[str, list[str]]) -> str:
    told = "; ".join(f"{what}: {_first(names)}" for what, names in problems.items() if names)
    return f"it looks like a {title}, but not all its tensors fit ({told})."


def _as_float32(name: str, tensor: np.ndarray) -> np.ndarray:
    # bfloat16 is no NumPy type and says it is of kind V.
    if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
        raise ValueError(f"its tensor {name} holds {tensor.dtype}, no floating-point numbers.")
    wide = tensor.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError(f"its tensor {name} holds values that are not finite.")
    return wide


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
