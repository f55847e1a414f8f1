"""Weighted nearest-neighbour classification on frozen features, with one exact search for a whole grid of k and temperature."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

from sslshift.transfer.evaluation import Outcome, Splits, best_index, require_labels, score
from sslshift.transfer.metrics import Metric

# Number of similarities in memory at a time (128 MiB), and largest numbers of training and other images compared at a time.
_AT_ONCE = 2**25
_TRAIN_AT_ONCE = 2**16
_TEST_AT_ONCE = {"cpu": 2**10}
_MOST_TEST_AT_ONCE = 2**12


@dataclasses.dataclass(frozen=True)
class KNN:
    """Weighted kNN with cosine similarity; number of neighbours and temperature are chosen on the validation split.

    Attributes:
      neighbours: numbers of neighbours to choose from; larger numbers are reduced to the size of the training split.
      temperatures: temperatures above 0 to choose from.

    References:
      Wu et al., `Unsupervised Feature Learning via Non-Parametric Instance Discrimination
      <https://arxiv.org/abs/1805.01978>`_, 2018
    """

    neighbours: tuple[int, ...] = (5, 20, 50, 200)
    temperatures: tuple[float, ...] = (0.02, 0.07, 0.2)

    def __post_init__(self):
        if not self.neighbours or not self.temperatures or min(self.neighbours) < 1 or not min(self.temperatures) > 0:
            raise ValueError(
                "Expected numbers of neighbours of at least 1 and temperatures above 0 for kNN, got "
                f"{self.neighbours} and {self.temperatures}."
            )

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        """Returns one outcome, `knn`."""
        train, validation, test, classes = splits
        require_labels(train.labels, len(train.features), classes)
        # Several numbers can exceed the training split; duplicates are removed, so that they are not scored twice.
        neighbours = tuple(dict.fromkeys(min(k, len(train.labels)) for k in self.neighbours))
        most = max(neighbours)
        found = nearest(train.features, validation.features, most)
        grid = list(itertools.product(neighbours, self.temperatures))
        shares = _shares(*found, train.labels, neighbours, self.temperatures, classes)
        values = {choice: score(metric, scores, validation) for choice, scores in shares}
        k, temperature = grid[best_index([values[choice] for choice in grid])]
        found = nearest(train.features, test.features, k, most=most)
        ((_, scores),) = _shares(*found, train.labels, (k,), (temperature,), classes)
        chosen = {"neighbours": k, "temperature": temperature}
        return {"knn": Outcome(metric.decide(scores), values[k, temperature], chosen)}


def nearest(
    train: np.ndarray | jax.Array,
    test: np.ndarray | jax.Array,
    neighbours: int,
    *,
    most: int | None = None,
    block: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the exact most similar training images of each test image by cosine.

    Equally similar images are in the order of their indices. A feature vector of zeros has similarity 0 with everything. Memory
    is bounded: it does not grow with the product of the sizes of the splits.

    Example:
      >>> import numpy as np
      >>> train = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
      >>> similarity, index = nearest(train, np.array([[3.0, 0.0]]), neighbours=2)
      >>> similarity.tolist(), index.tolist()
      ([[1.0, 1.0]], [[1, 2]])

    Args:
      train: features `[n_train, dim]`, on the device or the host.
      test: features `[n_test, dim]`.
      neighbours: k, at most `n_train`.
      most: largest k of several searches, which then share their compiled programs; None: k.
      block: number of test images compared at a time; None: a number that bounded memory allows.

    Returns:
      (similarity, index): float32 and int64 `[n_test, k]`, in order of decreasing similarity.

    Raises:
      ValueError: k is out of range, dimensions differ, or a feature is not finite.
    """
    for features, what in ((train, "training"), (test, "test")):
        if np.ndim(features) != 2 or not len(features):
            raise ValueError(
                f"Expected {what} features [images, dim] of at least one image for kNN, got shape {list(np.shape(features))}."
            )
    if not 1 <= neighbours <= len(train):
        raise ValueError(f"Expected 1 to {len(train):,} neighbours (the number of training images), got {neighbours:,}.")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"Expected features of one encoder, got {train.shape[1]} and {test.shape[1]} dimensions.")
    stretch = _even_part(len(train), _TRAIN_AT_ONCE)
    at_once = _TEST_AT_ONCE.get(jax.default_backend(), _MOST_TEST_AT_ONCE)
    block = block or _even_part(len(test), max(1, min(at_once, _AT_ONCE // stretch)))
    # On a CPU, NumPy's partition is ten times as fast as XLA's selection, and device memory is host memory.
    if jax.default_backend() == "cpu":
        return _nearest_on_host(_unit(train, "training"), _unit(test, "test"), neighbours, stretch, block)
    similarity, index = _nearest_on_device(train, test, most or neighbours, stretch, block)
    return similarity[:, :neighbours], index[:, :neighbours]


def _even_part(count: int, most: int) -> int:
    """Returns the size of equal parts of `count`, at most `most` each; an incomplete last part would be filled up."""
    return -(-count // -(-count // most))


def _nearest_on_host(
    train: np.ndarray, test: np.ndarray, neighbours: int, stretch: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the result of `nearest` for features of length 1."""
    # Places without a neighbour start below every similarity.
    similarity = np.full((len(test), neighbours), -np.inf, np.float32)
    index = np.full((len(test), neighbours), len(train), np.int64)
    for first in range(0, len(train), stretch):
        search = _Search(train[first : first + stretch], neighbours, stretch)
        for start in range(0, len(test), block):
            rows = slice(start, start + block)
            there = len(test[rows])
            found_similarity, found_index = search(_filled(test[rows], block), there)
            similarity[rows], index[rows] = _top_k(
                np.concatenate([similarity[rows], found_similarity], axis=1),
                np.concatenate([index[rows], found_index + first], axis=1),
                neighbours,
            )
    return similarity, index


def _nearest_on_device(
    train: np.ndarray | jax.Array, test: np.ndarray | jax.Array, neighbours: int, stretch: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the result of `nearest` from a few compiled programs, with one transfer of the result."""
    train, train_peak = _unit_on_device(jnp.asarray(train, jnp.float32))
    test, test_peak = _unit_on_device(jnp.asarray(test, jnp.float32))
    found = _selected(train, test, neighbours=neighbours, stretch=stretch, block=block)
    similarity, index, train_peak, test_peak = jax.device_get((*found, train_peak, test_peak))
    _require_finite(train_peak, "training")
    _require_finite(test_peak, "test")
    return similarity, index.astype(np.int64)


@functools.partial(jax.jit, static_argnames=("neighbours", "stretch", "block"))
def _selected(train, test, *, neighbours, stretch, block):
    wanted = min(neighbours, stretch)
    size = _group_size(stretch, wanted)
    groups = -(-stretch // size)
    parts = _split(train, stretch)
    parts = jnp.pad(parts, ((0, 0), (0, groups * size - stretch), (0, 0))).reshape(len(parts), groups, size, -1)
    local = jnp.arange(groups * size).reshape(groups, size)

    def of_block(rows):
        def of_part(best, numbered):
            first, part = numbered
            index = first * stretch + local
            there = (local < stretch) & (index < len(train))
            similarity = jnp.einsum("td,gsd->tgs", rows, part, precision=lax.Precision.HIGHEST)
            # Adding zero turns -0.0 into 0.0, which is equal but may be sorted before it.
            similarity = jnp.where(there, similarity + 0.0, -jnp.inf)
            _, chosen = lax.top_k(similarity.max(axis=2), min(wanted, groups))
            # In the order of the images, because of equal values the selection takes the first.
            chosen = jnp.sort(chosen, axis=1)
            candidates = jnp.take_along_axis(similarity, chosen[:, :, None], axis=1).reshape(block, -1)
            both = (best[0], candidates), (best[1], index[chosen].reshape(block, -1))
            values, indices = (jnp.concatenate(each, axis=1) for each in both)
            values, places = lax.top_k(values, neighbours)
            return (values, jnp.take_along_axis(indices, places, axis=1)), None

        nothing = jnp.full((block, neighbours), -jnp.inf), jnp.full((block, neighbours), len(train))
        return lax.scan(of_part, nothing, (jnp.arange(len(parts)), parts))[0]

    found = lax.map(of_block, _split(test, block))
    return jax.tree.map(lambda each: each.reshape(-1, neighbours)[: len(test)], found)


def _split(rows, size):
    """Returns rows `[n, dim]` as `[parts, size, dim]`, padded with zeros."""
    parts = -(-len(rows) // size)
    return jnp.pad(rows, ((0, parts * size - len(rows)), (0, 0))).reshape(parts, size, -1)


def _group_size(images: int, neighbours: int) -> int:
    # With this size, both steps of the search have about the same number of candidates.
    return 1 << round(np.log2(max(1, images / neighbours)) / 2)


class _Search:
    """Search among some training images in two steps: for groups of consecutive images, then within the chosen groups.

    Groups are sorted by decreasing largest similarity, then by position. The first k groups contain the exact answer, with
    ties: the best images of these k groups all precede any image of another group.

    Only the product of features is compiled, whose shapes depend on neither k nor the last part of the images.

    Args:
      train: training images.
      neighbours: k, which may exceed the number of these images.
      images: number of images in a complete part.
    """

    def __init__(self, train: np.ndarray, neighbours: int, images: int):
        self._images = len(train)
        self._neighbours = min(neighbours, len(train))
        self._size = _group_size(len(train), self._neighbours)
        # A multiple of every size of groups, which are powers of two.
        largest = _group_size(images, 1)
        count = -(-images // largest) * largest
        # Images of one group lie apart, so that the maxima of all groups are elementwise maxima of vectors.
        filled = _filled(train, count).reshape(-1, self._size, train.shape[1]).swapaxes(0, 1)
        self._train = jnp.asarray(filled.reshape(count, -1))

    def __call__(self, test: np.ndarray, there: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns similarity and index of the min(k, images) nearest of the first `there` test images, in order."""
        similarity = np.asarray(_similarities(self._train, test))[:there].reshape(there, self._size, -1)
        # Groups of nothing but copies must not take the places of others.
        groups = -(-self._images // self._size)
        similarity = similarity[:, :, :groups]
        _, chosen = _top_k(similarity.max(axis=1), np.arange(groups), min(self._neighbours, groups))
        candidates = np.take_along_axis(similarity, chosen[:, None, :], axis=2)
        index = chosen[:, None, :] * self._size + np.arange(self._size)[None, :, None]
        # The copies that fill the last group must not become neighbours.
        candidates = np.where(index < self._images, candidates, np.float32(-np.inf))
        return _top_k(candidates.reshape(there, -1), index.reshape(there, -1), self._neighbours)


@jax.jit
def _similarities(train, test):
    # Without this precision, GPUs multiply float32 matrices in TF32, whose rounding would change the neighbours.
    return jnp.matmul(test, train.T, precision=lax.Precision.HIGHEST)


def _top_k(values: np.ndarray, index: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k largest values of each row with their indices; equal values are sorted by index.

    Each value and its index are packed into one integer, so that NumPy's partition follows the rule for ties. On a CPU,
    it is ten times as fast as XLA's selection.
    """
    # Adding zero turns -0.0 into 0.0, which is equal but has other bits.
    ascending = _ordered((values + np.float32(0)).view(np.int32))
    key = (~ascending).astype(np.int64) << 32 | index
    key = np.partition(key, k - 1, axis=1)[:, :k] if k < key.shape[1] else key
    key.sort(axis=1)
    return _ordered(~(key >> 32).astype(np.int32)).view(np.float32), key & 0xFFFFFFFF


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Maps the bits of float32 to integers of the same order, and back: the function is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unit(features: np.ndarray | jax.Array, what: str) -> np.ndarray:
    """Returns features of length 1 (zeros stay zeros), float32 on the host."""
    with np.errstate(over="ignore"):
        features = np.asarray(jax.device_get(features)).astype(np.float32, copy=False)
    # Features are first divided by their largest entry, because squares of huge or tiny entries exceed the range of float32.
    peak = np.abs(features).max(axis=1, keepdims=True)
    _require_finite(peak[:, 0], what)
    features = features / np.where(peak > 0, peak, 1)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1)


@jax.jit
def _unit_on_device(features):
    """Returns the same features on the device, and the largest entry of each row."""
    peak = jnp.max(jnp.abs(features), axis=1, keepdims=True)
    features = features / jnp.where(peak > 0, peak, 1)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1), peak[:, 0]


def _require_finite(peak: np.ndarray, what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(peak))
    if len(bad):
        raise ValueError(f"kNN: {len(bad):,} {what} images, image {bad[0]:,} first, have features that are not finite.")


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` rows, padded with copies of the last one.

    Only one shape is then compiled, and copies do not change the maximum of a group.
    """
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)]) if len(rows) < count else rows


def _shares(
    similarity: np.ndarray,
    index: np.ndarray,
    labels: np.ndarray,
    neighbours: tuple[int, ...],
    temperatures: tuple[float, ...],
    classes: int,
) -> Iterator[tuple[tuple[int, float], np.ndarray]]:
    """Yields the weighted vote shares of the classes, `[n, classes]` in [0, 1], for each (k, temperature), from one search."""
    for temperature in temperatures:
        # The largest similarity is subtracted first: exp(1 / temperature) would overflow at a low temperature.
        weight = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
        votes = np.zeros((len(index), classes))
        counted = 0
        # In ascending order, each k only adds the votes of its additional neighbours.
        for k in sorted(neighbours):
            votes += _tally(weight[:, counted:k], index[:, counted:k], labels, classes)
            counted = k
            # By rounding, the share can slightly exceed 1.
            yield (k, temperature), np.minimum(votes / weight[:, :k].sum(axis=1, keepdims=True), 1)


def _tally(weight: np.ndarray, index: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns the summed weights of the neighbours' labels, `[n, classes]`."""
    count, voters = weight.shape
    if labels.ndim == 1:
        cell = np.arange(count)[:, None] * classes + labels[index]
        return np.bincount(cell.ravel(), weight.ravel(), minlength=count * classes).reshape(count, classes)
    # A sparse product, because `labels[index]` would need a number for every image, neighbour and class.
    rows = sparse.csr_array((weight.ravel(), index.ravel(), np.arange(count + 1) * voters), shape=(count, len(labels)))
    return rows @ labels.astype(np.float64)
