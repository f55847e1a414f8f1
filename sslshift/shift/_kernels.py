"""Sums of kernel matrices, tile by tile: no matrix of n x n is ever held."""

import dataclasses
from typing import Protocol

import numpy as np

from sslshift.shift._features import float64, tiles


class Kernel(Protocol):
    def prepare(self, block: np.ndarray) -> np.ndarray:
        """Rows `[n, dim]` as the kernel takes them, done once for each block."""

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values `[n, m]` of the kernel between prepared rows."""


def sums_between(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """For each row of x the sum of the kernel over y `[n]`, and for each row of y over x `[m]`."""
    of_x = np.zeros(len(x))
    of_y = np.zeros(len(y))
    for rows in tiles(len(x)):
        left = kernel.prepare(float64(x, rows))
        for columns in tiles(len(y)):
            values = kernel(left, kernel.prepare(float64(y, columns)))
            of_x[rows] += values.sum(axis=1)
            of_y[columns] += values.sum(axis=0)
    return of_x, of_y


def sums_within(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """For each row the sum of the kernel over all other rows `[n]`, without the row itself."""
    sums = np.zeros(len(x))
    parts = tiles(len(x))
    for place, rows in enumerate(parts):
        left = kernel.prepare(float64(x, rows))
        values = kernel(left, left)
        np.fill_diagonal(values, 0.0)
        sums[rows] += values.sum(axis=1)
        for columns in parts[place + 1 :]:
            values = kernel(left, kernel.prepare(float64(x, columns)))
            sums[rows] += values.sum(axis=1)
            sums[columns] += values.sum(axis=0)
    return sums


@dataclasses.dataclass(frozen=True)
class Cubic:
    """The kernel (x.y / dim + 1)^3 of the kernel distance, less a part that depends on x alone and one that depends on y alone.

    These parts cancel in every distance between mixtures. Far from the origin they are nearly all of the kernel, and the digits
    of what is left would be lost in them. With x and y less a centre c, s = |c|^2 / dim + 1, t = x.y / dim and
    w = t + c.x / dim + c.y / dim, the kernel is (s + w)^3, of which 3 s^2 t + 3 s w^2 + w^3 is kept.
    """

    centre: np.ndarray

    @classmethod
    def near(cls, x: np.ndarray) -> "Cubic":
        """Around the middle of some of these rows."""
        return cls(float64(x, slice(0, 1024)).mean(axis=0))

    def prepare(self, block: np.ndarray) -> np.ndarray:
        rows = block - self.centre
        rows *= len(self.centre) ** -0.5
        return rows

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        direction = self.centre * len(self.centre) ** -0.5
        s = direction @ direction + 1.0
        values = x @ y.T
        of_x = x @ direction
        of_y = y @ direction
        # Some rows at a time, which stay in the processor's cache.
        for rows in tiles(len(x), 64):
            w = values[rows] + of_x[rows, None]
            w += of_y
            values[rows] *= 3 * s**2
            values[rows] += w * w * (w + 3 * s)
        return values
