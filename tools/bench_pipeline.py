"""Benchmark of the input pipeline against the training step."""

from collections.abc import Callable

import numpy as np

from sslshift.budget import Budget
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import cached, open_source
from sslshift.methods import METHODS
from sslshift.models import ENCODERS
from sslshift.training.optimiser import Optimiser

from .bench_runner import seconds_per_step


def measure(
    show: Callable[..., None],
    seconds: Callable[[Callable[[], object]], float],
    *,
    source: str,
    encoder: str,
    batch_size: int,
    steps: int,
) -> None:
    """Prints samples per second of the pipeline alone and of the training step alone, on the same batches."""
    opened = open_source(source)
    canvas = Canvas(*opened[0]["image"].shape)
    images = cached(opened, canvas)
    samples = batch_size * steps
    plan = SamplePlan(single(images.name, len(images), min(len(images), samples)), Budget(samples), batch_size, 0, 0)
    reader = BatchReader(plan, {images.name: images}, canvas)
    read = seconds(lambda: [None for _ in batches(reader, 0, steps)])
    method = METHODS["simclr"].build(ENCODERS[encoder], projector=(512, 128))
    trained = seconds_per_step(seconds, method, Optimiser(), reader(0).images, steps) * steps
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
    )
