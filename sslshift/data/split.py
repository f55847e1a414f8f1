"""Stratified split: holds out a share of labelled images for validation or test, with every class on both sides if possible."""

import itertools

import numpy as np

from sslshift.data.permutation import Order, permute, permute_each

# First number of a key, which separates orders for different purposes; the sample plan and the subsets use 1 to 4.
_MEMBERS = 5
_CLASSES = 6
_IMAGES = 7
_GROUPS = 8


def stratified_split(labels: np.ndarray, share: float, *key: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits labelled images into a held-out part and the rest; the result depends on the arguments alone.

    With one label per image the split is proportional: each class contributes its share, rounded down or up. A class with two
    or more images has at least one image on each side, and the only image of a class stays in the rest. The number of held-out
    images is the nearest to `share` of all; if small classes contribute more or less than their share, the other classes
    compensate for it in proportion to their sizes.

    Multi-label images are first held out in a seeded order, without regard to their labels. Then, beginning with the rarest
    class, an image is moved to a side that lacks the class, unless the move would take the last image of a class from a side
    that needs one. The rest needs one image of every class; the held-out part needs one image of every class with two or more
    images. Finally, images that no side needs are moved back until the share is met again. The repair is greedy: if classes
    have few images, which they share with other classes, a class may remain without an image on one side, or the share may not
    be met.

    Args:
      labels: whole numbers `[n]`; or 0/1 `[n, classes]` if the labels are multi-label. They belong to the images to split,
        which may be a part of a source: the returned indices are positions in this array.
      share: share of the images to hold out, between 0 and 1.
      *key: non-negative whole numbers that determine the draw, such as a purpose and a seed.

    Returns:
      int64 `[held_out]` and `[n - held_out]`, both sorted; together they hold every index once. Nothing is held out if every
      image is the only one of its class.

    Raises:
      ValueError: the share is not between 0 and 1, or the labels have another shape or type or are empty.

    Example:
      >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
      >>> held_out, rest = stratified_split(labels, 0.3, 0)
      >>> labels[held_out].tolist(), labels[rest].tolist()
      ([0, 1], [0, 0, 0, 1, 2])

    References:
      Sechidis et al., `On the Stratification of Multi-Label Data <https://doi.org/10.1007/978-3-642-23808-6_10>`_, 2011
      (a method that also keeps the proportions of the classes)
    """
    labels = np.asarray(labels)
    if not 0 < share < 1:
        raise ValueError(f"Expected a share to hold out between 0 and 1, got {share}.")
    if labels.ndim not in (1, 2) or not len(labels) or labels.dtype.kind not in "iub":
        raise ValueError(
            f"Expected labels of at least one image, whole numbers [n] or 0/1 [n, classes], got {labels.dtype} "
            f"{list(labels.shape)}."
        )
    if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        raise ValueError(f"Expected multi-label labels of 0 or 1, got values between {labels.min()} and {labels.max()}.")
    held = (_proportional if labels.ndim == 1 else _multi_label)(labels, share, key)
    return np.flatnonzero(held), np.flatnonzero(~held)


def grouped_split(labels: np.ndarray, groups: np.ndarray, share: float, *key: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits labelled images like `stratified_split`, but keeps each group of images on one side.

    Groups are visited in a seeded order. A group is held out if that brings the numbers of held-out images of its classes
    nearer to their share, unless the rest would lose the last image of a class. Then each class without held-out images gets
    the first of its groups that the rest can spare. The sizes of groups limit how exactly the share is met.

    Args:
      labels: whole numbers `[n]`; or 0/1 `[n, classes]` if the labels are multi-label.
      groups: group of each image, `[n]`.
      share: share of the images to hold out, between 0 and 1.
      *key: non-negative whole numbers that determine the draw.

    Returns:
      int64 `[held_out]` and `[n - held_out]`, both sorted; together they hold every index once. Nothing is held out if the rest
      needs every group.

    Example:
      >>> held_out, rest = grouped_split(np.array([0, 0, 1, 1, 0, 1]), np.array(["a", "a", "b", "b", "c", "d"]), 0.3, 0)
      >>> held_out.tolist(), rest.tolist()
      ([4, 5], [0, 1, 2, 3])
    """
    labels = np.asarray(labels)
    names, group = np.unique(groups, return_inverse=True)
    image, kind = (np.arange(len(labels)), labels) if labels.ndim == 1 else np.nonzero(labels)
    if labels.ndim == 2:
        # Every image is also of a class of its own, so that images without a label count too.
        image = np.concatenate([image, np.arange(len(labels))])
        kind = np.concatenate([kind, np.full(len(labels), labels.shape[1])])
    kind = np.unique(kind, return_inverse=True)[1]
    total = np.bincount(kind).astype(np.float64)
    # The classes of each group with their numbers of images, sorted by group.
    pairs, counts = np.unique(group[image] * len(total) + kind, return_counts=True)
    first = np.searchsorted(pairs, np.arange(len(names) + 1) * len(total))
    classes = [pairs[first[i] : first[i + 1]] % len(total) for i in range(len(names))]
    own = [counts[first[i] : first[i + 1]] for i in range(len(names))]
    held = np.zeros(len(names), bool)
    taken = np.zeros(len(total))

    def spared(each):
        return not held[each] and (taken[classes[each]] + own[each] < total[classes[each]]).all()

    def hold(each):
        held[each] = True
        taken[classes[each]] += own[each]

    order = permute(np.arange(len(names)), len(names), _GROUPS, 0, *key).tolist()
    for each in order:
        missing = share * total[classes[each]] - taken[classes[each]]
        change = (((missing - own[each]) ** 2 - missing**2) / total[classes[each]]).sum()
        if change < 0 and spared(each):
            hold(each)
    for lacking in np.flatnonzero(taken == 0).tolist():
        able = (each for each in order if lacking in classes[each] and spared(each))
        # A group that was held out for another class may have had this one too.
        for each in itertools.islice(able, int(taken[lacking] == 0)):
            hold(each)
    return np.flatnonzero(held[group]), np.flatnonzero(~held[group])


def _proportional(labels: np.ndarray, share: float, key: tuple[int, ...]) -> np.ndarray:
    """Returns the held-out images, bool `[n]`: the first images of each class in the class's own seeded order."""
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    counts = _counts(sizes, share, permute(np.arange(len(sizes)), len(sizes), _CLASSES, 0, *key))
    orders = tuple(Order(size, (_MEMBERS, k, *key)) for k, size in enumerate(sizes.tolist()))
    classes = np.repeat(np.arange(len(sizes)), counts)
    rank = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_class = np.argsort(class_of, kind="stable")
    held = np.zeros(len(labels), bool)
    held[by_class[(np.cumsum(sizes) - sizes)[classes] + permute_each(rank, classes, orders)]] = True
    return held


def _counts(sizes: np.ndarray, share: float, turn: np.ndarray) -> np.ndarray:
    """Returns the number of images to hold out of each class: bounded shares, rounded by largest remainders.

    Ties are decided by `turn`, the position of each class in a seeded order.
    """
    least = (sizes > 1).astype(np.int64)
    most = sizes - 1
    wanted = float(np.clip(share * sizes.sum(), least.sum(), most.sum()))
    exact = np.clip(_common_share(sizes, least, most, wanted) * sizes, least, most)
    # Values that differ only by floating-point error are ties.
    counts = np.floor(exact + 1e-9).astype(np.int64)
    remainder = np.round(exact - counts, 9)
    missing = int(np.floor(wanted + 0.5)) - counts.sum()
    # lexsort begins with its last key: classes that cannot hold out more images come last.
    first = np.lexsort((turn, -remainder, counts >= most))
    counts[first[:missing]] += 1
    return counts


def _common_share(sizes: np.ndarray, least: np.ndarray, most: np.ndarray, wanted: float) -> float:
    """Returns the share s at which `clip(s * sizes, least, most)` sums to `wanted`.

    The sum is piecewise linear in s, and bends only where a class reaches one of its bounds.
    """
    bends = np.unique(np.concatenate([[0.0], least / sizes, most / sizes, [1.0]]))
    # Classes of one size are treated alike, and there are few distinct sizes even with many classes.
    different, first, alike = np.unique(sizes, return_index=True, return_counts=True)
    sums = np.clip(bends[:, None] * different, least[first], most[first]) @ alike
    # Interpolation needs sums that do not decrease, which rounding could violate.
    return float(np.interp(wanted, np.maximum.accumulate(sums), bends))


def _multi_label(labels: np.ndarray, share: float, key: tuple[int, ...]) -> np.ndarray:
    """Returns the held-out images, bool `[n]`."""
    n = len(labels)
    order = permute(np.arange(n), n, _IMAGES, 0, *key)
    # An extreme share must leave neither side empty.
    wanted = min(max(int(np.floor(share * n + 0.5)), 1), n - 1)
    # Side 1 is held out.
    side = np.zeros(n, np.int64)
    side[order[:wanted]] = 1
    parts = _Sides(labels.astype(bool), side)
    for column in np.argsort(parts.total, kind="stable").tolist():
        for lacking in (0, 1):
            if parts.needs[lacking, column] and not parts.held[lacking, column]:
                having = order[labels[order, column].astype(bool)]
                parts.move(having, lacking, 1)
    surplus = int(side.sum()) - wanted
    # The last held-out images of the order return first, or the first images of the rest are held out.
    parts.move(order[::-1] if surplus > 0 else order, int(surplus < 0), abs(surplus))
    return side.astype(bool)


class _Sides:
    """Numbers of images of each class on each side, updated while images are moved; `needs` marks where one must remain."""

    def __init__(self, labels: np.ndarray, side: np.ndarray):
        self._columns = [np.flatnonzero(row) for row in labels]
        self._side = side
        self.held = np.stack([labels[side == 0].sum(axis=0), labels[side == 1].sum(axis=0)])
        self.total = self.held.sum(axis=0)
        self.needs = np.stack([self.total >= 1, self.total >= 2])

    def move(self, images: np.ndarray, to: int, count: int) -> None:
        """Moves the first `count` of the images that are on the other side and are not needed there."""
        for image in images[self._side[images] != to].tolist():
            if not count:
                return
            columns = self._columns[image]
            source = 1 - to
            if (self.held[source, columns] > self.needs[source, columns]).all():
                self.held[source, columns] -= 1
                self.held[to, columns] += 1
                self._side[image] = to
                count -= 1
