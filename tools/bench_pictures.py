"""Pictures for the benchmark of curation: icons in several colours, and the changes that copies of a picture undergo."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from sslshift.data.decode import Canvas, fit
from sslshift.data.sources import Source


class Pictures(Source):
    """Source of images in memory, which may have any shape."""

    def __init__(self, images: Sequence[np.ndarray]):
        super().__init__("memory:pictures", fingerprint="pictures")
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return fit(self._images[index], canvas) if canvas else self._images[index]


def stored(quality: int) -> Callable[[Image.Image], Image.Image]:
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
    "12 grey levels brighter": lambda image: image.point(lambda level: min(255, level + 12)),
    "contrast times 1.1": lambda image: ImageEnhance.Contrast(image).enhance(1.1),
    "JPEG of quality 75": stored(75),
    "JPEG of quality 50": stored(50),
    "reduced to three quarters": _scaled(0.75),
    "reduced to half": _scaled(0.5),
    "a pixel cut off at two sides": lambda image: image.crop((1, 1, *image.size)),
    "a pixel cut off at all four": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
}


# Colours of icons, which are often emoji or flat drawings. Red and green have the same luma, so that only chroma differs.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 130, 0),
    "blue": (0, 0, 255),
    "grey": (128, 128, 128),
    "pink": (255, 160, 190),
    "yellow": (255, 204, 77),
    "orange": (244, 144, 12),
    "brown": (140, 90, 50),
    "purple": (150, 80, 190),
    "black": (0, 0, 0),
    "cyan": (0, 200, 220),
    "dark grey": (60, 60, 60),
}
SHAPES = ("square", "disc", "heart", "ring", "bar")


def icon(shape: str, colour: tuple[int, int, int], side: int, ground: tuple[int, ...] = (255, 255, 255)) -> Image.Image:
    """Returns a shape of one colour on a uniform ground; a ground of four components makes the picture RGBA."""
    # Pillow draws without antialiasing, so the icon is drawn four times as large and then reduced.
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
    "in grey": lambda image: image.convert("L").convert("RGB"),
}


def _balanced(image: Image.Image, factors: tuple[float, float, float]) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image) * factors + 0.5, 0, 255).astype(np.uint8))
