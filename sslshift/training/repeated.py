"""Training steps on one batch, again and again, for benchmarks and the doctor."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from clu.parameter_overview import count_parameters

from sslshift.methods import Method
from sslshift.training import Optimiser
from sslshift.training.step import compiled_step, make_mesh, placed_init, replicate, shard_batch


class StepRunner(NamedTuple):
    """Training steps on one batch.

    Attributes:
      parameters: number of parameters of the networks.
      steps: function that makes a number of steps, and waits until they are done.
    """

    parameters: int
    steps: Callable[[int], None]


def step_runner(method: Method, optimiser: Optimiser, images: np.ndarray, most: int) -> StepRunner:
    """Returns a runner of the training steps of a run of `most` steps; its first step compiles."""
    mesh = make_mesh()
    built = optimiser.build(most, len(images), method.constant_rate)
    step = compiled_step(method, built, most, mesh)
    batch = shard_batch(mesh, images)
    key = replicate(mesh, jax.random.key(0))
    # A list, because a step donates the buffers of its state.
    states = [placed_init(method, built, jax.random.key(0), jnp.zeros(images.shape[1:], jnp.uint8), mesh)]

    def train(count):
        for _ in range(count):
            state, metrics = step(states.pop(), batch, key)
            states.append(state)
        jax.block_until_ready(metrics)

    return StepRunner(int(count_parameters(states[0].params)), train)


def seconds_per_step(
    seconds: Callable[[Callable[[], object]], float], method: Method, optimiser: Optimiser, images: np.ndarray, most: int
) -> float:
    """Returns the median time of a training step on one batch, timed over about a second of steps, at most `most`."""
    train = step_runner(method, optimiser, images, most).steps
    train(1)
    started = time.perf_counter()
    train(1)
    steps = min(most, 1 + int(1 / (time.perf_counter() - started)))
    return seconds(lambda: train(steps)) / steps
