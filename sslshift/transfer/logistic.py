"""Logistic regressions on the device: a path of l2 penalties on each of several sets of images, in one compiled program.

Each minimises mean loss + penalty / 2 * |weights|^2; the bias is not penalised. The loss of an image is the cross-entropy of
its class. If images may have several labels, it is the sum of binary cross-entropies over the classes.

The strongest penalty is solved first, because its problem is nearly quadratic. Each weaker one starts from the solution and the
curvature found so far. L-BFGS is preconditioned by the inverse of p (1 - p) * covariance + penalty, with p the share of the
class, which reduces thousands of iterations to tens. Only the eigenvectors of this covariance are computed on the host.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from threadpoolctl import ThreadpoolController

from sslshift.transfer.lbfgs import Curvature, Evaluation, minimise

# Longest side of a matrix that is decomposed exactly, which takes about 20 s on two CPU cores.
_DECOMPOSED = 4096
# For longer sides, the axes are approximated: number of axes, and number of images to compute them.
_SOME_AXES = 512
_SOME_IMAGES = 2048
# Largest number of features that are multiplied at a time, and largest number of logits in memory. On a CPU, a chunk stays in
# the cache between the two products with it (4 MiB); an accelerator needs large products.
_VALUES = {"cpu": 2**20}
_MOST_VALUES = 2**26
_LOGITS = 2**22
# Largest number of logits that are moved to the host at a time (1 GiB).
_TRANSFERRED = 2**28


@functools.cache
def _thread_pools() -> ThreadpoolController:
    # Cached, so that the loaded libraries are searched only once.
    return ThreadpoolController()


def one_thread() -> contextlib.AbstractContextManager:
    """Limits the linear algebra of NumPy and SciPy, which XLA uses on a CPU too, to one thread.

    At the sizes of probes, one thread is at least as fast as several: eigenvectors of 512 x 512 take 0.03 s with one thread and
    0.1 s with two. If other work occupies the cores, two threads wait for each other and need 4 s.
    """
    return _thread_pools().limit(limits=1, user_api="blas")


class Regressions(NamedTuple):
    """Logistic regressions with S penalties on each of D sets, on the device.

    Attributes:
      weights: float32 `[D, S, dim, classes]`.
      bias: float32 `[D, S, classes]`.
      excess: estimated difference of the objective from its minimum, `[D, S]`.
    """

    weights: jax.Array
    bias: jax.Array
    excess: jax.Array

    def grid(self, features: jax.Array) -> Iterator[np.ndarray]:
        """Yields the logits `[D, n, classes]` of standardised features `[n, dim]` for each penalty in turn.

        They come to the host together, or in several parts if they are large.
        """
        sets, penalties, _, classes = self.weights.shape
        together = max(1, _TRANSFERRED // (sets * len(features) * classes))
        for first in range(0, penalties, together):
            yield from jax.device_get(_scores(self, features, np.arange(first, min(first + together, penalties))))

    def solution(self, features: jax.Array, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits `[D, n, classes]` and the excesses `[D]` for the penalty at this place, in one transfer."""
        logits, excess = jax.device_get((_scores(self, features, np.array([place])), self.excess))
        return logits[0], excess[:, place]


def fit_regressions(
    features: jax.Array,
    labels: np.ndarray,
    *,
    classes: int,
    l2_penalties: tuple[float, ...],
    iterations: int,
    tolerance: float,
    strongest: int | None = None,
) -> Regressions:
    """Returns regressions with all penalties on all sets.

    If a set has fewer images than dimensions, the work depends only on the number of images. Memory of the device holds the
    arguments and results, and beyond them a bounded number of logits and the vectors of one search.

    Args:
      features: standardised, float32 `[D, n, dim]`.
      labels: int `[D, n]`, or 0/1 `[D, n, classes]`.
      classes: number of classes.
      l2_penalties: penalties above 0.
      iterations: largest number of passes over the features for each penalty.
      tolerance: absolute tolerance of each objective.
      strongest: number of different penalties to solve, the strongest first; None: all. The program is the same; a penalty that
        is not solved has the solution of the weakest one that is, and an infinite excess.
    """
    count, dim = features.shape[1:]
    # In falling order, each only once.
    falling, places = np.unique(-np.array(l2_penalties, np.float32), return_inverse=True)
    space = _space(features, count, dim)
    features = features if space.features is None else jnp.asarray(space.features)
    single = labels.ndim == 2
    shown = np.stack([np.bincount(each, minlength=classes) if single else each.sum(axis=0) for each in labels])
    # Half an image is added to each class, so that the logarithm of a class without images is finite.
    share = (shown + 0.5) / (count + (0.5 * classes if single else 1))
    bias = np.log(share if single else share / (1 - share))
    shares = share.astype(np.float32), bias.astype(np.float32)
    sets = _Set(features, jnp.asarray(labels), space.axes, space.variance, space.rest, *shares)
    rows = max(64, min(_VALUES.get(jax.default_backend(), _MOST_VALUES) // features.shape[2], _LOGITS // classes))
    solved = np.int32(len(falling) if strongest is None else strongest)
    return _solved(sets, -falling, space.back, places, np.float32(tolerance), np.int32(iterations), solved, rows=rows)


class _Space(NamedTuple):
    """Principal axes of each set, and the coordinates in which its regressions are solved.

    Attributes:
      features: features `[D, n, q]` in other coordinates; None if the given coordinates are used.
      variance: variance along each axis, `[D, r]`.
      rest: variance in every direction orthogonal to the axes, `[D]`.
      axes: principal axes `[D, q, r]`; None if the coordinate axes are principal.
      back: matrices `[D, dim, q]` from weights of these features to weights of the given features; None if they are the same.
    """

    features: np.ndarray | None
    variance: np.ndarray
    rest: np.ndarray
    axes: np.ndarray | None = None
    back: np.ndarray | None = None


def _space(features: jax.Array, count: int, dim: int) -> _Space:
    # Eigenvectors are computed on the host: there they compile nothing, and float64 is available.
    if count < dim and count <= _DECOMPOSED:
        reduced, variance, back = _together(_row_space(each) for each in jax.device_get(features))
        return _Space(reduced, variance, np.zeros(len(variance), np.float32), back=back)
    if dim <= _DECOMPOSED:
        # An approximation is enough, because it changes only the path to the solution. Too few images give a poor
        # approximation.
        covariance = jax.device_get(_covariance(features, stride=-(-count // (64 * dim))))
        with one_thread():
            variance, axes = _together(np.linalg.eigh(each) for each in covariance)
        return _Space(None, np.maximum(variance, 0), np.zeros(len(variance), np.float32), axes)
    # Axes and variances come from different images. With the same images, no variance would be left orthogonal to the axes.
    stride = -(-count // _SOME_IMAGES)
    some, others = jax.device_get((features[:, ::stride], features[:, 1::stride]))
    variance, rest, axes = _together(_some_axes(*each, dim) for each in zip(some, others, strict=True))
    return _Space(None, variance, rest, axes)


def _together(each_set) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(parts) for parts in zip(*each_set, strict=True))


@functools.partial(jax.jit, static_argnames="stride")
def _covariance(features, *, stride):
    some = features[:, ::stride]
    return lax.map(lambda each: _matmul(each.T, each) / some.shape[1], some)


def _row_space(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features and variances along the axes of the span of the images, and the matrix from these axes back.

    The span contains the solution: weights outside it only increase the penalty.
    """
    # Eigenvalues of a Gram matrix are squares of singular values; in float32 the small ones would be lost in rounding.
    exact = features.astype(np.float64)
    with one_thread():
        values, vectors = np.linalg.eigh(exact @ exact.T)
        spanned = values > 1e-10 * max(values[-1], 1e-30)
        root = np.sqrt(np.where(spanned, values, 0))
        back = exact.T @ (vectors * np.where(spanned, 1 / np.where(spanned, root, 1), 0))
    return (vectors * root).astype(np.float32), (root**2 / len(features)).astype(np.float32), back.astype(np.float32)


def _some_axes(some: np.ndarray, others: np.ndarray, dim: int) -> tuple[np.ndarray, np.float32, np.ndarray]:
    """Returns variances along the largest axes, the variance orthogonal to them, and the axes."""
    _, variance, back = _row_space(some)
    largest = np.argsort(-variance, kind="stable")[:_SOME_AXES]
    axes = back[:, largest]
    with one_thread():
        variance = np.square(others @ axes).mean(axis=0)
    rest = float(np.square(others).sum(dtype=np.float64) / len(others) - variance.sum()) / (dim - len(largest))
    return variance, np.float32(max(rest, 0.0)), axes


class _Set(NamedTuple):
    """The images of one set with what is known of them; stacked over sets.

    Attributes:
      features: features `[n, q]`.
      labels: labels `[n]` or `[n, classes]`.
      axes, variance, rest: see `_Space`.
      share: share of each class, `[classes]`.
      bias: bias that predicts these shares without any weights, `[classes]`.
    """

    features: jax.Array
    labels: jax.Array
    axes: jax.Array | None
    variance: jax.Array
    rest: jax.Array
    share: jax.Array
    bias: jax.Array


# Without this precision, GPUs multiply float32 matrices in TF32, which is too coarse for the tolerance of the search.
_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


# The places are an argument, so that the choice of a penalty compiles nothing.
@jax.jit
def _scores(found, features, places):
    def of(place):
        return lax.map(lambda each: _matmul(features, each[0]) + each[1][None], (found.weights[:, place], found.bias[:, place]))

    return lax.map(of, places)


@functools.partial(jax.jit, static_argnames="rows")
def _solved(sets, penalties, back, places, tolerance, iterations, strongest, *, rows):
    """Returns the `Regressions` on all sets; `places` are the places of the wanted penalties in the sorted ones."""

    def solve(own):
        images, back = own
        points, excess = _path(images, penalties, tolerance, iterations, strongest, rows)
        weights = points[places, :, :-1]
        weights = weights if back is None else _matmul(weights, back.T)
        return Regressions(weights.swapaxes(1, 2), points[places, :, -1], excess[places])

    # Sets are solved one after another: solved together, each would wait for the slowest, and on a CPU XLA's batched matrix
    # products take twice as long. A loop over a single set would copy its features.
    if len(sets.share) > 1:
        return lax.map(solve, (sets, back))
    only = jax.tree.map(lambda part: part[0], (sets, back))
    return jax.tree.map(lambda part: part[None], solve(only))


def _path(images, penalties, tolerance, iterations, strongest, rows):
    """Returns points `[S, classes, q + 1]` (weights, then the bias) and excesses `[S]` for falling penalties."""

    def objective(penalty, point):
        value, gradient = _loss_and_gradient(images, point, rows)
        weights = _weights_alone(point)
        return Evaluation(point, value + penalty / 2 * jnp.vdot(weights, weights), gradient + penalty * weights)

    def solve(carry, penalty):
        at, pairs, before, solved, logs = carry
        # The objectives of two penalties differ by a known quadratic, so that nothing needs to be evaluated again.
        more = penalty - before
        weights = _weights_alone(at.point)
        at = Evaluation(at.point, at.value + more / 2 * jnp.vdot(weights, weights), at.gradient + more * weights)
        pairs = pairs.with_curvature(pairs.changes + more * _weights_alone(pairs.moves))
        guess = objective(penalty, _extrapolated(solved, logs, jnp.log(penalty)))
        at = jax.tree.map(functools.partial(jnp.where, guess.value < at.value), guess, at)
        found = minimise(
            functools.partial(objective, penalty),
            functools.partial(_preconditioned, images, penalty),
            at,
            pairs,
            tolerance=tolerance,
            iterations=iterations,
        )
        point = found.at.point
        latest = jnp.stack([point, *solved[:-1]]), jnp.stack([jnp.log(penalty), *logs[:-1]])
        return (found.at, found.pairs, penalty, *latest), (point, found.excess)

    start = jnp.zeros((len(images.share), images.features.shape[1] + 1)).at[:, -1].set(images.bias)
    first = objective(jnp.float32(0), start)
    # Under ever stronger penalties, the solution tends to the start.
    solved = jnp.stack([start] * 3), jnp.log(penalties[0]) + 10 * jnp.arange(1, 4, dtype=jnp.float32)

    def solve_or_skip(carry, each):
        number, penalty = each
        return lax.cond(
            number < strongest, solve, lambda carry, _: (carry, (carry[0].point, jnp.float32(jnp.inf))), carry, penalty
        )

    numbered = jnp.arange(len(penalties)), penalties
    return lax.scan(solve_or_skip, (first, Curvature.none(start), jnp.float32(0), *solved), numbered)[1]


def _extrapolated(points: jax.Array, places: jax.Array, place: jax.Array) -> jax.Array:
    """Returns the value at `place` of the polynomial through points `[k, ...]` at places `[k]`."""
    others = ~jnp.eye(len(places), dtype=bool)
    shares = jnp.prod((place - places)[None] / (places[:, None] - places[None]), axis=1, where=others)
    return jnp.tensordot(shares, points, 1, precision=lax.Precision.HIGHEST)


def _weights_alone(point: jax.Array) -> jax.Array:
    return point.at[..., -1].set(0)


def _preconditioned(images: _Set, penalty: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns a gradient `[classes, q + 1]` times the inverse of p (1 - p) * covariance + penalty."""
    spread = (images.share * (1 - images.share))[:, None]
    along = 1 / (images.variance[None] * spread + penalty)
    weights = gradient[:, :-1]
    if images.axes is None:
        weights = weights * along
    else:
        rest = 1 / (images.rest * spread + penalty)
        # If the axes span the whole space, nothing is orthogonal to them.
        rest = rest if images.axes.shape[0] > images.axes.shape[1] else jnp.zeros_like(rest)
        weights = rest * weights + _matmul(_matmul(weights, images.axes) * (along - rest), images.axes.T)
    return jnp.concatenate([weights, gradient[:, -1:] / spread], axis=1)


def _loss_and_gradient(images: _Set, point: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean loss and its gradient `[classes, q + 1]` in one pass over the features."""
    count = len(images.features)
    weights = point[:, :-1]
    bias = point[:, -1:]

    def chunk(features, labels, counted):
        # Classes come first, because XLA's products of thin matrices are several times as fast this way on a CPU.
        loss, residual = _of_logits(_matmul(weights, features.T) + bias, labels)
        residual = residual * counted[None]
        return jnp.sum(loss * counted), _matmul(residual, features), jnp.sum(residual, axis=1)

    def add(i, sums):
        # The last chunk overlaps the previous one, so that all have one shape; images that were counted are not counted again.
        start = jnp.minimum(i * rows, count - rows)
        parts = (lax.dynamic_slice_in_dim(part, start, rows) for part in (images.features, images.labels))
        counted = start + jnp.arange(rows) >= i * rows
        return jax.tree.map(jnp.add, sums, chunk(*parts, counted.astype(jnp.float32)))

    if count <= rows:
        loss, by_weights, by_bias = chunk(images.features, images.labels, jnp.ones(count))
    else:
        zeros = jnp.float32(0), jnp.zeros_like(weights), jnp.zeros(len(point))
        loss, by_weights, by_bias = lax.fori_loop(0, -(-count // rows), add, zeros)
    return loss / count, jnp.concatenate([by_weights, by_bias[:, None]], axis=1) / count


def _of_logits(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the loss `[n]` of logits `[classes, n]`, and its derivative with respect to them."""
    # The gradient is explicit, because automatic differentiation would pass over the features a second time.
    if labels.ndim == 1:
        right = (labels.astype(jnp.int32)[None] == jnp.arange(len(logits))[:, None]).astype(logits.dtype)
        peak = jnp.max(logits, axis=0, keepdims=True)
        share = jnp.exp(logits - peak)
        total = jnp.sum(share, axis=0, keepdims=True)
        loss = jnp.log(total[0]) + peak[0] - jnp.sum(logits * right, axis=0)
        return loss, share / total - right
    labels = labels.T.astype(logits.dtype)
    return jnp.sum(jax.nn.softplus(logits) - logits * labels, axis=0), jax.nn.sigmoid(logits) - labels
