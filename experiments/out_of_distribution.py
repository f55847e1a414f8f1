"""Diversity far from the task: every source on every task, with the distances between them.

    python -m experiments.out_of_distribution
    python -m experiments.out_of_distribution --scale=full     # one GPU; --dry_run prints the time it takes

Repeats the paper's second finding (https://arxiv.org/abs/2403.13808): more diversity helps if pretraining and downstream
images are similar, and does not compensate for a shift if they are not. The paper pretrains on ImageNet and on YFCC100M,
evaluates on many downstream datasets, and compares accuracies with FID and VisualDNA distances. The small scale pretrains on
clothes, digits, dead leaves and noise, and evaluates on clothes and on digits, so that two sources are near one task and far
from the other.

The full scale takes ImageNet and a part of YFCC100M, which `experiments/large.py` prepares, and six further tasks. Unpack the
published archives (the binary version of CIFAR) into /data/raw/TASK:

    for task in cifar10 cifar100 flowers pets cars food; do
      python -m tools.list_images --layout=$task --input=/data/raw/$task
    done
    for split in train test; do
      for task in cifar10 cifar100; do
        python -m tools.import_images --input=/data/raw/$task/$split.csv --output=/data/$task/$split --encoding=png
      done
      for task in flowers pets cars food; do
        python -m tools.import_images --input=/data/raw/$task/$split.csv --output=/data/$task/$split --size=224
      done
    done
    python -m tools.import_images --input=/data/raw/flowers/validation.csv --output=/data/flowers/validation --size=224

The study's shift index uses one distance. These commands measure FID and VisualDNA to each task on features of a published
encoder:

    python -m tools.fetch_encoder dinov2-small --out=/data/encoders
    for task in imagenet cifar10 cifar100 flowers pets cars food; do
      python -m tools.shift --target=arrayrecord:/data/$task/test --source=arrayrecord:/data/imagenet/train \\
        --source=arrayrecord:/data/yfcc --encoder=/data/encoders/dinov2-small.safetensors --images=10000 \\
        --distances=frechet,visual_dna --out=results/shift/$task
    done

Result at the small scale (36 runs in 14 minutes on 2 CPU cores): for each task, its own images are best (digits: up to 93.9%;
other sources: 85.6 to 88.6%). On clothes, the effect of diversity falls by 0.82 points for each unit of the shift index
(-1.36 to -0.27, for these four sources). experiments/README.md has the tables.
"""

import dataclasses

from sslshift.study import run_experiment

from .large import IMAGENET, LARGE, YFCC
from .quickstart import SMALL

OUT_OF_DISTRIBUTION = dataclasses.replace(
    SMALL,
    sources=(
        "bundled:fashion_mnist@16,256,4000; bundled:mnist@16,256,4000; synthetic:dead_leaves?size=4000@16,256,4000; "
        "synthetic:noise?size=4000@16,256,4000"
    ),
    task=("digits = bundled:mnist; test=bundled:mnist/test",),
    budget=40_960,
    seeds=3,
    primary="shift",
    out="results/out_of_distribution",
)

FULL = dataclasses.replace(
    LARGE,
    sources=f"{IMAGENET}@128000,400000,1280000; {YFCC}@128000,400000,1280000,12800000",
    task=(
        *(
            f"{name} = arrayrecord:/data/{name}/train; test=arrayrecord:/data/{name}/test"
            for name in ("cifar10", "cifar100", "pets", "cars", "food")
        ),
        "flowers = arrayrecord:/data/flowers/train; validation=arrayrecord:/data/flowers/validation; "
        "test=arrayrecord:/data/flowers/test",
    ),
    method="simclr,moco_v3",
    primary="shift",
    out="results/out_of_distribution_full",
)

if __name__ == "__main__":
    run_experiment(OUT_OF_DISTRIBUTION, scales={"full": FULL}, spec=__spec__)
