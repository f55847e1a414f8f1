"""Subsets that respect classes: a seeded order of a labelled source, of which the first N images are the subset of N.

An ordinary subset needs no order in memory (see `permutation`); these hold N numbers, beside the labels of the source.
"""

import heapq

import numpy as np

from sslshift.data.permutation import Order, permute, permute_each

# What a key is for; 1 and 2 are the sample plan's.
_IMAGES = 3
_CLASSES = 4


def class_order(labels: np.ndarray, unique: int, subset: str, seed: int) -> np.ndarray:
    """The first `unique` images of a seeded order that respects classes; a smaller number gives a prefix of it.

    Args:
      labels: integers `[size]`; every different value is a class.
      unique: N, at most `size`.
      subset: "proportional": every prefix holds floor or ceil of each class's proportion of it. "balanced": in every prefix
        two classes differ by at most one image, unless the smaller one has no more.
      seed: draws the images of each class, and which class comes first where several are equally due.

    Returns:
      int64 `[unique]`, different indices into `labels`.
    """
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # Classes are numbered anew, in a seeded order.
    number = permute(np.arange(len(sizes)), len(sizes), _CLASSES, seed)
    by_class = np.argsort(number[class_of], kind="stable")
    sizes = sizes[np.argsort(number)]
    classes = _proportional(sizes, unique) if subset == "proportional" else _balanced(sizes, unique)
    orders = tuple(Order(size, (_IMAGES, seed, k)) for k, size in enumerate(sizes.tolist()))
    member = permute_each(_earlier_equals(classes), classes, orders)
    return by_class[(np.cumsum(sizes) - sizes)[classes] + member]


def _earlier_equals(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each one."""
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    earlier = np.empty_like(order)
    earlier[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier


def _balanced(sizes: np.ndarray, unique: int) -> np.ndarray:
    """Classes in turn, each until it is exhausted."""
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return classes[np.argsort(_earlier_equals(classes), kind="stable")[:unique]]


def _proportional(sizes: np.ndarray, unique: int) -> np.ndarray:
    """Classes in an order whose every prefix keeps their proportions: each image by its deadline, see `mixture.staircase`.

    The k-th image of a class of n_c in n may not come before position floor(k n / n_c), nor after ceil((k + 1) n / n_c) - 1.
    Takes about a microsecond per image.
    """
    size = int(sizes.sum())
    classes = np.repeat(np.arange(len(sizes)), -(-unique * sizes // size))
    k = _earlier_equals(classes)
    release = k * size // sizes[classes]
    # One number instead of a pair: the class breaks ties.
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
    return chosen % len(sizes)
