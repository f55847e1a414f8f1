"""A check that every method learns, at one small budget, on images that ship with the package.

    python -m experiments.methods

This experiment is not in the paper; it is a check before all others. It asks three questions about each method at one budget
and diversity. Does its loss fall? Do its features keep their rank? Is a linear probe on them better than on the
untrained encoder, by more than the interval over seeds? `--method=byol,dino` selects methods.

Result (30 runs in 20 minutes on 2 CPU cores): every loss falls, no encoder collapses, and seven of the ten methods gain more
over their untrained encoder than the interval (SimCLR gains 2.4 ± 0.8 points). experiments/README.md has the table.
"""

import dataclasses

from sslshift.study import run, run_experiment

from .quickstart import SMALL

# Settings that differ from those of SimCLR. Widths are chosen for the small encoder. The other values had the best accuracy of
# the linear probe on validation images, among the values that experiments/README.md lists.
OWN = (
    "moco_v3: predictor=512",
    "byol: predictor=512",
    "vicreg: learning_rate=2e-3",
    "dino: learning_rate=3e-3; prototypes=2048; momentum=0.99; teacher_temperature=0.04",
    "mae: encoder=vit_nano4; learning_rate=1e-3; min_crop_scale=0.5; decoder_depth=2",
    "nnclr: predictor=512; queue=4096",
    "swav: prototypes=512; queue=0",
)

METHODS = dataclasses.replace(
    SMALL,
    sources="bundled:fashion_mnist@20000",
    budget=102_400,
    seeds=3,
    method="simclr,moco_v3,byol,simsiam,barlow_twins,vicreg,dino,mae,nnclr,swav",
    for_method=OWN,
    shift_images=0,
    out="results/methods",
)

if __name__ == "__main__":
    run_experiment(METHODS, run, spec=__spec__)
