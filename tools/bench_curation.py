"""Benchmark of curation: recall of planted leaks, pictures that differ only in colour, and times of searches."""

from collections.abc import Callable

import numpy as np

from sslshift.data.curation import (
    find_duplicates,
    find_leaks,
    near_pairs_between_by_hash,
    near_pairs_by_features,
    near_pairs_by_hash,
)
from sslshift.data.curation.identities import Identities
from sslshift.data.decode import from_image, to_image
from sslshift.data.sources import open_source

from .bench_duplicates import measure_duplicates
from .bench_pictures import CHANGES, COLOUR_CHANGES, COLOURS, SHAPES, Pictures, icon

# Test images that are changed and planted among the training images.
PLANTED = 1000


def _colours(show: Callable[..., None]) -> None:
    """Prints the numbers of distinct icons and of detected changed copies, with and without colours."""
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


def measure(show: Callable[..., None], seconds: Callable[[Callable[[], object]], float], uri: str) -> None:
    """Prints the effect of colours, the recall by change for both bundled sets, wrong reports, and the times of searches."""
    if uri != "bundled:fashion_mnist":
        measure_duplicates(show, uri)
        return
    _colours(show)
    for name in ("fashion_mnist", "mnist"):
        train = open_source(f"bundled:{name}")
        test = open_source(f"bundled:{name}/test")
        images = [train[index]["image"] for index in range(len(train))]
        known = {*find_leaks(train, test).test_indices.tolist()}
        alone = near_pairs_between_by_hash(Identities(train).hashes, Identities(test).hashes, 4)
        show("leaks", set=name, planted="nothing", accused=len(known), accused_by_hash_alone=len(np.unique(alone.second)))
        for change, make in CHANGES.items():
            planted = [from_image(make(to_image(test[index]["image"]))) for index in range(PLANTED)]
            found = find_leaks(Pictures(images + planted), test)
            right = found.pairs.first - len(images) == found.pairs.second
            wrong = {*found.test_indices.tolist()} - {*found.pairs.second[right].tolist()} - known
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
