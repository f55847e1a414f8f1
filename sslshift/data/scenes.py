"""Generated images in colour, of any side, to pretrain on without anybody's data: each a pure function of (seed, index, side).

Every image draws its own parameters, so that images of one source differ in structure as well as in position. Each function
makes 1,900 to 3,100 images of 64 x 64 pixels in a second of CPU time. Pictures with the same seed and index show the same
scene at every side, except for noise.

References:
  Baradad et al., `Learning to See by Looking at Noise <https://arxiv.org/abs/2106.05963>`_, 2021 (spectra, dead leaves)
  Anderson & Farrell, `Improving Fractal Pre-training <https://arxiv.org/abs/2110.03091>`_, 2022 (sampling of affine maps)
  van der Schaaf & van Hateren, `Modelling the Power Spectra of Natural Images
  <https://doi.org/10.1016/0042-6989(96)00002-8>`_, 1996 (amplitudes of about 1 / frequency)
"""

import functools
from collections.abc import Callable

import numpy as np

# Part of a source's fingerprint: raise it when any pixel of one of these images changes.
VERSION = 1
SIDE = 64
SMALLEST_SIDE = 8
LARGEST_SIDE = 1024
# Number of leaves in a scene of textured leaves, and the largest number of shapes in a scene of shapes.
_LEAVES = 12
_SHAPES = 7
# Textures that leaves share.
_TEXTURES = 2

_f32 = np.float32


def fractals(random: np.random.Generator, side: int) -> np.ndarray:
    """Returns one or two attractors of random affine maps on a background whose colour changes slowly."""
    palette = _palette(random)
    image = _background(palette, random, side)
    for _ in range(random.integers(1, 3)):
        count = int(random.integers(2, 5))
        places, words = _attractor(random, count, side)
        hits = np.bincount(places, minlength=side * side)
        # Of several points in a pixel, the last decides its colour.
        shown = np.zeros(side * side, np.int64)
        shown[places] = words
        # Each copy of the whole attractor in itself has its colour, which the copies within it change.
        colours = _f32(0.7) * palette(count)[:, :, None] + _f32(0.3) * palette(count)[:, None, :]
        cover = 1 - np.exp(_f32(-random.uniform(0.5, 3)) * hits.astype(_f32))
        image += (cover * (colours.reshape(3, -1).take(shown, axis=1) - image.reshape(3, -1))).reshape(image.shape)
    return _pixels(image)


def _attractor(random: np.random.Generator, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels of points of an attractor, int64 `[points]`, and the number of the last two maps of each point.

    The points are the images of one point under all words of one length; there are at least half as many as pixels.
    """
    angle = random.uniform(0, 2 * np.pi, (2, count))
    # Singular values below 1 contract. The larger ones of two maps sum to at least 1.2, so that the attractor is not only dust.
    larger = random.uniform(0.4 if count > 2 else 0.6, 0.85, count)
    smaller = larger * random.uniform(0.25, 1, count) * (1 - 2 * random.integers(0, 2, count))
    # Each map is a rotation, a stretch along the axes, another rotation, and a shift.
    before, after = (np.array([[np.cos(each), -np.sin(each)], [np.sin(each), np.cos(each)]]) for each in angle)
    maps = (after[:, :, None] * np.stack([larger, smaller])[None, :, None] * before[None]).sum(axis=1).astype(_f32)
    shift = random.uniform(-1, 1, (2, count, 1)).astype(_f32)
    points = np.zeros((2, 1), _f32)
    while 2 * points.shape[1] < side * side:
        points = (maps[:, 0, :, None] * points[0] + maps[:, 1, :, None] * points[1] + shift).reshape(2, -1)
    extent = random.uniform(0.5, 1, (2, 1)).astype(_f32)
    corner = random.random((2, 1), _f32) * (1 - extent)
    low = points.min(axis=1, keepdims=True)
    span = points.max(axis=1, keepdims=True) - low + _f32(1e-6)
    row, column = np.minimum(((points - low) * (extent / span) + corner) * side, side - 1).astype(np.int64)
    return row * side + column, np.repeat(np.arange(count * count), len(row) // count**2)


def shapes(random: np.random.Generator, side: int) -> np.ndarray:
    """Returns shaded and striped shapes, bent and tapered, that cover each other and cast shadows."""
    palette = _palette(random)
    image = _background(palette, random, side)
    kinds = random.integers(0, len(OUTLINES), int(random.integers(2, _SHAPES + 1)))
    centre = random.random((2, len(kinds)), _f32)
    radius = _f32(0.08) * _f32(0.5 / 0.08) ** random.random(len(kinds), _f32)
    return _pixels(_painted(image, random, palette, kinds, centre, radius, 0.8))


def objects(random: np.random.Generator, side: int, kind: int) -> np.ndarray:
    """Returns one shape of a kind, the position of its name in `OUTLINES`, in front of a texture: images with a class."""
    palette = _palette(random)
    image = _coloured(random, _spectral(random, side, 3, 1))
    centre = _f32(0.3) + _f32(0.4) * random.random((2, 1), _f32)
    radius = _f32(0.18) + _f32(0.22) * random.random(1, _f32)
    return _pixels(_painted(image, random, palette, np.array([kind]), centre, radius, 0.3))


def _painted(image, random, palette, kinds, centre, radius, bent: float) -> np.ndarray:
    """Returns the image with shapes in front of it, the last one on top.

    Args:
      image: float32 `[3, side, side]`; it is changed.
      random: source of all other properties of the shapes.
      palette: draws their colours.
      kinds: positions in `OUTLINES`, `[count]`.
      centre, radius: in sides of the image, float32 `[2, count]` and `[count]`.
      bent: largest bend and taper of a shape.
    """
    side = image.shape[1]
    angle, aspect, bend, taper = _drawn(
        random, len(kinds), (0, 2 * np.pi), (0.35 + 0.5 * (bent < 0.5), 1), *[(-bent, bent)] * 2
    )
    line = np.arange(side, dtype=_f32) / _f32(side) + _f32(0.5 / side)
    y, x = (line - centre[:, :, None]) / radius[:, None]
    cosine = np.cos(angle)[:, None]
    sine = np.sin(angle)[:, None]
    # Coordinates along and across each shape, `[count, side, side]`, about 1 at its border.
    u = (cosine * x)[:, None, :] + (sine * y)[:, :, None]
    v = (cosine * y / aspect[:, None])[:, :, None] - (sine * x / aspect[:, None])[:, None, :]
    v += bend[:, None, None] * (u * u - _f32(0.5))
    v *= _f32(1) + taper[:, None, None] * np.clip(u, -1, 1)
    outlines = list(OUTLINES.values())
    outline = np.stack([outlines[kind](u[each], v[each]) for each, kind in enumerate(kinds)])
    cover = np.clip((1 - outline) * (radius * side * _f32(0.5))[:, None, None] + _f32(0.5), 0, 1)
    ramp, round_, stripe, pitch, dark = _drawn(random, len(kinds), (-0.5, 0.5), (0, 0.6), (-0.9, 0.35), (4, 14), (0.2, 0.7))
    shade = _f32(1.1) + ramp[:, None, None] * u - round_[:, None, None] * np.minimum(outline, 1)
    for each in np.flatnonzero(stripe > 0):
        shade[each] += stripe[each] * np.sin(pitch[each] * (u[each] if pitch[each] < 9 else v[each]))
    colours = palette(len(kinds)).T[:, :, None, None]
    # The light comes from one side of the whole scene.
    down, right = (int(each) for each in random.integers(0, max(2, side // 12), 2))
    for each in range(len(kinds)):
        image[:, down:, right:] *= 1 - dark[each] * cover[each, : side - down, : side - right]
        image += cover[each] * (colours[each] * shade[each] - image)
    return image


# Functions of the coordinates along and across a shape that are below 1 inside of it.
OUTLINES = {
    "disc": lambda u, v: u * u + v * v,
    "box": lambda u, v: np.maximum(np.abs(u), np.abs(v)),
    "diamond": lambda u, v: np.abs(u) + np.abs(v),
    "ring": lambda u, v: np.abs(u * u + v * v - _f32(0.6)) * _f32(2.5),
    "star": lambda u, v: np.minimum(np.abs(u) + _f32(4) * np.abs(v), np.abs(v) + _f32(4) * np.abs(u)),
}


def textures(random: np.random.Generator, side: int) -> np.ndarray:
    """Returns noise with a natural spectrum in random directions, hues and contrasts; some images have two kinds of it."""
    fields = _spectral(random, side, 3, int(random.integers(1, 3)))
    image = _coloured(random, fields)
    if random.random() < 0.5:
        # The second kind has the same spectra in other directions.
        other = _coloured(random, fields[::-1].swapaxes(1, 2))
        line = np.arange(side, dtype=_f32) / _f32(side)
        slope = random.normal(size=2).astype(_f32)
        border = slope[0] * line + (slope[1] * line + _f32(random.normal() * 0.5))[:, None] + _f32(0.15) * fields[0]
        border -= border.mean()
        image += np.clip(border * _f32(side / 4) + _f32(0.5), 0, 1) * (other - image)
    return _pixels(image)


def textured_leaves(random: np.random.Generator, side: int) -> np.ndarray:
    """Returns ellipses and boxes of scale-free sizes, each with a colour and a texture, that cover each other."""
    fields = _spectral(random, side, _TEXTURES, _TEXTURES)
    # Radii follow the power law r^-3, as in `synthetic.dead_leaves`, between a fourteenth of the side and the side.
    radius = (196 - random.random(_LEAVES) * 195) ** -0.5
    centre = random.random((2, _LEAVES)) * (1 + radius) - radius / 2
    angle = random.uniform(0, np.pi, _LEAVES)
    aspect = radius * random.uniform(0.3, 1, _LEAVES)
    boxes = (random.random() * 0.6 > random.random(_LEAVES)).tolist()
    y, x = ((np.arange(side) + 0.5) / side - centre[:, :, None]).astype(_f32)
    along, across, over, up = (
        each.astype(_f32)[:, None]
        for each in (np.cos(angle) / radius, np.sin(angle) / radius, np.sin(angle) / aspect, np.cos(angle) / aspect)
    )
    u = (across * y)[:, :, None], (along * x)[:, None]
    v = (up * y)[:, :, None], (over * x)[:, None]
    # The corner of a box is further from its centre than the end of an axis.
    top, left = np.maximum((centre - 1.42 * radius) * side, 0).astype(int).tolist()
    bottom, right = np.minimum((centre + 1.42 * radius) * side + 1, side).astype(int).tolist()
    number = np.zeros((side, side), np.int64)
    for leaf in range(_LEAVES):
        rows = slice(top[leaf], bottom[leaf])
        columns = slice(left[leaf], right[leaf])
        first = u[0][leaf, rows] + u[1][leaf, :, columns]
        second = v[0][leaf, rows] - v[1][leaf, :, columns]
        distance = np.maximum(np.abs(first), np.abs(second)) if boxes[leaf] else first * first + second * second
        number[rows, columns][distance < 1] = leaf + 1
    # Each leaf shows a texture from another place on. Textures are doubled, so that no place is beyond the end.
    twice = np.concatenate([fields, fields], axis=1)
    start = random.integers(0, side * side, _LEAVES + 1) + random.integers(0, _TEXTURES, _LEAVES + 1) * twice[0].size
    texture = twice.ravel().take(np.arange(side * side).reshape(side, side) + start.take(number))
    contrasts = random.random(_LEAVES + 1, _f32) * _f32(0.3) * (_f32(0.7) + _f32(0.6) * random.random((3, _LEAVES + 1), _f32))
    image = _palette(random)(_LEAVES + 1).take(number, axis=1) + contrasts.take(number, axis=1) * texture
    return _pixels(_softened(image, _f32(random.uniform(0.05, 0.25))))


def _drawn(random: np.random.Generator, count: int, *ranges: tuple[float, float]) -> np.ndarray:
    """Returns float32 `[ranges, count]`, uniform within each range."""
    low, high = np.asarray(ranges, _f32).T[..., None]
    return low + (high - low) * random.random((len(ranges), count), _f32)


def _palette(random: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Returns a function that draws colours `[3, count]` of one common saturation, from grey to vivid.

    A third of the palettes is grey: where colours alone tell images apart, an encoder learns no shapes.
    """
    saturation = max(_f32(0), _f32(1.5) * random.random(dtype=_f32) - _f32(0.5))

    def draw(count: int) -> np.ndarray:
        colours = random.random((3, count), _f32)
        # The green channel stands for the brightness.
        return colours[1] + saturation * (colours - colours[1])

    return draw


def _background(palette: Callable[[int], np.ndarray], random: np.random.Generator, side: int) -> np.ndarray:
    """Returns float32 `[3, side, side]` whose colour changes linearly along both axes."""
    line = np.linspace(-0.5, 0.5, side, dtype=_f32)
    colour, along, down = palette(3).T[:, :, None]
    slope = _f32(random.random())
    return (colour + slope * (along - _f32(0.5)) * line)[:, None, :] + (slope * (down - _f32(0.5)) * line)[:, :, None]


@functools.lru_cache(maxsize=4)
def _frequencies(side: int) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.fftfreq(side, 1 / side).astype(_f32)[:, None], np.fft.rfftfreq(side, 1 / side).astype(_f32)


def _spectral(random: np.random.Generator, side: int, count: int, kinds: int) -> np.ndarray:
    """Returns fields of noise of mean 0 and variance 1, float32 `[count, side, side]`, with `kinds` different spectra.

    Amplitudes fall as a power of the frequency, -0.4 to -2.2, in some directions faster than in others. Every third spectrum
    has a preferred frequency too.
    """
    rows, columns = _frequencies(side)
    power, angle, stretch, band, peak, width = _drawn(
        random, kinds, (-1.1, -0.2), (0, np.pi), (0, 1), (0, 1), (1, np.log(max(side / 3, 3))), (0.15, 0.5)
    )
    stretch = _f32(6) ** (stretch * stretch)
    cosine = np.cos(angle)
    sine = np.sin(angle)
    amplitude = np.empty((kinds, side, side // 2 + 1), _f32)
    for kind in range(kinds):
        along = cosine[kind] * columns + sine[kind] * rows
        across = stretch[kind] * (cosine[kind] * rows - sine[kind] * columns)
        logarithm = np.log(along * along + across * across + _f32(0.25))
        exponent = power[kind] * logarithm
        if band[kind] > 0.67:
            exponent -= np.square((_f32(0.5) * logarithm - peak[kind]) / width[kind])
        amplitude[kind] = np.exp(exponent)
    amplitude[:, 0, 0] = 0
    # Sums of many uniform numbers are as normal as sums of normal ones, which take four times as long to draw.
    noise = (random.random((count, side, side // 2 + 1, 2), _f32) - _f32(0.5)).view(np.complex64)[..., 0]
    fields = np.fft.irfft2(noise * amplitude[np.arange(count) % kinds], (side, side))
    return fields / np.sqrt(np.mean(np.square(fields), axis=(1, 2), keepdims=True))


def _coloured(random: np.random.Generator, fields: np.ndarray) -> np.ndarray:
    """Returns three fields as an image `[3, side, side]`: the first as light and dark, the others as changes of colour."""
    light = fields[0]
    kind = random.integers(0, 5)
    if kind == 1:
        light = np.tanh(_f32(3) * light)
    elif kind == 2:
        light = np.abs(light) * _f32(1.6) - _f32(1.3)
    elif kind == 3:
        light = np.sin(_f32(random.uniform(2, 7)) * light)
    elif kind == 4:
        light = np.round(light * _f32(random.uniform(0.8, 2)))
    mean, hue, other = _palette(random)(3).T[:, :, None, None] - _f32(0.5)
    contrast, colourful = random.random(2, _f32)
    image = (_f32(0.5) + _f32(0.8) * mean) + (_f32(0.08) + _f32(0.25) * contrast) * (1 + colourful * hue) * light
    return image + (_f32(0.25) * colourful * colourful * other) * fields[1]


def _softened(image: np.ndarray, weight: float) -> np.ndarray:
    """Returns the image averaged with its neighbours, as a lens does to edges; the outermost pixels stay as they are."""
    for axis in (1, 2):
        moved = image.swapaxes(1, axis)
        moved[:, 1:-1] += weight * (moved[:, :-2] + moved[:, 2:] - 2 * moved[:, 1:-1])
    return image


def _pixels(image: np.ndarray) -> np.ndarray:
    """Returns float `[3, side, side]`, mostly in [0, 1], as uint8 `[side, side, 3]`."""
    return np.ascontiguousarray(np.clip(image * 255 + _f32(0.5), 0, 255).astype(np.uint8).transpose(1, 2, 0))


SCENES = {"fractals": fractals, "shapes": shapes, "textures": textures, "textured_leaves": textured_leaves, "objects": objects}
# Names of the classes of scenes with labels: image i has class i modulo the number of classes.
CLASSES = {"objects": tuple(OUTLINES)}
