"""Sounds and vibrations as log-spectrograms: the paper's question for data other than images.

    python -m experiments.signals
    python -m experiments.signals --scale=full     # one GPU; no data to prepare

The paper leaves open whether its findings are valid beyond images (https://arxiv.org/abs/2403.13808, discussion). The task is
to classify ten kinds of short events in noise, such as tones, chirps, clicks and bursts. Encoders are pretrained at one budget
on several numbers of unique events, on the hum of a machine (signals without events), on photographs of clothes, and on noise.
Views are not mirrored, because a rising chirp would become a falling one.

Result at the small scale (40 runs in 20 minutes on 2 CPU cores): with events, linear accuracy is 25 points above the untrained
encoder, and gains 1.25 points for each factor of ten in diversity (95% interval +0.22 to +2.28). 16 events are better than
20,000 samples of any other source. experiments/README.md has the table.

For your own recordings, write log-spectrograms as greyscale PNG files, one folder for each class, for example:

    python -m experiments.signals --downstream=folder:/data/bearings --sources="folder:/data/bearings@100,1000; \\
        folder:/data/gearboxes@1000" --image_size=64 --budget=1000000 --encoder=resnet18_cifar
"""

import dataclasses

from sslshift.study import Study, run_experiment

from .quickstart import SMALL

SIGNALS = dataclasses.replace(
    SMALL,
    sources=(
        "synthetic:events?size=20000@16,256,20000; synthetic:hum?size=20000@16,256,20000; bundled:fashion_mnist@16,256,20000; "
        "synthetic:noise?size=20000@20000"
    ),
    downstream="events = synthetic:events?size=5000&seed=1; test=synthetic:events?size=5000&seed=2",
    downstream_test="",
    budget=81_920,
    seeds=4,
    flip=0.0,
    out="results/signals",
)

FULL = Study(
    sources=(
        "synthetic:events?size=1000000@1000,30000,1000000; synthetic:hum?size=1000000@1000,30000,1000000; "
        "synthetic:noise?size=1000000@1000000"
    ),
    downstream="events = synthetic:events?size=50000&seed=1; test=synthetic:events?size=10000&seed=2",
    labelled=0,
    budget=10_000_000,
    seeds=3,
    encoder="resnet18_cifar",
    dtype="bfloat16",
    flip=0.0,
    checkpoint_every=5000,
    workers=8,
    out="results/signals_full",
)

if __name__ == "__main__":
    run_experiment(SIGNALS, scales={"full": FULL}, spec=__spec__)
