"""Three ways to more images: of the same source, crawled, generated. Which is worth it, at the same number of images?

    python -m experiments.raise_diversity
    python -m experiments.raise_diversity --scale=full     # one GPU; --dry_run says first how long it takes

Repeats the paper's comparison of ways to raise N (https://arxiv.org/abs/2403.13808): a base set of images of the task's
source, and the same base with as many more images from the source itself, from the web by the same class names, or from a
diffusion model. The budget is the same for all, every image is seen equally often, and all but the base have the same N.

Small, the source is clothes; digits stand in for what a crawl brings (other images of objects), dead leaves for what a
generator makes (structure, no objects).

Full scale takes ImageNet as `experiments/large.py` prepares it (which writes the prompts too), a crawl for its class names, and
images generated from them; /data/urls.parquet is what your image search found, with a column `url`:

    pip install img2dataset -e ".[generate]"
    img2dataset --url_list=/data/urls.parquet --input_format=parquet --url_col=url --output_format=webdataset \\
        --output_folder=/data/raw/crawl --image_size=256 --resize_mode=keep_ratio
    python -m tools.import_images --input=/data/raw/crawl --output=/data/crawl --size=224
    python -m tools.find_duplicates --source=arrayrecord:/data/crawl --out=/data/crawl_duplicates
    python -m tools.generate_images --prompts=/data/raw/imagenet/classes.txt --per_prompt=660 \\
        --pipeline=stable-diffusion-v1-5/stable-diffusion-v1-5 --output=/data/generated --size=224

Each of the three may be a folder or a dataset of TFDS as well; what a flag names takes the place of what is declared:

    python -m experiments.raise_diversity --scale=full --sources="tfds:imagenet2012/train@640000,1280000" \\
        --downstream=tfds:imagenet2012/train --downstream_test=tfds:imagenet2012/validation \\
        --mixture="base_and_crawled = base:tfds:imagenet2012/train@640000*50% + crawled:folder:/data/crawled@640000*50%" \\
        --mixture="base_and_generated = base:tfds:imagenet2012/train@640000*50% + made:arrayrecord:/data/generated@640000*50%"

Small, on 2 CPU cores, 16 runs in 5 minutes: against 4,000 clothes, three quarters digits lose 0.7 points (+- 0.9), three
quarters dead leaves 1.6 (+- 1.4). experiments/README.md has the table.
"""

import dataclasses

from sslshift.study import run_experiment

from .large import IMAGENET, LARGE
from .quickstart import QUICKSTART

RAISE_DIVERSITY = dataclasses.replace(
    QUICKSTART,
    sources="bundled:fashion_mnist@1000,4000",
    mixture=(
        "base_and_crawled = base:bundled:fashion_mnist@1000*25% + crawled:bundled:mnist@3000*75%",
        "base_and_generated = base:bundled:fashion_mnist@1000*25% + generated:synthetic:dead_leaves?size=4000@3000*75%",
    ),
    budget=40_960,
    seeds=4,
    out="results/raise_diversity",
)

CRAWLED = "arrayrecord:/data/crawl?keep=/data/crawl_duplicates/kept.parquet"
GENERATED = "arrayrecord:/data/generated"

FULL = dataclasses.replace(
    LARGE,
    sources=f"{IMAGENET}@640000,1280000",
    mixture=(
        f"base_and_crawled = base:{IMAGENET}@640000*50% + crawled:{CRAWLED}@640000*50%",
        f"base_and_generated = base:{IMAGENET}@640000*50% + generated:{GENERATED}@640000*50%",
    ),
    out="results/raise_diversity_full",
)

if __name__ == "__main__":
    run_experiment(RAISE_DIVERSITY, scales={"full": FULL}, spec=__spec__)
