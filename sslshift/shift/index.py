"""The shift index: a distance on a scale that a person can read."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from sslshift.shift.frechet import frechet_distance


class ShiftIndex(NamedTuple):
    """How far a source is from a target: 0 = another sample of the target, 1 = unstructured noise; above 1 can happen.

    Attributes:
      value: mean over the repeats.
      low, high: 95% interval over the repeats.
      distance: from the source to the target, mean over the repeats.
      floor: between two disjoint halves of the target, mean over the repeats.
      ceiling: from noise to the target, mean over the repeats.
      sample_size: images on each side of every distance.
      repeats: random draws behind the interval.
    """

    value: float
    low: float
    high: float
    distance: float
    floor: float
    ceiling: float
    sample_size: int
    repeats: int


def shift_index(
    source: np.ndarray,
    target: np.ndarray,
    *,
    key: jax.Array,
    noise: np.ndarray | None = None,
    distance: Callable[[np.ndarray, np.ndarray], float] = frechet_distance,
    repeats: int = 10,
    sample_size: int | None = None,
) -> ShiftIndex:
    """(d(source, target) - d(target, target)) / (d(noise, target) - d(target, target)), all at equal sample sizes.

    Each repeat draws the target's two disjoint halves, the source's and the noise's sample anew, so that the floor, the
    bias of the distance at this sample size, is taken off above and below.

    Args:
      source: features `[n, dim]` of the images trained on.
      target: features `[m, dim]` of the downstream images.
      key: PRNG key of the draws.
      noise: features `[k, dim]` of images of unstructured noise with the target's per-channel pixel statistics (see
        `noise_like`). Without them each feature is drawn from a normal distribution of its own with the target's mean and
        deviation: structure lost, scale kept.
      distance: between two sets of features of equal size.
      repeats: random draws, at least 2.
      sample_size: images on each side; by default as many as all sides allow.

    Raises:
      ValueError: too few images, shapes that do not fit, or noise that cannot be told from the target.
    """
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    source, target = np.asarray(source), np.asarray(target)
    if noise is None:
        noise = random.normal(target.mean(axis=0), target.std(axis=0), target.shape)
    size = min(len(source), len(target) // 2, len(noise))
    size = size if sample_size is None else sample_size
    if not 2 <= size <= min(len(source), len(target) // 2, len(noise)) or repeats < 2:
        raise ValueError(
            f"A shift index at {size} images a side needs at least 2, as many of the source ({len(source)}) and the noise "
            f"({len(noise)}), twice as many of the target ({len(target)}), and at least 2 repeats ({repeats})."
        )
    draws = np.array([_draw(source, target, noise, distance, size, random) for _ in range(repeats)])
    span = draws[:, 2] - draws[:, 1]
    if span.mean() <= 2 * span.std():
        raise ValueError("The target's features cannot be told from noise by this distance and encoder: there is no scale.")
    values = (draws[:, 0] - draws[:, 1]) / span
    low, high = np.percentile(values, [2.5, 97.5])
    means = draws.mean(axis=0)
    return ShiftIndex(float(values.mean()), float(low), float(high), *map(float, means), size, repeats)


def _draw(source, target, noise, distance, size, random) -> tuple[float, float, float]:
    """Distances of source, other half and noise to one half of the target, in one random draw."""
    order = random.permutation(len(target))
    half, other = target[order[:size]], target[order[size : 2 * size]]
    some_source, some_noise = (x[random.choice(len(x), size, replace=False)] for x in (source, noise))
    return distance(some_source, half), distance(other, half), distance(some_noise, half)


def noise_like(images: np.ndarray, *, key: jax.Array) -> np.ndarray:
    """Unstructured noise: every pixel is drawn independently from its channel's pixel values in `images`.

    Args:
      images: uint8 `[n, height, width, channels]`.
      key: PRNG key.

    Returns:
      uint8 of the same shape, with the same distribution of values in each channel.
    """
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    flat = images.reshape(-1, images.shape[-1])
    picked = random.integers(0, len(flat), images.shape[:-1])
    return np.stack([flat[:, channel][picked] for channel in range(images.shape[-1])], axis=-1)
