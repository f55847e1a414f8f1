"""Declarations of downstream tasks: parses them from text, and opens them."""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sslshift.command import settings
from sslshift.data.decode import Canvas
from sslshift.data.sources import SCHEMES, Source, open_source
from sslshift.data.sources.layout import find_splits
from sslshift.data.sources.uri import parse_uri, spelled
from sslshift.data.sources.walk import is_image, list_files
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.tasks import Task, make_task


@dataclasses.dataclass(frozen=True)
class TaskDeclaration:
    """A task before its sources are opened.

    Attributes:
      source: URI of the labelled images to learn from.
      validation, test: URIs of these splits; empty: drawn from `source`.
      name: name of the task; empty: the URI.
      metric: name of the metric; empty: accuracy, or average precision if images may have several labels.
      labelled: largest number of training and validation images together; 0: all.
      notes: assumptions about folders; sentences without a full stop.
    """

    source: str
    validation: str = ""
    test: str = ""
    name: str = ""
    metric: str = ""
    labelled: int = 0
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def __post_init__(self):
        if self.metric and self.metric not in METRICS:
            raise ValueError(f"Expected one of {', '.join(METRICS)} for metric, got {self.metric!r}.")
        if self.labelled < 0:
            raise ValueError(f"Expected 0 or more labelled images, got labelled={self.labelled}.")

    @property
    def title(self) -> str:
        """The name that tables use."""
        return self.name or self.source


def parse_tasks(texts: Sequence[str]) -> list[TaskDeclaration]:
    """Returns the tasks in several texts, see `parse_task`.

    Raises:
      ValueError: a text is not a task, or two tasks have the same name.
    """
    declared = [parse_task(text) for text in texts]
    require_different_names(declared)
    return declared


def require_different_names(declared: Sequence[TaskDeclaration]) -> None:
    """Raises ValueError if two tasks have the same name."""
    names = [each.title for each in declared]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--task: two tasks are called {twice}; write 'NAME = URI' to give them different names.")


def parse_task(text: str) -> TaskDeclaration:
    """Returns the task in a text `NAME = URI; validation=URI; test=URI; metric=NAME; labelled=N`; only the URI is required.

    The class folders of a `folder:` are its labels. If its folders are called train, val and test, or usual synonyms, and
    contain class folders, they are the splits; without a test folder, val is the test split, as for ImageNet. If folders can be
    read as splits and as classes, `?labels=folder` declares that they are classes. See `sslshift.data.sources.layout`.

    Example:
      >>> parse_task("digits = bundled:mnist; test=bundled:mnist/test; labelled=500")
      TaskDeclaration(source='bundled:mnist', validation='', test='bundled:mnist/test', name='digits', metric='', labelled=500)

    Raises:
      ValueError: the text has another form, or folders can be read as splits and as classes.
    """
    first, _, rest = (part.strip() for part in text.partition(";"))
    # The name ends at the first '='; the options of a URI contain further ones.
    match = re.fullmatch(rf"(?:(?P<name>[^=:?]+?)\s*=\s*)?(?P<uri>(?:{'|'.join(SCHEMES)}):.*)", first, re.DOTALL)
    if not match:
        raise ValueError(
            f"Expected a task as 'NAME = URI; test=URI' with a URI that begins with one of "
            f"{', '.join(s + ':' for s in SCHEMES)}, got {text!r}."
        )
    # The text may be the rest of a path.
    escaped = "" if "=" in rest or not rest else " (a ';' in a path is %3B)"
    given = settings(rest, flag=f"task {text!r}{escaped}", names=("validation", "test", "metric", "labelled"))
    labelled = given.get("labelled", "0")
    # int() would also accept signs, blanks and non-ASCII digits.
    if not re.fullmatch("[0-9][0-9_]*", labelled):
        raise ValueError(f"Task {text!r}: expected a whole number for labelled, got {labelled!r}.")
    uris = {"train": match["uri"]} | {split: given[split] for split in ("validation", "test") if split in given}
    splits, notes = _folder_splits(uris)
    return TaskDeclaration(
        source=splits["train"],
        validation=splits.get("validation", ""),
        test=splits.get("test", ""),
        name=match["name"] or "",
        metric=given.get("metric", ""),
        labelled=int(labelled),
        notes=notes,
    )


def _folder_splits(uris: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the URI of each split, and notes; a folder that contains split folders is replaced by them."""
    uri = parse_uri(uris["train"])
    notes = ()
    root = Path(os.path.expanduser(uri.path))
    # A folder that does not exist is reported when the task is opened, with the same message as for any source.
    # `?labels=` already defines the meaning of the folders.
    if uri.scheme == "folder" and root.is_dir() and "labels" not in uri.options:
        below = (path.relative_to(root) for path in list_files(root).paths if is_image(path))
        folders, notes = find_splits(below, uri)
        # Splits that the text names explicitly replace those of the folder.
        if folders:
            found = {
                split: str(dataclasses.replace(uri, path=f"{uri.path.rstrip('/')}/{folder}"))
                for split, folder in folders.items()
            }
            unused = [folders[split] for split in found if split != "train" and split in uris]
            notes += tuple(f"the images in {folder} are not used, because the task names other images" for folder in unused)
            uris = found | {split: uri for split, uri in uris.items() if split != "train"}
    return {split: parse_split(uri) for split, uri in uris.items()}, notes


def parse_split(uri: str) -> str:
    """Returns the URI of one split; a folder gets `labels=folder` unless its URI sets `labels`.

    Example:
      >>> parse_split("folder:/data/parts/test"), parse_split("bundled:mnist/test")
      ('folder:/data/parts/test?labels=folder', 'bundled:mnist/test')
    """
    uri = spelled(uri.strip())
    if not uri.startswith("folder:") or "labels" in parse_uri(uri).options:
        return uri
    return uri + ("&" if "?" in uri else "?") + "labels=folder"


def open_task(declaration: TaskDeclaration, canvas: Canvas | None = None, open_: Callable[[str], Source] = open_source) -> Task:
    """Returns the task of a declaration.

    Args:
      declaration: declaration of the task.
      canvas: shape of all images; None: the shape of the source's images.
      open_: function that opens a source by its URI.

    Raises:
      ValueError: see `make_task`; also if images differ in size and there is no canvas.
    """
    source = open_(declaration.source)
    test, validation = (open_(uri) if uri else None for uri in (declaration.test, declaration.validation))
    task = make_task(
        source,
        test,
        canvas or own_canvas(source),
        labelled=declaration.labelled,
        validation=validation,
        metric=declaration.metric,
        name=declaration.title,
    )
    return dataclasses.replace(task, notes=declaration.notes + task.notes)


def own_canvas(source: Source, largest: int | None = None) -> Canvas:
    """Returns the shape of a source's images; it has three channels if any of 16 images has colour.

    Raises:
      ValueError: the images differ in size, or a side is longer than `largest`.
    """
    # A few images at even distances: reading all of them to learn their shape could take hours.
    shapes = [source[int(index)]["image"].shape for index in np.linspace(0, len(source) - 1, 16)]
    height, width, _ = shapes[0]
    if len({shape[:2] for shape in shapes}) > 1 or (largest and max(height, width) > largest):
        raise ValueError(
            f"{source.name}: images are large or differ in size (the first is {width} x {height}); "
            "give the side to which all are resized, e.g. --image_size=32."
        )
    # The largest number of channels is used, because a grey canvas would discard colours.
    return Canvas(height, width, max(shape[2] for shape in shapes))
