r"""Benchmarks: JSON lines of medians, with the ratios that matter, measured in one process.

    python -m tools.bench                       # everything
    python -m tools.bench --what=convolution    # the CPU remedy of sslshift/models/convolution.py
    python -m tools.bench --what=curation       # planted leaks found, and the time of searches for near pairs
    python -m tools.bench --what=data           # reading and importing JPEG files beside Pillow and torch
    python -m tools.bench --what=pipeline       # what the pipeline delivers against what the training step consumes
    python -m tools.bench --what=shift          # distances and sketches against the number of images
    python -m tools.bench --what=step --method=all
    python -m tools.bench --what=step --method=all --encoder=vit_b16 --image_size=224 --batch_size=256 --dtype=bfloat16
    python -m tools.bench --what=transfer       # kNN beside a bare matrix product, the linear probe beside scikit-learn

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
from sslshift.methods import METHODS, Method
from sslshift.models import ENCODERS
from sslshift.models.convolution import convolve
from sslshift.training.loop import Training
from sslshift.training.optimiser import Optimiser
from sslshift.training.programs import step_flops
from sslshift.training.step import compiled_init, compiled_step, make_mesh, replicate, shard_batch
from tools import bench_curation, bench_data, bench_shift, bench_transfer

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "what", "all", ["all", "convolution", "curation", "data", "pipeline", "shift", "step", "transfer"], "What to measure."
)
flags.DEFINE_string("source", "bundled:fashion_mnist", "Source that the pipeline reads.")
flags.DEFINE_string("method", "simclr", "Method of the training step; all: every one.")
flags.DEFINE_string("encoder", "patch_mlp", "Encoder of the training step.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the networks' arithmetic in --what=step.")
flags.DEFINE_integer("image_size", 32, "Side of the colour images in --what=step.")
flags.DEFINE_integer("batch_size", 256, "Images in a batch.")
flags.DEFINE_integer("steps", 50, "Batches of one timing, at most.")
flags.DEFINE_integer("images", 2048, "JPEG files of --what=data.")
flags.DEFINE_integer("largest", 1_000_000, "Most images of --what=shift.")
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

    xla = seconds(gradient(lax.conv_general_dilated))
    ours = seconds(gradient(convolve))
    shape = f"{kernel}x{kernel}/{stride}, {batch} x {side} x {side} x {channels} -> {features}"
    show("convolution", shape=shape, xla_ms=xla * 1e3, ours_ms=ours * 1e3, speedup=xla / ours)


def seconds_a_step(method: Method, optimiser: Optimiser, images: np.ndarray) -> float:
    """Median time of a training step on one batch, in stretches of about a second (at most --steps steps)."""
    mesh = make_mesh()
    built = optimiser.build(FLAGS.steps, len(images), method.constant_rate)
    step = compiled_step(method, built, FLAGS.steps, mesh)
    batch = shard_batch(mesh, images)
    key = replicate(mesh, jax.random.key(0))
    image = jnp.zeros(images.shape[1:], jnp.uint8)
    # A list, since a step takes its state's buffers away.
    states = [replicate(mesh, compiled_init(method, built)(jax.random.key(0), image))]

    def train(steps):
        for _ in range(steps):
            state, metrics = step(states.pop(), batch, key)
            states.append(state)
        jax.block_until_ready(metrics)

    train(1)
    started = time.perf_counter()
    train(1)
    steps = min(FLAGS.steps, 1 + int(1 / (time.perf_counter() - started)))
    return seconds(lambda: train(steps)) / steps


# Dense peaks in FLOP/s by device and dtype, from the vendors' data sheets; float32 products run as TF32 on these GPUs.
PEAKS = {
    "H200": {"bfloat16": 989e12, "float32": 494e12},
    "H100": {"bfloat16": 989e12, "float32": 494e12},
    "A100": {"bfloat16": 312e12, "float32": 156e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def steps_of(name: str) -> None:
    """One method's training step by its recipe: speed, FLOPs, share of the device's peak, and what the CPU remedy gains."""
    # A ViT of about its size stands in where a method cannot use the small encoder.
    encoder_name = "vit_nano4" if name == "mae" and FLAGS.encoder == "patch_mlp" else FLAGS.encoder
    encoder = ENCODERS[encoder_name].clone(dtype=jnp.dtype(FLAGS.dtype))
    recipe = METHODS[name]
    try:
        method = recipe.build(encoder)
    except ValueError as error:
        show("step", method=name, encoder=encoder_name, skipped=str(error))
        return
    optimiser = Optimiser(**recipe.optimiser_for(encoder))
    shape = (FLAGS.batch_size, FLAGS.image_size, FLAGS.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    time_of_step = seconds_a_step(method, optimiser, images)
    has_convolutions = hasattr(encoder, "convolution")
    # XLA does not see how often the remedy's loop runs: the plain convolution's FLOPs count.
    plain = recipe.build(encoder.clone(convolution=lax.conv_general_dilated)) if has_convolutions else method
    flops = step_flops(Training(plain, optimiser), Canvas(*shape[1:]), shape[0])
    device = jax.devices()[0].device_kind
    peak = next((by_dtype.get(FLAGS.dtype) for name, by_dtype in PEAKS.items() if name in device), None)
    figures = {"share_of_peak": flops / time_of_step / jax.device_count() / peak} if peak else {}
    if jax.default_backend() == "cpu" and has_convolutions:
        figures["conv_remedy_speedup"] = seconds_a_step(plain, optimiser, images) / time_of_step
    show(
        "step",
        method=name,
        encoder=encoder_name,
        dtype=FLAGS.dtype,
        side=FLAGS.image_size,
        batch=FLAGS.batch_size,
        samples_per_s=FLAGS.batch_size / time_of_step,
        views_per_s=FLAGS.batch_size * len(method.views) / time_of_step,
        step_ms=time_of_step * 1e3,
        mflops_per_sample=flops / FLAGS.batch_size / 1e6,
        **figures,
    )


def pipeline() -> None:
    """Samples a second of the pipeline alone and of the training step alone, on the same batches."""
    canvas = Canvas(*open_source(FLAGS.source)[0]["image"].shape)
    source = cached(open_source(FLAGS.source), canvas)
    samples = FLAGS.batch_size * FLAGS.steps
    plan = SamplePlan(single(source.name, len(source), min(len(source), samples)), Budget(samples), FLAGS.batch_size, 0, 0)
    reader = BatchReader(plan, {source.name: source}, canvas)
    read = seconds(lambda: [None for _ in batches(reader, 0, FLAGS.steps)])
    method = METHODS["simclr"].build(ENCODERS[FLAGS.encoder], projector=(512, 128))
    trained = seconds_a_step(method, Optimiser(), reader(0).images) * FLAGS.steps
    show(
        "pipeline",
        source=FLAGS.source,
        method="simclr",
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
    if FLAGS.method not in (*METHODS, "all"):
        raise app.UsageError(f"--method={FLAGS.method} is unknown; there is all, {', '.join(METHODS)}.")
    if FLAGS.encoder not in ENCODERS:
        raise app.UsageError(f"--encoder={FLAGS.encoder} is unknown; there is {', '.join(ENCODERS)}.")
    work = {
        "convolution": [
            functools.partial(convolution, side=32, channels=64, features=64, kernel=3, stride=1, batch=64),
            functools.partial(convolution, side=16, channels=128, features=128, kernel=3, stride=1, batch=64),
            functools.partial(convolution, side=32, channels=3, features=64, kernel=3, stride=1, batch=64),
            functools.partial(convolution, side=128, channels=3, features=64, kernel=7, stride=2, batch=16),
            functools.partial(convolution, side=128, channels=16, features=16, kernel=3, stride=1, batch=16),
            functools.partial(convolution, side=28, channels=1, features=48, kernel=4, stride=4, batch=256),
        ],
        "curation": [lambda: bench_curation.measure(show, seconds)],
        "data": [lambda: bench_data.measure(show, seconds, FLAGS.images, FLAGS.repeats)],
        "pipeline": [pipeline],
        "shift": [lambda: bench_shift.measure(show, seconds, FLAGS.largest)],
        "step": [functools.partial(steps_of, name) for name in (METHODS if FLAGS.method == "all" else [FLAGS.method])],
        "transfer": [lambda: bench_transfer.measure(show, seconds, FLAGS.repeats)],
    }
    for name, parts in work.items():
        for part in parts if FLAGS.what in ("all", name) else ():
            part()


if __name__ == "__main__":
    app.run(main)
