"""Labels of images that are alike: different ones are reported, and their images are dropped only on demand."""

import numpy as np

from sslshift.data.sources import Source


def mixed_groups(groups: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Returns which images are in a group whose images have different labels, bool `[n]`.

    Args:
      groups: of each image, int64 `[n]`; see `groups_of`.
      labels: as of a source: `[n]`, of which a negative one says nothing, or 0/1 `[n, classes]`; None: there are none.

    Example:
      >>> mixed_groups(np.array([0, 0, 2, 2, 2]), np.array([7, 7, 7, 8, -1])).tolist()
      [False, False, True, True, True]
    """
    if labels is None:
        return np.zeros(len(groups), bool)
    if labels.ndim == 2:
        labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    known = np.flatnonzero(labels >= 0)
    last = np.iinfo(np.int64).max
    least = np.full(len(groups), last)
    greatest = np.full(len(groups), -1)
    np.minimum.at(least, groups[known], labels[known])
    np.maximum.at(greatest, groups[known], labels[known])
    return (least < greatest)[groups]


def differently_labelled(source: Source, first: np.ndarray, other: Source, second: np.ndarray) -> np.ndarray:
    """Returns which pairs of images of two sources have different labels, bool `[m]`.

    Labels of two sources are compared by the names of their classes. A name that only one of the sources knows says nothing,
    since what one calls a shoe may be a sneaker to the other. An image without a label differs from none.
    """
    own = source is other
    if not len(first) or source.labels is None or other.labels is None:
        return np.zeros(len(first), bool)
    if not own and (source.classes is None or other.classes is None):
        return np.zeros(len(first), bool)
    shared = set() if own else set(source.classes) & set(other.classes)
    alike = own or set(source.classes) == set(other.classes)

    def differ(i: int, j: int) -> bool:
        a = label_names(source, i)
        b = label_names(other, j)
        if a is None or b is None:
            return False
        a = set(a)
        b = set(b)
        return a != b if alike else bool(a & shared and b & shared) and a & shared != b & shared

    return np.array([differ(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True)], bool)


def label_names(source: Source, index: int) -> tuple[str, ...] | None:
    """Returns the names of an image's classes, of which a multi-label image may have none; None where it has no label."""
    if source.labels is None:
        return None
    label = source.labels[index]
    if np.ndim(label) == 0 and label < 0:
        return None
    numbers = np.flatnonzero(label).tolist() if np.ndim(label) else [int(label)]
    return tuple(str(number) if source.classes is None else source.classes[number] for number in numbers)


def label_text(source: Source, index: int) -> str:
    """Returns an image's label for people: "cat", "cat; dog", or "no class" of a multi-label image; empty if it has none."""
    names = label_names(source, index)
    return "" if names is None else "; ".join(names) or "no class"
