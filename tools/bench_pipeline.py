"""Benchmark of what stands beside the training step: reading on the host, images in device memory, and checkpoints."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.budget import Budget
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import cached, open_source
from sslshift.methods import METHODS, Method
from sslshift.models import ENCODERS
from sslshift.training.checkpoints import Checkpoints
from sslshift.training.feed import chunks, images_of, place
from sslshift.training.optimiser import Optimiser, built
from sslshift.training.repeated import seconds_per_step
from sslshift.training.step import compiled_init, make_mesh, replicate

# Steps between two checkpoints, to which the time of a checkpoint is related.
_EVERY = 500


def blocked_seconds(method: Method, canvas: Canvas, repeats: int = 5) -> tuple[float, float]:
    """Returns the median seconds for which training waits for a checkpoint, and those until the checkpoint is complete."""
    init = compiled_init(method, built(Optimiser(), 1, 256, method.constant_rate))
    state = jax.block_until_ready(replicate(make_mesh(), init(jax.random.key(0), jnp.zeros(canvas, jnp.uint8))))
    blocked = []
    complete = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        for step in range(repeats + 1):
            started = time.perf_counter()
            checkpoints.save(state, step)
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            complete.append(time.perf_counter() - started)
        checkpoints.close()
    # The first checkpoint creates the folder.
    return statistics.median(blocked[1:]), statistics.median(complete[1:])


def measure(
    show: Callable[..., None],
    seconds: Callable[[Callable[[], object]], float],
    *,
    source: str,
    encoder: str,
    batch_size: int,
    steps: int,
) -> None:
    """Prints samples per second of both ways to a batch and of the training step, and the time of a checkpoint."""
    opened = open_source(source)
    canvas = Canvas(*opened[0]["image"].shape)
    images = cached(opened, canvas)
    samples = batch_size * steps
    plan = SamplePlan(single(images.name, len(images), min(len(images), samples)), Budget(samples), batch_size, 0, 0)
    reader = BatchReader(plan, {images.name: images}, canvas)
    read = seconds(lambda: [None for _ in batches(reader, 0, steps)])
    mesh = make_mesh()
    placed = place(images_of([plan]), reader.sources, canvas, mesh)
    take = functools.partial(chunks, reader, placed, mesh, 0, steps, most=min(steps, 16), every=steps, workers=0)
    taken = seconds(lambda: jax.block_until_ready([chunk.arrays[0] for chunk in take()][-1]))
    method = METHODS["simclr"].build(ENCODERS[encoder], projector=(512, 128))
    trained = seconds_per_step(seconds, method, Optimiser(), reader(0).images, steps) * steps
    blocked, complete = blocked_seconds(method, canvas)
    show(
        "pipeline",
        source=source,
        method="simclr",
        encoder=encoder,
        batch=batch_size,
        pipeline_samples_per_s=samples / read,
        step_samples_per_s=samples / trained,
        step_ms=trained / steps * 1e3,
        pipeline_over_step=trained / read,
        image_bytes=int(np.prod(canvas)),
        device_samples_per_s=samples / taken,
        checkpoint_blocked_ms=blocked * 1e3,
        checkpoint_complete_ms=complete * 1e3,
        checkpoint_share=blocked / (_EVERY * trained / steps),
    )
