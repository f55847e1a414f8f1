"""What an audit of a sample plan counts, and how, in memory that grows only with the different images seen."""

from typing import NamedTuple

import numpy as np


class Seen(NamedTuple):
    """What an audit counted for one component of one stage."""

    stage: int
    source: str
    samples: int
    unique: int
    fewest: int
    most: int


class Tally:
    """Counts how often each number occurs. Numbers are collected until there are twice as many as different ones so far:
    each is then sorted a few times at most, and memory does not grow with how many were added."""

    def __init__(self):
        self._different = np.empty(0, np.int64)
        self._times = np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> None:
        self._pending.append(numbers)
        if sum(map(len, self._pending)) > max(1 << 20, 2 * len(self._different)):
            self._merge()

    def times(self) -> np.ndarray:
        """How often each of the different numbers occurred."""
        self._merge()
        return self._times

    def _merge(self) -> None:
        if self._pending:
            numbers, times = np.unique(np.concatenate(self._pending), return_counts=True)
            self._pending = []
            self._different, inverse = np.unique(np.concatenate([self._different, numbers]), return_inverse=True)
            self._times = np.bincount(inverse, np.concatenate([self._times, times])).astype(np.int64)
