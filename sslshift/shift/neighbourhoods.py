"""Nearest neighbours between two sets of features: precision and recall, density and coverage, nearness.

All are exact, and computed tile by tile. Balls around images reach up to their k-th nearest neighbour. They are open, as in the
public implementations, but always contain their own centre: where more than k images are equal the radius is 0, and an equal
image is still inside. Distances come from inner products, and are recomputed from differences where rounding could decide.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sslshift.shift._base import AT_ONCE, float64, matrix, pair, require_one_dimension, tiles

# Candidates beyond the k nearest, so that rounding does not decide which one is the k-th.
_SPARE = 3


class PrecisionRecall(NamedTuple):
    """Shares of two sets that overlap.

    Attributes:
      precision: share of y inside x's neighbourhoods.
      recall: share of x inside y's neighbourhoods.
    """

    precision: float
    recall: float


def precision_recall(x: np.ndarray, y: np.ndarray, *, neighbours: int = 5) -> PrecisionRecall:
    """Returns the share of each set inside balls around the images of the other set, up to their k-th neighbour in their own
    set.

    Outliers have large balls, which raise both shares; `density_coverage` is less sensitive to them. Both shares depend on the
    number of images: compare sets of equal size.

    Example:
      >>> import numpy as np
      >>> x = np.arange(10.0)[:, None]
      >>> precision_recall(x, x[:8] / 2, neighbours=2)  # y is inside the range of x, whose upper half is outside that of y
      PrecisionRecall(precision=1.0, recall=0.5)

    Args:
      x: features `[n, dim]` of the reference, n above k.
      y: features `[m, dim]`, m above k.
      neighbours: k.

    Returns:
      Precision of y by x, and recall of x by y.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Kynkaanniemi et al., `Improved Precision and Recall Metric for Assessing Generative Models
      <https://arxiv.org/abs/1904.06991>`_, 2019
    """
    require_neighbours(neighbours)
    x, y = pair(x, y, f"Precision and recall with {neighbours} neighbours", neighbours + 1)
    return PrecisionRecall(share_inside(x, y, neighbours), share_inside(y, x, neighbours))


class DensityCoverage(NamedTuple):
    """Position of a set y in the neighbourhoods of a reference x.

    Attributes:
      density: mean number of x's neighbourhoods that contain an image of y, over k; about 1 for another sample of x, unbounded.
      coverage: share of x's neighbourhoods that contain an image of y.
    """

    density: float
    coverage: float


def density_coverage(x: np.ndarray, y: np.ndarray, *, neighbours: int = 5) -> DensityCoverage:
    """Returns density and coverage of y by balls around the reference's images, up to their k-th neighbour among these.

    Between samples of one distribution and equal size, the coverage expected is about 1 - 2^-k: at k = 5, 0.97.

    Example:
      >>> import numpy as np
      >>> x = np.arange(10.0)[:, None]
      >>> density_coverage(x, x[:5], neighbours=2)  # 6 hits: each ball its centre, the first one also 1
      DensityCoverage(density=0.6, coverage=0.5)

    Args:
      x: features `[n, dim]` of the reference, n above k.
      y: features `[m, dim]`.
      neighbours: k.

    Returns:
      Density and coverage.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.

    References:
      Naeem et al., `Reliable Fidelity and Diversity Metrics for Generative Models <https://arxiv.org/abs/2002.09797>`_, 2020
    """
    hits, covered, _ = _looked_up(x, y, neighbours, "Density and coverage")
    return DensityCoverage(hits / (neighbours * len(y)), float(covered.mean()))


class Coverage(NamedTuple):
    """Shares of a target and a source that are near each other.

    Attributes:
      target: share of the target's images that have a near image in the source: the part that the source can teach about.
      source: share of the source's images that have a near image in the target: the part of the source that is relevant.
    """

    target: float
    source: float


def coverage_of(target: np.ndarray, source: np.ndarray, *, neighbours: int = 5) -> Coverage:
    """Returns the shares of a target with a near image in a source, and of the source with a near image in the target.

    Near has one meaning for both: an image of the source is near an image of the target if it is nearer to it than the k-th
    nearest other image of the target. A larger source covers more: use equal numbers of images to compare kinds of sources, and
    whole sources to compare what is available.

    Example:
      >>> import numpy as np
      >>> target, source = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([[0.5], [1.5], [50.0]])
      >>> covered = coverage_of(target, source, neighbours=1)  # 9 is 7 from its neighbour, 7.5 from the source
      >>> covered.target, round(covered.source, 3)
      (0.75, 0.667)

    Args:
      target: features `[n, dim]` of the downstream images, n above k.
      source: features `[m, dim]` of the images trained on.
      neighbours: k.

    Returns:
      The coverage of the target, and the precision of the source.

    Raises:
      ValueError: shapes do not fit, too few rows, or features are not finite.
    """
    _, covered, hit = _looked_up(target, source, neighbours, "Coverage")
    return Coverage(float(covered.mean()), float(hit.mean()))


def nearness(x: np.ndarray, reference: np.ndarray, *, neighbours: int = 5) -> np.ndarray:
    """Returns the mean distance of each row to its nearest rows of a reference.

    Example:
      >>> import numpy as np
      >>> nearness(np.array([[0.0], [10.0]]), np.array([[1.0], [3.0], [99.0]]), neighbours=2).tolist()
      [2.0, 8.0]

    Args:
      x: features `[n, dim]`.
      reference: features `[m, dim]`.
      neighbours: number of neighbours; all rows, if there are fewer.

    Returns:
      float64 `[n]`, Euclidean.

    Raises:
      ValueError: features are not finite matrices of one dimension, or the number of neighbours is below 1.
    """
    require_neighbours(neighbours)
    x = matrix(x)
    reference = matrix(reference)
    require_one_dimension(x.shape[1], reference.shape[1])
    # The mean over several neighbours is less sensitive to a single copy than the nearest one.
    return np.sqrt(nearest_squares(x, reference, min(neighbours, len(reference)))).mean(axis=1)


def expected_coverage(target: int, source: int, *, neighbours: int = 5) -> float:
    """Returns the coverage of a target by further images of its own distribution, which no source can exceed.

    Example:
      >>> round(expected_coverage(1000, 1000), 2)
      0.97

    Args:
      target: number of images of the target.
      source: number of further images.
      neighbours: k of the coverage.
    """
    # An image is not covered if all of its k nearest neighbours in both sets belong to its own set.
    return 1 - math.prod((target - 1 - i) / (target - 1 + source - i) for i in range(neighbours))


class ClosestMatches(NamedTuple):
    """Images of a source, the most alike to the target first, each with the image of the target that it resembles.

    Attributes:
      source: rows of the source, `[m]`.
      target: row of the target for each of them, `[m]`.
    """

    source: np.ndarray
    target: np.ndarray


def closest_matches(
    target: np.ndarray, source: np.ndarray, *, neighbours: int = 5, target_radii: np.ndarray | None = None
) -> ClosestMatches:
    """Returns the images of a source by their distance to the target in units of both images' own neighbourhoods.

    In many dimensions a few images, such as blank ones, are near to everything. By plain distances they would be the nearest
    images of every source. A distance is therefore divided by the distances of either image to its k-th nearest neighbour in
    its own set, which are small for such images. For the same reason each image of the target matches one image of the source
    before any image of the target matches a second one.

    Example:
      >>> import numpy as np
      >>> target, source = np.array([[0.0], [0.1], [5.0], [9.0]]), np.array([[0.15], [0.2], [5.5], [20.0]])
      >>> matches = closest_matches(target, source, neighbours=1)  # 5.5 is 0.5 from 5, whose own neighbour is 4 away
      >>> matches.source.tolist(), matches.target.tolist()
      ([2, 0, 3, 1], [2, 1, 3, 1])

    Args:
      target: features `[n, dim]` of the downstream images, n above 1.
      source: features `[m, dim]`, m above 1.
      neighbours: k; fewer, if a set has fewer other images.
      target_radii: `squared_radii` of the target, if they are known, which several sources share.

    Raises:
      ValueError: features are not finite matrices of one dimension, or there are too few rows.

    References:
      Zelnik-Manor & Perona, `Self-Tuning Spectral Clustering
      <https://papers.nips.cc/paper/2004/hash/40173ea48d9567f1f393b20c855bb40b-Abstract.html>`_, 2004
      Schnitzer et al., `Local and Global Scaling Reduce Hubs in Space <https://jmlr.org/papers/v13/schnitzer12a.html>`_, 2012
    """
    require_neighbours(neighbours)
    target, source = pair(target, source, "The closest matches", 2)
    if target_radii is None:
        target_radii = squared_radii(target, min(neighbours, len(target) - 1))
    scales = [np.sqrt(each) for each in (target_radii, squared_radii(source, min(neighbours, len(source) - 1)))]
    # Images with equal images around them have a radius of 0: equal pairs of such images are as near as their neighbours.
    least = 1e-6 * (np.concatenate(scales).mean() or 1.0)
    of_target, of_source = (np.maximum(each, least) for each in scales)
    best = np.empty(len(source))
    place = np.empty(len(source), int)
    centre = _centre(target)
    for rows in tiles(len(source), 512):
        squares, _ = _squared_distances(float64(source, rows) - centre, float64(target, slice(None)) - centre)
        scaled = np.maximum(squares, least**2) / (of_source[rows, None] * of_target)
        place[rows] = scaled.argmin(axis=1)
        best[rows] = scaled.min(axis=1)
    order = np.argsort(best, kind="stable")
    # The first image of the source for each image of the target comes before all others.
    first = np.zeros(len(source), bool)
    first[np.unique(place[order], return_index=True)[1]] = True
    order = np.concatenate([order[first], order[~first]])
    return ClosestMatches(order, place[order])


def require_neighbours(neighbours: int) -> None:
    """Raises ValueError for a neighbourhood without neighbours."""
    if neighbours < 1:
        raise ValueError(f"A neighbourhood needs at least one neighbour, not {neighbours}.")


def share_inside(centres: np.ndarray, points: np.ndarray, neighbours: int) -> float:
    """Returns the share of the points that are inside any ball."""
    hit = np.zeros(len(points), bool)
    for _, columns, found in inside(centres, squared_radii(centres, neighbours), points):
        hit[columns] |= found.any(axis=0)
    return float(hit.mean())


def _looked_up(x: np.ndarray, y: np.ndarray, neighbours: int, what: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns the number of pairs of a ball of x and an image of y in it, which balls have any `[n]`, and which images are in
    any `[m]`.
    """
    require_neighbours(neighbours)
    x, y = pair(x, y, f"{what} with {neighbours} neighbours", neighbours + 1, 1)
    hits = 0
    covered = np.zeros(len(x), bool)
    hit = np.zeros(len(y), bool)
    # One pass over all pairs serves hits, coverage of balls, and images inside any ball.
    for rows, columns, found in inside(x, squared_radii(x, neighbours), y):
        hits += int(found.sum())
        covered[rows] |= found.any(axis=1)
        hit[columns] |= found.any(axis=0)
    return hits, covered, hit


def squared_radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the squared distance of each row from its k-th nearest other row, `[n]`."""
    return nearest_squares(x, x, neighbours, skip_own=True).max(axis=1)


def nearest_squares(x: np.ndarray, y: np.ndarray, neighbours: int, *, skip_own: bool = False) -> np.ndarray:
    """Returns the squared distances of each row of x from its k nearest rows of y, in any order, `[n, k]`.

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`, m at least k.
      neighbours: k.
      skip_own: whether y is x and a row does not count as its own neighbour; m is then above k.
    """
    squares = np.empty((len(x), neighbours))
    centre = _centre(y)
    # A row cannot be its own neighbour, so there is one candidate less if y is x.
    count = min(neighbours + _SPARE, len(y) - skip_own)
    # Tiles of 512 by 2,048 distances take 8 MiB: larger ones gain nothing, smaller ones spend time on Python.
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
        # Each tile has proposed its own nearest rows; the nearest of all are among them.
        place = np.take_along_axis(place, _nearest(near, count)[1], axis=1)
        exact = np.stack([_exact(x, y, np.arange(rows.start, rows.stop), column) for column in place.T], axis=1)
        squares[rows] = np.partition(exact, neighbours - 1, axis=1)[:, :neighbours]
    return squares


def _nearest(squares: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `count` least entries of each row and their columns, in any order."""
    chosen = np.argpartition(squares, min(count, squares.shape[1]) - 1, axis=1)[:, :count]
    return np.take_along_axis(squares, chosen, axis=1), chosen


def inside(centres: np.ndarray, radii: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields which points are inside which balls, tile by tile.

    Args:
      centres: features `[a, dim]`.
      radii: squared, `[a]`.
      points: features `[b, dim]`.

    Yields:
      (rows of the centres, rows of the points, bool `[rows, rows]`).
    """
    centre = _centre(centres)
    for rows in tiles(len(centres)):
        left = float64(centres, rows) - centre
        for columns in tiles(len(points)):
            margin, error = _squared_distances(left, float64(points, columns) - centre)
            margin -= radii[rows, None]
            # Balls are open: a point at exactly the radius is outside, as in the public implementations.
            found = margin < 0
            # Only pairs within the rounding error of the radius are computed again; there are few of them.
            row, column = np.nonzero(np.abs(margin, out=margin) <= error)
            exact = _exact(centres, points, row + rows.start, column + columns.start)
            found[row, column] = (exact < radii[row + rows.start]) | (exact == 0)
            yield rows, columns, found


def _centre(x: np.ndarray) -> np.ndarray:
    """Returns a point near the middle of the features: distances from inner products lose digits far from the origin."""
    return float64(x, slice(0, 1024)).mean(axis=0)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns squared distances `[a, b]`, and a bound of their rounding error in each row `[a, 1]`."""
    of_x, of_y = (np.square(side).sum(axis=1) for side in (x, y))
    squares = x @ y.T
    # In place, since these matrices are much larger than the features.
    squares *= -2
    squares += of_x[:, None]
    squares += of_y
    return squares, (of_x[:, None] + of_y.max()) * (4 * (x.shape[1] + 8) * np.finfo(np.float64).eps)


def _exact(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Returns squared distances of given pairs from their differences, which are equal for equal pairs."""
    squares = np.empty(len(in_x))
    for some in tiles(len(in_x), max(1, AT_ONCE // x.shape[1])):
        squares[some] = np.square(float64(x, in_x[some]) - float64(y, in_y[some])).sum(axis=1)
    return squares
