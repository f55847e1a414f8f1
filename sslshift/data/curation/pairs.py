"""Pairs of images, reduced from any number of near pairs to a few, without holding all of them in memory.

A hundred thousand equal images form five billion pairs. Within one set, only those pairs are kept that link each image to its
group: fewer than one per image, a spanning forest of the graph of all pairs. Between two sets, each image keeps its nearest
image of the other set. The searches in `hamming` and `cosine` therefore yield pairs in blocks, and `linked` and
`matched` reduce them block by block.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Positions in the first set, positions in the second set, and the distance of each pair: arrays [m].
Block = tuple[np.ndarray, np.ndarray, np.ndarray]
# Returns, for positions [a] and [b] and their distances [a, b], which pairs would add information: bool [a, b]. A search calls
# it where very many pairs are near, since most of those are already linked or matched.
Wanted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# Yields blocks of pairs, given a function that returns which pairs are wanted.
Search = Callable[[Wanted], Iterable[Block]]
# Returns the distances, float [m], of pairs (first, second), int64 [m] each.
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Pairs per block. Measuring a block takes a few arrays of this length, for any total number of pairs.
CHUNK = 1 << 16
# A table of distances is dense if more than one in 64 of its pairs is near. Only the wanted pairs of such a table are kept.
_DENSE = 64
# Number of pairs beyond the limit that are shown to people.
_MISSED = 48
# Number of pairs beyond the limit that are held during the search. It is larger, since some images may still be matched.
_HELD = 1 << 14


class Pairs(NamedTuple):
    """Pairs of images.

    Attributes:
      first: indices int64 `[m]`.
      second: indices int64 `[m]`; within one set always greater than `first`.
      distance: float64 `[m]`: bits of a hash, or 1 - correlation, or 1 - cosine.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.first)

    def chosen(self, which: np.ndarray) -> "Pairs":
        """Returns the pairs at these positions, or those for which a bool `[m]` is true."""
        return Pairs(*(side[which] for side in self))

    def by_distance(self, *, nearest_first: bool) -> "Pairs":
        """Returns the pairs sorted by their distance."""
        return self.chosen(np.argsort(self.distance if nearest_first else -self.distance, kind="stable"))


NONE = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


class Found(NamedTuple):
    """Result of a search.

    Attributes:
      pairs: the pairs that are near enough.
      missed: the nearest of the examined pairs that are not near enough, so that a person can check the limit.
    """

    pairs: Pairs
    missed: Pairs


def exact_pairs(digests: Sequence[Hashable]) -> Pairs:
    """Returns each repeated element, paired with the first element equal to it: a group's pairs share its first element."""
    first: dict[Hashable, int] = {}
    home = np.array([first.setdefault(digest, place) for place, digest in enumerate(digests)], np.int64)
    later = np.flatnonzero(home != np.arange(len(home)))
    return Pairs(home[later], later, np.zeros(len(later)))


def exact_pairs_between(a: Sequence[Hashable], b: Sequence[Hashable]) -> Pairs:
    """Returns each element of either side, paired with the first equal element of the other side, if there is one."""
    # Reversed, so that the first of several equal elements is written last and is kept.
    first_a = {digest: place for place, digest in reversed(list(enumerate(a)))}
    first_b = {digest: place for place, digest in reversed(list(enumerate(b)))}
    matches = {(place, first_b[digest]) for place, digest in enumerate(a) if digest in first_b}
    matches |= {(first_a[digest], place) for place, digest in enumerate(b) if digest in first_a}
    pairs = np.array(sorted(matches), np.int64).reshape(-1, 2)
    return Pairs(pairs[:, 0], pairs[:, 1], np.zeros(len(pairs)))


def linked(count: int, search: Search, limit: float, measure: Measure | None = None) -> Found:
    """Finds at most `count - 1` pairs within one set that link the same groups as all pairs up to the limit.

    Pairs that are linked already are not measured, so that a set of equal images costs little more than a set of different
    images.

    Args:
      count: number of images.
      search: yields blocks of (first, second, distance), in any order.
      limit: greatest distance of a pair.
      measure: returns the distance that decides; None: the distance in the blocks decides.
    """
    # For each image, the smallest index known so far in its group.
    group = np.arange(count)
    links = []
    missed = _Nearest()
    for block in chunks(search(lambda rows, columns, distance: group[rows][:, None] != group[columns])):
        first, second, distance = (part[group[block[0]] != group[block[1]]] for part in block)
        distance = distance if measure is None else measure(first, second)
        near = distance <= limit
        missed.add(first[~near], second[~near], distance[~near])
        first = first[near]
        second = second[near]
        distance = distance[near]
        chosen = _forest(group, first, second)
        links.append((first[chosen], second[chosen], distance[chosen]))
    # Two images that missed the limit may have been linked through other images since.
    beyond = missed.pairs()
    apart = group[beyond.first] != group[beyond.second]
    return Found(_sorted(links), _nearest(beyond, apart))


class Matches:
    """Nearest image of the other set for each image of two sets, kept up to date as pairs are added.

    Args:
      counts: numbers of images of the two sets.
      limit: greatest distance of a pair.
    """

    def __init__(self, counts: tuple[int, int], limit: float):
        self._limit = limit
        self._missed = _Nearest()
        self._partner = [np.full(count, -1) for count in counts]
        self._distance = [np.full(count, np.inf) for count in counts]

    def nearer(self, rows: np.ndarray, columns: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Returns, as bool, the nearest pair of each row and column of a table of distances, if it is nearer than known."""
        better = (distance < self._distance[0][rows][:, None]) | (distance < self._distance[1][columns])
        nearest = np.zeros(distance.shape, bool)
        some = np.flatnonzero(better.any(1))
        nearest[some, distance[some].argmin(1)] = True
        some = np.flatnonzero(better.any(0))
        nearest[distance[:, some].argmin(0), some] = True
        return nearest & better

    def open(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Returns, as bool, the pairs in which an image has no match yet; the arrays are broadcast."""
        return (self._partner[0][first] < 0) | (self._partner[1][second] < 0)

    def add(self, first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> None:
        """Adds pairs; those beyond the limit are remembered as missed."""
        near = distance <= self._limit
        self._missed.add(first[~near], second[~near], distance[~near])
        order = np.flatnonzero(near)[np.argsort(distance[near], kind="stable")]
        for side, (own, other) in enumerate(((first, second), (second, first))):
            places, nearest = np.unique(own[order], return_index=True)
            nearest = order[nearest]
            better = distance[nearest] < self._distance[side][places]
            places = places[better]
            nearest = nearest[better]
            self._partner[side][places] = other[nearest]
            self._distance[side][places] = distance[nearest]

    def found(self) -> Found:
        """Returns the matches, and the missed pairs in which neither image has a match."""
        matched = [np.flatnonzero(partner >= 0) for partner in self._partner]
        first = np.concatenate([matched[0], self._partner[1][matched[1]]])
        second = np.concatenate([self._partner[0][matched[0]], matched[1]])
        distance = np.concatenate([self._distance[side][matched[side]] for side in (0, 1)])
        missed = self._missed.pairs()
        alone = (self._partner[0][missed.first] < 0) & (self._partner[1][missed.second] < 0)
        return Found(_sorted([(first, second, distance)]), _nearest(missed, alone))


def matched(counts: tuple[int, int], search: Search, limit: float) -> Found:
    """Finds for each image of two sets its nearest image in the other set, within the limit.

    The number of pairs is at most the sum of `counts`. The arguments are those of `linked`.
    """
    matches = Matches(counts, limit)
    for block in chunks(search(matches.nearer)):
        matches.add(*block)
    return matches.found()


def near_block(
    distance: np.ndarray, limit: float, rows: np.ndarray, columns: np.ndarray, wanted: Wanted | None = None
) -> Block:
    """Returns the pairs up to the limit from a table of distances `[rows, columns]`; only wanted pairs if many are near."""
    near = distance <= limit
    if wanted and np.count_nonzero(near) > near.size // _DENSE:
        near &= wanted(rows, columns, distance)
    place = np.flatnonzero(near)
    row, column = np.divmod(place, len(columns))
    return rows[row], columns[column], distance.ravel()[place]


def joined(blocks: Iterable[Block]) -> Block:
    """Returns the blocks as one."""
    # An empty first part gives the arrays a type even if there is no block; uint8 is too small to change another type.
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
    first, second, distance = (np.concatenate(parts) for parts in zip(none, *blocks, strict=True))
    return first, second, distance


def chunks(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yields the same pairs in blocks of `CHUNK`; the last block may be smaller."""
    waiting = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block[0])
        if count >= CHUNK:
            first, second, distance = joined(waiting)
            whole = count // CHUNK * CHUNK
            for start in range(0, whole, CHUNK):
                end = start + CHUNK
                yield first[start:end], second[start:end], distance[start:end]
            waiting = [(first[whole:], second[whole:], distance[whole:])]
            count = count - whole
    if count:
        yield joined(waiting)


def _forest(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the positions of a spanning forest of these pairs, and updates `group`.

    In each round, every group that has a pair with a lower group joins the lowest such group (Boruvka's algorithm).
    """
    chosen = [np.zeros(0, np.int64)]
    while True:
        a = group[first]
        b = group[second]
        apart = np.flatnonzero(a != b)
        if not len(apart):
            return np.concatenate(chosen)
        high = np.maximum(a, b)[apart]
        low = np.minimum(a, b)[apart]
        order = np.lexsort((low, high))
        joining, place = np.unique(high[order], return_index=True)
        place = order[place]
        group[joining] = low[place]
        chosen.append(apart[place])
        # Groups may have joined a group that itself joined another: follow the chain to its end.
        while (group[group] != group).any():
            group[:] = group[group]


class _Nearest:
    """The `_HELD` nearest of many pairs."""

    def __init__(self):
        self._best = NONE

    def add(self, first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> None:
        parts = [np.concatenate(pair) for pair in zip(self._best, (first, second, distance), strict=True)]
        if len(parts[2]) > _HELD:
            chosen = np.argpartition(parts[2], _HELD)[:_HELD]
            parts = [part[chosen] for part in parts]
        self._best = Pairs(*parts)

    def pairs(self) -> Pairs:
        return self._best


def _nearest(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    """Returns the nearest few of the chosen pairs, bool `[m]`, each once, in the order of their distance."""
    single = _sorted([tuple(part[chosen] for part in pairs)])
    order = np.argsort(single.distance, kind="stable")[:_MISSED]
    return single.chosen(order)


def _sorted(blocks: list[Block]) -> Pairs:
    """Returns each pair once, in the order of `first`, then `second`."""
    first, second, distance = (np.concatenate(parts) for parts in zip(NONE, *blocks, strict=True))
    # Sorted by distance too, so that the nearest of several equal pairs comes first and is kept.
    order = np.lexsort((distance, second, first))
    first = first[order]
    second = second[order]
    distance = distance[order].astype(np.float64)
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return Pairs(first[new], second[new], distance[new])
