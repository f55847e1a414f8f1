"""Planted leaks that are found, pictures that differ in colour alone, and the time of searches for near pairs."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from sslshift.data.curation import (
    find_duplicates,
    find_leaks,
    near_pairs_between_by_hash,
    near_pairs_by_features,
    near_pairs_by_hash,
)
from sslshift.data.curation.identities import Identities
from sslshift.data.decode import Canvas, fit, from_image, to_image
from sslshift.data.sources import Source, open_source

PLANTED = 1000


class Pictures(Source):
    """Images of any shapes in memory."""

    def __init__(self, images: Sequence[np.ndarray]):
        super().__init__("memory:pictures", fingerprint="pictures")
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return fit(self._images[index], canvas) if canvas else self._images[index]


def _stored(quality: int) -> Callable[[Image.Image], Image.Image]:
    def store(image: Image.Image) -> Image.Image:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        return Image.open(out)

    return store


def _scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "enlarged by a half": _scaled(1.5),
    "12 gray levels brighter": lambda image: image.point(lambda level: min(255, level + 12)),
    "contrast times 1.1": lambda image: ImageEnhance.Contrast(image).enhance(1.1),
    "JPEG of quality 75": _stored(75),
    "JPEG of quality 50": _stored(50),
    "reduced to three quarters": _scaled(0.75),
    "reduced to half": _scaled(0.5),
    "a pixel cut off at two sides": lambda image: image.crop((1, 1, *image.size)),
    "a pixel cut off at all four": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
}


# Of icons, which are often emoji or flat drawings. Red and green have the same luma.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 130, 0),
    "blue": (0, 0, 255),
    "gray": (128, 128, 128),
    "pink": (255, 160, 190),
    "yellow": (255, 204, 77),
    "orange": (244, 144, 12),
    "brown": (140, 90, 50),
    "purple": (150, 80, 190),
    "black": (0, 0, 0),
    "cyan": (0, 200, 220),
    "dark gray": (60, 60, 60),
}
SHAPES = ("square", "disc", "heart", "ring", "bar")


def icon(shape: str, colour: tuple[int, int, int], side: int, ground: tuple[int, ...] = (255, 255, 255)) -> Image.Image:
    """Returns a shape of one colour on an even ground, of which four components make it RGBA."""
    large = 4 * side
    picture = Image.new("RGB" if len(ground) == 3 else "RGBA", (large, large), ground)
    draw = ImageDraw.Draw(picture)
    if shape == "heart":
        for left in (0.2, 0.48):
            draw.ellipse([large * part for part in (left, 0.2, left + 0.32, 0.52)], fill=colour)
        draw.polygon([(large * x, large * y) for x, y in ((0.23, 0.44), (0.77, 0.44), (0.5, 0.8))], fill=colour)
    elif shape == "ring":
        draw.ellipse([large * part for part in (0.2, 0.2, 0.8, 0.8)], outline=colour, width=large // 8)
    else:
        box = (0.1, 0.4, 0.9, 0.6) if shape == "bar" else (0.25, 0.25, 0.75, 0.75)
        (draw.ellipse if shape == "disc" else draw.rectangle)([large * part for part in box], fill=colour)
    return picture.resize((side, side), Image.Resampling.BICUBIC)


COLOUR_CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = CHANGES | {
    "red 5% up and blue 5% down": lambda image: _balanced(image, (1.05, 1, 0.95)),
    "red 10% up and blue 10% down": lambda image: _balanced(image, (1.1, 1, 0.9)),
    "in gray": lambda image: image.convert("L").convert("RGB"),
}


def _balanced(image: Image.Image, factors: tuple[float, float, float]) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image) * factors + 0.5, 0, 255).astype(np.uint8))


def _colours(show: Callable[..., None]) -> None:
    """Prints how many icons are held to be others, and how many changed copies are found, with and without colours."""
    for side in (28, 64, 256):
        pictures = [icon(shape, colour, side) for shape in SHAPES for colour in COLOURS.values()]
        found = find_duplicates(Pictures([from_image(picture) for picture in pictures]))
        show("colours", icons=f"{side} pixels, {len(pictures)} of them", effective_unique=found.effective_unique)
        for change, make in COLOUR_CHANGES.items():
            changed = Pictures([from_image(make(picture)) for picture in pictures])
            figures = {}
            for colour in (True, False):
                leaks = find_leaks(changed, Pictures([from_image(picture) for picture in pictures]), colour=colour)
                right = leaks.pairs.first == leaks.pairs.second
                how = "" if colour else "_by_brightness"
                figures[f"found{how}"] = len(np.unique(leaks.pairs.second[right])) / len(pictures)
                figures[f"wrong_pairs{how}"] = int((~right).sum())
            show("colours", icons=side, change=change, **figures)


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float]) -> None:
    """Prints what colours decide, recall by change for both bundled sets, wrong accusations, and times of searches."""
    _colours(show)
    for name in ("fashion_mnist", "mnist"):
        train = open_source(f"bundled:{name}")
        test = open_source(f"bundled:{name}/test")
        images = [train[index]["image"] for index in range(len(train))]
        there = {*find_leaks(train, test).test_indices.tolist()}
        alone = near_pairs_between_by_hash(Identities(train).hashes, Identities(test).hashes, 4)
        show("leaks", set=name, planted="nothing", accused=len(there), accused_by_hash_alone=len(np.unique(alone.second)))
        for change, make in CHANGES.items():
            planted = [from_image(make(to_image(test[index]["image"]))) for index in range(PLANTED)]
            found = find_leaks(Pictures(images + planted), test)
            right = found.pairs.first - len(images) == found.pairs.second
            wrong = {*found.test_indices.tolist()} - {*found.pairs.second[right].tolist()} - there
            show("leaks", set=name, planted=change, found=int(right.sum()) / PLANTED, wrongly_accused=len(wrong))
    random = np.random.default_rng(0)
    for count in (100_000, 1_000_000):
        hashes = random.integers(0, 1 << 63, count, np.uint64)
        show(
            "pairs", of=f"{count:,} hashes within 7 bits", seconds=seconds(lambda hashes=hashes: near_pairs_by_hash(hashes, 7))
        )
    features = random.normal(size=(100_000, 128)).astype(np.float32)
    for exact, how in ((len(features) ** 2, "exact"), (0, "clustered")):
        of = f"100,000 x 128 features, {how}"
        took = seconds(lambda exact=exact: near_pairs_by_features(features, 0.95, exact=exact))
        show("pairs", of=of, seconds=took)
