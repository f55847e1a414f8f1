"""L-BFGS for a smooth convex function as one compiled loop: a search makes no transfer between host and device.

One evaluation is one step of the loop. If a step was too long, the next evaluation tries a shorter one.

References:
  Nocedal & Wright, *Numerical Optimization*, 2nd edition, 2006, chapter 7.2
  Hager & Zhang, `A New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search
  <https://doi.org/10.1137/030601880>`_, 2005 (accepting a step by its slopes)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Pairs of (step, change of the gradient) that approximate the Hessian; 3 to 20 are usual.
MEMORY = 10
# Number of earlier values that correct the estimated distance to the minimum.
_REMEMBERED = 30
# Number of evaluations until which the estimate is not yet corrected by earlier values.
_FEW = 10
# Largest number of successive shortenings; after it, float32 shows no further decrease.
_SHORTENINGS = 12


class Evaluation(NamedTuple):
    """A point with the value and the gradient of the function there."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array


class Curvature(NamedTuple):
    """The latest accepted steps and changes of the gradient, `[MEMORY, ...]`, in a ring.

    Attributes:
      moves: steps.
      changes: changes of the gradient.
      inverses: 1 / (move . change), `[MEMORY]`; 0 where there is no pair.
      next: place of the next pair.
    """

    moves: jax.Array
    changes: jax.Array
    inverses: jax.Array
    next: jax.Array

    @classmethod
    def none(cls, point: jax.Array) -> "Curvature":
        """Returns no pairs, for points of this shape."""
        vectors = jnp.zeros((MEMORY, *point.shape))
        return cls(vectors, vectors, jnp.zeros(MEMORY), jnp.int32(0))

    def with_curvature(self, changes: jax.Array) -> "Curvature":
        """Returns the same steps with other changes of the gradient."""
        curvature = jnp.sum((self.moves * changes).reshape(MEMORY, -1), axis=1)
        return self._replace(changes=changes, inverses=jnp.where((self.inverses > 0) & (curvature > 0), 1 / curvature, 0))

    def added(self, move: jax.Array, change: jax.Array) -> "Curvature":
        """Returns the pairs with a new one in place of the oldest."""
        # Rounding can give a pair without positive curvature, which would make the approximate Hessian indefinite.
        curvature = jnp.vdot(move, change)
        inverse = jnp.where(curvature > 0, 1 / curvature, 0)
        place = self.next
        return Curvature(
            self.moves.at[place].set(move),
            self.changes.at[place].set(change),
            self.inverses.at[place].set(inverse),
            (place + (curvature > 0).astype(jnp.int32)) % MEMORY,
        )

    def direction(self, gradient: jax.Array, precondition: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Returns the quasi-Newton direction by two loops over the pairs."""

        def backwards(i, carry):
            left, shares = carry
            place = (self.next - 1 - i) % MEMORY
            share = self.inverses[place] * jnp.vdot(self.moves[place], left)
            return left - share * self.changes[place], shares.at[place].set(share)

        def forwards(i, right):
            place = (self.next + i) % MEMORY
            share = shares[place] - self.inverses[place] * jnp.vdot(self.changes[place], right)
            return right + share * self.moves[place]

        left, shares = lax.fori_loop(0, MEMORY, backwards, (-gradient, jnp.zeros(MEMORY)))
        return lax.fori_loop(0, MEMORY, forwards, precondition(left))


class Search(NamedTuple):
    """State of a search.

    Attributes:
      at: the best point.
      pairs: what is known of the Hessian.
      direction: direction of the next step.
      slope: slope along it.
      step: length of the next step.
      shortened: number of shortenings of the next step.
      evaluations: number of evaluations.
      past: earlier values and slopes, `[_REMEMBERED, 2]`, in a ring.
      excess: estimated excess of the value over the minimum.
    """

    at: Evaluation
    pairs: Curvature
    direction: jax.Array
    slope: jax.Array
    step: jax.Array
    shortened: jax.Array
    evaluations: jax.Array
    past: jax.Array
    excess: jax.Array


def minimise(
    objective: Callable[[jax.Array], Evaluation],
    precondition: Callable[[jax.Array], jax.Array],
    start: Evaluation,
    pairs: Curvature,
    *,
    tolerance: float | jax.Array,
    iterations: int | jax.Array,
) -> Search:
    """Returns the search for the minimum of a convex function, until its value is estimated to be within `tolerance` of it.

    Args:
      objective: the function.
      precondition: approximate inverse of the Hessian, symmetric and positive.
      start: where the search starts.
      pairs: known pairs of this function; see `Curvature.none`.
      tolerance: absolute tolerance of the value.
      iterations: largest number of evaluations.
    """

    def started(evaluation, pairs, evaluations, past):
        direction = pairs.direction(evaluation.gradient, precondition)
        slope = jnp.vdot(evaluation.gradient, direction)
        excess = _excess(evaluation.value, slope, past)
        return Search(evaluation, pairs, direction, slope, jnp.float32(1), jnp.int32(0), evaluations, past, excess)

    def unsolved(search):
        return (search.excess > tolerance) & (search.shortened < _SHORTENINGS) & (search.evaluations < iterations)

    def advanced(search):
        move = search.step * search.direction
        trial = objective(search.at.point + move)
        slope = jnp.vdot(trial.gradient, search.direction)
        evaluations = search.evaluations + 1
        past = search.past.at[evaluations % _REMEMBERED].set(jnp.stack([search.at.value, search.slope]))

        def accepted():
            return started(trial, search.pairs.added(move, trial.gradient - search.at.gradient), evaluations, past)

        def rejected():
            # The zero of the slope, interpolated linearly; kept away from both ends, because the slope need not be linear.
            share = jnp.where(slope > 0, search.slope / (search.slope - slope), 0.1)
            return search._replace(
                step=search.step * jnp.clip(jnp.nan_to_num(share, nan=0.1), 0.1, 0.7),
                shortened=search.shortened + 1,
                evaluations=evaluations,
            )

        return lax.cond(_far_enough_down(search, trial.value, slope), accepted, rejected)

    past = jnp.full((_REMEMBERED, 2), -jnp.inf)
    return lax.while_loop(unsolved, advanced, started(start, pairs, jnp.int32(0), past))


def _excess(value: jax.Array, slope: jax.Array, past: jax.Array) -> jax.Array:
    """Returns the estimated excess of a value over the minimum.

    The quasi-Newton direction predicts a decrease of half the slope. This is exact for the true Hessian, and too small if
    the approximation lacks some directions. It is therefore doubled, and multiplied by the largest factor by which
    the actual decrease has exceeded an earlier prediction.
    """
    values = past[:, 0]
    # A decrease of this size may be rounding.
    fallen = values - value - 3e-7 * jnp.abs(values)
    surpassed = jnp.max(jnp.where(jnp.isfinite(values), fallen / jnp.maximum(-past[:, 1] / 2, 1e-30), 0))
    # With few evaluations, half the slope can be ten times too small. The first factor is therefore five times the double;
    # later, earlier predictions give the factor.
    least = jnp.where(jnp.sum(jnp.isfinite(values)) >= _FEW, 1.0, 5.0)
    return -slope * jnp.maximum(surpassed, least)


def _far_enough_down(search: Search, value: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns whether the value fell enough, or the slopes show a decrease that float32 values cannot show."""
    before = search.at.value
    # The usual constant of sufficient decrease, as in Nocedal & Wright.
    fell = value <= before + 1e-4 * search.step * search.slope
    # A convex function decreases as long as its slope is negative.
    falling = slope <= 0
    # The approximate conditions of Hager & Zhang with their constants, delta = 0.1 and epsilon = 1e-6.
    level = (slope <= -0.8 * search.slope) & (value <= before + 1e-6 * jnp.abs(before))
    return fell | falling | level
