"""Benchmark of duplicates: changed copies of the images of any source are planted among them."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from sslshift.data.curation import find_duplicates
from sslshift.data.decode import from_image, to_image
from sslshift.data.sources import open_source

from .bench_pictures import CHANGES, Pictures, stored

# Images of a source that are taken, and those whose changed copies are planted.
TAKEN = 2000
COPIED = 200


def _window(size: float, seed: int = 0) -> Callable[[Image.Image], Image.Image]:
    def cut(image: Image.Image) -> Image.Image:
        width, height = (round(side * size) for side in image.size)
        # The place depends on the picture, and not on the pictures before it.
        random = np.random.default_rng([seed, int(np.asarray(image).sum())])
        left, top = (int(random.integers(0, whole - side + 1)) for whole, side in zip(image.size, (width, height), strict=True))
        return image.crop((left, top, left + width, top + height))

    return cut


# Changes that `find_duplicates(also=...)` finds.
REFRAMED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "cropped to 90%": _window(0.9),
    "cropped to 80%": _window(0.8),
    "mirrored and cropped to 90%": lambda image: _window(0.9, 1)(ImageOps.mirror(image)),
    "cropped to 90%, JPEG of quality 75": lambda image: stored(75)(_window(0.9, 2)(image)),
}


def measure_duplicates(show: Callable[..., None], uri: str) -> None:
    """Prints the share of changed copies of a source's images that are found, and the pairs of different images."""
    source = open_source(uri)
    images = [source.image(index) for index in np.random.default_rng(0).permutation(len(source))[:TAKEN].tolist()]
    for also in ((), ("mirrored", "cropped")):
        before = find_duplicates(Pictures(images), also=also).groups
        # Images that are alike before copies are planted would be found through each other.
        alone = np.flatnonzero(np.bincount(before, minlength=len(images))[before] == 1)[:COPIED].tolist()
        alike = len(images) - len(np.unique(before))
        show("duplicates", source=uri, also=",".join(also), images=len(images), planted="nothing", pairs=alike)
        for change, make in (REFRAMED if also else CHANGES).items():
            planted = [from_image(make(to_image(images[index]))) for index in alone]
            groups = find_duplicates(Pictures(images + planted), also=also).groups
            found = sum(groups[index] == groups[len(images) + place] for place, index in enumerate(alone))
            wrong = len(groups) - len(np.unique(groups)) - int(found) - alike
            show("duplicates", source=uri, also=",".join(also), planted=change, found=found / len(alone), wrong_pairs=wrong)
