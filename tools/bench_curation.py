"""How many planted leaks are found, and how long the searches for near pairs take."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from sslshift.data.curation import find_leaks, near_pairs_between_by_hash, near_pairs_by_features, near_pairs_by_hash
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


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float]) -> None:
    """Prints recall by change for both bundled sets, wrong accusations, and times of searches."""
    for name in ("fashion_mnist", "mnist"):
        train, test = open_source(f"bundled:{name}"), open_source(f"bundled:{name}/test")
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
