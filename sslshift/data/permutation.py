"""A seeded order of any number of elements without holding it in memory: a keyed bijection.

A balanced Feistel network permutes the smallest domain of 4^b elements that covers the wanted size; values that fall
outside are sent through again until they fall inside ("cycle walking", at most 4 rounds on average).

References:
  Black & Rogaway, `Ciphers with Arbitrary Finite Domains <https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf>`_, 2002
"""

import functools

import numpy as np

# Six rounds of a mixing function of this strength leave no visible structure even in domains of a few elements.
ROUNDS = 6


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, `<https://prng.di.unimi.it/splitmix64.c>`_: a well-tested 64-bit hash."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=256)
def _round_keys(key: tuple[int, ...]) -> np.ndarray:
    """One 64-bit key per round, from a tuple of non-negative whole numbers."""
    return np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)


def permute(position: np.ndarray, size: int, *key: int, tweak: np.ndarray | int = 0) -> np.ndarray:
    """Element of the seeded order of `range(size)` that stands at each position.

    Args:
      position: int64 array of any shape with values in `[0, size)`.
      size: number of elements, 1 to 2^62.
      *key: non-negative whole numbers that name the order, e.g. seed and stage.
      tweak: a further number of the key that may differ between positions, e.g. the epoch of each; same shape or scalar.

    Returns:
      int64 array of the same shape; over all positions of one key and tweak every element appears exactly once.
    """
    position = np.asarray(position, np.int64)
    if position.size and not (position.min() >= 0 and position.max() < size <= 1 << 62):
        raise ValueError(f"Positions must lie in [0, {size:,}), got {position.min():,} to {position.max():,}.")
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    walking = position.reshape(-1).astype(np.uint64)
    tweak = np.broadcast_to(np.asarray(tweak, np.uint64), position.shape).reshape(-1)
    # [rounds, n]
    keys = _mix(_round_keys(key)[:, None] + _mix(tweak))
    outside = np.arange(walking.size)
    while outside.size:
        value = walking[outside]
        left, right = value >> half_bits, value & mask
        for round_key in keys[:, outside]:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        walking[outside] = value = (left << half_bits) | right
        outside = outside[value >= np.uint64(size)]
    return walking.astype(np.int64).reshape(position.shape)
