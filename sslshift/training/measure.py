"""What a training step costs: FLOPs by XLA's count, seconds by the clock."""

import functools
import time

import jax
import jax.numpy as jnp

from sslshift.data.decode import Canvas
from sslshift.data.pipeline import BatchReader, batches
from sslshift.training.loop import Training
from sslshift.training.state import init_state
from sslshift.training.step import compiled_init, compiled_step, make_mesh, replicate, shard_batch, train_step

# Steps that warm up: the first compiles, the second may still wait for the pipeline.
_WARM_UP = 2


def step_flops(training: Training, canvas: Canvas, batch_size: int) -> float:
    """Of one training step, views included, as XLA counts them before it optimises; computes nothing.

    The encoder should stand on XLA's own convolutions: how often the loop of another one runs is not seen.
    """
    method = training.method
    optimiser = training.optimiser.build(1, batch_size, method.constant_rate)
    key = jax.random.key(0)
    image = jax.ShapeDtypeStruct(tuple(canvas), jnp.uint8)
    state = jax.eval_shape(functools.partial(init_state, method, optimiser), key, image)
    step = functools.partial(train_step, method=method, optimiser=optimiser, steps=1)
    lowered = jax.jit(step).lower(state, jax.ShapeDtypeStruct((batch_size, *canvas), jnp.uint8), key)
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def seconds_per_step(training: Training, reader: BatchReader, seconds: float = 1.0) -> float:
    """Seconds of a training step on real batches of a run, compilation left out; nothing is kept.

    Args:
      training: method and optimiser.
      reader: reads the batches.
      seconds: about how long to measure; at least two steps are.
    """
    plan = reader.plan
    method = training.method
    mesh = make_mesh()
    steps = plan.budget.steps(plan.batch_size)
    optimiser = training.optimiser.build(steps, plan.batch_size, method.constant_rate)
    step = compiled_step(method, optimiser, steps, mesh)
    image = jnp.zeros(reader.canvas, jnp.uint8)
    state = replicate(mesh, compiled_init(method, optimiser)(jax.random.key(0), image))
    key = replicate(mesh, jax.random.key(1))
    started = time.perf_counter()
    done = 0
    for number, batch in enumerate(batches(reader, 0, steps, workers=training.workers), 1):
        state, metrics = step(state, shard_batch(mesh, batch.images), key)
        jax.block_until_ready(metrics)
        if number <= min(_WARM_UP, steps - 1):
            started = time.perf_counter()
            continue
        done = number - min(_WARM_UP, steps - 1)
        if done >= 2 and time.perf_counter() - started > seconds:
            break
    return (time.perf_counter() - started) / done
