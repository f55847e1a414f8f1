"""Generated images in colour: functions of seed, index and side, natural spectra, variety, labels, and what is refused."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sslshift.data import open_source, scenes, synthetic
from sslshift.data.decode import Canvas

KINDS = tuple(scenes.SCENES)


def pictures(kind: str, count: int, **options) -> np.ndarray:
    text = "".join(f"&{name}={value}" for name, value in options.items())
    return open_source(f"synthetic:{kind}?size={count}{text}").read(np.arange(count), _canvas(options))


def _canvas(options):
    side = options.get("side", scenes.SIDE)
    return Canvas(side, side, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_a_function_of_seed_and_index_alone(kind):
    source = open_source(f"synthetic:{kind}?size=30&seed=5&side=32")
    canvas = Canvas(32, 32, 3)
    forwards = source.read(np.arange(30), canvas)
    assert (forwards.shape, forwards.dtype) == ((30, 32, 32, 3), np.uint8)
    # In another order, in a longer source, and in a process of its own, the bits are the same.
    backwards = pickle.loads(pickle.dumps(source)).read(np.arange(30)[::-1], canvas)
    np.testing.assert_array_equal(backwards[::-1], forwards)
    longer = open_source(f"synthetic:{kind}?size=1_000_000&seed=5&side=32")
    np.testing.assert_array_equal(longer[29]["image"], forwards[29])
    assert (pictures(kind, 30, seed=6, side=32) != forwards).mean() > 0.5
    assert len({image.tobytes() for image in forwards}) == 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [scenes.SMALLEST_SIDE, 33, 96])
def test_every_side_can_be_made(kind, side):
    images = pictures(kind, 6, side=side)
    assert images.shape == (6, side, side, 3)
    assert images.std(axis=(1, 2, 3)).min() > 1


def test_a_scene_without_noise_is_the_same_at_every_side():
    small = pictures("shapes", 20, side=32).astype(float)
    large = pictures("shapes", 20, side=64).reshape(20, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - large).mean() < 12
    assert np.abs(small - large[::-1]).mean() > 60


def test_the_amplitudes_of_textures_fall_like_those_of_photographs():
    """The mean slope of the logarithm of the amplitude over that of the frequency is near -1, and it differs between images."""
    images = pictures("textures", 200).mean(axis=3)
    amplitude = np.abs(np.fft.rfft2(images - images.mean(axis=(1, 2), keepdims=True)))[:, 1:9, 1:9]
    frequency = np.log(np.hypot(*np.mgrid[1:9, 1:9])).ravel()
    slopes = np.array([np.polyfit(frequency, np.log(each.ravel() + 1e-3), 1)[0] for each in amplitude])
    assert -1.6 < slopes.mean() < -0.5
    assert slopes.std() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_source_differ_in_colour_contrast_and_detail(kind):
    images = pictures(kind, 100).astype(float)
    # From grey to vivid.
    saturation = (images.max(axis=3) - images.min(axis=3)).mean(axis=(1, 2))
    assert np.quantile(saturation, 0.1) < 35
    assert np.quantile(saturation, 0.9) > 60
    detail = np.abs(np.diff(images.mean(axis=3), axis=1)).mean(axis=(1, 2))
    assert np.quantile(detail, 0.9) > 2 * np.quantile(detail, 0.1)


def test_objects_have_classes_that_pixels_hardly_show():
    source = open_source("synthetic:objects?size=600&side=32")
    assert source.classes == ("disc", "box", "diamond", "ring", "star")
    assert source.labels.tolist() == [*range(5)] * 120
    assert source[7]["label"] == 2
    pixels = source.read(np.arange(600), Canvas(32, 32, 3)).reshape(600, -1) / 255
    fitted = LogisticRegression(C=1e-3, max_iter=100).fit(pixels[:450], source.labels[:450])
    # Colours, places and turns are independent of the class: chance is a fifth.
    assert fitted.score(pixels[450:], source.labels[450:]) < 0.45
    assert all(open_source(f"synthetic:{kind}").labels is None for kind in KINDS[:-1])


def test_scenes_are_known_to_be_no_copies_of_other_images():
    shapes = open_source("synthetic:shapes?size=30&seed=1")
    others = ("shapes?seed=2", "fractals?seed=1", "noise?seed=1")
    assert all(shapes.shares_none_with(open_source(f"synthetic:{other}")) for other in others)
    # At another side, the same scenes may be near-duplicates.
    assert not shapes.shares_none_with(open_source("synthetic:shapes?size=10&seed=1&side=32"))
    assert shapes.licence == "CC0-1.0 (generated)"


def test_the_fingerprint_contains_side_and_version(monkeypatch):
    first = open_source("synthetic:shapes").fingerprint
    assert first != open_source("synthetic:shapes?side=65").fingerprint
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    assert first != open_source("synthetic:shapes").fingerprint
    # Earlier sources keep their fingerprints, and folders of results stay valid.
    assert open_source("synthetic:noise").fingerprint == f"synthetic:noise, generator {synthetic.VERSION}"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("synthetic:shape", "expected one of dead_leaves, noise, events, hum, fractals, shapes"),
        (
            "synthetic:noise?side=64",
            "noise has images of one side; fractals, shapes, textures, .* take side=",
        ),
        ("synthetic:shapes?side=4", "expected a side of 8 to 1024 pixels, got 4"),
        ("synthetic:shapes?side=big", "expected a whole number for side, got 'big'"),
    ],
)
def test_other_sides_and_names_are_refused(uri, message):
    with pytest.raises(ValueError, match=message):
        open_source(uri)
