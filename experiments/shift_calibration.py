"""Which distance deserves to stand behind the shift index, and on which features?

    python -m experiments.shift_calibration
    python -m experiments.shift_calibration --scale=full     # one GPU; --dry_run says first how long it takes

The study's discussion names a practical scale of distance as the missing tool (https://arxiv.org/abs/2403.13808). Here every
distance is asked, on images whose answer is known, on raw pixels, on an untrained encoder, and on one trained on an equal
share of all sources: does it say at 200 images what it says at 5,000; does it rise as a source is blended with another, as
images get worse (blur, noise, contrast), as classes are taken away; and is its order of ten sources and mixtures, all of 2,000
images at one budget, their order by the accuracy that is lost downstream?

Small, on 2 CPU cores, half an hour beside 30 runs: kernel distances and proxy A are as steady as their intervals say, Frechet,
VisualDNA and sliced Wasserstein are not; all rise where they must, but for single steps; all predict the order (rank
correlation 0.71 to 0.95). experiments/README.md has the table.

Full scale takes dishes as the target's kind, with ImageNet, a part of YFCC100M and dead leaves; `experiments/large.py` and
`experiments/near_then_external.py` prepare them.
"""

import dataclasses
import itertools

from sslshift.study import run_experiment
from sslshift.study.calibration import run_calibration

from .large import FOOD, FOOD_TEST, IMAGENET, LARGE, YFCC
from .quickstart import QUICKSTART


def halves(sources: dict[str, str], images: int) -> tuple[str, ...]:
    """Every two of the sources mixed, half of the images from either."""
    return tuple(
        f"{a}_and_{b} = {a}:{sources[a]}@{images // 2}*0.5 + {b}:{sources[b]}@{images // 2}*0.5"
        for a, b in itertools.combinations(sources, 2)
    )


def alone(sources: dict[str, str], images: int) -> str:
    return "; ".join(f"{uri}@{images}" for uri in sources.values())


SMALL_SOURCES = {
    "clothes": "bundled:fashion_mnist",
    "digits": "bundled:mnist",
    "leaves": "synthetic:dead_leaves?size=5000",
    "noise": "synthetic:noise?size=5000",
}

CALIBRATION = dataclasses.replace(
    QUICKSTART,
    sources=alone(SMALL_SOURCES, 2000),
    mixture=halves(SMALL_SOURCES, 2000),
    seeds=3,
    shift_images=1000,
    out="results/shift_calibration",
)

LARGE_SOURCES = {"dishes": FOOD, "objects": IMAGENET, "web": YFCC, "leaves": "synthetic:dead_leaves?size=60000"}

FULL = dataclasses.replace(
    LARGE,
    sources=alone(LARGE_SOURCES, 60_000),
    mixture=halves(LARGE_SOURCES, 60_000),
    downstream=FOOD,
    downstream_test=FOOD_TEST,
    budget=32_000_000,
    out="results/shift_calibration_full",
)

if __name__ == "__main__":
    run_experiment(CALIBRATION, run_calibration, scales={"full": FULL}, spec=__spec__)
