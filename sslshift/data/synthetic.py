"""Generated images, each a pure function of (seed, index): scenes of discs, noise, and log-spectrograms of signals.

To add one, write a function of (seed, index) here and name it in `GENERATORS`; `synthetic:NAME` then opens it. Functions in
`scenes` make images in colour, of any side.

References:
  Lee, Mumford & Huang, `Occlusion Models for Natural Images
  <https://doi.org/10.1023/A:1011109015675>`_, 2001 (dead leaves)
"""

import numpy as np

from sslshift.data import scenes, signals

# Part of a source's fingerprint: raise it when any pixel of a generated image changes.
VERSION = 1
SIDE = 28
# Number of discs in a scene.
LEAVES = 64


def _generator(seed: int, index: int) -> np.random.Generator:
    # The generator has a key and a counter, so an image does not depend on random numbers of earlier images.
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))


def noise(seed: int, index: int) -> np.ndarray:
    """Returns independent uniform grey values, uint8 `[28, 28, 1]`."""
    return _generator(seed, index).integers(0, 256, (SIDE, SIDE, 1), np.uint8)


def dead_leaves(seed: int, index: int) -> np.ndarray:
    """Returns discs of scale-free sizes and random grey values that cover each other, uint8 `[28, 28, 1]`.

    Radii follow the power law r^-3 between 1.5 pixels and the side, which makes the images scale-invariant, as photographs
    are. Edges are blended over one pixel.
    """
    random = _generator(seed, index)
    smallest = 1.5**-2
    largest = float(SIDE) ** -2
    radius = (smallest - random.random(LEAVES) * (smallest - largest)) ** -0.5
    # Centres may be outside of the image by a radius: otherwise discs would be rarer along its edges.
    centre = random.random((2, LEAVES)) * (SIDE + 2 * radius) - radius
    # One grey value per disc, and one for the background.
    gray = random.random(LEAVES + 1, np.float32) * np.float32(255)
    squared = np.square(np.arange(SIDE) - centre[..., None]).astype(np.float32)
    distance = np.sqrt(squared[0][:, :, None] + squared[1][:, None, :])
    cover = np.clip(radius.astype(np.float32)[:, None, None] + np.float32(0.5) - distance, 0, 1)
    # Discs are painted one over another, element by element: a matrix product would round differently on another machine.
    image = np.full((SIDE, SIDE), gray[-1])
    for k in range(LEAVES):
        image += cover[k] * (gray[k] - image)
    return (image + 0.5).astype(np.uint8)[..., None]


def events(seed: int, index: int) -> np.ndarray:
    """Returns a log-spectrogram of a short sound in noise, uint8 `[32, 32, 1]`; `signals.EVENTS` has its classes."""
    return signals.spectrogram(signals.events(_generator(seed, index), index))


def hum(seed: int, index: int) -> np.ndarray:
    """Returns a log-spectrogram of a running machine, uint8 `[32, 32, 1]`."""
    return signals.spectrogram(signals.hum(_generator(seed, index), index))


def scene(name: str, seed: int, index: int, side: int) -> np.ndarray:
    """Returns an image in colour, uint8 `[side, side, 3]`; `name` is one of `scenes.SCENES`."""
    labelled = scenes.CLASSES.get(name)
    # Only scenes with classes need to know which one to draw.
    return scenes.SCENES[name](_generator(seed, index), side, *([index % len(labelled)] if labelled else []))


GENERATORS = {"dead_leaves": dead_leaves, "noise": noise, "events": events, "hum": hum}
# Names of the classes of generators with labels: image i has class i modulo the number of classes.
CLASSES = {"events": signals.EVENTS}
