"""The sliced Wasserstein distance: one-dimensional transport along random directions."""

import jax
import numpy as np

from sslshift.shift._features import AT_ONCE, blocks, generator, pair
from sslshift.shift.estimate import Estimate


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, *, key: jax.Array, directions: int = 256) -> float:
    """Mean over random unit directions of the Wasserstein-2 distance between the two sets' projections.

    The mean of the distances, not the root of their mean square, which some libraries give and which is larger. It sees
    differences of any kind, in the unit of the features; for few images it is above 0 even between samples of one distribution.

    Example:
      >>> import jax, numpy as np
      >>> x = np.random.default_rng(0).normal(size=(100, 1))
      >>> round(sliced_wasserstein(x, x + 3, key=jax.random.key(0)), 6)
      3.0

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`; sizes may differ: quantile functions are compared, exactly.
      key: PRNG key of the directions.
      directions: how many.

    Returns:
      The distance in float64, the same for the same key and any order of rows.

    Raises:
      ValueError: shapes do not fit, features are not finite, or there is no direction.

    References:
      Bonneel et al., `Sliced and Radon Wasserstein Barycenters of Measures
      <https://doi.org/10.1007/s10851-014-0506-3>`_, 2015
    """
    return sliced_wasserstein_estimate(x, y, key=key, directions=directions).value


def sliced_wasserstein_estimate(x: np.ndarray, y: np.ndarray, *, key: jax.Array, directions: int = 256) -> Estimate:
    """`sliced_wasserstein` with its standard error over draws of directions; NaN for a single one.

    Example:
      >>> import jax, numpy as np
      >>> x = np.random.default_rng(0).normal(size=(100, 8))
      >>> value, error, _ = sliced_wasserstein_estimate(x, x + 1, key=jax.random.key(0))
      >>> 0.02 < error / value < 0.08
      True

    Args:
      x: features `[n, dim]`.
      y: features `[m, dim]`.
      key: PRNG key of the directions.
      directions: how many.

    Raises:
      ValueError: as `sliced_wasserstein` does.
    """
    x, y = pair(x, y, "A sliced Wasserstein distance", 1)
    axes = random_directions(key, x.shape[1], directions)
    # Of either side at a time, 64 MiB at most unless a single direction needs more.
    width = max(1, 4 * AT_ONCE // max(len(x), len(y)))
    mass, *places = coupling(*(np.arange(1, len(each) + 1) / len(each) for each in (x, y)))
    distances = np.empty(directions)
    for start in range(0, directions, width):
        chosen = axes[:, start : start + width]
        left, right = (projected(each, chosen) for each in (x, y))
        left.sort(axis=1)
        right.sort(axis=1)
        for number, (a, b) in enumerate(zip(left, right, strict=True), start):
            distances[number] = wasserstein_2(a, b, mass, *places)
    return over_directions(distances)


def over_directions(distances: np.ndarray, bound: float = 0.0) -> Estimate:
    """Mean and Monte-Carlo error of distances `[directions]`."""
    error = distances.std(ddof=1) / np.sqrt(len(distances)) if len(distances) > 1 else np.nan
    return Estimate(float(distances.mean()), float(error), bound)


def random_directions(key: jax.Array, dim: int, directions: int) -> np.ndarray:
    """Unit vectors spread evenly over the sphere, float64 `[dim, directions]`."""
    if directions < 1:
        raise ValueError(f"A sliced Wasserstein distance needs at least one direction, not {directions}.")
    axes = generator(key).normal(size=(directions, dim)).T
    return axes / np.linalg.norm(axes, axis=0)


def projected(features: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Projections of features onto axes `[dim, directions]`, `[directions, n]`."""
    values = np.empty((axes.shape[1], len(features)))
    done = 0
    for block in blocks(features):
        values[:, done : done + len(block)] = axes.T @ block.T
        done += len(block)
    return values


def coupling(shares_x: np.ndarray, shares_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The optimal transport in one dimension, from what lies at or below each sorted value of either side.

    Args:
      shares_x: cumulative, ascending to 1, `[a]`.
      shares_y: the same, `[b]`.

    Returns:
      (mass, place in x, place in y) of each piece that is moved, `[k]`.
    """
    ends = np.union1d(shares_x, shares_y)
    mass = np.diff(ends, prepend=0.0)
    return mass, *(np.searchsorted(shares, ends) for shares in (shares_x, shares_y))


def wasserstein_2(x: np.ndarray, y: np.ndarray, mass: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> float:
    return float(np.sqrt(mass @ np.square(x[in_x] - y[in_y])))
