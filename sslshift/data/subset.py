"""Subsets that respect classes: a seeded order of a labelled source, whose first N images are the subset of N.

An ordinary subset needs no order in memory (see `permutation`). These subsets hold N numbers, besides the labels of the source.
"""

import heapq

import numpy as np

from sslshift.data.mixture import Component
from sslshift.data.permutation import Order, permute, permute_each

# First number of a key, which says what the key is for, so that no two orders are the same; 1 and 2 are the sample plan's.
_IMAGES = 3
_CLASSES = 4


def class_order(labels: np.ndarray, unique: int, subset: str, seed: int) -> np.ndarray:
    """Returns the first `unique` images of a seeded order that respects classes; a smaller number gives a prefix of it.

    Args:
      labels: integers `[size]`; every different value is a class.
      unique: N, at most `size`.
      subset: "proportional": every prefix holds floor or ceil of each class's proportion of it. "balanced": in every prefix
        two classes differ by at most one image, unless all images of the smaller one are used.
      seed: seed of the order of images within classes, and of the order of classes that are equally due.

    Returns:
      Different indices into `labels`, int64 `[unique]`.
    """
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # Classes get new numbers in a seeded order, since the lowest number comes first where several are due.
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
      ValueError: they are missing, are multi-label, or are not one whole number for each image.
    """
    if labels is None:
        raise ValueError(
            f"{component.source}: a {component.subset} subset needs labels, and this source has none; "
            "name a source with labels (?labels=folder reads those of a folder), or ask for an ordinary subset."
        )
    labels = np.asarray(labels)
    if labels.ndim == 2:
        raise ValueError(
            f"{component.source}: a {component.subset} subset needs one label for each image, and images of this source may "
            "have several (multi-label); ask for an ordinary subset."
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
    """Returns the classes in turn, each until it is exhausted."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return classes[np.argsort(_earlier_equals(classes), kind="stable")[:unique]]


def _proportional(sizes: np.ndarray, unique: int) -> np.ndarray:
    """Returns the classes in an order whose every prefix keeps their proportions: earliest deadline first.

    The k-th image of a class of n_c in n may not come before position floor(k n / n_c), nor after ceil((k + 1) n / n_c) - 1;
    `mixture.staircase` explains why this always succeeds. It takes about a microsecond per image.
    """
    size = int(sizes.sum())
    # No class has more images among the first N than its proportion, rounded up.
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
