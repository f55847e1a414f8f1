"""Benchmarks of a training step, of single convolutions, and of the input pipeline in comparison with the step."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
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

# Side, channels, features, kernel, stride and batch of the convolutions of small ResNets and of patch embeddings.
_CONVOLUTIONS = (
    (32, 64, 64, 3, 1, 64),
    (16, 128, 128, 3, 1, 64),
    (32, 3, 64, 3, 1, 64),
    (128, 3, 64, 7, 2, 16),
    (128, 16, 16, 3, 1, 16),
    (28, 1, 48, 4, 4, 256),
)
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


@dataclasses.dataclass(frozen=True)
class StepBenchmarks:
    """Benchmarks of the training step and of what feeds it.

    Attributes:
      show: prints one line of figures.
      seconds: returns the median time of a call.
      source: URI of the images of the pipeline's benchmark.
      encoder: name of the encoder.
      dtype: of the networks' arithmetic.
      image_size: side of the colour images of a step.
      batch_size: images in a batch.
      steps: largest number of batches of one timing.
    """

    show: Callable[..., None]
    seconds: Callable[[Callable[[], object]], float]
    source: str
    encoder: str
    dtype: str
    image_size: int
    batch_size: int
    steps: int

    def convolutions(self) -> None:
        """Prints forward and backward times of convolutions with XLA's kernel gradient and with ours."""
        for sizes in _CONVOLUTIONS:
            self._convolution(*sizes)

    def _convolution(self, side: int, channels: int, features: int, kernel: int, stride: int, batch: int) -> None:
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (batch, side, side, channels))
        weights = jax.random.normal(keys[1], (kernel, kernel, channels, features))

        def gradient(function):
            def loss(weights, images):
                out = function(images, weights, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                return jnp.sum(jnp.square(out))

            compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
            return lambda: jax.block_until_ready(compiled(weights, images))

        xla = self.seconds(gradient(lax.conv_general_dilated))
        ours = self.seconds(gradient(convolve))
        shape = f"{kernel}x{kernel}/{stride}, {batch} x {side} x {side} x {channels} -> {features}"
        self.show("convolution", shape=shape, xla_ms=xla * 1e3, ours_ms=ours * 1e3, speedup=xla / ours)

    def step(self, name: str) -> None:
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
        time_of_step = self._seconds_per_step(method, optimiser, images)
        has_convolutions = hasattr(encoder, "convolution")
        # XLA does not count the iterations of the remedy's loop: the FLOPs are those of the plain convolution.
        plain = recipe.build(encoder.clone(convolution=lax.conv_general_dilated)) if has_convolutions else method
        flops = step_flops(Training(plain, optimiser), Canvas(*shape[1:]), shape[0])
        device = jax.devices()[0].device_kind
        peak = next((by_dtype.get(self.dtype) for name, by_dtype in _PEAKS.items() if name in device), None)
        figures = {"share_of_peak": flops / time_of_step / jax.device_count() / peak} if peak else {}
        if jax.default_backend() == "cpu" and has_convolutions:
            figures["conv_remedy_speedup"] = self._seconds_per_step(plain, optimiser, images) / time_of_step
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

    def pipeline(self) -> None:
        """Prints samples per second of the pipeline alone and of the training step alone, on the same batches."""
        canvas = Canvas(*open_source(self.source)[0]["image"].shape)
        source = cached(open_source(self.source), canvas)
        samples = self.batch_size * self.steps
        plan = SamplePlan(single(source.name, len(source), min(len(source), samples)), Budget(samples), self.batch_size, 0, 0)
        reader = BatchReader(plan, {source.name: source}, canvas)
        read = self.seconds(lambda: [None for _ in batches(reader, 0, self.steps)])
        method = METHODS["simclr"].build(ENCODERS[self.encoder], projector=(512, 128))
        trained = self._seconds_per_step(method, Optimiser(), reader(0).images) * self.steps
        self.show(
            "pipeline",
            source=self.source,
            method="simclr",
            encoder=self.encoder,
            batch=self.batch_size,
            pipeline_samples_per_s=samples / read,
            step_samples_per_s=samples / trained,
            step_ms=trained / self.steps * 1e3,
            pipeline_over_step=trained / read,
            image_bytes=int(np.prod(canvas)),
        )

    def _seconds_per_step(self, method: Method, optimiser: Optimiser, images: np.ndarray) -> float:
        """Returns the median time of a training step on one batch, timed over about a second of steps."""
        mesh = make_mesh()
        built = optimiser.build(self.steps, len(images), method.constant_rate)
        step = compiled_step(method, built, self.steps, mesh)
        batch = shard_batch(mesh, images)
        key = replicate(mesh, jax.random.key(0))
        image = jnp.zeros(images.shape[1:], jnp.uint8)
        # A list, because a step donates the buffers of its state.
        states = [replicate(mesh, compiled_init(method, built)(jax.random.key(0), image))]

        def train(steps):
            for _ in range(steps):
                state, metrics = step(states.pop(), batch, key)
                states.append(state)
            jax.block_until_ready(metrics)

        train(1)
        started = time.perf_counter()
        train(1)
        steps = min(self.steps, 1 + int(1 / (time.perf_counter() - started)))
        return self.seconds(lambda: train(steps)) / steps
