"""A reference encoder in colour that has seen no photograph: SimCLR on generated images, evaluated on tasks of other images.

    python -m experiments.reference_encoder
    python -m experiments.reference_encoder --scale=gpu     # 8 minutes on one H100, by estimate

This experiment is not in the paper. It trains an encoder to ship with the package (`--encoder=bundled`) on fractals, shapes,
textures and textured leaves, a quarter each, which `sslshift/data/scenes.py` generates, and compares it with the same network
untrained. The first task, to name the outline of one object in front of a texture, is generated too; the others are the bundled
clothes and digits. `python -m tools.make_bundled_encoder` ships the result.

The small scale is 1 run of 2,048,000 samples. By the time of its steps, it takes two to four hours on 2 CPU cores. The scale
`gpu` trains a network of four times the size on 6.1 million images, each of them seen once and made by worker processes during
the training. It has not run yet. experiments/README.md says how the file that ships was trained, and what it is worth.
"""

import dataclasses

from sslshift.study import Study, run_experiment

_KINDS = ("fractals", "shapes", "textures", "textured_leaves")


def generated(size: int) -> str:
    """Returns a mixture with an equal share of every kind of generated images, `size` different images of each."""
    return "generated = " + " + ".join(f"{kind}:synthetic:{kind}?size={size}@all*0.25" for kind in _KINDS)


REFERENCE_ENCODER = Study(
    mixture=(generated(50_000),),
    downstream="objects = synthetic:objects?size=5000&seed=1; test=synthetic:objects?size=2000&seed=2",
    task=(
        "clothes = bundled:fashion_mnist; test=bundled:fashion_mnist/test",
        "digits = bundled:mnist; test=bundled:mnist/test",
    ),
    image_size=64,
    budget=2_048_000,
    seeds=1,
    untrained_seeds=3,
    encoder="resnet_nano4",
    head="512,128",
    optimiser="adamw",
    learning_rate=3e-3,
    weight_decay=1e-3,
    warmup=0.05,
    min_crop_scale=0.25,
    jitter=0.8,
    blur=0.3,
    primary="source",
    # The index to the tasks would be measured by encoders of this study.
    shift_images=0,
    out="results/reference_encoder",
)

GPU = dataclasses.replace(
    REFERENCE_ENCODER,
    mixture=(generated(1_500_000),),
    budget=6_144_000,
    batch_size=512,
    encoder="resnet_micro4",
    dtype="bfloat16",
    head="1024,128",
    learning_rate=1e-3,
    checkpoint_every=1000,
    # Every image is new: it is made when its batch is due, on all cores, and not kept on the device.
    workers=14,
    device_memory=0.0,
    out="results/reference_encoder_gpu",
)

if __name__ == "__main__":
    run_experiment(REFERENCE_ENCODER, scales={"gpu": GPU}, spec=__spec__)
