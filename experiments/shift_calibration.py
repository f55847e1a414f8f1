"""Which distance deserves to stand behind the shift index, and on which features?

    python -m experiments.shift_calibration

The study's discussion names a practical scale of distance as the missing tool (https://arxiv.org/abs/2403.13808). Here every
distance is asked, on images whose answer is known, on raw pixels, on an untrained encoder, and on one trained on an equal
share of all sources: does it say at 200 images what it says at 5,000; does it rise as a source is blended with another, as
images get worse (blur, noise, contrast), as classes are taken away; and is its order of ten sources and mixtures, all of 2,000
images at one budget, their order by the accuracy that is lost downstream?

Here, on 2 CPU cores, half an hour beside 30 runs: kernel distances are as steady as their intervals say, the others are not;
all rise where they must; all predict the order (rank correlation 0.71 to 0.95). experiments/README.md has the table.

At full scale the same questions are asked of other images and encoders by flags, for example

    python -m experiments.shift_calibration --sources="tfds:imagenet2012/train@100000; arrayrecord:DIR/yfcc@100000" \\
        --downstream="pets = tfds:oxford_iiit_pet/train; test=tfds:oxford_iiit_pet/test" --image_size=224 \\
        --encoder=resnet50 --budget=25600000 --out=results/shift_calibration_full
"""

import dataclasses

from experiments.quickstart import QUICKSTART
from sslshift.study import run_experiment
from sslshift.study.calibration import run_calibration

_SHORT = {
    "clothes": "bundled:fashion_mnist",
    "digits": "bundled:mnist",
    "leaves": "synthetic:dead_leaves?size=5000",
    "noise": "synthetic:noise?size=5000",
}


def _half(a: str, b: str) -> str:
    return f"{a}_and_{b} = {a}:{_SHORT[a]}@1000*0.5 + {b}:{_SHORT[b]}@1000*0.5"


CALIBRATION = dataclasses.replace(
    QUICKSTART,
    sources="; ".join(f"{uri}@2000" for uri in _SHORT.values()),
    mixture=(
        _half("clothes", "digits"),
        _half("clothes", "leaves"),
        _half("clothes", "noise"),
        _half("digits", "leaves"),
        _half("digits", "noise"),
        _half("leaves", "noise"),
    ),
    seeds=3,
    shift_images=1000,
    out="results/shift_calibration",
)

if __name__ == "__main__":
    run_experiment(CALIBRATION, run_calibration)
