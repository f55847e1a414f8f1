"""Weighted nearest-neighbour classification on frozen features: one exact search serves a whole grid of k and temperature."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

from sslshift.transfer.evaluation import Outcome, Splits
from sslshift.transfer.inputs import require_labels
from sslshift.transfer.metrics import Metric
from sslshift.transfer.selection import best, score

# Similarities held at a time (128 MiB), and at most so many training images against at most so many others.
_AT_ONCE = 2**25
_TRAIN_AT_ONCE = 2**16
_TEST_AT_ONCE = 2**12


@dataclasses.dataclass(frozen=True)
class KNN:
    """Weighted kNN with cosine similarity; number of neighbours and temperature are chosen on the validation split.

    Attributes:
      neighbours: numbers to choose from; those larger than the training split are cut to it.
      temperatures: to choose from, above 0.

    References:
      Wu et al., `Unsupervised Feature Learning via Non-Parametric Instance Discrimination
      <https://arxiv.org/abs/1805.01978>`_, 2018
    """

    neighbours: tuple[int, ...] = (5, 20, 50, 200)
    temperatures: tuple[float, ...] = (0.02, 0.07, 0.2)

    def __post_init__(self):
        if not self.neighbours or not self.temperatures or min(self.neighbours) < 1 or not min(self.temperatures) > 0:
            raise ValueError(
                "KNN chooses from numbers of neighbours of at least 1 and temperatures above 0, not from "
                f"{self.neighbours} and {self.temperatures}."
            )

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        train, validation, test, classes = splits
        neighbours = tuple(dict.fromkeys(min(k, len(train.labels)) for k in self.neighbours))
        found = nearest(train.features, validation.features, max(neighbours))
        grid = list(itertools.product(neighbours, self.temperatures))
        shares = _shares(*found, train.labels, neighbours, self.temperatures, classes)
        values = {choice: score(metric, scores, validation) for choice, scores in shares}
        k, temperature = grid[best([values[choice] for choice in grid])]
        found = nearest(train.features, test.features, k)
        ((_, scores),) = _shares(*found, train.labels, (k,), (temperature,), classes)
        chosen = {"neighbours": k, "temperature": temperature}
        return {"knn": Outcome(metric.decide(scores), values[k, temperature], chosen)}


def knn_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    neighbours: int,
    temperature: float,
    classes: int,
    block: int | None = None,
) -> np.ndarray:
    """Votes for each class of the most similar training images, `[n_test, classes]`.

    Similarity is the cosine, a vote weighs exp(similarity / temperature), measured against that of the nearest. Of equally
    similar images the earlier one counts.

    Args:
      train: features `[n_train, dim]`.
      labels: of the training images, int `[n_train]`, or 0/1 `[n_train, classes]`.
      test: features `[n_test, dim]`.
      neighbours: k, at most `n_train`.
      temperature: above 0.
      classes: number of classes.
      block: test images compared at a time; None: as many as bounded memory allows.

    Returns:
      The sums of the votes; with 0/1 labels the weighted means of the neighbours' labels, in [0, 1].

    Raises:
      ValueError: as `nearest` does.

    References:
      Wu et al., `Unsupervised Feature Learning via Non-Parametric Instance Discrimination
      <https://arxiv.org/abs/1805.01978>`_, 2018
    """
    labels = np.asarray(labels)
    require_labels(labels, len(train), classes)
    found = nearest(train, test, neighbours, block=block)
    ((_, votes, total),) = _votes(*found, labels, (neighbours,), (temperature,), classes)
    return votes if labels.ndim == 1 else _share(votes, total)


def nearest(train: np.ndarray, test: np.ndarray, neighbours: int, *, block: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The most similar training images of each test image by cosine, exactly.

    Of equally similar images the earlier one comes first. A feature vector of zeros has similarity 0 with everything. Memory
    is bounded: neither split's size multiplies the other's.

    Example:
      >>> import numpy as np
      >>> train = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
      >>> similarity, index = nearest(train, np.array([[3.0, 0.0]]), neighbours=2)
      >>> similarity.tolist(), index.tolist()
      ([[1.0, 1.0]], [[1, 2]])

    Args:
      train: features `[n_train, dim]`.
      test: features `[n_test, dim]`.
      neighbours: k, at most `n_train`.
      block: test images compared at a time; None: as many as bounded memory allows.

    Returns:
      (similarity, index): float32 and int64 `[n_test, k]`, the most similar first.

    Raises:
      ValueError: k is out of range, dimensions differ, or a feature is not finite.
    """
    train = _unit(train, "training")
    test = _unit(test, "test")
    if not 1 <= neighbours <= len(train):
        raise ValueError(f"kNN needs 1 to {len(train):,} neighbours (the training images), not {neighbours:,}.")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"kNN compares features of one encoder, not of {train.shape[1]} and {test.shape[1]} dimensions.")
    stretch = -(-len(train) // -(-len(train) // _TRAIN_AT_ONCE))
    block = block or max(1, min(len(test), _TEST_AT_ONCE, _AT_ONCE // stretch))
    similarity = np.full((len(test), neighbours), -np.inf, np.float32)
    index = np.full((len(test), neighbours), len(train), np.int64)
    for first in range(0, len(train), stretch):
        search = _Search(train[first : first + stretch], neighbours)
        for start in range(0, len(test), block):
            rows = slice(start, start + block)
            found_similarity, found_index = search(_filled(test[rows], block))
            there = len(test[rows])
            similarity[rows], index[rows] = _top_k(
                np.concatenate([similarity[rows], found_similarity[:there]], axis=1),
                np.concatenate([index[rows], found_index[:there] + first], axis=1),
                neighbours,
            )
    return similarity, index


class _Search:
    """The most similar of some training images, in two steps: among groups of consecutive images, then among their images.

    Of the groups in order of (their greatest similarity, falling; position) the first k hold the exact answer with its rule for
    ties: an image outside them comes after the k groups' own best images, each of which is more similar, or as similar and
    earlier.
    """

    def __init__(self, train: np.ndarray, neighbours: int):
        self._images = len(train)
        self._neighbours = min(neighbours, len(train))
        # Of this size both steps choose among about as many.
        size = 1 << round(np.log2(max(1, len(train) / self._neighbours)) / 2)
        groups = -(-len(train) // size)
        # Images of one group stand `groups` rows apart: maxima over groups are then maxima of whole vectors.
        filled = _filled(train, groups * size).reshape(groups, size, -1).swapaxes(0, 1)
        self._train = jnp.asarray(filled.reshape(groups * size, -1))
        self._groups = groups

    def __call__(self, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarity and index of the min(k, images) nearest, in order."""
        similarity, maxima = _compare(self._train, jnp.asarray(test), self._groups)
        _, chosen = _top_k(np.asarray(maxima), np.arange(self._groups), min(self._neighbours, self._groups))
        candidates, index = _of_groups(similarity, jnp.asarray(chosen, jnp.int32), self._images)
        return _top_k(np.asarray(candidates), np.asarray(index), self._neighbours)


@functools.partial(jax.jit, static_argnames="groups")
def _compare(train, test, groups):
    """Similarities `[test, size, groups]`, and their maxima over each group."""
    similarity = jnp.matmul(test, train.T, precision=lax.Precision.HIGHEST).reshape(len(test), -1, groups)
    return similarity, similarity.max(axis=1)


@jax.jit
def _of_groups(similarity, chosen, images):
    """The similarities of all images of the chosen groups, and the images' indices; both `[test, size * chosen]`."""
    size = similarity.shape[1]
    candidates = jnp.take_along_axis(similarity, chosen[:, None, :], axis=2)
    index = chosen[:, None, :] * size + jnp.arange(size)[None, :, None]
    candidates = jnp.where(index < images, candidates, -jnp.inf)
    return candidates.reshape(len(chosen), -1), index.reshape(len(chosen), -1)


def _top_k(values: np.ndarray, index: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k greatest of each row with their index, of equal values the lower index first.

    Value and index become one integer each, so that NumPy's partition, vectorised where the processor allows it, keeps the rule
    for ties: ten times as fast as XLA's selection on CPU.
    """
    # Adding zero turns -0.0 into 0.0, whose bits differ though they are equal.
    ascending = _ordered((values + np.float32(0)).view(np.int32))
    key = (~ascending).astype(np.int64) << 32 | index
    key = np.partition(key, k - 1, axis=1)[:, :k] if k < key.shape[1] else key
    key.sort(axis=1)
    return _ordered(~(key >> 32).astype(np.int32)).view(np.float32), key & 0xFFFFFFFF


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Between the bits of float32 and integers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unit(features: np.ndarray, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        features = np.asarray(features).astype(np.float32, copy=False)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"kNN needs {what} features [images, dim] of at least one image, not {list(features.shape)}.")
    # By the largest entry first: squares of huge or tiny ones would leave the range of float32.
    peak = np.abs(features).max(axis=1, keepdims=True)
    if not np.isfinite(peak).all():
        bad = np.flatnonzero(~np.isfinite(peak[:, 0]))
        raise ValueError(f"kNN: {len(bad):,} {what} images, image {bad[0]:,} first, have features that are not finite.")
    features = features / np.where(peak > 0, peak, 1)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1)


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """With copies of the last row up to so many: they make one compiled shape, and leave a group's maximum as it is."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)]) if len(rows) < count else rows


def _share(votes: np.ndarray, total: np.ndarray) -> np.ndarray:
    # Rounding may leave a sum of weights a trifle above their total.
    return np.minimum(votes / total, 1)


def _shares(*search_and_grid) -> Iterator[tuple[tuple[int, float], np.ndarray]]:
    for choice, votes, total in _votes(*search_and_grid):
        yield choice, _share(votes, total)


def _votes(
    similarity: np.ndarray,
    index: np.ndarray,
    labels: np.ndarray,
    neighbours: tuple[int, ...],
    temperatures: tuple[float, ...],
    classes: int,
) -> Iterator[tuple[tuple[int, float], np.ndarray, np.ndarray]]:
    """For each (k, temperature) the votes `[n, classes]` and the weight of all voters `[n, 1]`, from one search."""
    for temperature in temperatures:
        # The largest similarity is taken off first: exp(1 / temperature) would overflow at a low temperature.
        weight = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
        votes = np.zeros((len(index), classes))
        counted = 0
        for k in sorted(neighbours):
            votes += _tally(weight[:, counted:k], index[:, counted:k], labels, classes)
            counted = k
            yield (k, temperature), votes, weight[:, :k].sum(axis=1, keepdims=True)


def _tally(weight: np.ndarray, index: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    count, voters = weight.shape
    if labels.ndim == 1:
        cell = np.arange(count)[:, None] * classes + labels[index]
        return np.bincount(cell.ravel(), weight.ravel(), minlength=count * classes).reshape(count, classes)
    rows = sparse.csr_array((weight.ravel(), index.ravel(), np.arange(count + 1) * voters), shape=(count, len(labels)))
    return rows @ labels.astype(np.float64)
