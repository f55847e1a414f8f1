r"""Benchmarks: JSON lines of medians, with the ratios that matter, measured in one process.

    python -m tools.bench                       # everything
    python -m tools.bench --what=convolution    # the CPU remedy of sslshift/models/convolution.py
    python -m tools.bench --what=pipeline       # what the pipeline delivers against what the training step consumes

Figures and the machine they come from stand in tools/README.md.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import lax

from sslshift.budget import Budget
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import cached, open_source
from sslshift.methods import METHODS
from sslshift.models import ENCODERS
from sslshift.models.convolution import convolve
from sslshift.training.state import Optimiser, init_state
from sslshift.training.step import compiled_step, make_mesh, replicate, shard_batch

FLAGS = flags.FLAGS
flags.DEFINE_enum("what", "all", ["all", "convolution", "pipeline"], "What to measure.")
flags.DEFINE_string("source", "bundled:fashion_mnist", "Source that the pipeline reads.")
flags.DEFINE_string("method", "simclr", "Method of the training step.")
flags.DEFINE_string("encoder", "patch_mlp", "Encoder of the training step.")
flags.DEFINE_integer("batch_size", 256, "Images in a batch.")
flags.DEFINE_integer("steps", 50, "Batches of one timing.")
flags.DEFINE_integer("repeats", 5, "Timings of which the median is taken.")


def seconds(work: Callable[[], object]) -> float:
    """Median time of one call, after one that compiles."""
    work()
    times = []
    for _ in range(FLAGS.repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def show(what: str, **figures) -> None:
    rounded = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, "device": jax.devices()[0].device_kind, **rounded}), flush=True)


def convolution(side: int, channels: int, features: int, kernel: int, stride: int, batch: int) -> None:
    """Forward and backward of one convolution with XLA's kernel gradient and with ours."""
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (batch, side, side, channels))
    weights = jax.random.normal(keys[1], (kernel, kernel, channels, features))

    def gradient(function):
        def loss(weights, images):
            out = function(images, weights, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.sum(jnp.square(out))

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return lambda: jax.block_until_ready(compiled(weights, images))

    xla, ours = seconds(gradient(lax.conv_general_dilated)), seconds(gradient(convolve))
    shape = f"{kernel}x{kernel}/{stride}, {batch} x {side} x {side} x {channels} -> {features}"
    show("convolution", shape=shape, xla_ms=xla * 1e3, ours_ms=ours * 1e3, speedup=xla / ours)


def pipeline() -> None:
    """Samples a second of the pipeline alone and of the training step alone, on the same batches."""
    canvas = Canvas(*open_source(FLAGS.source)[0]["image"].shape)
    source = cached(open_source(FLAGS.source), canvas)
    samples = FLAGS.batch_size * FLAGS.steps
    plan = SamplePlan(single(source.name, len(source), min(len(source), samples)), Budget(samples), FLAGS.batch_size, 0, 0)
    reader = BatchReader(plan, {source.name: source}, canvas)
    read = seconds(lambda: [None for _ in batches(reader, 0, FLAGS.steps)])
    method, mesh = METHODS[FLAGS.method](ENCODERS[FLAGS.encoder], widths=(512, 128)), make_mesh()
    optimiser = Optimiser().build(FLAGS.steps, FLAGS.batch_size)
    step = compiled_step(method, optimiser, FLAGS.steps, mesh)
    batch, key = shard_batch(mesh, reader(0)), replicate(mesh, jax.random.key(0))
    start = jax.device_get(init_state(method, optimiser, jax.random.key(0), jnp.zeros(canvas, jnp.uint8)))

    def train():
        state = replicate(mesh, start)
        for _ in range(FLAGS.steps):
            state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)

    trained = seconds(train)
    show(
        "pipeline",
        source=FLAGS.source,
        method=FLAGS.method,
        encoder=FLAGS.encoder,
        batch=FLAGS.batch_size,
        pipeline_samples_per_s=samples / read,
        step_samples_per_s=samples / trained,
        step_ms=trained / FLAGS.steps * 1e3,
        pipeline_over_step=trained / read,
        image_bytes=int(np.prod(canvas)),
    )


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    work = {
        "convolution": [
            functools.partial(convolution, side=32, channels=64, features=64, kernel=3, stride=1, batch=64),
            functools.partial(convolution, side=16, channels=128, features=128, kernel=3, stride=1, batch=64),
            functools.partial(convolution, side=32, channels=3, features=64, kernel=3, stride=1, batch=64),
            functools.partial(convolution, side=128, channels=3, features=64, kernel=7, stride=2, batch=16),
            functools.partial(convolution, side=128, channels=16, features=16, kernel=3, stride=1, batch=16),
            functools.partial(convolution, side=28, channels=1, features=48, kernel=4, stride=4, batch=256),
        ],
        "pipeline": [pipeline],
    }
    for name, parts in work.items():
        for part in parts if FLAGS.what in ("all", name) else ():
            part()


if __name__ == "__main__":
    app.run(main)
