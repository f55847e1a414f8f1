"""Benchmark of a training step: its speed, its FLOPs, and its share of the device's peak."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.methods import METHODS
from sslshift.models import ENCODERS, ViT
from sslshift.training import Optimiser, Training
from sslshift.training.programs import peak_flops, step_flops
from sslshift.training.repeated import seconds_per_step

from .bench_convolution import without_remedy


@dataclasses.dataclass(frozen=True)
class StepBenchmark:
    """Benchmark of the training step of one encoder.

    Attributes:
      show: function that prints one line of figures.
      seconds: function that returns the median time of a call.
      encoder, dtype: name of the encoder, and dtype of its arithmetic.
      image_size, batch_size: side of the colour images in pixels, and number of images in a batch.
      steps: largest number of batches in one timing.
    """

    show: Callable[..., None]
    seconds: Callable[[Callable[[], object]], float]
    encoder: str
    dtype: str
    image_size: int
    batch_size: int
    steps: int

    def measure(self, name: str) -> None:
        """Prints figures of one method's step: speed, FLOPs, share of the device's peak, gain of the CPU remedy."""
        # A ViT of similar size replaces the small encoder, which masked autoencoding cannot use.
        encoder_name = "vit_nano4" if name == "mae" and self.encoder == "patch_mlp" else self.encoder
        encoder = ENCODERS[encoder_name].clone(dtype=jnp.dtype(self.dtype))
        recipe = METHODS[name]
        try:
            method = recipe.build(encoder)
        except ValueError as error:
            self.show("step", method=name, encoder=encoder_name, skipped=str(error))
            return
        optimiser = Optimiser(**recipe.optimiser_for(encoder))
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        time_of_step = seconds_per_step(self.seconds, method, optimiser, images, self.steps)
        flops = step_flops(Training(method, optimiser), Canvas(*shape[1:]), shape[0])
        peak = peak_flops(jax.devices()[0].device_kind, self.dtype)
        figures = {"share_of_peak": flops / time_of_step / jax.device_count() / peak} if peak else {}
        # A ViT embeds its patches by a matrix product.
        if jax.default_backend() == "cpu" and not isinstance(encoder, ViT):
            with without_remedy():
                plain = seconds_per_step(self.seconds, method, optimiser, images, self.steps)
            figures["conv_remedy_speedup"] = plain / time_of_step
        self.show(
            "step",
            method=name,
            encoder=encoder_name,
            dtype=self.dtype,
            side=self.image_size,
            batch=self.batch_size,
            samples_per_s=self.batch_size / time_of_step,
            views_per_s=self.batch_size * len(method.views) / time_of_step,
            step_ms=time_of_step * 1e3,
            mflops_per_sample=flops / self.batch_size / 1e6,
            **figures,
        )
