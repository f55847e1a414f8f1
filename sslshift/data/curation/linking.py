"""From blocks of pairs, however many, to few: those that link a set's groups, or each image's nearest of another set."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from sslshift.data.curation.blocks import Block, Wanted, chunks

# Distances, float [m], of pairs (first, second), int64 [m] each.
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Blocks of pairs, made when told which are wanted.
Search = Callable[[Wanted], Iterable[Block]]
# Pairs beyond the limit that are shown to people, and that are held until it is known which images have a match after all.
_MISSED = 48
_HELD = 1 << 14


class Pairs(NamedTuple):
    """Pairs of images.

    Attributes:
      first: indices int64 `[m]`.
      second: indices int64 `[m]`; within one set always later than `first`.
      distance: float64 `[m]`: bits of a hash, or 1 - correlation, or 1 - cosine.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray

    @property
    def count(self) -> int:
        return len(self.first)

    def chosen(self, which: np.ndarray) -> "Pairs":
        """Returns those at these places, or those for which a bool `[m]` is true."""
        return Pairs(*(side[which] for side in self))


NONE = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


class Found(NamedTuple):
    """What a search found.

    Attributes:
      pairs: those near enough.
      missed: the nearest of those looked at that are not, so that a person can judge the limit.
    """

    pairs: Pairs
    missed: Pairs


def linked(count: int, search: Search, limit: float, measure: Measure | None = None) -> Found:
    """Pairs within one set, at most `count - 1`, that link the same groups as all pairs up to the limit would.

    Pairs that are linked already are not measured, so that a set of equal images costs little more than one of different ones.

    Args:
      count: number of images.
      search: makes blocks of (first, second, distance), in any order.
      limit: of the distance.
      measure: the distance that decides; None: that of the blocks.
    """
    # The least image of each image's group as far as it is known.
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
    beyond = missed.pairs()
    apart = group[beyond.first] != group[beyond.second]
    return Found(_sorted(links), _nearest(beyond, apart))


class Matches:
    """Of the images of two sets, each one's nearest of the other set, as pairs come in.

    Args:
      counts: numbers of images of the two sets.
      limit: of the distance.
    """

    def __init__(self, counts: tuple[int, int], limit: float):
        self._limit = limit
        self._missed = _Nearest()
        self._partner = [np.full(count, -1) for count in counts]
        self._distance = [np.full(count, np.inf) for count in counts]

    def wanted(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Pairs, bool `[rows, columns]`, of which either image has no match yet: others say nothing new of what is matched."""
        return (self._partner[0][rows] < 0)[:, None] | (self._partner[1][columns] < 0)

    def nearer(self, rows: np.ndarray, columns: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Of a table of distances, bool `[rows, columns]`: the nearest of each row and column if nearer than what is known."""
        better = (distance < self._distance[0][rows][:, None]) | (distance < self._distance[1][columns])
        nearest = np.zeros(distance.shape, bool)
        some = np.flatnonzero(better.any(1))
        nearest[some, distance[some].argmin(1)] = True
        some = np.flatnonzero(better.any(0))
        nearest[distance[:, some].argmin(0), some] = True
        return nearest & better

    def open(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Pairs, bool, of which either image has no match yet; the arrays are broadcast."""
        return (self._partner[0][first] < 0) | (self._partner[1][second] < 0)

    def add(self, first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> None:
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
        matched = [np.flatnonzero(partner >= 0) for partner in self._partner]
        first = np.concatenate([matched[0], self._partner[1][matched[1]]])
        second = np.concatenate([self._partner[0][matched[0]], matched[1]])
        distance = np.concatenate([self._distance[side][matched[side]] for side in (0, 1)])
        missed = self._missed.pairs()
        alone = (self._partner[0][missed.first] < 0) & (self._partner[1][missed.second] < 0)
        return Found(_sorted([(first, second, distance)]), _nearest(missed, alone))


def matched(counts: tuple[int, int], search: Search, limit: float) -> Found:
    """Pairs between two sets, at most the sum of `counts`: each image with its nearest of the other set up to the limit.

    Arguments as of `linked`.
    """
    matches = Matches(counts, limit)
    for block in chunks(search(matches.nearer)):
        matches.add(*block)
    return matches.found()


def _forest(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Places of pairs that link all that these pairs link, without a circle; `group` is updated.

    In each round every group that has a pair with a lesser one joins the least of those (Boruvka).
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
        while (group[group] != group).any():
            group[:] = group[group]


class _Nearest:
    """The nearest of many pairs."""

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
    """Of the chosen pairs, bool `[m]`, the nearest few, each once, in the order of their distance."""
    single = _sorted([tuple(part[chosen] for part in pairs)])
    order = np.argsort(single.distance, kind="stable")[:_MISSED]
    return Pairs(*(part[order] for part in single))


def _sorted(blocks: list[Block]) -> Pairs:
    """Each pair once, in the order of `first`, then `second`."""
    first, second, distance = (np.concatenate(parts) for parts in zip(NONE, *blocks, strict=True))
    order = np.lexsort((distance, second, first))
    first = first[order]
    second = second[order]
    distance = distance[order].astype(np.float64)
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return Pairs(first[new], second[new], distance[new])
