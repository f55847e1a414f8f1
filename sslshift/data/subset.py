"""Subsets that respect classes: a seeded order of a labelled source, whose first N images are the subset of N.

An ordinary subset needs no order in memory (see `permutation`). These subsets hold N numbers and the labels of the source.
"""

import heapq

import numpy as np

from sslshift.data.mixture import Component
from sslshift.data.permutation import Order, permute, permute_each

# First number of a key, which separates orders for different purposes; the sample plan uses 1 and 2.
_IMAGES = 3
_CLASSES = 4


def class_order(labels: np.ndarray, unique: int, subset: str, seed: int) -> np.ndarray:
    """Returns the first `unique` images of a seeded order that respects classes; a smaller number gives a prefix of it.

    Args:
      labels: integers `[size]`; every different value is a class.
      unique: N, at most `size`.
      subset: "proportional": the images of each class in every prefix are floor or ceil of the class's proportion of it.
        "balanced": in every prefix two classes differ by at most one image, unless all images of the smaller class are used.
      seed: seed of the order of images within classes, and of the order of classes that are equally due.

    Returns:
      Different indices into `labels`, int64 `[unique]`.
    """
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # Classes get new numbers in a seeded order, since the lowest number comes first if several classes are due.
    number = permute(np.arange(len(sizes)), len(sizes), _CLASSES, seed)
    by_class = np.argsort(number[class_of], kind="stable")
    sizes = sizes[np.argsort(number)]
    classes = _proportional(sizes, unique) if subset == "proportional" else _balanced(sizes, unique)
    orders = tuple(Order(size, (_IMAGES, seed, k)) for k, size in enumerate(sizes.tolist()))
    member = permute_each(_earlier_equals(classes), classes, orders)
    return by_class[(np.cumsum(sizes) - sizes)[classes] + member]


def checked_labels(component: Component, labels: np.ndarray | None) -> np.ndarray:
    """Returns the labels of a component's source.

    Raises:
      ValueError: the labels are missing, are multi-label, or are not one whole number for each image.
    """
    if labels is None:
        raise ValueError(
            f"{component.source}: a {component.subset} subset needs labels, and this source has none; name a source with "
            "labels (?labels=folder takes the labels from folders), or use an ordinary subset."
        )
    labels = np.asarray(labels)
    if labels.ndim == 2:
        raise ValueError(
            f"{component.source}: a {component.subset} subset needs one label for each image, and images of this source may "
            "have several labels (multi-label); use an ordinary subset."
        )
    if labels.shape != (component.size,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{component.source}: expected labels as one whole number for each of its {component.size:,} images, "
            f"got {labels.dtype} {list(labels.shape)}."
        )
    return labels


def _earlier_equals(values: np.ndarray) -> np.ndarray:
    """Returns, for each value, the number of equal values before it."""
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    earlier = np.empty_like(order)
    earlier[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier


def _balanced(sizes: np.ndarray, unique: int) -> np.ndarray:
    """Returns the classes in turn, and each class until its images are exhausted."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return classes[np.argsort(_earlier_equals(classes), kind="stable")[:unique]]


def _proportional(sizes: np.ndarray, unique: int) -> np.ndarray:
    """Returns the classes in an order whose every prefix keeps their proportions: earliest deadline first.

    If a class has n_c of n images, its k-th image may not come before position floor(k n / n_c), and not after
    ceil((k + 1) n / n_c) - 1; `mixture.staircase` explains why this always succeeds. The time is a microsecond per image.
    """
    size = int(sizes.sum())
    # The number of a class's images among the first N is at most its proportion, rounded up.
    classes = np.repeat(np.arange(len(sizes)), -(-unique * sizes // size))
    k = _earlier_equals(classes)
    release = k * size // sizes[classes]
    # Deadline and class as one number, which a heap compares faster than a pair; the class breaks ties.
    deadline = -(-(k + 1) * size // sizes[classes]) * len(sizes) + classes
    by_release = np.argsort(release, kind="stable")
    waiting = iter(zip(release[by_release].tolist(), deadline[by_release].tolist(), strict=True))
    chosen = np.empty(unique, np.int64)
    heap = []
    coming = next(waiting, None)
    for position in range(unique):
        while coming and coming[0] <= position:
            heapq.heappush(heap, coming[1])
            coming = next(waiting, None)
        chosen[position] = heapq.heappop(heap)
    # The remainder is the class, which was packed into one number with the deadline.
    return chosen % len(sizes)
