"""Signals as spectrograms: where a known signal appears, what labels mean, and that images are functions of seed and index."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sslshift.data import open_source, signals
from sslshift.data.decode import Canvas


def test_a_tone_appears_at_its_frequency_and_its_octave_above_it():
    time = np.arange(64 + 64 * 32)
    for cycles in (0.125, 0.25):
        picture = signals.spectrogram(np.sin(2 * np.pi * cycles * time))[..., 0]
        assert picture.shape == (32, 32)
        # Row 31 is the lowest frequency, 1 / 64 cycles a sample.
        assert set(picture.argmax(axis=0)) == {32 - round(cycles * 64)}


def test_twice_the_amplitude_is_six_decibels_more_and_silence_is_black():
    tone = 0.05 * np.sin(2 * np.pi * 0.25 * np.arange(64 + 64 * 32))
    one, two = (int(signals.spectrogram(tone * factor).max()) for factor in (1, 2))
    assert two - one == pytest.approx(20 * np.log10(2) / 55 * 255, abs=1)
    assert signals.spectrogram(np.zeros(64 + 64 * 32)).max() == 0


@pytest.mark.parametrize("name", ["events", "hum"])
def test_images_are_functions_of_seed_and_index(name):
    first, again, other = (open_source(f"synthetic:{name}?size=40&seed={seed}") for seed in (1, 1, 2))
    images = [source.read(np.arange(40), Canvas(32, 32, 1)) for source in (first, again, other)]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).mean() > 0.5
    assert len({image.tobytes() for image in images[0]}) == 40


def test_events_are_labelled_in_turn_and_hum_is_not():
    source = open_source("synthetic:events?size=25")
    assert source.classes == signals.EVENTS
    assert source.labels.tolist() == [*range(10), *range(10), *range(5)]
    assert source[12]["label"] == 2
    assert open_source("synthetic:hum?size=25").labels is None


def test_events_can_be_told_apart_but_not_by_pixels_alone():
    """A linear classifier of pixels finds far more than chance (0.1) and far less than everything: a task for features."""
    source = open_source("synthetic:events?size=1200")
    pixels = source.read(np.arange(1200), Canvas(32, 32, 1)).reshape(1200, -1) / 255
    fitted = LogisticRegression(C=0.01, max_iter=200).fit(pixels[:900], source.labels[:900])
    assert 0.25 < fitted.score(pixels[900:], source.labels[900:]) < 0.8
