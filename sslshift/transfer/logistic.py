"""Many logistic regressions at once: a grid of l2 penalties on each of several sets of images.

Each minimises mean loss + penalty / 2 * |weights|^2; the bias is not penalised. The loss of an image is the cross-entropy of
its class. If images may have several labels, it is the sum of binary cross-entropies over the classes.

The device computes the gradients of the losses for all penalties in one pass over the features. L-BFGS then works on small
arrays, in coordinates in which the Hessian at the start is near the identity: along the principal axes of the features, scaled
by 1 / sqrt(p (1 - p) variance + penalty) with p the share of the class. That reduces thousands of iterations to tens.
"""

import contextlib
import copy
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from threadpoolctl import ThreadpoolController

from sslshift.transfer.lbfgs import MEMORY, minimise

# Longest side of a matrix that is decomposed exactly, which takes about 20 s on two CPU cores.
_DECOMPOSED = 4096
# For longer sides, the axes are approximated: number of axes, and number of images to compute them.
_SOME_AXES = 512
_SOME_IMAGES = 2048
# Largest number of images whose logits are in memory at a time, and largest number of logits.
_ROWS = 2048
_LOGITS = 2**22
# Largest number of values that L-BFGS keeps for all problems that it solves together (512 MiB).
_REMEMBERED = 2**27


@functools.cache
def _thread_pools() -> ThreadpoolController:
    # Cached, so that the loaded libraries are searched only once.
    return ThreadpoolController()


def _one_thread() -> contextlib.AbstractContextManager:
    """Limits the linear algebra of NumPy and SciPy to one thread.

    At the sizes of probes, one thread is at least as fast as several: eigenvectors of 512 x 512 take 0.03 s with one thread and
    0.1 s with two. If other work occupies the cores, two threads wait for each other and need 4 s.
    """
    return _thread_pools().limit(limits=1, user_api="blas")


class Regressions(NamedTuple):
    """Logistic regressions with S penalties on each of D sets.

    Attributes:
      weights: float32 `[D, S, dim, classes]`.
      bias: float32 `[D, S, classes]`.
      excess: estimated difference of the objective from its minimum, `[D, S]`.
    """

    weights: np.ndarray
    bias: np.ndarray
    excess: np.ndarray


def fit_regressions(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    l2_penalties: tuple[float, ...],
    iterations: int,
    tolerance: float,
) -> Regressions:
    """Returns regressions with all penalties on all sets.

    If a set has fewer images than dimensions, the work depends only on the number of images. Memory beyond the arguments
    and results is bounded.

    Args:
      features: standardised, float32 `[D, n, dim]`.
      labels: int `[D, n]`, or 0/1 `[D, n, classes]`.
      classes: number of classes.
      l2_penalties: penalties above 0.
      iterations: largest number of passes over the features.
      tolerance: absolute tolerance of each objective.
    """
    count = len(features)
    # A stored pair has two vectors. A problem has coefficients for its images or its dimensions (the smaller number), and for
    # the bias.
    size = (min(features.shape[1:]) + 1) * classes * 2 * MEMORY
    sets = max(1, _REMEMBERED // (size * len(l2_penalties)))
    some = max(1, min(len(l2_penalties), _REMEMBERED // size))
    groups = np.array_split(np.array(l2_penalties, np.float32), -(-len(l2_penalties) // some))
    rows = []
    for first in range(0, count, sets):
        part = slice(first, first + sets)
        columns = [_fit(features[part], labels[part], classes, group, iterations, tolerance) for group in groups]
        rows.append([np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True)])
    return Regressions(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def _fit(features, labels, classes, penalties, iterations, tolerance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with _one_thread():
        coordinates = [_coordinates(each) for each in features]
    reduced = _stacked([each.features for each in coordinates])
    problem = _Problem(reduced, labels, classes, penalties, coordinates)
    found = minimise(problem, problem.start(), tolerance=tolerance, iterations=iterations)
    weights, bias = problem.parameters(found.point)
    if coordinates[0].back is not None:
        with _one_thread():
            back = [np.tensordot(each.back, own, (1, 1)) for each, own in zip(coordinates, weights, strict=True)]
        weights = np.stack(back).swapaxes(1, 2)
    return weights, bias, found.excess.reshape(len(features), len(penalties))


class _Coordinates(NamedTuple):
    """Coordinates in which the regressions on a set are solved.

    Attributes:
      features: features `[n, q]`, with q at most the given number of dimensions.
      variance: variance along each axis, `[r]`.
      rest: variance in every direction orthogonal to the axes.
      axes: principal axes `[q, r]`; None if the coordinate axes are principal.
      back: matrix `[dim, q]` from weights of these features to weights of the given features; None if they are the same.
    """

    features: np.ndarray
    variance: np.ndarray
    rest: float
    axes: np.ndarray | None
    back: np.ndarray | None


def _coordinates(features: np.ndarray) -> _Coordinates:
    count, dim = features.shape
    if count < dim and count <= _DECOMPOSED:
        return _row_space(features)
    if dim <= _DECOMPOSED:
        # An approximation is enough, because it changes only the path to the solution. Too few images give a poor
        # approximation.
        some = features[_spread(count, 64 * dim)]
        variance, axes = np.linalg.eigh(some.T @ some / np.float32(len(some)))
        return _Coordinates(features, np.maximum(variance, 0), 0.0, axes, None)
    # Axes and variances come from different images. With the same images, no variance would be left orthogonal to the axes.
    spread = _spread(count, _SOME_IMAGES)
    some = features[spread]
    others = features[1:][spread]
    reduced = _row_space(some)
    largest = np.argsort(-reduced.variance, kind="stable")[:_SOME_AXES]
    axes = reduced.back[:, largest]
    variance = np.square(others @ axes).mean(axis=0)
    rest = float(np.square(others).sum(dtype=np.float64) / len(others) - variance.sum()) / (dim - len(largest))
    return _Coordinates(features, variance, max(rest, 0.0), axes, None)


def _row_space(features: np.ndarray) -> _Coordinates:
    """Returns the span of the images, which contains the solution: weights outside it only increase the penalty."""
    # Eigenvalues of a Gram matrix are squares of singular values; in float32 the small ones would be lost in rounding.
    exact = features.astype(np.float64)
    values, vectors = np.linalg.eigh(exact @ exact.T)
    spanned = values > 1e-10 * max(values[-1], 1e-30)
    root = np.sqrt(np.where(spanned, values, 0))
    back = exact.T @ (vectors * np.where(spanned, 1 / np.where(spanned, root, 1), 0))
    reduced = (vectors * root).astype(np.float32)
    return _Coordinates(reduced, (root**2 / len(features)).astype(np.float32), 0.0, None, back.astype(np.float32))


def _spread(count: int, wanted: int) -> slice:
    """Returns a slice of at most `wanted` rows at even distances."""
    return slice(None, None, -(-count // wanted))


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    # The features of a single set are not copied, because they can be large.
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]


class _Data(NamedTuple):
    """Arrays for the objectives of all penalties on one set; stacked over sets.

    Attributes:
      features: features `[chunks, rows, q]`, padded with zeros.
      labels: labels `[chunks, rows]` or `[chunks, rows, classes]`.
      there: 1 for images, 0 for padding, `[chunks, rows]`.
      axes: principal axes `[q, r]`, or None if the coordinate axes are principal.
      steps: scale of coordinates along the axes, `[S, r, classes]`.
      rest: scale of coordinates orthogonal to the axes, `[S, 1, classes]`.
      bias_step: scale of the bias, `[classes]`.
    """

    features: jax.Array
    labels: jax.Array
    there: jax.Array
    axes: jax.Array | None
    steps: jax.Array
    rest: jax.Array
    bias_step: jax.Array


class _Problem:
    """The objectives of all penalties on all sets as one function of scaled coordinates `[D * S, (q + 1) * classes]`."""

    def __init__(self, features, labels, classes, penalties, coordinates):
        sets, count, dim = features.shape
        self._shape = sets, len(penalties), dim + 1, classes
        self._penalties = jnp.asarray(penalties)
        self._single = labels.ndim == 2
        shown = np.stack([np.bincount(each, minlength=classes) if self._single else each.sum(axis=0) for each in labels])
        # Half an image is added to each class, so that the logarithm of a class without images is finite.
        self._share = (shown + 0.5) / (count + (0.5 * classes if self._single else 1))
        # [D, S, r, classes]
        spread = (self._share * (1 - self._share))[:, None, None]
        variance = np.stack([each.variance for each in coordinates])[:, None, :, None]
        rest = np.array([each.rest for each in coordinates])[:, None, None, None]
        steps, rest = (_inverse_root(each * spread + penalties[:, None, None]) for each in (variance, rest))
        self._bias_step = _inverse_root(spread[:, 0, 0])
        axes = None if coordinates[0].axes is None else np.stack([each.axes for each in coordinates])
        chunks = -(-count // max(64, min(_ROWS, _LOGITS // (len(penalties) * classes))))
        there = np.ones((sets, count), np.float32)
        filled = (_chunked(each, chunks) for each in (features, labels, there))
        self._data = jax.tree.map(jnp.asarray, _Data(*filled, axes, steps, rest, self._bias_step))

    def start(self) -> np.ndarray:
        """Returns the starting point: no weights, and a bias that predicts the share of every class."""
        start = np.zeros(self._shape, np.float32)
        odds = self._share if self._single else self._share / (1 - self._share)
        start[:, :, -1] = (np.log(odds) / self._bias_step)[:, None]
        return start.reshape(math.prod(self._shape[:2]), -1)

    def parameters(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns weights `[D, S, q, classes]` and bias `[D, S, classes]`."""
        return tuple(np.asarray(part) for part in _parameters(self._data, points.reshape(self._shape)))

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = _objectives(self._data, self._penalties, points.reshape(self._shape))
        return np.asarray(value).ravel(), np.asarray(gradient).reshape(points.shape)

    def narrow(self, unsolved: np.ndarray) -> tuple["_Problem", np.ndarray] | None:
        """Returns the problem with at most half of the penalties once the others are solved; small penalties take the longest.

        The number of penalties is halved, so that few shapes are compiled.
        """
        sets, count = self._shape[:2]
        waiting = unsolved.reshape(sets, count).any(axis=0)
        size = count
        while size > 1 and waiting.sum() <= size // 2:
            size //= 2
        if size == count:
            return None
        some = np.sort(np.argsort(~waiting, kind="stable")[:size])
        # A shallow copy shares the features, which are on the device already.
        narrower = copy.copy(self)
        narrower._shape = (sets, size, *self._shape[2:])
        narrower._penalties = self._penalties[some]
        narrower._data = self._data._replace(steps=self._data.steps[:, some], rest=self._data.rest[:, some])
        return narrower, np.arange(sets * count).reshape(sets, count)[:, some].ravel()


def _inverse_root(curvature: np.ndarray) -> np.ndarray:
    return (1 / np.sqrt(curvature)).astype(np.float32)


def _chunked(rows: np.ndarray, chunks: int) -> np.ndarray:
    """Returns `[D, n, ...]` as `[D, chunks, rows, ...]`, padded with zeros."""
    sets, count = rows.shape[:2]
    size = -(-count // chunks)
    if size * chunks > count:
        rows = np.concatenate([rows, np.zeros((sets, size * chunks - count, *rows.shape[2:]), rows.dtype)], axis=1)
    return rows.reshape(sets, chunks, size, *rows.shape[2:])


# Without this precision, GPUs multiply float32 matrices in TF32, which is too coarse for the tolerance of the search.
_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def _scaled(data: _Data, points: jax.Array) -> jax.Array:
    """Scales `[S, q, classes]` along the axes, and by one factor orthogonal to them.

    The map is symmetric, so it also maps gradients to the scaled coordinates.
    """
    if data.axes is None:
        return points * data.steps
    along = _matmul(data.axes.T, points)
    # If the axes span the whole space, nothing is orthogonal to them.
    if data.axes.shape[0] == data.axes.shape[1]:
        return _matmul(data.axes, along * data.steps)
    return points * data.rest + _matmul(data.axes, along * (data.steps - data.rest))


def _unscaled(data: _Data, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _scaled(data, points[:, :-1]), points[:, -1] * data.bias_step


@jax.jit
def _parameters(data, points):
    return lax.map(lambda each: _unscaled(*each), (data, points))


# Sets are processed one after another, because XLA's batched matrix products take twice as long on a CPU.
@jax.jit
def _objectives(data, penalties, points):
    """Returns values `[D, S]` and gradients `[D, S, q + 1, classes]`."""
    return lax.map(lambda each: _objective(each[0], penalties, each[1]), (data, points))


def _objective(data, penalties, points):
    weights, bias = _unscaled(data, points)
    loss, by_weights, by_bias = (part / jnp.sum(data.there) for part in _loss_and_gradients(data, weights, bias))
    value = loss + penalties / 2 * jnp.sum(weights * weights, axis=(1, 2))
    by_weights = _scaled(data, by_weights + penalties[:, None, None] * weights)
    return value, jnp.concatenate([by_weights, (by_bias * data.bias_step)[:, None]], axis=1)


def _loss_and_gradients(data, weights, bias):
    """Returns sums over images of the loss `[S]` and of its gradients by weights `[S, q, classes]` and bias `[S, classes]`."""
    count, dim, classes = weights.shape
    # The weights of all penalties are concatenated, so that one product with the features is enough.
    columns = weights.swapaxes(0, 1).reshape(dim, count * classes)

    def add(sums, chunk):
        features, labels, there = chunk
        logits = _matmul(features, columns).reshape(-1, count, classes) + bias
        # The gradient is explicit, because automatic differentiation would pass over the features a second time.
        loss, residual = _of_logits(logits, labels)
        residual = residual * there[:, None, None]
        by_weights = _matmul(features.T, residual.reshape(-1, count * classes))
        found = jnp.sum(loss * there[:, None], axis=0), by_weights, jnp.sum(residual, axis=0)
        return jax.tree.map(jnp.add, sums, found), None

    zeros = jnp.zeros(count), jnp.zeros((dim, count * classes)), jnp.zeros((count, classes))
    (loss, by_weights, by_bias), _ = lax.scan(add, zeros, (data.features, data.labels, data.there))
    return loss, by_weights.reshape(dim, count, classes).swapaxes(0, 1), by_bias


def _of_logits(logits, labels):
    """Returns the loss `[rows, S]` of logits `[rows, S, classes]`, and its derivative with respect to them."""
    if labels.ndim == 1:
        right = (labels[:, None] == jnp.arange(logits.shape[2]))[:, None]
        loss = jax.nn.logsumexp(logits, axis=2) - jnp.sum(logits * right, axis=2)
        return loss, jax.nn.softmax(logits, axis=2) - right
    loss = jnp.sum(jax.nn.softplus(logits) - logits * labels[:, None], axis=2)
    return loss, jax.nn.sigmoid(logits) - labels[:, None]
