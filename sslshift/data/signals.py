"""One-dimensional signals as log-spectrograms, so that studies can also use data other than photographs.

Each signal is a pure function of (seed, index) with 2,112 samples. Its power in decibels becomes an image of 32 frequencies by
32 times with values of 0 to 255, which is the usual input of networks for microphones and vibration sensors.
"""

import numpy as np

SIDE = 32
_WINDOW = 64
_HOP = 64
_SAMPLES = _WINDOW + _HOP * SIDE
_TIME = np.arange(_SAMPLES)
# Powers in decibels that become 0 and 255.
_QUIET = -25.0
_LOUD = 30.0

# Classes of `events`; a signal's label is its position here.
EVENTS = ("tone", "rising", "falling", "vibrato", "tremolo", "clicks", "burst", "harmonics", "step up", "step down")


def spectrogram(signal: np.ndarray) -> np.ndarray:
    """Returns the power of a signal of 2,112 samples by frequency (the lowest at the bottom) and time, uint8 `[32, 32, 1]`."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW)[: SIDE * _HOP : _HOP] * np.hanning(_WINDOW)
    # A window of 64 samples has 33 frequencies; without the frequency 0, 32 frequencies remain for the image.
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))[:, 1 : SIDE + 1]
    decibels = 10 * np.log10(power + 1e-9)
    scaled = np.clip((decibels - _QUIET) / (_LOUD - _QUIET), 0, 1) * 255
    return (scaled.T[::-1] + 0.5).astype(np.uint8)[..., None]


def events(random: np.random.Generator, index: int) -> np.ndarray:
    """Returns noise that contains a sound with a beginning and an end; its class is `index` modulo the number of `EVENTS`."""
    kind = EVENTS[index % len(EVENTS)]
    length = int(random.integers(_SAMPLES // 3, 2 * _SAMPLES // 3))
    start = int(random.integers(0, _SAMPLES - length))
    inside = (start <= _TIME) & (start + length > _TIME)
    place = np.clip((_TIME - start) / length, 0, 1)
    low = random.uniform(0.06, 0.22)
    high = low + random.uniform(0.08, 0.2)
    cycles = random.uniform(3, 8)
    clean = {
        "tone": lambda: _tone(np.full(_SAMPLES, low)),
        "rising": lambda: _tone(low + (high - low) * place),
        "falling": lambda: _tone(high - (high - low) * place),
        "vibrato": lambda: _tone((low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * cycles * place)),
        "tremolo": lambda: _tone(np.full(_SAMPLES, low)) * (np.sin(2 * np.pi * cycles * place) > 0),
        # Each click is half a window long, so that the window function cannot hide it between two windows.
        "clicks": lambda: 1.5 * random.normal(size=_SAMPLES) * ((_TIME - start) % int(length / cycles) < _WINDOW // 2),
        "burst": lambda: _band(random.normal(size=_SAMPLES), low, high),
        "harmonics": lambda: sum(_tone(np.full(_SAMPLES, low / 2 * k)) / k for k in range(1, 6)),
        "step up": lambda: _tone(np.where(place < 0.5, low, high)),
        "step down": lambda: _tone(np.where(place < 0.5, high, low)),
    }[kind]()
    return clean * inside * random.uniform(0.4, 1.0) + random.normal(0, random.uniform(0.05, 0.5), _SAMPLES)


def hum(random: np.random.Generator, index: int) -> np.ndarray:
    """Returns the sound of a running machine, without events: harmonics of a slightly varying frequency in coloured noise."""
    del index
    sway = 1 + random.uniform(0, 0.1) * np.sin(2 * np.pi * random.uniform(0.2, 2) * _TIME / _SAMPLES + random.uniform(0, 6))
    base = random.uniform(0.01, 0.06)
    # Harmonics above half of the sampling rate would appear as lower frequencies.
    voices = sum(random.uniform(0, 1) / k**0.5 * _tone(base * k * sway) for k in range(1, 9) if base * k < 0.5)
    white = np.fft.rfft(random.normal(size=_SAMPLES))
    colour = (np.arange(len(white)) + 1.0) ** -random.uniform(0, 1)
    # The noise is divided by the root mean square of its colour, so that noise of any colour is equally strong.
    noise = np.fft.irfft(white * colour / np.sqrt(np.mean(colour**2)), _SAMPLES)
    return 0.5 * voices + random.uniform(0.1, 0.6) * noise


def _tone(frequency: np.ndarray) -> np.ndarray:
    """Returns a sine whose frequency, in cycles per sample, may change from sample to sample."""
    return np.sin(2 * np.pi * np.cumsum(frequency))


def _band(white: np.ndarray, low: float, high: float) -> np.ndarray:
    spectrum = np.fft.rfft(white)
    frequency = np.fft.rfftfreq(len(white))
    return np.fft.irfft(spectrum * ((low <= frequency) & (frequency <= high)), len(white)) * 2
