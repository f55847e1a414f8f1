"""Three ways to get more images, compared at equal numbers: from the same source, crawled, and generated.

    python -m experiments.raise_diversity
    python -m experiments.raise_diversity --scale=gpu      # ResNet-18 on the bundled images; one GPU
    python -m experiments.raise_diversity --scale=full     # one GPU; --dry_run prints the time it takes

Repeats the paper's comparison of ways to raise N (https://arxiv.org/abs/2403.13808). The base is a set of images of the task's
source. The other candidates add the same number of images from the source itself, from the web by the same class names, or
from a diffusion model. All have the same budget, every image is seen equally often, and all except the base have the same N.

At the small scale, the source is clothes. Digits represent a crawl (images of other objects), and dead leaves represent a
generator (structure without objects).

The full scale takes ImageNet (`experiments/large.py` prepares it and writes the prompts), images crawled for its class
names, and images generated from these names. /data/urls.parquet has the results of your image search, with a column `url`:

    pip install img2dataset -e ".[generate]"
    img2dataset --url_list=/data/urls.parquet --input_format=parquet --url_col=url --output_format=webdataset \\
        --output_folder=/data/raw/crawl --image_size=256 --resize_mode=keep_ratio
    python -m tools.import_images --input=/data/raw/crawl --output=/data/crawl --size=224
    python -m tools.find_duplicates --source=arrayrecord:/data/crawl --out=/data/crawl_duplicates
    python -m tools.generate_images --prompts=/data/raw/imagenet/classes.txt --per_prompt=660 \\
        --pipeline=stable-diffusion-v1-5/stable-diffusion-v1-5 --output=/data/generated --size=224

Each of the three may also be a folder or a dataset of TFDS; flags replace the declared sources:

    python -m experiments.raise_diversity --scale=full --sources="tfds:imagenet2012/train@640000,1280000" \\
        --downstream=tfds:imagenet2012/train --downstream_test=tfds:imagenet2012/validation \\
        --mixture="base_and_crawled = base:tfds:imagenet2012/train@640000*50% + crawled:folder:/data/crawled@640000*50%" \\
        --mixture="base_and_generated = base:tfds:imagenet2012/train@640000*50% + made:arrayrecord:/data/generated@640000*50%"

Result at the small scale (16 runs in 6 minutes on 2 CPU cores): in comparison with 4,000 images of clothes, the base with
3,000 digits loses 0.2 ± 1.1 points, and the base with 3,000 images of dead leaves loses 1.0 ± 0.8 points. Neither difference is
shown after correction. experiments/README.md has the table.

The scale `gpu` adds 20 and 20,000 images of the source alone. It has the settings of `quickstart.GPU` with three seeds, and
has not run on a GPU yet. By the measurements of quickstart on an H200 (see experiments/README.md), its 18 runs and the
encoder for the shift index should take 235 s, the rest 40 s, and compilation 120 s without kept programs.
"""

import dataclasses

from sslshift.study import run_experiment

from .large import IMAGENET, LARGE
from .quickstart import GPU as QUICKSTART_GPU
from .quickstart import SMALL

RAISE_DIVERSITY = dataclasses.replace(
    SMALL,
    sources="bundled:fashion_mnist@1000,4000",
    mixture=(
        "base_and_crawled = base:bundled:fashion_mnist@1000*25% + crawled:bundled:mnist@3000*75%",
        "base_and_generated = base:bundled:fashion_mnist@1000*25% + generated:synthetic:dead_leaves?size=4000@3000*75%",
    ),
    budget=40_960,
    seeds=4,
    primary="mixture",
    out="results/raise_diversity",
)

GPU = dataclasses.replace(
    QUICKSTART_GPU,
    sources="bundled:fashion_mnist@20,1000,4000,20000",
    mixture=RAISE_DIVERSITY.mixture,
    seeds=3,
    primary="mixture",
    out="results/raise_diversity_gpu",
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
    primary="mixture",
    out="results/raise_diversity_full",
)

if __name__ == "__main__":
    run_experiment(RAISE_DIVERSITY, scales={"gpu": GPU, "full": FULL}, spec=__spec__)
