"""Checks of speed: the training step against a bare matrix product, and the pipeline against the step."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.data.pipeline import batches, open_reader
from sslshift.doctor.findings import PASS, SLOW, Check, Finding
from sslshift.models import ENCODERS
from sslshift.training import Training
from sslshift.training.programs import peak_flops, step_flops
from sslshift.training.repeated import seconds_per_step

_REPEATS = 3
_STEPS = 10
_TILE = 256
# A share of a matrix product below this is slow.
_SHARE = 0.15


class _Load(NamedTuple):
    """The step that is timed: SimCLR with its recipe on an encoder whose work is nearly all in matrix products."""

    encoder: nn.Module
    batch: int


def _load() -> _Load:
    devices = jax.device_count()
    if jax.default_backend() == "cpu":
        return _Load(ENCODERS["patch_mlp"], -(-256 // devices) * devices)
    # Large enough that the dispatch of the step takes little of its time; few blocks, because each adds to the compilation.
    return _Load(ENCODERS["vit_s4"].clone(depth=4, dtype=jnp.bfloat16), 512 * devices)


def _best(work: Callable[[], object]) -> float:
    """Returns the shortest time of a call, after a first call that compiles: other processes make a call only longer."""
    work()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def check_training_step(folder: Path) -> Finding:
    """Returns the speed of a training step as a share of a matrix product of its FLOPs, and that of the pipeline in steps."""
    del folder
    encoder, batch = _load()
    training = Training.from_recipe("simclr", encoder)
    reader = open_reader("bundled:fashion_mnist", _STEPS * batch, batch, (28, 28, 1))
    step = seconds_per_step(_best, training.method, training.optimiser, reader(0).images, _STEPS)
    flops = step_flops(training, reader.canvas, batch) / jax.device_count()
    dtype = jnp.dtype(encoder.dtype or jnp.float32)
    share = _product(flops, dtype) / step
    read = _best(lambda: [None for _ in batches(reader, 0, _STEPS)]) / _STEPS
    peak = peak_flops(jax.devices()[0].device_kind, dtype.name)
    figure = f"{batch / step:,.0f} samples/s, {share:.0%} of a matrix product of the same FLOPs"
    figure += f", {flops / step / peak:.0%} of the peak" if peak else ""
    return speed_finding(f"{figure}; the pipeline delivers {step / read:.1f} times as many", share, step / read)


def _product(flops: float, dtype: jnp.dtype) -> float:
    """Returns the seconds of a square matrix product of this many FLOPs on one device, from a product of about that size."""
    # Matrix units work on tiles, and a side that is no multiple of them makes a product slower than the step's own.
    side = max(_TILE, round((flops / 2) ** (1 / 3) / _TILE) * _TILE)
    factor = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(jnp.matmul)
    return _best(lambda: jax.block_until_ready(product(factor, factor))) * flops / (2 * side**3)


def speed_finding(figure: str, share: float, pipeline: float) -> Finding:
    """Returns the finding about the share of a matrix product and the speed of the pipeline, as a multiple of the step's."""
    if share < _SHARE:
        return Finding(SLOW, figure, "End other work on this device; then check its clock and its cooling, and XLA_FLAGS.")
    if pipeline < 1:
        return Finding(SLOW, figure, "The device would wait for images: raise --workers, or use a machine with more cores.")
    return Finding(PASS, figure)


CHECKS: dict[str, Check] = {"speed/step": check_training_step}
