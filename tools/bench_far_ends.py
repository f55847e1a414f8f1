r"""Definitions of the far end of the shift index, compared on several targets, sizes of images and numbers of images.

python -m tools.bench --what=far_ends
python -m tools.bench --what=far_ends --folders=data/own,data/like_it,data/drawings,data/photographs   # in the known order
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sslshift.data.corruptions import destroyed
from sslshift.data.decode import Canvas
from sslshift.data.permutation import permute
from sslshift.data.sources import open_source
from sslshift.shift import ShiftScale
from sslshift.shift.distances.kernel import kernel_spreads
from sslshift.transfer.encoders import encoder_named

SIDES = (28, 64, 128)
# Images of each set at all sides, and at the smallest side alone, where they are encoded fastest.
IMAGES = 500
SIZES = (200, 2000, 5000)
_CLOTHES, _DIGITS, _EVENTS, _HUM, _LEAVES, _NOISE = (
    f"bundled:{name}" if "mnist" in name else f"synthetic:{name}?size=5000"
    for name in ("fashion_mnist", "mnist", "events", "hum", "dead_leaves", "noise")
)
# The target first, then another sample of it; of the others no order is known.
TARGETS = {
    "clothes": ("bundled:fashion_mnist/test", _CLOTHES, _DIGITS, _EVENTS, _HUM, _LEAVES, _NOISE),
    "digits": ("bundled:mnist/test", _DIGITS, _CLOTHES, _EVENTS, _HUM, _LEAVES, _NOISE),
    "sounds": (f"{_EVENTS}&seed=1", _EVENTS, _HUM, _CLOTHES, _DIGITS, _LEAVES, _NOISE),
}


def measure_far_ends(show: Callable[..., None], folders: Sequence[str], encoder: str) -> None:
    """Prints every index by every definition, and for each target and definition what it is chosen by.

    Args:
      show: function that prints a line.
      folders: folders of pictures as a further target and its sources, in the known order from near to far.
      encoder: name of the encoder of the images.
    """
    pictures = {"pictures": tuple(f"folder:{path}" for path in folders)} if folders else {}
    for target, uris in (TARGETS | pictures).items():
        known = target in pictures
        cases = [(side, IMAGES) for side in SIDES] + [(SIDES[0], images) for images in SIZES]
        found = {}
        for side, images in cases:
            found[side, images] = indices(uris, Canvas(side, side, 3 if known else 1), images, encoder)
            for definition, values in found[side, images].items():
                show("far_ends", target=target, side=side, images=images, definition=definition, **values)
        for definition in found[cases[0]]:
            show(
                "far_ends",
                target=target,
                definition=definition,
                **_summary([each[definition] for each in found.values()], known),
            )


def indices(uris: Sequence[str], canvas: Canvas, images: int, encoder: str) -> dict[str, dict[str, float]]:
    """Returns the index of every source by every definition of the far end, and that of the target's noise as `destroyed`."""
    encode = encoder_named(encoder).build(canvas)
    pixels = [_read(uri, canvas, images, place) for place, uri in enumerate(uris)]
    # A target of folders has no second sample: its own other half stands for one.
    target, *sources = (np.asarray(encode(each)) for each in pixels)
    scale = ShiftScale(target, None, jax.random.key(0))
    ruined = {kind: np.asarray(encode(each)) for kind, each in destroyed(pixels[0], key=jax.random.key(0)).items()}
    references = {kind: scale.index(each) for kind, each in ruined.items()}
    spread = float(np.sqrt(kernel_spreads(target, np.arange(len(target))[None])[0]))
    found: dict[str, dict[str, float]] = {}
    for uri, features in [*zip(uris[1:], sources, strict=True), ("destroyed", ruined["noise"])]:
        index = scale.index(features)
        values = {
            "separation": index.value,
            "noise": index.distance / references["noise"].distance,
            "farthest destroyed": index.distance / max(each.distance for each in references.values()),
            "bounded": index.distance / (abs(index.distance) + references["noise"].distance),
            "spreads of the target": index.distance / spread,
        }
        for definition, value in values.items():
            found.setdefault(definition, {})[uri] = value
    return found


def _read(uri: str, canvas: Canvas, images: int, place: int) -> np.ndarray:
    source = open_source(uri)
    return source.read(permute(np.arange(min(images, len(source))), len(source), place), canvas)


def _summary(cases: Sequence[dict[str, float]], known: bool) -> dict[str, float]:
    real = [[value for uri, value in each.items() if uri != "destroyed"] for each in cases]
    order = [list(each.values()) if known else [real[0][0], each["destroyed"]] for each in cases]
    steps = [a < b for each in order for a, b in itertools.pairwise(each)]
    return {
        "largest_change": float(np.ptp(np.array(real), axis=0).max()),
        "inside": float(np.mean([-0.05 <= value <= 1 for each in real for value in each])),
        "steps_in_order": float(np.mean(steps)),
    }
