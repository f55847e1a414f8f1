"""Downstream tasks as data: labelled images in three splits, and the metric."""

import copy
import dataclasses
import difflib
import hashlib
import itertools
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.ranges import PixelRange
from sslshift.data.sources import Source
from sslshift.data.sources.labels import class_name
from sslshift.data.split import grouped_split, stratified_split
from sslshift.transfer.metrics import default_metric, metric_for

# Seeds of the orders that draw the splits. They are the same for all runs and seeds, so that scores are comparable.
_TEST_KEY = 3
_LABELLED_KEY = 4
_VALIDATION_KEY = 5
_HELD_OUT = 0.2


class LabelledImages(NamedTuple):
    """A split of a task: images of a source, given by their indices."""

    source: Source
    indices: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Labels of these images: int `[n]`, or 0/1 `[n, classes]`."""
        return self.source.labels[self.indices]

    @property
    def groups(self) -> np.ndarray | None:
        """Names of the groups of these images, text `[n]`, or None if images are independent; see `Source.groups`."""
        return None if self.source.groups is None else self.source.groups[self.indices]


@dataclasses.dataclass(frozen=True)
class Task:
    """A downstream task: labelled images in three splits, and the metric for predictions of the test split.

    Attributes:
      name: name in tables.
      train, validation, test: the splits.
      classes: number of classes.
      canvas: shape to which images are resized.
      metric: name in `metrics.METRICS`.
      notes: decisions beyond the declaration, and facts that a reader needs to understand the numbers.
    """

    name: str
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    classes: int
    canvas: Canvas
    metric: str
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, LabelledImages]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def facts(self) -> dict[str, Any]:
        """All properties of the task that scores depend on, for records of results."""
        sizes = {name: len(images.indices) for name, images in self.splits.items()}
        fingerprints = {name: images.source.fingerprint for name, images in self.splits.items()}
        # The fingerprint of a source covers only its images; labels are added, because the splits depend on them.
        digests = [_digest(images.labels) for images in self.splits.values()]
        groups = [images.groups for images in self.splits.values()]
        # Tasks without groups keep the records of earlier versions.
        grouped = any(each is not None for each in groups)
        return {"name": self.name, "metric": self.metric, "canvas": list(self.canvas)} | {
            "images": sizes,
            "fingerprints": fingerprints,
            "labels": digests,
            **({"groups": ["" if each is None else _digest(each) for each in groups]} if grouped else {}),
        }


def _digest(array: np.ndarray) -> str:
    # Of text, the digest does not depend on the longest name of other images, which decides the width of its type.
    content = "\0".join(array.tolist()).encode() if array.dtype.kind == "U" else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


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
    """Returns a task.

    Missing splits are drawn from `source` by class: first a fifth of the images as the test split, then a fifth of the
    remaining ones as the validation split. Every call draws the same images. If images have groups, such as the frames of a
    video, each group is in one split as a whole.

    Args:
      source: labelled images to learn from.
      test: labelled images of the test split; None: drawn.
      canvas: shape to which images are resized.
      labelled: largest number of training and validation images together; 0: all.
      validation: labelled images of the validation split; None: drawn.
      metric: name in `metrics.METRICS`; empty: accuracy, or average precision if images may have several labels.
      name: name of the task; empty: the name of the source.

    Raises:
      ValueError: labels are missing or do not fit each other, there are fewer than two classes, a split has no images or a
        class without training images, all test images are one group, or two splits have the same images or different pixel
        ranges.
    """
    _require_apart({"training": source, "validation": validation, "test": test})
    others = {"validation": validation, "test": test}
    others = {split: each and _with_classes_of(source, each) for split, each in others.items()}
    labels = source.labels
    rest = np.arange(len(source))
    notes = []
    if others["test"] is None:
        # The test split is drawn before --labelled limits the other images, so that it does not depend on their number.
        held_out, rest = _hold_out(source, rest, _TEST_KEY)
        drawn_by = "class" if source.groups is None else "class and group"
        notes.append(
            f"no test split was named: {len(held_out):,} of {len(source):,} labelled images, drawn by {drawn_by}, are held out"
        )
    # These images are also drawn by class, so that a small number still contains every class.
    if labelled and labelled < len(rest):
        chosen, _ = stratified_split(labels[rest], labelled / len(rest), _LABELLED_KEY)
        rest = rest[chosen]
    if others["validation"] is None:
        drawn, rest = _hold_out(source, rest, _VALIDATION_KEY)
    notes += [f"{each.name}: {note}" for each in (source, validation, test) if each is not None for note in each.notes]
    splits = {
        "train": LabelledImages(source, rest),
        "validation": _whole(others["validation"]) or LabelledImages(source, drawn),
        "test": _whole(others["test"]) or LabelledImages(source, held_out),
    }
    classes = require_classes(splits, source.classes)
    metric = metric or default_metric(labels)
    metric_for(metric, labels)
    notes += _absent(splits, classes, source.classes) + _group_notes(splits)
    return Task(name or source.name, *splits.values(), classes, canvas, metric, tuple(notes))


def _hold_out(source: Source, indices: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits images of a source into held-out ones and the rest."""
    labels = source.labels[indices]
    if source.groups is None:
        held_out, rest = stratified_split(labels, _HELD_OUT, key)
    else:
        held_out, rest = grouped_split(labels, source.groups[indices], _HELD_OUT, key)
        if not len(held_out):
            raise ValueError(
                f"{source.name}: no group of images can be held out, because each has the only images of a class; label images "
                "of more groups, or name the test and the validation split."
            )
    return indices[held_out], indices[rest]


def _group_notes(splits: dict[str, LabelledImages]) -> list[str]:
    """Returns notes on the groups of the test images, and on groups in two splits.

    Raises:
      ValueError: all test images are one group.
    """
    groups = {split: images.groups for split, images in splits.items()}
    if groups["test"] is None:
        grouped = next((split for split, own in groups.items() if own is not None), None)
        name = splits["test"].source.name
        return [f"the {grouped} images have groups, but {name} has none, so that its images count as independent"] * bool(
            grouped
        )
    names = set(groups["test"].tolist())
    if len(names) < 2:
        raise ValueError(
            f"{splits['test'].source.name}: all {len(groups['test']):,} test images are of the group {min(names)!r}, so that "
            "nothing is known of other groups; expected two or more: label images of more groups, or name another test split."
        )
    notes = [f"the {len(groups['test']):,} test images are of {len(names):,} groups, which intervals resample whole"]
    for one, other in itertools.combinations(splits, 2):
        if groups[one] is None or groups[other] is None:
            continue
        shared = set(groups[one].tolist()) & set(groups[other].tolist())
        # Equal names in the lists of two splits may also be different groups, so this is no error.
        if shared:
            images = int(np.isin(groups[other], list(shared)).sum())
            notes.append(
                f"{len(shared):,} groups of the {other} split ({images:,} of its {len(groups[other]):,} images) are also in "
                f"the {one} split, e.g. {min(shared)!r}: scores may be too high for images of new groups"
            )
    return notes


def _whole(source: Source | None) -> LabelledImages | None:
    return source and LabelledImages(source, np.arange(len(source)))


def _require_apart(sources: dict[str, Source | None]) -> None:
    """Raises ValueError if a split has no labels, contains the images of another split, or has another pixel range."""
    given = [(split, source) for split, source in sources.items() if source is not None]
    for split, source in given:
        if source.labels is None:
            raise ValueError(f"{source.name} has no labels, which the {split} split needs (for folders: ?labels=folder).")
        _require_one_label_each(source)
    # Equal sources are found here by their fingerprints, without reading pixels; the protocol finds single equal images.
    for (first, one), (second, other) in itertools.combinations(given, 2):
        if one.fingerprint == other.fingerprint:
            raise ValueError(
                f"{other.name} holds the images of {one.name}: expected different images in the {second} split and the {first} "
                "split; without the former, a fifth of the images is held out."
            )
        # Only the limits are compared; it is irrelevant whether the user set them.
        if one.pixel_range and other.pixel_range and one.pixel_range[:2] != other.pixel_range[:2]:
            widest = min(one.pixel_range.low, other.pixel_range.low), max(one.pixel_range.high, other.pixel_range.high)
            raise ValueError(
                f"Images of more than 8 bits have the pixel range {one.pixel_range.text} in {one.name} and "
                f"{other.pixel_range.text} in {other.name}: equal values would become different ones in the {first} and the "
                f"{second} split. Give one range for both, e.g. ?range={PixelRange(*widest).text} (--range, of an import)."
            )


def _require_one_label_each(source: Source) -> None:
    """Raises ValueError if the numbers of labels and images differ, or if a label has no class name."""
    labels = source.labels
    names = source.classes
    if len(labels) != len(source):
        raise ValueError(f"{source.name} has {len(labels):,} labels for {len(source):,} images; each image needs a label.")
    if names is not None and labels.ndim == 1 and not ((labels >= 0) & (labels < len(names))).all():
        raise ValueError(
            f"{source.name} has labels from {labels.min()} to {labels.max()}, but names for {len(names):,} classes."
        )
    if names is not None and labels.ndim == 2 and labels.shape[1] != len(names):
        raise ValueError(f"{source.name} has {labels.shape[1]:,} columns of labels, but names for {len(names):,} classes.")


def _with_classes_of(source: Source, other: Source) -> Source:
    """Returns another split with the class numbers of the source; classes are matched by name."""
    if source.labels.ndim != other.labels.ndim:
        raise ValueError(f"Images of {source.name} have one label each, but those of {other.name} several, or vice versa.")
    if source.classes == other.classes:
        return other
    if source.classes is None or other.classes is None:
        named, bare = (other, source) if source.classes is None else (source, other)
        raise ValueError(
            f"{named.name} has names for its classes ({', '.join(named.classes[:3])}, ...) but {bare.name} has only "
            "numbers, so classes cannot be matched; use names in both, or numbers in both."
        )
    # class_name normalises Unicode: file systems store accented names in different forms.
    own, theirs = ([class_name(name) for name in each.classes] for each in (source, other))
    unknown = sorted(set(theirs) - set(own))
    if unknown:
        near = difflib.get_close_matches(unknown[0], own, 1)
        meant = f" Is {unknown[0]} the class {near[0]}?" if near else ""
        raise ValueError(
            f"{other.name}: {source.name} has no class {', '.join(unknown[:10])}; it has {', '.join(own[:10])}. The classes of "
            f"both must have the same names.{meant}"
        )
    # A shallow copy shares the images; the caller's source keeps its labels.
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
    """Returns the classes that occur."""
    return set((np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))).tolist())


def require_classes(splits: dict[str, LabelledImages], names: tuple[str, ...] | None) -> int:
    """Returns the number of classes.

    Raises:
      ValueError: a split is empty, it has a class without training images, or the training split has fewer than two classes.
    """
    for split, images in splits.items():
        if not len(images.indices):
            raise ValueError(f"{images.source.name}: the {split} split holds no image; label more images.")
    labels = {split: images.labels for split, images in splits.items()}
    source = splits["train"].source
    known = _present(labels["train"])
    if labels["train"].ndim == 2:
        if not known:
            raise ValueError(f"{source.name}: no training image has any label; a task needs at least one class.")
        return labels["train"].shape[1]
    if min(each.min() for each in labels.values()) < 0:
        raise ValueError(f"{source.name}: a label is negative; classes are counted from 0.")
    if len(known) < 2:
        raise ValueError(f"{source.name}: the training split holds {len(known)} class; a task needs at least two.")
    for split in ("validation", "test"):
        unknown = sorted(_present(labels[split]) - known)
        if unknown:
            raise ValueError(
                f"{splits[split].source.name}: the {split} split holds classes {_called(unknown, names)} that no training "
                "image has; label more images, or exclude these."
            )
    # Named classes without training images are counted, so that a class has the same number in every split.
    return max(max(known) + 1, len(names or ()))


def _absent(splits: dict[str, LabelledImages], classes: int, names: tuple[str, ...] | None) -> list[str]:
    """Returns notes on classes without images in a split."""
    notes = []
    for split in ("train", "test"):
        absent = sorted(set(range(classes)) - _present(splits[split].labels))
        if absent:
            effect = "it cannot be learnt" if split == "train" else "means over classes exclude it"
            notes.append(f"no image of the {split} split is of class {_called(absent, names)}: {effect}")
    return notes


def _called(classes: Collection[int], names: tuple[str, ...] | None) -> str:
    called = [names[each] if names else str(each) for each in classes]
    return ", ".join(called[:10]) + (f" and {len(called) - 10} more" if len(called) > 10 else "")
