"""Encoders whose activations a test can predict, and images for them."""

import flax.linen as nn
import jax
import numpy as np

from sslshift.models import PretrainedEncoder, ViT
from sslshift.models.vit import Block

SIDE = 8


class Pixels(nn.Module):
    """Its one feature map is the image: the same arithmetic, to the last bit, wherever it runs."""

    gain: float = 1.0

    @nn.compact
    def __call__(self, x, *, train):
        del train
        self.sow("intermediates", "map", x * self.gain)
        return x.mean(axis=(1, 2))


class Inverse(nn.Module):
    """Its features are not finite where a pixel is 0."""

    @nn.compact
    def __call__(self, x, *, train):
        del train
        self.sow("intermediates", "map", 1 / x)
        return x.mean(axis=(1, 2))


class Step(Block):
    """A block that costs nothing to compile."""

    gain: float = 1.0

    def __call__(self, x):
        return x * self.gain


class Steps(nn.Module):
    """Eleven blocks, of which block i gives i times the image, and one may be broken."""

    broken: int = -1

    @nn.compact
    def __call__(self, x, *, train):
        del train
        for place in range(11):
            Step(1, gain=np.nan if place == self.broken else place, name=f"block{place}")(x)
        return x.mean(axis=(1, 2))


class Named(PretrainedEncoder):
    """An encoder of a module that is not one of the package."""

    @property
    def fingerprint(self):
        return repr(self.module)


def pixels(module=None, channels=1):
    """Activations are the pixels' own values, 0 to 255."""
    return Named(module or Pixels(), {"params": {}}, (SIDE, SIDE, channels), 0.0, 1 / 255)


def images_of(random, count, channels=3, low=0, high=256):
    return random.integers(low, high, (count, SIDE, SIDE, channels), np.uint8)


def small_vit():
    """A ViT of three blocks with random weights."""
    module = ViT(16, 3, 2, 4)
    variables = jax.jit(lambda key, x: module.init(key, x, train=False))(jax.random.key(0), np.zeros((1, SIDE, SIDE, 3)))
    return PretrainedEncoder(module, variables, (SIDE, SIDE, 3))
