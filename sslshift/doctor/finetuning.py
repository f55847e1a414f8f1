"""Checks of fine-tuning, on images that are easy to tell apart."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.sources import ArraySource
from sslshift.doctor.findings import FAILED, PASS, Check, Finding
from sslshift.models import PatchMLP
from sslshift.transfer.encoders import untrained_encoder
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import EVALUATIONS
from sslshift.transfer.tasks import make_task


def check_finetuning(name: str, folder: Path) -> Finding:
    """Returns whether fine-tuning tells dark from bright images, as NumPy does by their mean."""
    del folder
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    images = random.integers(0, 120, (400, 8, 8, 1), np.uint8) + (labels * 100).astype(np.uint8)[:, None, None, None]
    task = make_task(ArraySource("memory:brightness", images, labels), None, Canvas(8, 8, 1), labelled=0)
    encoder = untrained_encoder(PatchMLP(width=8, features=16), task.canvas, 0)
    batch = -(-64 // jax.device_count()) * jax.device_count()
    settings = {"learning_rates": (2e-2,), "epochs": 8, "batch_size": batch, "mixup": 0.0, "cutmix": 0.0}
    (outcome,) = dataclasses.replace(EVALUATIONS[name], **settings)(encoder, task, METRICS["accuracy"]).values()
    share = float(np.mean(outcome.predictions == task.test.labels))
    figure = f"{share:.0%} of {len(task.test.labels)} test images are right, at least 90%"
    if share < 0.9:
        return Finding(FAILED, figure, "Fine-tuning does not learn an easy task on this machine: report this.")
    return Finding(PASS, figure)


CHECKS: dict[str, Check] = {
    f"evaluate/{name}": functools.partial(check_finetuning, name) for name in ("finetune", "finetune_frozen_bn")
}
