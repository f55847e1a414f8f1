"""Does every method learn? All of them at one small budget on images that ship with the package.

    python -m experiments.methods

No table of the paper: the check that comes before any. At one budget and diversity, for each method: does its loss fall, do
its features keep their rank, and does a linear probe on them beat the same encoder untrained by more than the interval over
seeds? The result that it got here, and what it cost, stand in experiments/README.md.
"""

import functools

from sslshift.study import Study, run_experiment, run_methods

METHODS = Study(
    sources="bundled:fashion_mnist@20000",
    downstream="bundled:fashion_mnist",
    downstream_test="bundled:fashion_mnist/test",
    budget=40_960,
    seeds=3,
    method="simclr,moco_v3,byol,simsiam,barlow_twins,vicreg,dino,mae,nnclr",
    head="512,128",
    optimiser="adamw",
    learning_rate=5e-3,
    weight_decay=1e-4,
    warmup=0.1,
    min_crop_scale=0.2,
    jitter=0.8,
    blur=0.3,
    shift_images=0,
    out="results/methods",
)

OWN = {
    "mae": {"encoder": "vit_nano4", "method_options": "decoder_width=64; decoder_depth=2; decoder_heads=4"},
}

if __name__ == "__main__":
    run_experiment(METHODS, functools.partial(run_methods, defaults=METHODS, own=OWN))
