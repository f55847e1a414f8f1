"""All pairs of 64-bit hashes that differ in few bits, exactly, in blocks: memory does not grow with the number of pairs.

Two ways, of which the cheaper is taken after counting:

- every hash is compared with every other: 10^5 within themselves in 3 seconds on 2 cores;
- by bands (multi-index hashing): two hashes that differ in at most d of 64 bits differ in at most d / 4 of one of their four
  bands of 16, so only those are compared whose band is the same but for so many bits.

References:
  Norouzi, Punjani & Fleet, `Fast Exact Search in Hamming Space with Multi-Index Hashing
  <https://arxiv.org/abs/1307.2982>`_, 2014
"""

from collections.abc import Iterator

import numpy as np

from sslshift.data.curation.blocks import Block, Wanted, joined, near_block
from sslshift.data.curation.perceptual_hash import FLAT
from sslshift.data.curation.threads import in_threads, watched

BANDS = 4
WIDTH = 16
# Pairs compared at a time, which fit into a core's cache, and pairs of one block at most.
_TILE = (16, 8192)
_BLOCK = 1 << 22
# A pair found by a band is looked up at random places; one of all pairs is met in order.
_LOOKUP_COST = 25


class HashIndex:
    """Perceptual hashes, uint64 `[n]`, in which near ones are found. Flat images' hashes are left out: they say nothing."""

    def __init__(self, hashes: np.ndarray):
        self._places = np.flatnonzero(hashes != FLAT)
        self._hashes = np.ascontiguousarray(hashes[self._places])
        self._bands: list[Band] | None = None

    def near(
        self, queries: np.ndarray, max_distance: int, wanted: Wanted | None = None, *, shown: bool = False
    ) -> Iterator[Block]:
        """Blocks of (place of the query, place in the index, bits in which they differ), each pair once."""
        places = np.flatnonzero(queries != FLAT)
        return self._near(queries[places], places, max_distance, wanted, within=False, shown=shown)

    def near_itself(self, max_distance: int, wanted: Wanted | None = None) -> Iterator[Block]:
        """Blocks of (place, later place, bits in which they differ), each pair once."""
        return self._near(self._hashes, self._places, max_distance, wanted, within=True, shown=True)

    def _near(
        self, queries: np.ndarray, places: np.ndarray, max_distance: int, wanted: Wanted | None, within: bool, shown: bool
    ) -> Iterator[Block]:
        if not 0 <= max_distance <= 64:
            raise ValueError(f"Two hashes differ in 0 to 64 bits; a distance of at most {max_distance} cannot be asked for.")
        comparisons = len(queries) * len(self._hashes) / (1 + within)
        # At three bits of 16 there are 697 masks to look up; with more it is quicker to compare.
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
    """Every query with every hash; `within`: both are the same, and only pairs with a later one are wanted."""
    rows, columns = _TILE
    stripe = max(rows, min(_BLOCK // max(len(hashes), 1), 1024) // rows * rows)

    def compare(start: int) -> Block:
        found = []
        for left in range(start if within else 0, len(hashes), columns):
            right = np.arange(left, min(left + columns, len(hashes)))
            for top in range(start, min(start + stripe, len(queries)), rows):
                down = np.arange(top, min(top + rows, len(queries)))
                bits = np.bitwise_count(queries[top : top + rows, None] ^ hashes[left : left + columns])
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
    """Each query with the hashes of which a band differs from its own in at most a fourth of the bits."""
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
                # What an earlier band found is not found again.
                for earlier in range(number):
                    near &= np.bitwise_count(_key(change, earlier)) > radius
                if near.any():
                    yield first[near], second[near], bits[near]


class Band:
    """Hashes by the value of one band of 16 bits."""

    def __init__(self, hashes: np.ndarray, number: int):
        self._number = number
        key = _key(hashes, number)
        self._order = np.argsort(key, kind="stable")
        self._sizes = np.bincount(key, minlength=1 << WIDTH)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def lookups(self, queries: np.ndarray, masks: np.ndarray) -> int:
        """How many pairs `pairs` would yield over all masks."""
        asked = np.bincount(_key(queries, self._number), minlength=1 << WIDTH)
        values = np.arange(1 << WIDTH)
        return sum(int(asked @ self._sizes[values ^ mask]) for mask in masks)

    def pairs(self, queries: np.ndarray, mask: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of (query, hash) of which this band differs by exactly the mask."""
        key = _key(queries, self._number) ^ mask
        asked = np.flatnonzero(self._sizes[key])
        ends = np.cumsum(self._sizes[key[asked]])
        start = 0
        while start < len(asked):
            # At least one query, and no more than fill a block.
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
    """All changes of at most `radius` bits of a band."""
    values = np.arange(1 << WIDTH)
    return values[np.bitwise_count(values) <= radius]
