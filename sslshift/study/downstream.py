"""Downstream tasks of a study, opened in the shape that encoders take; excludes their test images from pretraining."""

import dataclasses
from collections.abc import Callable

import numpy as np

from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.sources import PartialSource, Source, digests
from sslshift.transfer.declaration import TaskDeclaration, open_task, own_canvas
from sslshift.transfer.tasks import Task

# Images of a split whose shapes are compared: enough to find a folder of another kind, few enough to decode at once.
_LOOKED_AT = 16


def without_test(source: Source, task: Task) -> Source:
    """Returns the source without the images of a held-out test split, which must not be used for pretraining.

    Two images are equal if their pixels are equal in the shape that encoders take. If that shape is grey, pictures that differ
    only in colour can be equal.
    """
    test, held_out = task.test
    if source.shares_none_with(test):
        return source
    stored = source.stored_identities()
    test_stored = test.stored_identities()
    # Stored digests are computed from the original pixels, so no image has to be decoded.
    if stored and test_stored:
        known = {test_stored[0][index] for index in held_out.tolist()}
        own = stored[0]
    else:
        known = set(digests(test, held_out, task.canvas)) - {b""}
        own = digests(source, np.arange(len(source)), task.canvas)
    kept = np.flatnonzero([digest not in known for digest in own])
    if not len(kept):
        raise ValueError(
            f"{source.name} holds only images of the test split, which must not be used for pretraining; name another source."
        )
    return source if len(kept) == len(source) else PartialSource(source, kept)


# Above this side, the shape of an image is no default: without --image_size, a study would take hours.
_LARGEST_DEFAULT_SIDE = 64


def canvas_of(downstream: Source, side: int) -> Canvas:
    """Returns the shape of all images; it has colour if any of a few downstream images has colour."""
    if not side:
        return own_canvas(downstream, largest=_LARGEST_DEFAULT_SIDE)
    channels = max(downstream[int(index)]["image"].shape[2] for index in np.linspace(0, len(downstream) - 1, 16))
    return Canvas(side, side, channels)


def open_in_shape(declaration: TaskDeclaration, canvas: Canvas, open_: Callable[[str], Source], *, asked: bool) -> Task:
    """Returns a task whose images have the shape that the study's encoders take.

    Args:
      declaration: declaration of the task.
      canvas: shape that encoders take.
      open_: function that opens a source by its URI.
      asked: whether --image_size was given. Images of other sizes are then resized.

    Raises:
      ValueError: like `open_task`; or images have another shape, and --image_size was not given.
    """
    task = open_task(declaration, canvas, open_)
    notes = list(task.notes)
    for split, part in task.splits.items():
        shapes = _shapes(part.source, part.indices)
        other = next((shape for shape in shapes if shape[:2] != canvas[:2]), None)
        # A few colour images among grey ones are accepted: folders often contain a few scans in colour.
        coloured = canvas.channels == 1 and bool(shapes) and all(shape[2] == 3 for shape in shapes)
        # Resizing without --image_size would change the task silently.
        if not asked and (other or coloured):
            raise ValueError(
                f"{task.name}: images of the {split} split are {_shape_text(other or shapes[0])}, but encoders take "
                f"{_shape_text(canvas)} as in --downstream. Set --image_size={canvas.height} to resize all images to it."
            )
        if coloured:
            notes.append(f"colours of the {split} split are dropped, since encoders take {_shape_text(canvas)}")
    return dataclasses.replace(task, notes=tuple(notes))


def _shapes(source: Source, indices: np.ndarray) -> list[tuple[int, ...]]:
    """Returns the shapes of some images; unreadable images are skipped here, and the evaluation reports them."""
    found = []
    for place in np.linspace(0, len(indices) - 1, min(_LOOKED_AT, len(indices))).astype(int):
        try:
            found.append(source[int(indices[place])]["image"].shape)
        except BrokenImageError:
            continue
    return found


def _shape_text(shape) -> str:
    return f"{shape[1]} x {shape[0]} {'colour' if shape[2] == 3 else 'gray'}"
