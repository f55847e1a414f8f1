"""Seeded order of any number of elements, computed by a keyed bijection and not held in memory.

A balanced Feistel network permutes the smallest domain of 4^b elements that covers the size. Values beyond the size pass
through the network again until they are below the size ("cycle walking", at most 4 passes on average).

References:
  Black & Rogaway, `Ciphers with Arbitrary Finite Domains <https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf>`_, 2002
"""

import functools
from typing import NamedTuple

import numpy as np

# Six rounds of a mixing function of this strength leave no visible structure even in domains of a few elements.
ROUNDS = 6

# Constants of `_mix` as zero-dimensional arrays. With these arrays and with reused buffers, NumPy calls on the few hundred
# values of a batch take half the time.
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (np.array(bits, np.uint64) for bits in (30, 27, 31))
_FACTOR_1, _FACTOR_2 = (np.array(factor, np.uint64) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
# Number of values that fit into a core's cache while they are mixed.
_BLOCK = 1 << 13


class Order(NamedTuple):
    """Seeded order: its number of elements, and the non-negative whole numbers of its key."""

    size: int
    key: tuple[int, ...]


def permute(position: np.ndarray, size: int, *key: int, tweak: np.ndarray | int = 0) -> np.ndarray:
    """Returns the element at each position of a seeded order of `range(size)`.

    Args:
      position: int64 array of any shape with values in `[0, size)`.
      size: number of elements, 1 to 2^62.
      *key: non-negative whole numbers that determine the order, such as seed and stage.
      tweak: a further number of the key that may differ between positions, such as the epoch; same shape or scalar.

    Returns:
      int64 array of the same shape. Over all positions of one key and tweak, every element occurs exactly once.
    """
    return permute_each(position, 0, (Order(size, key),), tweak)


def permute_each(
    position: np.ndarray, which: np.ndarray | int, orders: tuple[Order, ...], tweak: np.ndarray | int = 0
) -> np.ndarray:
    """Returns the result of `permute` with a separate order for each position, at the cost of one call.

    Args:
      position: int64 array of any shape, each value below the size of its order.
      which: number of each position's order in `orders`; same shape or scalar.
      orders: the orders.
      tweak: as for `permute`.

    Returns:
      int64 array of the same shape.
    """
    position = np.asarray(position, np.int64)
    tables = _tables(orders)
    # Unsigned, since the network's shifts and products are those of unsigned numbers modulo 2^64.
    value = position.reshape(-1).astype(np.uint64)
    which = np.broadcast_to(which, position.shape).reshape(-1)
    tweak = np.broadcast_to(np.asarray(tweak, np.uint64), position.shape).reshape(-1)
    # A negative position becomes a huge unsigned number, so one comparison detects both errors.
    if (value >= tables.size[which]).any():
        wrong = int(np.argmax(value >= tables.size[which]))
        raise ValueError(f"Expected positions in [0, {orders[which[wrong]].size:,}), got {position.reshape(-1)[wrong]:,}.")
    for start in range(0, value.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        _walk(value[block], tables, which[block], tweak[block])
    return value.astype(np.int64).reshape(position.shape)


class _Tables(NamedTuple):
    """Constants of the network for each order: uint64 `[orders]`, round keys `[ROUNDS, orders]`."""

    size: np.ndarray
    half_bits: np.ndarray
    mask: np.ndarray
    round_keys: np.ndarray


@functools.lru_cache(maxsize=256)
def _tables(orders: tuple[Order, ...]) -> _Tables:
    for order in orders:
        if not 1 <= order.size <= 1 << 62:
            raise ValueError(f"Expected an order of 1 to 2^62 elements, got {order.size:,}.")
    half_bits = [max(1, ((order.size - 1).bit_length() + 1) // 2) for order in orders]
    masks = [(1 << bits) - 1 for bits in half_bits]
    sizes = [order.size for order in orders]
    keys = np.stack([np.random.SeedSequence(order.key).generate_state(ROUNDS, np.uint64) for order in orders], axis=1)
    return _Tables(*(np.array(column, np.uint64) for column in (sizes, half_bits, masks)), keys)


def _walk(result: np.ndarray, tables: _Tables, which: np.ndarray, tweak: np.ndarray) -> None:
    """Sends each value of `result` through its network until it is inside its order, in place."""
    size = tables.size.take(which)
    half_bits = tables.half_bits.take(which)
    mask = tables.mask.take(which)
    # [ROUNDS, n]
    keys = _mix(_mix(tweak.copy()) + tables.round_keys.take(which, -1))
    value = result
    walking = None
    while True:
        value = _network(value, half_bits, mask, keys)
        if walking is None:
            result[:] = value
        else:
            result[walking] = value
        outside = np.flatnonzero(value >= size)
        if not outside.size:
            return
        # Along the last axis, since the round keys have an axis of rounds before it.
        value, size, half_bits, mask, keys = (part.take(outside, -1) for part in (value, size, half_bits, mask, keys))
        walking = outside if walking is None else walking[outside]


def _network(value: np.ndarray, half_bits: np.ndarray, mask: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left = value >> half_bits
    right = value & mask
    mixed = np.empty_like(left)
    buffer = np.empty_like(left)
    for key in keys:
        np.add(right, key, mixed)
        _mix(mixed, buffer)
        np.bitwise_and(mixed, mask, mixed)
        np.bitwise_xor(left, mixed, left)
        left, right = right, left
    np.left_shift(left, half_bits, left)
    return np.bitwise_or(left, right, left)


def _mix(x: np.ndarray, buffer: np.ndarray | None = None) -> np.ndarray:
    """Applies SplitMix64's output function, `<https://prng.di.unimi.it/splitmix64.c>`_, a well-tested 64-bit hash, in place."""
    buffer = np.empty_like(x) if buffer is None else buffer
    np.right_shift(x, _SHIFT_1, buffer)
    np.bitwise_xor(x, buffer, x)
    np.multiply(x, _FACTOR_1, x)
    np.right_shift(x, _SHIFT_2, buffer)
    np.bitwise_xor(x, buffer, x)
    np.multiply(x, _FACTOR_2, x)
    np.right_shift(x, _SHIFT_3, buffer)
    return np.bitwise_xor(x, buffer, x)
