"""Exact search for all pairs of 64-bit hashes that differ in few bits, in blocks: memory does not grow with the pairs.

There are two methods. The number of comparisons of each is counted first, and the cheaper method is used:

- comparison of every hash with every other one: 10^5 hashes within one set take 3 seconds on 2 cores;
- search by bands (multi-index hashing): two hashes that differ in at most d of 64 bits differ in at most d / 4 bits of at least
  one of their four bands of 16, so only hashes that differ in at most d / 4 bits of some band are compared.

References:
  Norouzi, Punjani & Fleet, `Fast Exact Search in Hamming Space with Multi-Index Hashing
  <https://arxiv.org/abs/1307.2982>`_, 2014
"""

from collections.abc import Iterator

import numpy as np

from sslshift.data.curation.pairs import Block, Pairs, Wanted, joined, linked, matched, near_block
from sslshift.data.perceptual_hash import FLAT
from sslshift.data.threads import in_threads, watched

BANDS = 4
WIDTH = 16
# Numbers of queries and of hashes that are compared at a time: their table of distances fits into a core's cache.
_TILE = (16, 8192)
# Largest number of pairs in a block, which limits the memory.
_BLOCK = 1 << 22
# Cost of a pair that a band finds, relative to a pair of the full comparison. A band reads random places in memory, and the
# full comparison reads memory in order.
_LOOKUP_COST = 25


def near_pairs_by_hash(hashes: np.ndarray, max_distance: int) -> Pairs:
    """Returns pairs of perceptual hashes, uint64 `[n]`, that differ in at most `max_distance` bits. The search is exact.

    The pairs link the groups that all such pairs would form; there are at most n - 1. On 2 cores 10^5 hashes take up to 3
    seconds. 10^6 hashes within 7 bits take 40 seconds, or some minutes if pictures are very similar. Flat images are in no
    pair.
    """
    index = HashIndex(hashes)
    return linked(len(hashes), lambda wanted: index.near_itself(max_distance, wanted), max_distance).pairs


def near_pairs_between_by_hash(a: np.ndarray, b: np.ndarray, max_distance: int) -> Pairs:
    """Returns each hash of either side, paired with the nearest hash of the other side within `max_distance` bits."""
    index = HashIndex(b)
    return matched((len(a), len(b)), lambda wanted: index.near(a, max_distance, wanted, shown=True), max_distance).pairs


class HashIndex:
    """Index of perceptual hashes, uint64 `[n]`, which finds near hashes.

    The hashes of flat images are excluded, since they carry no information.
    """

    def __init__(self, hashes: np.ndarray):
        self._places = np.flatnonzero(hashes != FLAT)
        self._hashes = np.ascontiguousarray(hashes[self._places])
        self._bands: list[Band] | None = None

    def near(
        self, queries: np.ndarray, max_distance: int, wanted: Wanted | None = None, *, shown: bool = False
    ) -> Iterator[Block]:
        """Yields blocks of (position of the query, position in the index, number of different bits), each pair once."""
        places = np.flatnonzero(queries != FLAT)
        return self._near(queries[places], places, max_distance, wanted, within=False, shown=shown)

    def near_itself(self, max_distance: int, wanted: Wanted | None = None) -> Iterator[Block]:
        """Yields blocks of (position, later position, number of different bits), each pair once."""
        return self._near(self._hashes, self._places, max_distance, wanted, within=True, shown=True)

    def _near(
        self, queries: np.ndarray, places: np.ndarray, max_distance: int, wanted: Wanted | None, within: bool, shown: bool
    ) -> Iterator[Block]:
        if not 0 <= max_distance <= 64:
            raise ValueError(f"Expected a distance of 0 to 64 bits between two hashes, got {max_distance}.")
        comparisons = len(queries) * len(self._hashes) / (1 + within)
        # Up to three of 16 bits can change in 697 ways, each of which is looked up. With four bits, comparing all is faster.
        banded = comparisons > 1 << 28 and max_distance < 4 * BANDS
        if banded:
            bands = self._bands = self._bands or [Band(self._hashes, number) for number in range(BANDS)]
            masks = _masks(max_distance // BANDS)
            banded = _LOOKUP_COST * sum(band.lookups(queries, masks) for band in bands) < comparisons
        if banded:
            blocks = by_bands(queries, self._hashes, bands, max_distance, within, shown)
        else:
            own = wanted and (lambda rows, columns, bits: wanted(places[rows], self._places[columns], bits))
            blocks = by_comparison(queries, self._hashes, max_distance, within, shown, own)
        return ((places[first], self._places[second], bits) for first, second, bits in blocks)


def by_comparison(
    queries: np.ndarray,
    hashes: np.ndarray,
    max_distance: int,
    within: bool = False,
    shown: bool = False,
    wanted: Wanted | None = None,
) -> Iterator[Block]:
    """Yields the near pairs of every query and every hash; with `within`, both are one set, and each pair occurs once."""
    rows, columns = _TILE
    # A stripe of queries is one task of a thread. Its table with all hashes has at most `_BLOCK` pairs.
    stripe = max(rows, min(_BLOCK // max(len(hashes), 1), 1024) // rows * rows)

    def compare(start: int) -> Block:
        found = []
        # Both tables are reused: mapping new memory for each tile would take as long as the comparison.
        changes = np.empty(_TILE, np.uint64)
        counts = np.empty(_TILE, np.uint8)
        for left in range(start if within else 0, len(hashes), columns):
            right = np.arange(left, min(left + columns, len(hashes)))
            for top in range(start, min(start + stripe, len(queries)), rows):
                down = np.arange(top, min(top + rows, len(queries)))
                tile = np.s_[: len(down), : len(right)]
                change = np.bitwise_xor(queries[down, None], hashes[left : left + columns], out=changes[tile])
                bits = np.bitwise_count(change, out=counts[tile])
                # Most tiles hold no near pair, and their minimum is found faster than their near pairs.
                if bits.min() <= max_distance:
                    found.append(near_block(bits, max_distance, down, right, wanted))
        first, second, bits = joined(found)
        later = second > first if within else slice(None)
        return first[later], second[later], bits[later]

    starts = range(0, len(queries), stripe)
    parts = watched(starts, "comparing hashes", long=shown and len(queries) * len(hashes) > 1 << 32)
    return in_threads(compare, parts)


def by_bands(
    queries: np.ndarray,
    hashes: np.ndarray,
    bands: list["Band"],
    max_distance: int,
    within: bool = False,
    shown: bool = False,
) -> Iterator[Block]:
    """Yields the near pairs that differ in at most a fourth of `max_distance` bits in at least one band."""
    radius = max_distance // BANDS
    masks = _masks(radius)
    for number, band in enumerate(bands):
        for mask in watched(masks, f"comparing hashes, band {number + 1} of {BANDS}", long=shown and len(queries) > 1 << 18):
            for first, second in band.pairs(queries, mask):
                change = queries[first] ^ hashes[second]
                bits = np.bitwise_count(change)
                near = bits <= max_distance
                if within:
                    near &= first < second
                # A pair that an earlier band has yielded must not be yielded again.
                for earlier in range(number):
                    near &= np.bitwise_count(_key(change, earlier)) > radius
                if near.any():
                    yield first[near], second[near], bits[near]


class Band:
    """Hashes sorted by the value of one band of 16 bits."""

    def __init__(self, hashes: np.ndarray, number: int):
        self._number = number
        key = _key(hashes, number)
        self._order = np.argsort(key, kind="stable")
        self._sizes = np.bincount(key, minlength=1 << WIDTH)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def lookups(self, queries: np.ndarray, masks: np.ndarray) -> int:
        """Returns the number of pairs that `pairs` would yield over all masks."""
        asked = np.bincount(_key(queries, self._number), minlength=1 << WIDTH)
        values = np.arange(1 << WIDTH)
        return sum(int(asked @ self._sizes[values ^ mask]) for mask in masks)

    def pairs(self, queries: np.ndarray, mask: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields blocks of (query, hash) whose bands differ by exactly the mask."""
        key = _key(queries, self._number) ^ mask
        asked = np.flatnonzero(self._sizes[key])
        ends = np.cumsum(self._sizes[key[asked]])
        start = 0
        while start < len(asked):
            # The queries whose pairs fit into a block, but at least one: a band of equal hashes can exceed a block by itself.
            done = ends[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
            some = asked[start:end]
            sizes = self._sizes[key[some]]
            place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            yield np.repeat(some, sizes), self._order[np.repeat(self._starts[key[some]], sizes) + place]
            start = end


def _key(hashes: np.ndarray, number: int) -> np.ndarray:
    return (hashes >> np.uint64(WIDTH * number) & np.uint64((1 << WIDTH) - 1)).astype(np.int64)


def _masks(radius: int) -> np.ndarray:
    """Returns all changes of at most `radius` bits of a band."""
    values = np.arange(1 << WIDTH)
    return values[np.bitwise_count(values) <= radius]
