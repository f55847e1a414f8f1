"""Does diversity help, and does distance decide? The study's question on images that ship with the package.

    python -m experiments.quickstart

Repeats the setting of the paper's first two findings (https://arxiv.org/abs/2403.13808) at the size of a laptop: one budget,
Fashion-MNIST downstream, one near source and three far ones, several diversities, several seeds.

Small, on 2 CPU cores, 36 runs in 9 minutes beside other work, in six alone: +0.50 points of linear accuracy for each factor of
ten in diversity near the task (95%: +0.37 to +0.63), and on average less the farther the source. experiments/README.md has the
table.
"""

from sslshift.study import Study, run, run_experiment

QUICKSTART = Study(
    sources=(
        "bundled:fashion_mnist@4,64,1024,20000; bundled:mnist@4,4000; synthetic:dead_leaves?size=4000@4,4000; "
        "synthetic:noise?size=4000@4000"
    ),
    downstream="bundled:fashion_mnist",
    downstream_test="bundled:fashion_mnist/test",
    budget=40_960,
    seeds=4,
    head="512,128",
    optimiser="adamw",
    learning_rate=5e-3,
    weight_decay=1e-4,
    warmup=0.1,
    min_crop_scale=0.2,
    jitter=0.8,
    blur=0.3,
    out="results/quickstart",
)

if __name__ == "__main__":
    run_experiment(QUICKSTART, run, spec=__spec__)
