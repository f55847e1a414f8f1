"""Diversity and distance: the paper's question at the size of a laptop, on images that ship with the package.

    python -m experiments.quickstart
    python -m experiments.quickstart --scale=gpu     # ResNet-18 on one GPU

In the design of the paper's first two findings (https://arxiv.org/abs/2403.13808): one budget, Fashion-MNIST as the task, nine
sources at known distances from it, five of them blends, two numbers of unique images, and three seeds. The primary question is
the second finding: does the effect of diversity fall with the distance?

Result (54 runs in 6.5 minutes on 2 CPU cores): near the task, linear accuracy gains 0.39 points for each factor of ten in
diversity (95% interval +0.22 to +0.56). The gain falls by 1.19 points for each unit of the shift index (-2.20 to -0.18).
experiments/README.md has the table.

The scale `gpu` uses the same images with a ResNet-18 in bfloat16 and 12 times the budget, at 20 to 20,000 images of clothes.
Other experiments share its settings. On an H200 it took 238 s with compiled programs of an earlier call, 82% of it training
at 41,700 samples/s; without them, compilation adds about two minutes. With two seeds, no trend is significant (+0.60 points
for each factor of ten near the task, -1.17 to +2.37): 20 clothes are about 2 points behind 200, which do as well as 20,000.
"""

import dataclasses

from sslshift.study import Study, run, run_experiment
from sslshift.study.declare import SMALL_ENCODER

# Settings that other experiments share; they have sources of their own.
SMALL = Study(
    sources="bundled:fashion_mnist",
    downstream="bundled:fashion_mnist",
    downstream_test="bundled:fashion_mnist/test",
    budget=40_960,
    seeds=4,
    **SMALL_ENCODER,
)

SOURCES = {
    "clothes": "bundled:fashion_mnist",
    "digits": "bundled:mnist",
    "leaves": "synthetic:dead_leaves?size=4000",
    "noise": "synthetic:noise?size=4000",
}


def blend(name: str, share: float, first: str, second: str) -> tuple[str, str]:
    """Returns a blend of two sources, by name, with 4 and with 4,000 unique images; the first has the share."""
    # The index of a blend is known to lie between those of its parts.
    parts = ((first, share), (second, 1 - share))
    few, many = (
        " + ".join(f"{part}:{SOURCES[part]}@{round(own * unique)}*{own:g}" for part, own in parts) for unique in (4, 4000)
    )
    return f"{name} = {few}", f"{name} = {many}"


# The change of a trend with the shift needs many sources that are spread over the index, and two numbers of images for each:
# a further number of images, or a fourth seed, would tell less about it.
QUICKSTART = dataclasses.replace(
    SMALL,
    sources="; ".join(f"{name} = {uri}@4,{20_000 if name == 'clothes' else 4000}" for name, uri in SOURCES.items()),
    mixture=(
        *blend("clothes_and_few_digits", 0.75, "clothes", "digits"),
        *blend("clothes_and_digits", 0.5, "clothes", "digits"),
        *blend("clothes_and_leaves", 0.5, "clothes", "leaves"),
        *blend("clothes_and_noise", 0.5, "clothes", "noise"),
        *blend("leaves_and_noise", 0.5, "leaves", "noise"),
    ),
    primary="shift",
    seeds=3,
    out="results/quickstart",
)

# Heads and temperatures are those of the recipes, but not the optimiser: their LARS with a warm-up of a hundredth is made for a
# budget that is a hundred times as large. AdamW with a warm-up of a tenth is as above, at the usual rate for a ResNet.
GPU = dataclasses.replace(
    SMALL,
    sources=("bundled:fashion_mnist@20,200,2000,20000; bundled:mnist@4,4000; synthetic:dead_leaves?size=4000@4,4000"),
    budget=512_000,
    batch_size=512,
    seeds=2,
    encoder="resnet18_cifar",
    dtype="bfloat16",
    head="",
    learning_rate=1e-3,
    checkpoint_every=500,
    out="results/quickstart_gpu",
)

if __name__ == "__main__":
    run_experiment(QUICKSTART, run, {"gpu": GPU}, spec=__spec__)
