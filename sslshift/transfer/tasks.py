"""Downstream tasks as data: a labelled source, its three splits, the metric."""

import copy
import dataclasses
import difflib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.ranges import PixelRange
from sslshift.data.sources import SCHEMES, Source, open_source
from sslshift.data.sources.labels import class_name
from sslshift.data.sources.layout import find_splits
from sslshift.data.sources.uri import parse_uri, spelled
from sslshift.data.sources.walk import is_image, list_files
from sslshift.data.split import stratified_split
from sslshift.transfer.metrics import METRICS, default_metric, metric_for

# Which seeded orders draw the splits: the same for every run and every seed, so that scores are comparable.
_TEST_KEY = 3
_LABELLED_KEY = 4
_VALIDATION_KEY = 5
_HELD_OUT = 0.2


class Part(NamedTuple):
    """A split: which images of a source."""

    source: Source
    indices: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Of these images: int `[n]`, or 0/1 `[n, classes]`."""
        return self.source.labels[self.indices]

    def without(self, places: np.ndarray) -> "Part":
        """Less the images at these places of the split."""
        return Part(self.source, np.delete(self.indices, places))


@dataclasses.dataclass(frozen=True)
class Task:
    """A downstream task: labelled images in three splits, and the metric that judges predictions of the test split.

    Attributes:
      name: what tables call it.
      train, validation, test: the splits.
      classes: number of classes.
      canvas: what images are brought to.
      metric: name of one of `metrics.METRICS`.
      notes: what was decided where the declaration left it open, and what a reader must know.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: int
    canvas: Canvas
    metric: str
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Part]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def facts(self) -> dict:
        """What a record of results keeps of the task: all that its numbers depend on."""
        sizes = {name: len(part.indices) for name, part in self.parts.items()}
        fingerprints = {name: part.source.fingerprint for name, part in self.parts.items()}
        # A fingerprint is of the images; the same images may be labelled otherwise, and split otherwise for that.
        digests = [hashlib.sha256(np.ascontiguousarray(part.labels).tobytes()) for part in self.parts.values()]
        return {"name": self.name, "metric": self.metric, "canvas": list(self.canvas)} | {
            "images": sizes,
            "fingerprints": fingerprints,
            "labels": [digest.hexdigest()[:16] for digest in digests],
        }


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A task as it is declared.

    Attributes:
      source: URI of the labelled images to learn from.
      validation, test: URIs of these splits; empty: drawn from `source`.
      name: empty: the URI.
      metric: empty: accuracy, or average precision where an image may have several labels.
      labelled: training and validation images together, at most; 0: all there are.
      notes: what was assumed of folders; sentences without a full stop.
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
            raise ValueError(f"metric={self.metric} is unknown; there is {', '.join(METRICS)}.")
        if self.labelled < 0:
            raise ValueError(f"labelled={self.labelled} must not be negative.")


def parse_task(text: str) -> Declaration:
    """A task out of text: `NAME = URI; validation=URI; test=URI; metric=NAME; labelled=N`, of which only the URI is needed.

    A `folder:` has its class folders as labels. If they are called train, val and test, or usual synonyms, and hold class
    folders, these are the splits; with train and val alone, val is the test split, as it is for ImageNet. Where folders can be
    read as splits and as classes, `?labels=folder` says that they are classes. See `sslshift.data.sources.layout`.

    Example:
      >>> parse_task("digits = bundled:mnist; test=bundled:mnist/test; labelled=500")
      Declaration(source='bundled:mnist', validation='', test='bundled:mnist/test', name='digits', metric='', labelled=500)

    Raises:
      ValueError: the text does not say this, or folders can be read as splits and as classes.
    """
    first, *rest = (part.strip() for part in text.split(";"))
    match = re.fullmatch(rf"(?:(?P<name>[^=:?]+?)\s*=\s*)?(?P<uri>(?:{'|'.join(SCHEMES)}):.*)", first, re.DOTALL)
    if not match:
        raise ValueError(
            f"A task is written 'NAME = URI; test=URI', a URI begins with {', '.join(s + ':' for s in SCHEMES)}; got {text!r}."
        )
    given = {"name": match["name"] or ""}
    for part in filter(None, rest):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in ("validation", "test", "metric", "labelled") or key in given:
            raise ValueError(
                f"Task {text!r}: after the URI come validation=, test=, metric= and labelled=, once each, not {part!r}."
            )
        given[key] = value
    if not re.fullmatch("[0-9][0-9_]*", given.setdefault("labelled", "0")):
        raise ValueError(f"Task {text!r}: labelled must be a whole number, not {given['labelled']!r}.")
    uris = {"train": match["uri"]} | {split: given.pop(split) for split in ("validation", "test") if split in given}
    declared, notes = _folder_splits(uris)
    given["labelled"] = int(given["labelled"])
    return Declaration(source=declared.pop("train"), **declared, **given, notes=notes)


def _folder_splits(uris: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Folders with their class folders as labels, and split folders in place of one folder that holds these; and notes."""
    uri = parse_uri(uris["train"])
    notes = ()
    root = Path(os.path.expanduser(uri.path))
    if uri.scheme == "folder" and root.is_dir() and "labels" not in uri.options:
        below = (path.relative_to(root) for path in list_files(root).paths if is_image(path))
        folders, notes = find_splits(below, uri)
        if folders:
            there = {
                split: str(dataclasses.replace(uri, path=f"{uri.path.rstrip('/')}/{folder}"))
                for split, folder in folders.items()
            }
            unused = [folders[split] for split in there if split != "train" and split in uris]
            notes += tuple(f"the images in {folder} are not used, since other ones were named" for folder in unused)
            uris = there | {split: uri for split, uri in uris.items() if split != "train"}
    return {split: parse_split(uri) for split, uri in uris.items()}, notes


def parse_split(uri: str) -> str:
    """Returns the URI of one split: that of a folder asks for labels, unless it says something of them itself.

    Example:
      >>> parse_split("folder:/data/parts/test"), parse_split("bundled:mnist/test")
      ('folder:/data/parts/test?labels=folder', 'bundled:mnist/test')
    """
    uri = spelled(uri.strip())
    if not uri.startswith("folder:") or "labels" in parse_uri(uri).options:
        return uri
    return uri + ("&" if "?" in uri else "?") + "labels=folder"


def open_task(declaration: Declaration, canvas: Canvas | None = None, open_: Callable[[str], Source] = open_source) -> Task:
    """Opens what a task declares; without a canvas, that of its images.

    Raises:
      ValueError: like `make_task`; or images of several sizes, and no canvas.
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
        name=declaration.name or declaration.source,
    )
    return dataclasses.replace(task, notes=declaration.notes + task.notes)


def own_canvas(source: Source, largest: int | None = None) -> Canvas:
    """The shape of a source's images; colour if any of a few has it.

    Raises:
      ValueError: they differ in size, or a side is above `largest`.
    """
    shapes = [source[int(index)]["image"].shape for index in np.linspace(0, len(source) - 1, 16)]
    height, width, _ = shapes[0]
    if len({shape[:2] for shape in shapes}) > 1 or (largest and max(height, width) > largest):
        raise ValueError(
            f"{source.name}: images are large or differ in size (the first is {width} x {height}); "
            "say to which side all are brought, e.g. --image_size=32."
        )
    return Canvas(height, width, max(shape[2] for shape in shapes))


def make_task(
    source: Source,
    test: Source | None,
    canvas: Canvas,
    *,
    labelled: int,
    validation: Source | None = None,
    metric: str = "",
    name: str = "",
) -> Task:
    """The splits of a task. What is missing is drawn from `source` by class, always the same images: first the test split,
    then the validation split, a fifth each of what there is.

    Args:
      source: labelled images to learn from.
      test: labelled images of the test split; None: drawn.
      canvas: what images are brought to.
      labelled: training and validation images together, at most; 0: all there are.
      validation: labelled images of the validation split; None: drawn.
      metric: name of one of `metrics.METRICS`; empty: accuracy, or average precision where an image may have several labels.
      name: of the task; empty: the source's.

    Raises:
      ValueError: labels are missing or do not fit each other, there are fewer than two classes, a split lacks images or a
        class to learn, two splits are the same images, or they have different pixel ranges.
    """
    _require_apart({"training": source, "validation": validation, "test": test})
    others = {"validation": validation, "test": test}
    others = {split: each and _with_classes_of(source, each) for split, each in others.items()}
    labels = source.labels
    rest = np.arange(len(source))
    notes = []
    if others["test"] is None:
        held_out, rest = stratified_split(labels, _HELD_OUT, _TEST_KEY)
        notes.append(
            f"no test split was named: {len(held_out):,} of {len(source):,} labelled images, drawn by class, are held out"
        )
    if labelled and labelled < len(rest):
        chosen, _ = stratified_split(labels[rest], labelled / len(rest), _LABELLED_KEY)
        rest = rest[chosen]
    if others["validation"] is None:
        chosen, kept = stratified_split(labels[rest], _HELD_OUT, _VALIDATION_KEY)
        drawn = rest[chosen]
        rest = rest[kept]
    given = [each for each in (source, validation, test) if each is not None]
    notes += [f"{each.name}: {note}" for each in given for note in each.notes]
    parts = {
        "train": Part(source, rest),
        "validation": _whole(others["validation"]) or Part(source, drawn),
        "test": _whole(others["test"]) or Part(source, held_out),
    }
    classes = require_classes(parts, source.classes)
    metric = metric or default_metric(labels)
    metric_for(metric, labels)
    notes += _absent(parts, classes, source.classes)
    return Task(name or source.name, *parts.values(), classes, canvas, metric, tuple(notes))


def _whole(source: Source | None) -> Part | None:
    return source and Part(source, np.arange(len(source)))


def _require_apart(sources: dict[str, Source | None]) -> None:
    """Raises ValueError where a split has no labels, holds the images of another, or has another pixel range."""
    given = [(split, source) for split, source in sources.items() if source is not None]
    for split, source in given:
        if source.labels is None:
            raise ValueError(f"{source.name} has no labels, which the {split} split needs (for folders: ?labels=folder).")
        _require_one_label_each(source)
    for (first, one), (second, other) in itertools.combinations(given, 2):
        if one.fingerprint == other.fingerprint:
            raise ValueError(
                f"{other.name} holds the images of {one.name}: a {second} split needs others than the {first} split "
                "(or none: it is held out)."
            )
        if one.pixel_range and other.pixel_range and one.pixel_range[:2] != other.pixel_range[:2]:
            widest = min(one.pixel_range.low, other.pixel_range.low), max(one.pixel_range.high, other.pixel_range.high)
            raise ValueError(
                f"Images of more than 8 bits have the pixel range {one.pixel_range.text} in {one.name} and "
                f"{other.pixel_range.text} in {other.name}, so equal values would be seen differently in the {first} and the "
                f"{second} split; state one range for both, e.g. ?range={PixelRange(*widest).text} (--range, of an import)."
            )


def _require_one_label_each(source: Source) -> None:
    """Raises ValueError where labels are not as many as the images, or not those of the classes that have names."""
    labels = source.labels
    names = source.classes
    if len(labels) != len(source):
        raise ValueError(f"{source.name} has {len(labels):,} labels for {len(source):,} images; each image needs its own.")
    if names is not None and labels.ndim == 1 and not ((labels >= 0) & (labels < len(names))).all():
        raise ValueError(
            f"{source.name} has labels from {labels.min()} to {labels.max()}, and names for {len(names):,} classes."
        )
    if names is not None and labels.ndim == 2 and labels.shape[1] != len(names):
        raise ValueError(f"{source.name} has {labels.shape[1]:,} columns of labels, and names for {len(names):,} classes.")


def _with_classes_of(source: Source, other: Source) -> Source:
    """Another split with its labels counted as the source counts them, by the names of the classes."""
    if source.labels.ndim != other.labels.ndim:
        raise ValueError(f"Images of {source.name} have one label each, those of {other.name} several, or the other way round.")
    if source.classes == other.classes:
        return other
    if source.classes is None or other.classes is None:
        named, bare = (other, source) if source.classes is None else (source, other)
        raise ValueError(
            f"{named.name} has names for its classes ({', '.join(named.classes[:3])}, ...) and {bare.name} has only numbers, "
            "so it is unknown which number is which class; give names to both, or numbers to both."
        )
    own, theirs = ([class_name(name) for name in each.classes] for each in (source, other))
    unknown = sorted(set(theirs) - set(own))
    if unknown:
        near = difflib.get_close_matches(unknown[0], own, 1)
        meant = f" Is {unknown[0]} the class {near[0]}?" if near else ""
        raise ValueError(
            f"{other.name}: {source.name} has no class {', '.join(unknown[:10])}; it has {', '.join(own[:10])}. The classes of "
            f"both must have the same names.{meant}"
        )
    renamed = copy.copy(other)
    places = np.array([own.index(name) for name in theirs])
    if other.labels.ndim == 1:
        renamed.labels = places[other.labels]
    else:
        renamed.labels = np.zeros((len(other), len(own)), other.labels.dtype)
        renamed.labels[:, places] = other.labels
    renamed.classes = source.classes
    return renamed


def _present(labels: np.ndarray) -> set[int]:
    """Classes that some image has."""
    return set((np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))).tolist())


def require_classes(parts: dict[str, Part], names: tuple[str, ...] | None) -> int:
    """The number of classes.

    Raises:
      ValueError: a split has no image, or one of a class that the training split has not, which has at least two.
    """
    for split, part in parts.items():
        if not len(part.indices):
            raise ValueError(f"{part.source.name}: the {split} split holds no image; label more images.")
    labels = {split: part.labels for split, part in parts.items()}
    source = parts["train"].source
    known = _present(labels["train"])
    if labels["train"].ndim == 2:
        if not known:
            raise ValueError(f"{source.name}: no training image has any label; a task needs at least one class.")
        return labels["train"].shape[1]
    if min(part.min() for part in labels.values()) < 0:
        raise ValueError(f"{source.name}: a label is negative; classes are counted from 0.")
    if len(known) < 2:
        raise ValueError(f"{source.name}: the training split holds {len(known)} class; a task needs at least two.")
    for split in ("validation", "test"):
        unknown = sorted(_present(labels[split]) - known)
        if unknown:
            raise ValueError(
                f"{parts[split].source.name}: the {split} split holds classes {_called(unknown, names)} that no training image "
                "has; label more images, or leave these out."
            )
    return max(max(known) + 1, len(names or ()))


def _absent(parts: dict[str, Part], classes: int, names: tuple[str, ...] | None) -> list[str]:
    """Notes on classes that a split lacks."""
    notes = []
    for split in ("train", "test"):
        absent = sorted(set(range(classes)) - _present(parts[split].labels))
        if absent:
            effect = "it can only be guessed" if split == "train" else "means over classes leave it out"
            notes.append(f"no image of the {split} split is of class {_called(absent, names)}: {effect}")
    return notes


def _called(classes: Collection[int], names: tuple[str, ...] | None) -> str:
    called = [names[each] if names else str(each) for each in classes]
    return ", ".join(called[:10]) + (f" and {len(called) - 10} more" if len(called) > 10 else "")
