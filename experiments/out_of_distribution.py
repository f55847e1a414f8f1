"""Far from the task, does diversity make up for the distance? Every source on every task, with the distances between them.

    python -m experiments.out_of_distribution
    python -m experiments.out_of_distribution --scale=full     # one GPU; --dry_run says first how long it takes

Repeats the paper's second finding (https://arxiv.org/abs/2403.13808): more diversity helps where pretraining and downstream
images are close, and does not make up for a shift where they are not. There, encoders are pretrained on ImageNet and on
YFCC100M, judged on many downstream sets, and set against FID and VisualDNA distances; small, there are clothes, digits, dead
leaves and noise, judged on clothes and on digits, so that two sources are near one task and far from the other.

Full scale takes ImageNet and a part of YFCC100M, each imported once, and downstream sets as TFDS prepares them:

    python -m tools.import_images --input=/data/imagenet/train --output=/data/imagenet224 --size=224 --labels=folder
    python -m tools.import_images --input=/data/imagenet/val --output=/data/imagenet224val --size=224 --labels=folder
    python -m tools.import_images --input=/data/yfcc --output=/data/yfcc224 --size=224
    python -c "import tensorflow_datasets as t; [t.builder(name, file_format='array_record').download_and_prepare()
        for name in ('food101', 'oxford_flowers102', 'oxford_iiit_pet', 'dtd')]"

Small, on 2 CPU cores, 36 runs in 10 minutes: each task is served best by its own images (digits: 93.9% against 85.8 to 88.9% of
every other source); slopes on clothes fall in the order of the shift, none of them shown. experiments/README.md has the table.
"""

import dataclasses

from experiments.quickstart import QUICKSTART
from sslshift.study import Study, run_experiment

OUT_OF_DISTRIBUTION = dataclasses.replace(
    QUICKSTART,
    sources=(
        "bundled:fashion_mnist@16,256,4000; bundled:mnist@16,256,4000; synthetic:dead_leaves?size=4000@16,256,4000; "
        "synthetic:noise?size=4000@16,256,4000"
    ),
    task=("digits = bundled:mnist; test=bundled:mnist/test",),
    budget=40_960,
    seeds=3,
    out="results/out_of_distribution",
)

FULL = Study(
    sources="arrayrecord:/data/imagenet224@128000,400000,1280000; arrayrecord:/data/yfcc224@128000,400000,1280000,12800000",
    downstream="arrayrecord:/data/imagenet224",
    downstream_test="arrayrecord:/data/imagenet224val",
    task=(
        "food = tfds:food101/train; test=tfds:food101/validation",
        "flowers = tfds:oxford_flowers102/train; test=tfds:oxford_flowers102/test",
        "pets = tfds:oxford_iiit_pet/train; test=tfds:oxford_iiit_pet/test",
        "textures = tfds:dtd/train; test=tfds:dtd/test",
    ),
    labelled=0,
    image_size=224,
    budget=64_000_000,
    batch_size=512,
    seeds=3,
    method="simclr,moco_v3",
    encoder="resnet50",
    dtype="bfloat16",
    checkpoint_every=5000,
    workers=16,
    out="results/out_of_distribution_full",
)

if __name__ == "__main__":
    run_experiment(OUT_OF_DISTRIBUTION, scales={"full": FULL})
