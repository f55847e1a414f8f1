"""Views: each augmentation against an independent computation, and independence of a view from its batch."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from sslshift.data import views
from sslshift.data.views import MEAN, STD, ViewSettings, make_view, normalise

NOTHING = ViewSettings(min_crop_scale=1.0, jitter_probability=0, grayscale_probability=0, flip_probability=0)
EVERYTHING = ViewSettings(
    min_crop_scale=0.2,
    jitter_probability=1.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    blur_probability=0.5,
    solarise_probability=0.3,
)


def pixels(view):
    return np.asarray(view) * STD + MEAN


@pytest.fixture
def images(random):
    # Smooth, as photographs are: what interpolation does to noise says little.
    coarse = random.integers(0, 256, (6, 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in coarse])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (32, 20)])
def test_views_keep_shape_and_range(channels, shape, random):
    images = random.integers(0, 256, (8, *shape, channels), np.uint8)
    view = jax.jit(make_view, static_argnums=2)(jax.random.key(0), images, EVERYTHING)
    assert view.shape == images.shape
    assert view.dtype == jnp.float32
    assert pixels(view).min() >= -1e-5
    assert pixels(view).max() <= 1 + 1e-5


def test_a_view_without_changes_is_nearly_the_image(images):
    # An aspect ratio other than 1 still crops a little at a crop scale of 1; at ratio 1 nothing is left to do.
    view = make_view(jax.random.key(0), images, NOTHING)
    assert np.abs(pixels(view) - images / 255).mean() < 0.1
    np.testing.assert_allclose(normalise(images), normalise(images / np.float32(255)), atol=1e-6)


def test_views_depend_on_key_and_place_and_not_on_the_batch(images):
    key = jax.random.key(3)
    whole = make_view(key, images, EVERYTHING)
    np.testing.assert_allclose(make_view(key, images[:2], EVERYTHING), whole[:2], atol=1e-5)
    assert np.abs(whole - make_view(jax.random.key(4), images, EVERYTHING)).max() > 0.1
    same = make_view(key, np.repeat(images[:1], 4, axis=0), EVERYTHING)
    assert np.abs(same[0] - same[1]).max() > 0.1


def test_flip_and_solarise_alone(images):
    flipped = make_view(jax.random.key(0), images, dataclasses.replace(NOTHING, flip_probability=1.0))
    solarised = make_view(jax.random.key(0), images, dataclasses.replace(NOTHING, solarise_probability=1.0))
    plain = make_view(jax.random.key(0), images, NOTHING)
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-5)
    expected = np.where(pixels(plain) < 0.5, pixels(plain), 1 - pixels(plain))
    np.testing.assert_allclose(pixels(solarised), expected, atol=1e-5)


def test_grayscale_makes_channels_equal(images):
    view = make_view(jax.random.key(0), images, dataclasses.replace(NOTHING, grayscale_probability=1.0))
    np.testing.assert_allclose(view[..., 0], view[..., 2], atol=1e-6)


QUARTER = dataclasses.replace(NOTHING, min_crop_scale=0.25, max_crop_scale=0.25)


@pytest.mark.parametrize(("size", "inner"), [(0, slice(4, 28)), (48, slice(6, 42)), (20, slice(3, 17))])
def test_crop_is_that_of_pillow(size, inner, images, monkeypatch):
    # The middle half of each side; Pillow reads beyond a box given by `box` as ours does beyond a crop.
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape=(), minval=0.0, maxval=1.0: jnp.full(shape, (minval + maxval) / 2)
    )
    ours = pixels(make_view(jax.random.key(0), images, dataclasses.replace(QUARTER, size=size)))
    side = size or 32
    assert ours.shape == (6, side, side, 3)
    theirs = Image.fromarray(images[2]).resize((side, side), Image.Resampling.BICUBIC, box=(8, 8, 24, 24))
    np.testing.assert_allclose(ours[2, inner, inner], np.asarray(theirs)[inner, inner] / 255, atol=0.02)


@pytest.mark.parametrize(("low", "high"), [(0.25, 1.0), (0.1, 0.4)])
def test_crop_areas_are_uniform_between_their_bounds(low, high):
    # A horizontal ramp: its range in the view, relative to the image's, is the crop's width; area = width * height.
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    ramp[..., 1] = ramp[..., 0].T
    batch = np.repeat(ramp[None], 400, axis=0)
    settings = dataclasses.replace(NOTHING, min_crop_scale=low, max_crop_scale=high)
    view = pixels(make_view(jax.random.key(0), batch, settings))
    width = view[:, 32, -1, 0] - view[:, 32, 0, 0]
    height = view[:, -1, 32, 1] - view[:, 0, 32, 1]
    area = width * height
    # Sides cut at the image's edge make large areas a little smaller than drawn.
    assert low - 0.05 < area.min() < low + 0.05
    assert -0.075 < area.mean() - (low + high) / 2 < 0.025
    assert np.abs(np.corrcoef(area, np.log(width / height))[0, 1]) < 0.15


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.2, 1 / 3])
def test_hue_is_turned_as_in_hsv(turn, random):
    colours = random.uniform(size=(50, 3)).astype(np.float32)
    ours = views._turn_hue(jnp.asarray(colours[None]), turn)[0]
    for colour, result in zip(colours, ours, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, colour))
        np.testing.assert_allclose(result, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-5)


def test_hue_leaves_gray_alone():
    gray = jnp.full((2, 2, 3), 0.4)
    np.testing.assert_allclose(views._turn_hue(gray, 0.3), gray, atol=1e-6)


def test_blur_is_a_gaussian_one(images, monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape=(), minval=0.0, maxval=1.0: jnp.full(shape, 1.5))
    ours = views._blur(jax.random.key(0), jnp.asarray(images[0] / np.float32(255)))
    theirs = np.asarray(Image.fromarray(images[0]).filter(ImageFilter.GaussianBlur(1.5))) / 255
    np.testing.assert_allclose(ours[6:-6, 6:-6], theirs[6:-6, 6:-6], atol=0.02)


def test_probabilities_are_met(images):
    batch = np.repeat(images[:1], 1000, axis=0)
    settings = dataclasses.replace(NOTHING, solarise_probability=0.2)
    changed = (
        np.abs(make_view(jax.random.key(0), batch, settings) - make_view(jax.random.key(0), batch, NOTHING)).max((1, 2, 3)) > 0
    )
    assert abs(changed.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1000)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="view setting brightness in"):
        ViewSettings(brightness=1.5)
    for wrong in ({"min_crop_scale": 0}, {"min_crop_scale": 0.5, "max_crop_scale": 0.4}, {"size": -1}):
        with pytest.raises(ValueError, match="crop scales above 0, a largest scale of at least the smallest"):
            ViewSettings(**wrong)
