"""Near the task, does more diversity help every method? Seven methods, one budget, a ladder of different images.

    python -m experiments.in_distribution
    python -m experiments.in_distribution --scale=full     # one GPU; --dry_run says first how long it takes

Repeats the paper's first finding (https://arxiv.org/abs/2403.13808): pretrained on images of the downstream distribution at a
fixed budget C, encoders of all methods get better with diversity D = N / C. There the images are CIFAR-100's and Tiny
ImageNet's; small, they are the clothes that ship with the package. MAE stands on a ViT, the others on one encoder.

Full scale takes CIFAR-100 as TFDS prepares it, 160 MB:

    python -c "import tensorflow_datasets as t; t.builder('cifar100', file_format='array_record').download_and_prepare()"

and spends what 1,000 epochs of its 50,000 images would; the recipes are those of `sslshift/methods/recipes.py`.

Small, on 2 CPU cores, 63 runs in 17 minutes: the slopes of all seven methods are above 0 (+0.04 to +0.24 points of linear
accuracy for each factor of ten in diversity), SimCLR's alone by more than chance. experiments/README.md has the table.
"""

import dataclasses

from experiments.methods import OWN
from experiments.quickstart import QUICKSTART
from sslshift.study import Study, run_experiment

SEVEN = "simclr,moco_v3,byol,barlow_twins,vicreg,dino,mae"

IN_DISTRIBUTION = dataclasses.replace(
    QUICKSTART,
    sources="bundled:fashion_mnist@16,512,16000",
    budget=20_480,
    seeds=3,
    method=SEVEN,
    for_method=OWN,
    out="results/in_distribution",
)

FULL = Study(
    sources="tfds:cifar100/train@500,5000,50000",
    downstream="tfds:cifar100/train",
    downstream_test="tfds:cifar100/test",
    labelled=0,
    budget=50_000_000,
    seeds=3,
    method=SEVEN,
    encoder="resnet18_cifar",
    for_method=("mae: encoder=vit_s4",),
    dtype="bfloat16",
    checkpoint_every=5000,
    workers=8,
    out="results/in_distribution_full",
)

if __name__ == "__main__":
    run_experiment(IN_DISTRIBUTION, scales={"full": FULL})
