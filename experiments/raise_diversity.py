"""Three ways to more images: of the same source, crawled, generated. Which is worth it, at the same number of images?

    python -m experiments.raise_diversity
    python -m experiments.raise_diversity --scale=full     # one GPU; --dry_run says first how long it takes

Repeats the paper's comparison of ways to raise N (https://arxiv.org/abs/2403.13808): a base set of images of the task's
source, and the same base with as many more images from the source itself, from the web by the same class names, or from a
diffusion model. The budget is the same for all, every image is seen equally often, and all but the base have the same N.

Small, the source is clothes; digits stand in for what a crawl brings (other images of objects), dead leaves for what a
generator makes (structure, no objects).

Full scale takes ImageNet, a crawl for its class names, and images generated from them, each imported once:

    python -m tools.import_images --input=/data/imagenet/train --output=/data/imagenet224 --size=224 --labels=folder
    python -m tools.import_images --input=/data/imagenet/val --output=/data/imagenet224val --size=224 --labels=folder
    img2dataset --url_list=/data/urls.parquet --output_folder=/data/crawl --output_format=webdataset --image_size=256
    python -m tools.import_images --input=/data/crawl --output=/data/crawl224 --size=224
    python -m tools.generate_images --prompts=/data/imagenet/classes.txt --pipeline=stabilityai/stable-diffusion-2-1 \\
        --per_prompt=640 --output=/data/generated224 --size=224
    python -m tools.find_duplicates --source=arrayrecord:/data/crawl224 --out=results/duplicates

Small, on 2 CPU cores, 16 runs in 5 minutes: against 4,000 clothes, three quarters digits lose 0.7 points (+- 0.9), three
quarters dead leaves 1.6 (+- 1.4). experiments/README.md has the table.
"""

import dataclasses

from experiments.quickstart import QUICKSTART
from sslshift.study import Study, run_experiment

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

FULL = Study(
    sources="arrayrecord:/data/imagenet224@640000,1280000",
    mixture=(
        "base_and_crawled = base:arrayrecord:/data/imagenet224@640000*50% + crawled:arrayrecord:/data/crawl224@640000*50%",
        "base_and_generated = base:arrayrecord:/data/imagenet224@640000*50% + "
        "generated:arrayrecord:/data/generated224@640000*50%",
    ),
    downstream="arrayrecord:/data/imagenet224",
    downstream_test="arrayrecord:/data/imagenet224val",
    labelled=0,
    image_size=224,
    budget=64_000_000,
    batch_size=512,
    seeds=3,
    encoder="resnet50",
    dtype="bfloat16",
    checkpoint_every=5000,
    workers=16,
    out="results/raise_diversity_full",
)

if __name__ == "__main__":
    run_experiment(RAISE_DIVERSITY, scales={"full": FULL})
