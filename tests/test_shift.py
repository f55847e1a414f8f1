"""The shift index of real images, and the noise at its upper end."""

import jax
import numpy as np
import pytest

from sslshift.data import open_source
from sslshift.data.decode import Canvas
from sslshift.data.noise import NoiseSource
from sslshift.data.permutation import permute
from sslshift.data.sources import ArraySource
from sslshift.shift import ShiftScale, noise_like, shift_index
from sslshift.shift.index import FAR_ENDS, NOISE
from sslshift.transfer.features import pixel_encoder

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shift_index(np.ones((50, 3)), np.ones((13, 3)), key=KEY), "at least 20 images.*13 of the target"),
        (
            lambda: shift_index(np.ones((20, 3)), np.ones((20, 3)), key=KEY, noise=np.ones((20, 3)), far_end=NOISE),
            "indistinguishable from unstructured noise.*all alike",
        ),
    ],
)
def test_bad_features_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def features_of(uri, count):
    source = open_source(uri)
    # In a seeded order: the digits are sorted by class.
    indices = permute(np.arange(count), len(source), 0)
    return pixel_encoder(source.read(indices, Canvas(28, 28, 1))[:, ::2, ::2])


@pytest.fixture(scope="module")
def fashion():
    target = open_source("bundled:fashion_mnist/test").read(np.arange(2000), Canvas(28, 28, 1))
    noise = noise_like(target[:1000], key=KEY)
    return pixel_encoder(target[:, ::2, ::2]), pixel_encoder(noise[:, ::2, ::2])


def test_index_is_0_for_the_target_1_for_noise_and_between_for_digits(fashion):
    target, noise = fashion
    same = shift_index(features_of("bundled:fashion_mnist", 1000), target, key=KEY, noise=noise, far_end=NOISE)
    digits = shift_index(features_of("bundled:mnist", 1000), target, key=KEY, noise=noise, far_end=NOISE)
    itself = shift_index(noise, target, key=KEY, noise=noise, far_end=NOISE)
    assert same.low < 0 < same.high
    assert abs(same.value) < 0.05
    assert itself.value == pytest.approx(1, abs=0.01)
    assert 0.1 < digits.value < 1
    assert digits.low <= digits.value <= digits.high
    assert digits.sample_size == 500


@pytest.mark.parametrize("far_end", FAR_ENDS)
def test_index_grows_as_a_source_is_blended_away_from_the_target(fashion, far_end):
    scale = ShiftScale(*fashion, KEY, repeats=8, far_end=far_end)
    near = features_of("bundled:fashion_mnist", 1000)
    far = features_of("bundled:mnist", 1000)
    values = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        count = round(1000 * share)
        values.append(scale.index(np.concatenate([far[:count], near[count:]])).value)
    assert np.all(np.diff(values) > 0.01)


def test_index_is_the_same_for_the_same_key_and_has_a_default_noise(random):
    target = random.normal(size=(400, 6)) @ random.normal(size=(6, 6))
    source = target[:150] + 0.5
    first = shift_index(source, target, key=KEY, far_end=NOISE)
    assert first == shift_index(source, target, key=KEY, far_end=NOISE)
    assert first.value > 0


def test_noise_has_the_pixel_values_of_each_channel_and_no_structure(random):
    images = np.stack([random.integers(0, 50, (40, 16, 16)), random.integers(200, 256, (40, 16, 16))], axis=-1).astype(np.uint8)
    images = np.sort(images, axis=1)
    noise = noise_like(images, key=KEY).astype(float)
    assert noise.shape == images.shape
    np.testing.assert_allclose(noise.mean((0, 1, 2)), images.mean((0, 1, 2)), atol=1.0)
    np.testing.assert_allclose(noise.std((0, 1, 2)), images.std((0, 1, 2)), atol=1.0)
    assert abs(np.corrcoef(noise[:, 1:, :, 0].ravel(), noise[:, :-1, :, 0].ravel())[0, 1]) < 0.05
    for bad in (images[0], images[:0]):
        with pytest.raises(ValueError, match=r"Expected images \[n, height, width, channels\]"):
            noise_like(bad, key=KEY)


def test_noise_is_of_the_targets_pixels_and_does_not_depend_on_how_it_is_read(random):
    # Two colours alone: what is drawn are pixels, not channels.
    colours = np.array([[250, 10, 0], [0, 20, 90]], np.uint8)
    images = colours[random.integers(0, 2, (30, 8, 8))]
    source = NoiseSource(ArraySource("memory:x", images), np.arange(2, 30), Canvas(8, 8, 3), 5)
    noise = source.read(np.arange(28), Canvas(8, 8, 3))
    assert noise.shape == (28, 8, 8, 3)
    assert set(map(tuple, noise.reshape(-1, 3).tolist())) == set(map(tuple, colours.tolist()))
    assert abs((noise[..., 0] > 0).mean() - (images[2:, ..., 0] > 0).mean()) < 0.05
    again = NoiseSource(ArraySource("memory:x", images), np.arange(2, 30), Canvas(8, 8, 3), 5)
    assert np.array_equal(again.read(np.array([27, 3]), Canvas(8, 8, 3)), noise[[27, 3]])
    assert again.fingerprint == source.fingerprint
    other = NoiseSource(ArraySource("memory:x", images), np.arange(2, 30), Canvas(8, 8, 3), 6)
    assert other.fingerprint != source.fingerprint
    with pytest.raises(ValueError, match="expected the canvas"):
        source.image(0, Canvas(9, 9, 3))
