"""What a study judges encoders on: its tasks opened in the encoders' shape, and kept out of what is pretrained on."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.sources import PartialSource, Source, SyntheticSource, digests
from sslshift.models import FEATURES
from sslshift.study.declare import Study
from sslshift.transfer.declaration import (
    TaskDeclaration,
    open_task,
    own_canvas,
    parse_split,
    parse_task,
    require_different_names,
)
from sslshift.transfer.protocol import parse_evaluations
from sslshift.transfer.tasks import Task

# Images of a split whose shapes are looked at.
_LOOKED_AT = 16


def declared_evaluations(study: Study) -> dict[str, Any]:
    """How encoders are judged, by name.

    Raises:
      ValueError: a name or setting is unknown, or the linear probe is not among them.
    """
    evaluations = parse_evaluations(study.evaluations, study.evaluation_options)
    if "linear" not in evaluations:
        raise ValueError(f"--evaluations={study.evaluations} must have linear among them: gains and verdicts rest on it.")
    if study.features not in FEATURES:
        raise ValueError(f"--features={study.features} is unknown; there is {', '.join(FEATURES)}.")
    return evaluations


def declared_tasks(study: Study) -> list[TaskDeclaration]:
    """Returns the tasks that a study names, --downstream first.

    Raises:
      ValueError: a task cannot be read, two have one name, or the test split of the first one is named twice.
    """
    first, *others = (parse_task(text) for text in (study.downstream, *study.task))
    if study.downstream_test:
        if re.search(r";\s*test\s*=", study.downstream):
            raise ValueError(
                f"--downstream={study.downstream} and --downstream_test={study.downstream_test} both name a test split; "
                "give one of them."
            )
        first = dataclasses.replace(first, test=parse_split(study.downstream_test))
    declared = [dataclasses.replace(each, labelled=each.labelled or study.labelled) for each in (first, *others)]
    require_different_names(declared)
    return declared


def without_test(source: Source, task: Task) -> Source:
    """Returns the source less the images of a held-out test split, which must not be pretrained on.

    Images are equal if they are on the canvas of the encoders. On a gray one, pictures that differ in colour alone may be.
    """
    if isinstance(source, SyntheticSource):
        return source
    test, held_out = task.test
    stored = source.stored_identities()
    test_stored = test.stored_identities()
    if stored and test_stored:
        known = {test_stored[0][index] for index in held_out.tolist()}
        own = stored[0]
    else:
        known = set(digests(test, held_out, task.canvas)) - {b""}
        own = digests(source, np.arange(len(source)), task.canvas)
    kept = np.flatnonzero([digest not in known for digest in own])
    if not len(kept):
        raise ValueError(f"{source.name} holds nothing but images of the test split, which must not be pretrained on.")
    return source if len(kept) == len(source) else PartialSource(source, kept)


# Above this side the shape of one image is no sensible default for all: a forgotten flag would cost hours.
_LARGEST_DEFAULT_SIDE = 64


def canvas_of(downstream: Source, side: int) -> Canvas:
    """The shape that all images are brought to; colour if any of a few downstream images has it."""
    if not side:
        return own_canvas(downstream, largest=_LARGEST_DEFAULT_SIDE)
    channels = max(downstream[int(index)]["image"].shape[2] for index in np.linspace(0, len(downstream) - 1, 16))
    return Canvas(side, side, channels)


def open_in_shape(declaration: TaskDeclaration, canvas: Canvas, open_: Callable[[str], Source], *, asked: bool) -> Task:
    """A task whose images have the shape that the study's encoders take.

    Args:
      declaration: the task.
      canvas: that shape.
      open_: opens a source.
      asked: whether the side was asked for; images of other sizes are then brought to it.

    Raises:
      ValueError: like `open_task`; or images have another shape, and nobody asked for them to be changed.
    """
    task = open_task(declaration, canvas, open_)
    notes = list(task.notes)
    for split, part in task.splits.items():
        shapes = _shapes(part.source, part.indices)
        other = next((shape for shape in shapes if shape[:2] != canvas[:2]), None)
        # A few colour images among gray ones are no reason to stop.
        coloured = canvas.channels == 1 and bool(shapes) and all(shape[2] == 3 for shape in shapes)
        if not asked and (other or coloured):
            raise ValueError(
                f"{task.name}: images of the {split} split are {_shape_text(other or shapes[0])}, but encoders take "
                f"{_shape_text(canvas)} as --downstream has them. --image_size={canvas.height} brings all images to that shape."
            )
        if coloured:
            notes.append(f"colours of the {split} split are dropped, since encoders take {_shape_text(canvas)}")
    return dataclasses.replace(task, notes=tuple(notes))


def _shapes(source: Source, indices: np.ndarray) -> list[tuple[int, ...]]:
    """Of some images; those that cannot be read are told elsewhere."""
    found = []
    for place in np.linspace(0, len(indices) - 1, min(_LOOKED_AT, len(indices))).astype(int):
        try:
            found.append(source[int(indices[place])]["image"].shape)
        except BrokenImageError:
            continue
    return found


def _shape_text(shape) -> str:
    return f"{shape[1]} x {shape[0]} {'colour' if shape[2] == 3 else 'gray'}"
