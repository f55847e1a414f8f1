"""Diversity near the task: seven methods at one budget, each with three numbers of unique images.

    python -m experiments.in_distribution
    python -m experiments.in_distribution --scale=gpu              # four methods on the bundled images; one GPU
    python -m experiments.in_distribution --scale=full             # CIFAR-100; one GPU; --dry_run prints the time it takes
    python -m experiments.in_distribution --scale=tiny_imagenet
    python -m experiments.in_distribution --scale=imagenet

Repeats the table of seven methods for the paper's first finding (https://arxiv.org/abs/2403.13808): encoders that are
pretrained on images of the downstream distribution at a fixed budget C improve with diversity D = N / C for every method. The
paper uses CIFAR-100, Tiny ImageNet and ImageNet; the small scale uses the bundled images of clothes. MAE uses a ViT, the other
methods share one encoder.

The full scale takes CIFAR-100 and Tiny ImageNet as their authors publish them (for ImageNet, see `experiments/large.py`):

    mkdir -p /data/raw/cifar100
    curl -s https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz | tar -xz --strip-components=1 -C /data/raw/cifar100
    curl -s http://cs231n.stanford.edu/tiny-imagenet-200.zip -o /data/raw/tiny_imagenet.zip
    unzip -q /data/raw/tiny_imagenet.zip -d /data/raw && mv /data/raw/tiny-imagenet-200 /data/raw/tiny_imagenet
    for set in cifar100 tiny_imagenet; do
      python -m tools.list_images --layout=$set --input=/data/raw/$set
      for split in train test; do
        python -m tools.import_images --input=/data/raw/$set/$split.csv --output=/data/$set/$split --encoding=png
      done
    done

The budgets are 1,000 epochs of CIFAR-100, 500 of Tiny ImageNet and 50 of ImageNet, and the recipes are those of
`sslshift/methods/recipes.py`. A dataset that TFDS prepared in ArrayRecord format needs no import (TensorFlow is needed only to
prepare it):

    python -m experiments.in_distribution --scale=full --sources=tfds:cifar100/train@500,5000,50000 \\
        --downstream=tfds:cifar100/train --downstream_test=tfds:cifar100/test

Result at the small scale (63 runs in 28 minutes on 2 CPU cores beside other work): the slopes of all seven methods are above
0 (+0.03 to +0.30 points of linear accuracy for each factor of ten in diversity), and none of them is shown alone.
experiments/README.md has the tables.

The scale `gpu` compares SimCLR, BYOL, VICReg and MAE at 20 and 20,000 images of clothes, with the settings of
`quickstart.GPU`. It has not run on a GPU yet. By the measurements of quickstart on an H200 (see experiments/README.md), its
16 runs should take 185 s, if BYOL takes a third longer than SimCLR and MAE half as long, and the rest 40 s. Without kept
programs, compilation should add 230 to 270 s, since three methods compile a ResNet.
"""

import dataclasses

from sslshift.study import Study, run_experiment

from .large import IMAGENET, LARGE
from .methods import OWN
from .quickstart import GPU as QUICKSTART_GPU
from .quickstart import SMALL

SEVEN = "simclr,moco_v3,byol,barlow_twins,vicreg,dino,mae"

IN_DISTRIBUTION = dataclasses.replace(
    SMALL,
    sources="bundled:fashion_mnist@16,512,16000",
    budget=20_480,
    seeds=3,
    method=SEVEN,
    for_method=OWN,
    out="results/in_distribution",
)

GPU = dataclasses.replace(
    QUICKSTART_GPU,
    sources="bundled:fashion_mnist@20,20000",
    method="simclr,byol,vicreg,mae",
    # MAE has the optimiser of its recipe at a higher rate, and a decoder for images of 49 patches.
    for_method=("mae: encoder=vit_s4; learning_rate=5e-4; weight_decay=0.05; min_crop_scale=0.5; decoder_depth=2",),
    # All images are of the task.
    shift_images=0,
    out="results/in_distribution_gpu",
)

FULL = Study(
    sources="arrayrecord:/data/cifar100/train@500,5000,50000",
    downstream="arrayrecord:/data/cifar100/train",
    downstream_test="arrayrecord:/data/cifar100/test",
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

FULL_TINY_IMAGENET = dataclasses.replace(
    FULL,
    sources="arrayrecord:/data/tiny_imagenet/train@1000,10000,100000",
    downstream="arrayrecord:/data/tiny_imagenet/train",
    downstream_test="arrayrecord:/data/tiny_imagenet/test",
    for_method=("mae: encoder=vit_s8",),
    out="results/in_distribution_tiny_imagenet",
)

FULL_IMAGENET = dataclasses.replace(
    LARGE,
    sources=f"{IMAGENET}@12800,128000,1280000",
    method=SEVEN,
    for_method=("mae: encoder=vit_b16",),
    out="results/in_distribution_imagenet",
)

SCALES = {"gpu": GPU, "full": FULL, "tiny_imagenet": FULL_TINY_IMAGENET, "imagenet": FULL_IMAGENET}

if __name__ == "__main__":
    run_experiment(IN_DISTRIBUTION, scales=SCALES, spec=__spec__)
