"""Balls around images up to their k-th nearest neighbour, and who lies in them: exact, tile by tile.

Balls are open, as in the public implementations, but always hold their own centre: where more than k images are equal the
radius is 0, and an equal image still lies inside. Distances come from inner products, and are computed anew from differences
where rounding could decide.
"""

from collections.abc import Iterator

import numpy as np

from sslshift.shift._features import AT_ONCE, float64, tiles

# Looked at beyond the k nearest, so that rounding does not choose the k-th.
_SPARE = 3


def squared_radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each row from its k-th nearest other row, `[n]`."""
    return nearest_squares(x, x, neighbours, skip_own=True).max(axis=1)


def nearest_squares(x: np.ndarray, y: np.ndarray, neighbours: int, *, skip_own: bool = False) -> np.ndarray:
    """Squared distances of each row of x from its k nearest rows of y, in any order, `[n, k]`.

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`, m at least k.
      neighbours: k.
      skip_own: whether y is x, and no row its own neighbour; m is then above k.
    """
    squares = np.empty((len(x), neighbours))
    centre = _centre(y)
    count = min(neighbours + _SPARE, len(y) - skip_own)
    for rows in tiles(len(x), 512):
        left = float64(x, rows) - centre
        candidates = []
        for columns in tiles(len(y), 2048):
            found, _ = _squared_distances(left, float64(y, columns) - centre)
            if skip_own:
                own = np.arange(max(rows.start, columns.start), min(rows.stop, columns.stop))
                found[own - rows.start, own - columns.start] = np.inf
            near, place = _nearest(found, count)
            candidates.append((near, place + columns.start))
        near, place = (np.concatenate(parts, axis=1) for parts in zip(*candidates, strict=True))
        place = np.take_along_axis(place, _nearest(near, count)[1], axis=1)
        exact = np.stack([_exact(x, y, np.arange(rows.start, rows.stop), column) for column in place.T], axis=1)
        squares[rows] = np.partition(exact, neighbours - 1, axis=1)[:, :neighbours]
    return squares


def _nearest(squares: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` least of each row and their columns, in any order."""
    chosen = np.argpartition(squares, min(count, squares.shape[1]) - 1, axis=1)[:, :count]
    return np.take_along_axis(squares, chosen, axis=1), chosen


def inside(centres: np.ndarray, radii: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Which points lie in which balls.

    Args:
      centres: features `[a, dim]`.
      radii: squared, `[a]`.
      points: features `[b, dim]`.

    Yields:
      (rows of the centres, rows of the points, bool `[rows, rows]`), tile by tile.
    """
    centre = _centre(centres)
    for rows in tiles(len(centres)):
        left = float64(centres, rows) - centre
        for columns in tiles(len(points)):
            margin, error = _squared_distances(left, float64(points, columns) - centre)
            margin -= radii[rows, None]
            found = margin < 0
            row, column = np.nonzero(np.abs(margin, out=margin) <= error)
            exact = _exact(centres, points, row + rows.start, column + columns.start)
            found[row, column] = (exact < radii[row + rows.start]) | (exact == 0)
            yield rows, columns, found


def _centre(x: np.ndarray) -> np.ndarray:
    """Near the middle of the features: distances from inner products lose digits far from the origin."""
    return float64(x, slice(0, 1024)).mean(axis=0)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances `[a, b]`, and the most by which rounding can be wrong in each row `[a, 1]`."""
    of_x, of_y = (np.square(side).sum(axis=1) for side in (x, y))
    squares = x @ y.T
    # In place: these matrices are much larger than what they are made of.
    squares *= -2
    squares += of_x[:, None]
    squares += of_y
    return squares, (of_x[:, None] + of_y.max()) * (4 * (x.shape[1] + 8) * np.finfo(np.float64).eps)


def _exact(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Squared distances of given pairs from their differences: equal pairs get equal numbers."""
    squares = np.empty(len(in_x))
    for some in tiles(len(in_x), max(1, AT_ONCE // x.shape[1])):
        squares[some] = np.square(float64(x, in_x[some]) - float64(y, in_y[some])).sum(axis=1)
    return squares
