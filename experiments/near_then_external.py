"""Few near images and many external ones: compares each alone, a mixture of both, and both in sequence.

    python -m experiments.near_then_external
    python -m experiments.near_then_external --scale=gpu      # ResNet-18 on the bundled images; one GPU
    python -m experiments.near_then_external --scale=full     # one GPU; --dry_run prints the time it takes

The paper leaves open how to combine near and external images (https://arxiv.org/abs/2403.13808). The candidates are near images
alone, external images alone, a mixture of both, and both in sequence in either order, all at the same budget C. They are
compared once at equal numbers of unique images, and once at equal total cost. A near image costs as much as ten external ones
(`cost_per_image` of the sources).

At the small scale, near images are clothes, external images are digits, and the task is clothes. At the full scale, near images
are photographs of dishes, and external images are a part of YFCC100M:

    mkdir -p /data/raw/food
    curl -s http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz | tar -xz --strip-components=1 -C /data/raw/food
    python -m tools.list_images --layout=food --input=/data/raw/food
    for split in train test; do
      python -m tools.import_images --input=/data/raw/food/$split.csv --output=/data/food/$split --size=224
    done
    python -m tools.import_images --input=/data/raw/yfcc --output=/data/yfcc --size=224  # files, zip archives or tar shards

Result at the small scale (40 runs in 9 minutes on 2 CPU cores): a mixture of 1,000 near and 1,000 external images is as good
as 2,000 near images (+0.0 ± 0.4 points), and no order is shown to differ from near images alone. experiments/README.md has
the table.

The scale `gpu` adds 20 and 20,000 near images alone, so that a mixture can be compared with the number of near images that it
replaces. It has the settings of `quickstart.GPU`, and has not run on a GPU yet. By the measurements of quickstart on an H200
(see experiments/README.md), its 24 runs and the encoder for the shift index should take 310 s, the rest 40 s, and compilation
120 s without kept programs.
"""

import dataclasses

from sslshift.study import run_experiment

from .large import FOOD, FOOD_TEST, LARGE, YFCC
from .quickstart import GPU as QUICKSTART_GPU
from .quickstart import SMALL


def orders(near: str, external: str, images: str, few: int, many: int) -> tuple[str, ...]:
    """Returns three mixtures of `few` near and `many` external images: mixed, near ones first, and external ones first."""
    near = f"near:{near}@{few}"
    external = f"external:{external}@{many}"
    return (
        f"mixed_{images} = {near}*50% + {external}*50%",
        f"near_then_external_{images} = {near} for 50%; {external}",
        f"external_then_near_{images} = {external} for 50%; {near}",
    )


CLOTHES = "bundled:fashion_mnist?cost_per_image=1"
DIGITS = "bundled:mnist?cost_per_image=0.1"

NEAR_THEN_EXTERNAL = dataclasses.replace(
    SMALL,
    # Equal costs: 400 near and 4,000 external images. Equal numbers: 2,000 of each.
    sources=f"{CLOTHES}@400,2000; {DIGITS}@2000,4000",
    mixture=(*orders(CLOTHES, DIGITS, "equal_n", 1000, 1000), *orders(CLOTHES, DIGITS, "equal_cost", 200, 2000)),
    downstream=CLOTHES,
    budget=40_960,
    seeds=4,
    primary="mixture",
    out="results/near_then_external",
)

GPU = dataclasses.replace(
    QUICKSTART_GPU,
    sources=f"{CLOTHES}@20,400,2000,20000; {DIGITS}@2000,4000",
    mixture=NEAR_THEN_EXTERNAL.mixture,
    downstream=CLOTHES,
    primary="mixture",
    out="results/near_then_external_gpu",
)

DISHES = f"{FOOD}?cost_per_image=1"
CRAWLED = f"{YFCC}?cost_per_image=0.1"

FULL = dataclasses.replace(
    LARGE,
    # Equal costs: 7,500 near and 75,000 external images. Equal numbers: 60,000 of each.
    sources=f"{DISHES}@7500,60000; {CRAWLED}@60000,75000",
    mixture=(*orders(DISHES, CRAWLED, "equal_n", 30_000, 30_000), *orders(DISHES, CRAWLED, "equal_cost", 3750, 37_500)),
    downstream=DISHES,
    downstream_test=FOOD_TEST,
    budget=32_000_000,
    primary="mixture",
    out="results/near_then_external_full",
)

if __name__ == "__main__":
    run_experiment(NEAR_THEN_EXTERNAL, scales={"gpu": GPU, "full": FULL}, spec=__spec__)
