"""Sums of kernel matrices, tile by tile: no matrix of n x n is ever held."""

from collections.abc import Callable

import numpy as np

from sslshift.shift._features import float64, tiles

# From inner products [a, b], which it may overwrite, to values of the kernel.
Kernel = Callable[[np.ndarray], np.ndarray]
Prepare = Callable[[np.ndarray], np.ndarray]


def as_they_are(block: np.ndarray) -> np.ndarray:
    return block


def sums_between(x: np.ndarray, y: np.ndarray, kernel: Kernel, prepare: Prepare = as_they_are) -> tuple[np.ndarray, np.ndarray]:
    """For each row of x the sum of the kernel over y `[n]`, and for each row of y over x `[m]`."""
    of_x, of_y = np.zeros(len(x)), np.zeros(len(y))
    for rows in tiles(len(x)):
        left = prepare(float64(x, rows))
        for columns in tiles(len(y)):
            values = kernel(left @ prepare(float64(y, columns)).T)
            of_x[rows] += values.sum(axis=1)
            of_y[columns] += values.sum(axis=0)
    return of_x, of_y


def sums_within(x: np.ndarray, kernel: Kernel, prepare: Prepare = as_they_are) -> np.ndarray:
    """For each row the sum of the kernel over all other rows `[n]`, without the row itself."""
    sums, parts = np.zeros(len(x)), tiles(len(x))
    for place, rows in enumerate(parts):
        left = prepare(float64(x, rows))
        values = kernel(left @ left.T)
        np.fill_diagonal(values, 0.0)
        sums[rows] += values.sum(axis=1)
        for columns in parts[place + 1 :]:
            values = kernel(left @ prepare(float64(x, columns)).T)
            sums[rows] += values.sum(axis=1)
            sums[columns] += values.sum(axis=0)
    return sums


def cubic(products: np.ndarray, dim: int) -> np.ndarray:
    """The kernel of the kernel distance."""
    products /= dim
    products += 1.0
    squares = products * products
    squares *= products
    return squares
