"""L-BFGS for many smooth convex problems at once, whose objectives are evaluated together.

One evaluation is one step. If a step was too long for a problem, the next evaluation tries a shorter step for this problem
only. Problems therefore do not wait for each other's line search, and only the objective is compiled.

References:
  Nocedal & Wright, *Numerical Optimization*, 2nd edition, 2006, chapter 7.2
  Hager & Zhang, `A New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search
  <https://doi.org/10.1137/030601880>`_, 2005 (accepting a step by its slopes)
"""

import collections
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Pairs of (step, change of the gradient) that approximate the Hessian; 3 to 20 are usual.
MEMORY = 10
# Number of earlier values that correct the estimated distance to the minimum.
REMEMBERED = 30
# Evaluations after which solved problems may be dropped. A smaller objective must be compiled, which takes time.
NARROWED = 32
# Largest number of successive shortenings; after it, float32 shows no further decrease.
_SHORTENINGS = 12

# Maps points [problems, size] to values [problems] and gradients [problems, size].
Objective = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Minimum(NamedTuple):
    """The points found, `[problems, size]`, and the estimated excess of each value over its minimum, `[problems]`."""

    point: np.ndarray
    excess: np.ndarray


class _State(NamedTuple):
    """State of the search, one entry or row for each problem; `shortened` counts the shortenings of the next step."""

    point: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    direction: np.ndarray
    slope: np.ndarray
    scale: np.ndarray
    step: np.ndarray
    shortened: np.ndarray

    def only(self, some: np.ndarray) -> "_State":
        """Returns the state of some of the problems."""
        return _State(*(part[some] for part in self))


def minimise(objective: Objective, start: np.ndarray, *, tolerance: float, iterations: int) -> Minimum:
    """Minimises several convex functions, each until its value is estimated to be within `tolerance` of the minimum.

    Args:
      objective: function that returns values and gradients of all problems. Its optional method `narrow` is called regularly
        with a mask of the unsolved problems. It may return an objective for fewer problems, which must include all unsolved
        ones, and their indices; the others are then no longer evaluated.
      start: float32 `[problems, size]`, in coordinates in which the Hessian is near the identity.
      tolerance: absolute tolerance of the value.
      iterations: largest number of evaluations.
    """
    points = start.copy()
    excess = np.zeros(len(start))
    places = np.arange(len(start))
    memory: collections.deque = collections.deque(maxlen=MEMORY)
    past: collections.deque = collections.deque(maxlen=REMEMBERED)
    state = _started(objective, start)
    # The start was the first evaluation.
    for evaluations in range(1, iterations):
        points[places] = state.point
        excess[places] = _excess(state, past)
        unsolved = (excess[places] > tolerance) & (state.shortened < _SHORTENINGS)
        if not unsolved.any():
            break
        narrowed = None if evaluations % NARROWED else getattr(objective, "narrow", lambda _: None)(unsolved)
        if narrowed:
            objective, some = narrowed
            places = places[some]
            state = state.only(some)
            memory, past = (
                collections.deque((tuple(part[some] for part in each) for each in old), old.maxlen) for old in (memory, past)
            )
        past.append((state.value, state.slope))
        state = _advanced(objective, state, memory)
    points[places] = state.point
    excess[places] = _excess(state, past)
    return Minimum(points, excess)


def _started(objective: Objective, start: np.ndarray) -> _State:
    value, gradient = objective(start)
    ones = np.ones(len(start), np.float32)
    return _State(start, value, gradient, -gradient, -np.vecdot(gradient, gradient), ones, ones, np.zeros(len(start), int))


def _advanced(objective: Objective, state: _State, memory: collections.deque) -> _State:
    """Returns the state after one evaluation, either at a new point or at the same point with a shorter next step.

    Solved problems continue while others are unsolved.
    """
    point, value, gradient, direction, slope, scale, step, shortened = state
    move = step[:, None] * direction
    trial = point + move
    trial_value, trial_gradient = objective(trial)
    trial_slope = np.vecdot(trial_gradient, direction)
    accepted = _far_enough_down(value, trial_value, slope, trial_slope, step) & (shortened < _SHORTENINGS)
    next_step, shortened = _next_steps(step, shortened, slope, trial_slope, accepted)
    if not accepted.any():
        return state._replace(step=next_step, shortened=shortened)
    rows = accepted[:, None]
    # The gradient at a rejected point may be infinite.
    change = np.where(rows, trial_gradient, gradient) - gradient
    # Rounding can give a pair without positive curvature, which would make the approximate Hessian indefinite. Setting its
    # inverse to 0 removes the pair for one problem; all problems share the list of pairs.
    curvature = step * (trial_slope - slope)
    kept = accepted & (curvature > 0)
    divisor = np.where(kept, curvature, 1)
    memory.append((move, change, np.where(kept, 1 / divisor, 0).astype(np.float32)))
    # The scale of the initial Hessian in equation 7.20 of Nocedal & Wright.
    scale = np.where(kept, divisor / np.maximum(np.vecdot(change, change), 1e-30), scale).astype(np.float32)
    point = np.where(rows, trial, point)
    gradient = np.where(rows, trial_gradient, gradient)
    direction = np.where(rows, _direction(gradient, memory, scale), direction)
    value = np.where(accepted, trial_value, value)
    slope = np.vecdot(gradient, direction)
    return _State(point, value, gradient, direction, slope, scale, next_step, shortened)


def _excess(state: _State, past: collections.deque) -> np.ndarray:
    """Returns the estimated excess of each value over its minimum.

    The quasi-Newton direction predicts a decrease of half the slope. This is exact for the true Hessian, and too small if
    the approximation lacks some directions. It is therefore doubled, and multiplied by the largest factor by which
    the actual decrease has exceeded an earlier prediction.
    """
    # With few known directions, half the slope can be ten times too small. The first factor is therefore five times the double;
    # later, earlier predictions give the factor.
    surpassed = np.full(len(state.value), 1.0 if len(past) > 2 else 5.0)
    for value, slope in past:
        # A decrease of this size may be rounding.
        fallen = value - state.value - 3e-7 * np.abs(value)
        surpassed = np.maximum(surpassed, fallen / np.maximum(-slope / 2, 1e-30))
    return -state.slope * surpassed


def _far_enough_down(value, trial_value, slope, trial_slope, step) -> np.ndarray:
    """Returns the accepted steps: the value fell enough, or the slopes show a decrease that float32 values cannot show."""
    # The usual constant of sufficient decrease, as in Nocedal & Wright.
    fell = trial_value <= value + 1e-4 * step * slope
    # A convex function decreases as long as its slope is negative.
    falling = trial_slope <= 0
    # The approximate conditions of Hager & Zhang with their constants, delta = 0.1 and epsilon = 1e-6.
    level = (trial_slope <= -0.8 * slope) & (trial_value <= value + 1e-6 * np.abs(value))
    return fell | falling | level


def _next_steps(step, shortened, slope, trial_slope, accepted) -> tuple[np.ndarray, np.ndarray]:
    """Returns the length of the next step of each problem, and its count of shortenings."""
    # The zero of the slope, interpolated linearly between both ends of the step.
    share = np.nan_to_num(slope / np.where(trial_slope > 0, slope - trial_slope, -np.inf), nan=0.1)
    # The step is kept away from both ends, because the slope need not be linear.
    shorter = step * np.clip(share, 0.1, 0.7)
    return np.where(accepted, 1, shorter).astype(np.float32), np.where(accepted, 0, shortened + 1)


def _direction(gradient: np.ndarray, memory: collections.deque, scale: np.ndarray) -> np.ndarray:
    """Returns the quasi-Newton direction by two loops over the stored pairs."""
    left = gradient.copy()
    shares = []
    for move, change, inverse in reversed(memory):
        shares.append(inverse * np.vecdot(move, left))
        left -= shares[-1][:, None] * change
    left *= scale[:, None]
    for move, change, inverse in memory:
        left += (shares.pop() - inverse * np.vecdot(change, left))[:, None] * move
    return -left
