"""Pairs in blocks: what searches yield and what links and matches take."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

# Places on one side, places on the other, and the distance of each pair: arrays [m].
Block = tuple[np.ndarray, np.ndarray, np.ndarray]
# Of places on either side, [a] and [b], and their distances [a, b], the pairs that would say something new: bool [a, b].
# Searches ask it where very many pairs are near.
Wanted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# Pairs looked at at a time.
CHUNK = 1 << 16
# Blocks in which more than one of so many pairs is near are dense.
_DENSE = 64


def near_block(
    distance: np.ndarray, limit: float, rows: np.ndarray, columns: np.ndarray, wanted: Wanted | None = None
) -> Block:
    """The pairs up to the limit of a table of distances `[rows, columns]`; if they are many, those of them that are wanted."""
    near = distance <= limit
    if wanted and np.count_nonzero(near) > near.size // _DENSE:
        near &= wanted(rows, columns, distance)
    place = np.flatnonzero(near)
    row, column = np.divmod(place, len(columns))
    return rows[row], columns[column], distance.ravel()[place]


def joined(blocks: Iterable[Block]) -> Block:
    """Blocks as one."""
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
    first, second, distance = (np.concatenate(parts) for parts in zip(none, *blocks, strict=True))
    return first, second, distance


def chunks(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same pairs in blocks of `CHUNK`, the last one smaller."""
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
