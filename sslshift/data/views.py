"""Random views of images, made on the device by one pure function of (key, images) that is vmapped over the batch."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.arrays import on_any_mesh

# One fixed normalisation for every source. With statistics of each source, runs would differ in more than their data.
MEAN = 0.5
STD = 0.25


class Normalisation(NamedTuple):
    """Mean and standard deviation by which images in [0, 1] are normalised: a number, or one for each channel."""

    mean: float | tuple[float, ...] = MEAN
    std: float | tuple[float, ...] = STD


OWN = Normalisation()

# Weights of Rec. 601.
_LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """Settings of one view, which is made in this order: crop, jitter, greyscale, blur, solarise, flip.

    Strengths are half-widths of uniform factors around 1; the hue's strength is the half-width of a rotation around 0.
    Saturation, hue and greyscale have no effect on grey images. A crop shows a share of the image's area between the two scales
    and is resized to `size` x `size` pixels; a size of 0 keeps the image's own shape.
    """

    min_crop_scale: float = 0.08
    max_crop_scale: float = 1.0
    jitter_probability: float = 0.8
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale_probability: float = 0.2
    blur_probability: float = 0.0
    solarise_probability: float = 0.0
    flip_probability: float = 0.5
    size: int = 0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if name != "size" and not 0 <= value <= 1:
                raise ValueError(f"Expected the view setting {name} in [0, 1], got {value}.")
        if not 0 < self.min_crop_scale <= self.max_crop_scale or self.size < 0:
            raise ValueError(
                "Expected crop scales above 0, a largest scale of at least the smallest, and a size of at least 0, got "
                f"{self.min_crop_scale}, {self.max_crop_scale} and {self.size}."
            )


def normalise(images: jax.Array, by: Normalisation = OWN) -> jax.Array:
    """Returns uint8 images, or floats in [0, 1], as the normalised floats that an encoder takes.

    Args:
      images: `[..., channels]`.
      by: mean and standard deviation. If they have a number for each channel, grey images become images of as many channels.
    """
    scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    mean, std = (_along_channels(value, images.ndim) for value in by)
    return (scaled - mean) / std


def _along_channels(value: float | tuple[float, ...], ndim: int) -> float | np.ndarray:
    return np.array(value, np.float32).reshape((1,) * (ndim - 1) + (-1,)) if isinstance(value, tuple) else value


def image_keys(key: jax.Array, count: int, first: int | jax.Array = 0, every: int = 1) -> jax.Array:
    """Returns a key per image, `[count]`, which depends only on the image's number in the global batch, not on its device."""
    numbers = jnp.arange(count) if every == 1 else every * jnp.arange(count)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(first + numbers)


def make_view(
    key: jax.Array,
    images: jax.Array,
    settings: ViewSettings,
    *,
    first: int | jax.Array = 0,
    every: int = 1,
    by: Normalisation = OWN,
) -> jax.Array:
    """Returns one random view of each image.

    Args:
      key: PRNG key; image i's view depends on the key and i alone, not on the size or device of the batch.
      images: uint8 `[batch, height, width, 1 or 3]`.
      settings: settings of the view.
      first: number of the first image in the global batch, if `images` are a part of it.
      every: difference between the numbers of two consecutive images.
      by: normalisation of the views, see `normalise`.

    Returns:
      Normalised float32 views, with the shape of the images or with sides of `settings.size`.
    """
    return _views(images, image_keys(key, len(images), first, every), settings, by)


@on_any_mesh(batch_axis=0)
def _views(images: jax.Array, keys: jax.Array, settings: ViewSettings, by: Normalisation) -> jax.Array:
    return jax.vmap(functools.partial(_view, settings=settings, by=by))(keys, images)


def _view(key: jax.Array, image: jax.Array, settings: ViewSettings, by: Normalisation) -> jax.Array:
    # Every step gets a key, used or not, so that switching off one step does not change the others.
    keys = dict(zip(("crop", "jitter", "gray", "blur", "solarise", "flip"), jax.random.split(key, 6), strict=True))
    x = _random_resized_crop(keys["crop"], image.astype(jnp.float32) / 255, settings)
    # Probabilities of 0 are known at compile time, so such a step costs nothing.
    if settings.jitter_probability:
        x = _sometimes(keys["jitter"], settings.jitter_probability, functools.partial(_jitter, settings=settings), x)
    if settings.grayscale_probability and image.shape[-1] == 3:
        x = _sometimes(keys["gray"], settings.grayscale_probability, lambda _, x: jnp.broadcast_to(_gray(x), x.shape), x)
    if settings.blur_probability:
        x = _sometimes(keys["blur"], settings.blur_probability, _blur, x)
    if settings.solarise_probability:
        x = _sometimes(keys["solarise"], settings.solarise_probability, lambda _, x: jnp.where(x < 0.5, x, 1 - x), x)
    if settings.flip_probability:
        x = _sometimes(keys["flip"], settings.flip_probability, lambda _, x: x[:, ::-1], x)
    return normalise(x, by)


def _sometimes(key, probability, transform, x):
    choice, inner = jax.random.split(key)
    # Both branches are computed, which a condition under vmap would do as well.
    return jnp.where(jax.random.bernoulli(choice, probability), transform(inner, x), x)


def _random_resized_crop(key, x, settings):
    """Returns a crop of random area and an aspect ratio in [3/4, 4/3], resized (bicubic) to the view's shape."""
    size = jnp.array(x.shape[:2], jnp.float32)
    shape = (settings.size, settings.size, x.shape[2]) if settings.size else x.shape
    area, ratio, place = jax.random.split(key, 3)
    side = jnp.sqrt(jax.random.uniform(area, minval=settings.min_crop_scale, maxval=settings.max_crop_scale))
    # The logarithm is halved, since the two sides change in opposite directions.
    stretch = jnp.exp(jax.random.uniform(ratio, minval=-1.0, maxval=1.0) * jnp.log(4 / 3) / 2)
    # A side longer than the image is cut to it.
    crop = jnp.minimum(side * jnp.stack([1 / stretch, stretch]), 1.0) * size
    corner = jax.random.uniform(place, (2,)) * (size - crop)
    scale = jnp.array(shape[:2], jnp.float32) / crop
    resized = jax.image.scale_and_translate(x, shape, (0, 1), scale, -corner * scale, "cubic", antialias=True)
    # Bicubic interpolation overshoots at edges.
    return jnp.clip(resized, 0.0, 1.0)


def _jitter(key, x, settings):
    """Changes brightness, contrast, saturation and hue, in this order, each by a random factor."""
    strengths = jnp.array([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    brightness, contrast, saturation, hue = strengths * jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    x = jnp.clip(x * (1 + brightness), 0.0, 1.0)
    x = _blend(_gray(x).mean(), x, 1 + contrast)
    if x.shape[-1] == 3:
        x = _blend(_gray(x), x, 1 + saturation)
        if settings.hue:
            x = _turn_hue(x, hue)
    return x


def _blend(a, b, weight):
    return jnp.clip(a + (b - a) * weight, 0.0, 1.0)


def _gray(x):
    return x if x.shape[-1] == 1 else (x @ jnp.array(_LUMA, x.dtype))[..., None]


def _turn_hue(x, turn):
    """Adds `turn` (1 = a whole circle) to the hue and keeps HSV's saturation and value."""
    top = x.max(axis=-1)
    bottom = x.min(axis=-1)
    spread = top - bottom
    # Grey pixels have no hue, so any divisor other than zero is correct for them.
    safe = jnp.where(spread > 0, spread, 1.0)
    red = x[..., 0]
    green = x[..., 1]
    blue = x[..., 2]
    sixth = jnp.where(
        top == red,
        (green - blue) / safe,
        jnp.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sixth / 6 + turn
    # Each channel is a trapezoid over the colour circle: 1 within a sixth of its own hue, and 0 beyond two sixths.
    offsets = jnp.array([0.0, 1 / 3, 2 / 3])
    distance = jnp.abs((hue[..., None] - offsets + 0.5) % 1.0 - 0.5)
    weight = jnp.clip(2 - 6 * distance, 0.0, 1.0)
    return bottom[..., None] + spread[..., None] * weight


def _blur(key, x):
    """Blurs by a Gaussian of a random radius of 0.1 to 2 pixels, as two matrix products; weights at edges are renormalised."""
    sigma = jax.random.uniform(key, minval=0.1, maxval=2.0)

    def kernel(size):
        offset = jnp.arange(size)[:, None] - jnp.arange(size)
        weight = jnp.exp(-0.5 * jnp.square(offset / sigma))
        return weight / weight.sum(axis=1, keepdims=True)

    rows = kernel(x.shape[0])
    columns = kernel(x.shape[1])
    return jnp.einsum("ij,jkc,lk->ilc", rows, x, columns)
