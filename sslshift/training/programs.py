"""Compiled programs of training: the cost of a step, and a limit on the programs of a process."""

import functools
import gc
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.pipeline import BatchReader, batches
from sslshift.training.loop import Training
from sslshift.training.optimiser import built
from sslshift.training.step import (
    StepSettings,
    compiled_step,
    init_state,
    make_mesh,
    placed_init,
    replicate,
    shard_batch,
    train_step,
)

# Number of warm-up steps: the first step compiles, and the second may still wait for the pipeline.
_WARM_UP = 2
# FLOPs that a few cores compute in about a second.
_SLOW = 1e11


# Dense peaks in FLOP/s by device and dtype, from the vendors' data sheets; float32 products run as TF32 on these GPUs.
_PEAKS = {
    "H200": {"bfloat16": 989e12, "float32": 494e12},
    "H100": {"bfloat16": 989e12, "float32": 494e12},
    "A100": {"bfloat16": 312e12, "float32": 156e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def peak_flops(device: str, dtype: str) -> float | None:
    """Returns the peak FLOP/s of one device for dense products; None for an unknown device or dtype.

    Example:
      >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16")
      989000000000000.0
    """
    return next((by_dtype.get(dtype) for name, by_dtype in _PEAKS.items() if name in device), None)


def steps_per_dispatch(flops: float) -> int:
    """Returns the number of steps in one program, by the FLOPs of a step: about 1e12, but at most 64 steps.

    An accelerator computes 1e12 FLOPs in a few milliseconds; the host needs up to one to start a program. The number does not
    depend on measured times: the same settings give the same programs everywhere.

    Example:
      >>> [steps_per_dispatch(flops) for flops in (3e9, 1e11, 3e12, float("nan"))]
      [64, 10, 1, 1]
    """
    return max(1, min(64, int(1e12 / flops))) if flops > 0 else 1


class StepCost(NamedTuple):
    """Cost of a training step as XLA counts it before it optimises: FLOPs, and bytes read and written by its operations."""

    flops: float
    bytes_accessed: float


def step_flops(training: Training, canvas: Canvas, batch_size: int) -> float:
    """Returns the FLOPs of one training step; see `step_cost`."""
    return step_cost(training, canvas, batch_size).flops


def step_cost(training: Training, canvas: Canvas, batch_size: int) -> StepCost:
    """Returns the cost of one training step, views included; computes nothing.

    It is the same on every machine. It is nan if JAX cannot use the CPU beside an accelerator (`JAX_PLATFORMS=cuda`).
    """
    method = training.method
    # The length of the schedule does not change the cost of a step.
    optimiser = built(training.optimiser, 1, batch_size, method.constant_rate)
    image = jax.ShapeDtypeStruct(tuple(canvas), jnp.uint8)
    images = jax.ShapeDtypeStruct((batch_size, *canvas), jnp.uint8)
    step = functools.partial(train_step, method=method, optimiser=optimiser, steps=1)
    # On GPUs and TPUs, XLA counts only what it has compiled.
    with jax.default_device(_host()):
        key = jax.random.key(0)
        state = jax.eval_shape(functools.partial(init_state, method, optimiser), key, image)
        # XLA counts the body of a loop once. A CPU's random numbers and gradients of convolutions have loops, a TPU's do not.
        lowered = jax.jit(step).trace(state, images, key).lower(lowering_platforms=("tpu",))
        found = lowered.cost_analysis() or {}
        return StepCost(*(float(found.get(name, float("nan"))) for name in ("flops", "bytes accessed")))


def _host() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def measured_images(flops: float, batch_size: int, parts: int = 1) -> int:
    """Returns the number of a batch's images with which `seconds_per_step` takes seconds on a CPU, and not minutes.

    Example:
      >>> measured_images(1.2e12, 256), measured_images(1.2e12, 256, 8), measured_images(1e10, 256)
      (21, 16, 256)

    Args:
      flops: FLOPs of a step on the whole batch.
      batch_size: number of images in it.
      parts: a number that divides the batch, of devices for example, and that must divide the part of it too.
    """
    if not flops > _SLOW:
        return batch_size
    return max(2 if parts == 1 else parts, int(batch_size * _SLOW / flops) // parts * parts)


def seconds_per_step(training: Training, reader: BatchReader, seconds: float = 1.0, images: int | None = None) -> float:
    """Returns the seconds of a training step on real batches of a run, without compilation; the trained state is discarded.

    Args:
      training: method and optimiser.
      reader: reads the batches.
      seconds: approximate duration of the measurement, at least two steps.
      images: number of images of each batch that are trained on; the seconds are in proportion to it. None: all of them.
    """
    plan = reader.plan
    method = training.method
    mesh = make_mesh()
    steps = plan.budget.steps(plan.batch_size)
    optimiser = built(training.optimiser, steps, plan.batch_size, method.constant_rate)
    step = compiled_step(method, optimiser, steps, mesh, StepSettings(sharding=training.sharding, parts=training.accumulate))
    image = np.zeros(reader.canvas, np.uint8)
    state = placed_init(method, optimiser, jax.random.key(0), image, mesh, training.sharding)
    key = replicate(mesh, jax.random.key(1))
    started = time.perf_counter()
    done = 0
    for number, batch in enumerate(batches(reader, 0, steps, workers=training.workers), 1):
        state, metrics = step(state, shard_batch(mesh, batch.images[:images]), key)
        # JAX returns before a step has finished: without waiting, only the dispatch of the step would be measured.
        jax.block_until_ready(metrics)
        # In the shortest runs at least one step remains to be measured.
        if number <= min(_WARM_UP, steps - 1):
            started = time.perf_counter()
            continue
        done = number - min(_WARM_UP, steps - 1)
        if done >= 2 and time.perf_counter() - started > seconds:
            break
    return (time.perf_counter() - started) / done * (plan.batch_size / images if images else 1)


# The check is made between runs: the rest of the system's limit remains for the programs of the next run.
def bound_programs(most: int = 40_000) -> bool:
    """Discards all compiled programs if the process holds more than `most` memory maps; JAX compiles them again when needed.

    A program on a CPU takes about nine maps, of which Linux grants a process 65,530 (`vm.max_map_count`). At that limit the
    next compilation ends in a segmentation fault, which no Python code can catch: a study of many methods and encoders calls
    this function between its runs.

    Example:
      >>> bound_programs()
      False

    Returns:
      Whether programs were discarded; always False on systems that do not list memory maps (macOS).
    """
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") <= most:
        return False
    jax.clear_caches()
    # The programs themselves are only freed with the objects that refer to them.
    gc.collect()
    return True
