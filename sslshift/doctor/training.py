"""Checks that every method trains, and that a run continues from its checkpoint to the same bits."""

import contextlib
import dataclasses
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sslshift.data.pipeline import BatchReader, open_reader
from sslshift.doctor.findings import FAILED, PASS, Check, Finding
from sslshift.methods import METHODS
from sslshift.models import PatchMLP, ViT
from sslshift.training import Optimiser, Training, train

STEPS = 20
# Relative difference of the loss that rounding in another order explains after ten steps.
_CLOSE = 0.05
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Widths for small encoders; recipes have heads for large ones. Queues are full after a few steps.
_HEADS = {"projector": (128, 64), "predictor": (128,)}
_OWN: dict[str, dict[str, Any]] = {
    # The centre of the teacher moves slowly here. At the usual 0.9 it makes the loss rise at first, while training works.
    "dino": {"prototypes": 256, "center_momentum": 0.999},
    "mae": {"decoder_depth": 1},
    "nnclr": {"queue": 256},
    "swav": {"prototypes": 64, "queue": 128},
}
# Replaces the recipes' values for 1,000 epochs: at this learning rate the loss of every method falls within 20 steps.
_OPTIMISER = Optimiser("adamw", learning_rate=0.02)


class HaltedError(Exception):
    """Stops a run on purpose, in the place of an interruption."""


def training_of(method: str) -> Training:
    """Returns the training of a method on a small encoder, with a checkpoint after half of the steps."""
    encoder = ViT(32, 1, 2, 4) if method == "mae" else PatchMLP(width=16, features=64)
    options = {name: width for name, width in _HEADS.items() if name in METHODS[method].options} | _OWN.get(method, {})
    training = Training.from_recipe(method, encoder, **options)
    return dataclasses.replace(training, optimiser=_OPTIMISER, checkpoint_every=STEPS // 2)


def small_reader() -> BatchReader:
    """Returns the reader of one batch of bundled images that every step sees again: the loss then varies only by the views."""
    batch = -(-64 // jax.device_count()) * jax.device_count()
    return open_reader(f"bundled:fashion_mnist/test@{batch}", STEPS * batch, batch, (28, 28, 1))


def check_training(method: str, folder: Path) -> Finding:
    """Returns whether the loss of a method falls, and whether a stopped run continues from its checkpoint to the same bits."""
    training = training_of(method)
    reader = small_reader()
    losses: list[float] = []
    continued: dict[int, dict[str, float]] = {}

    def stop(step: int, scalars: dict[str, float]) -> None:
        # Metrics arrive one step late, so the checkpoint has been written by then.
        if step > STEPS // 2:
            raise HaltedError

    with tempfile.TemporaryDirectory(prefix="doctor-", dir=folder) as name:
        whole = train(training, reader, 0, Path(name) / "whole", lambda step, scalars: losses.append(scalars["loss"]))
        with contextlib.suppress(HaltedError):
            train(training, reader, 0, Path(name) / "stopped", stop)
        resumed = train(training, reader, 0, Path(name) / "stopped", continued.__setitem__)
    if min(continued) != STEPS // 2 + 1:
        raise RuntimeError(f"Expected the stopped run to continue at step {STEPS // 2 + 1}, got {min(continued)}.")
    # Means over five steps, because the views of single steps differ.
    first, last = (np.mean(part) for part in (losses[:5], losses[-5:]))
    figure = f"loss {first:.3g} to {last:.3g}"
    if not last < first:
        return Finding(FAILED, figure, "The loss does not fall, so training is wrong on this machine: report this.")
    if _equal(whole, resumed):
        return Finding(PASS, f"{figure}, resumed to the same bits")
    return inexact_resumption(figure, abs(continued[STEPS]["loss"] - losses[-1]) / abs(losses[-1]))


def inexact_resumption(figure: str, loss: float) -> Finding:
    """Returns the finding about a resumed run that is not equal to the bit; `loss` is the relative difference of its loss."""
    figure = f"{figure}, resumed within {loss:.0e} of the loss"
    # The order of some sums on a GPU is not fixed, unless XLA is asked for it.
    if jax.default_backend() == "gpu" and _DETERMINISTIC not in os.environ.get("XLA_FLAGS", "") and loss < _CLOSE:
        return Finding(PASS, figure, f"XLA_FLAGS={_DETERMINISTIC} gives equal bits, at a cost.")
    return Finding(FAILED, figure, "A resumed run is another run on this machine: report this.")


def _equal(x: Any, y: Any) -> bool:
    """Returns whether two states are equal to the bit."""
    leaves = (map(np.asarray, jax.device_get(jax.tree.leaves(state))) for state in (x, y))
    return all(a.tobytes() == b.tobytes() for a, b in zip(*leaves, strict=True))


CHECKS: dict[str, Check] = {f"train/{method}": functools.partial(check_training, method) for method in METHODS}
