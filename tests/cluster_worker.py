"""One of several processes: trains every method for some steps and writes the losses and the parameters.

python tests/cluster_worker.py OUT METHODS STEPS ADDRESS PROCESSES PROCESS [--placed]
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags
from conftest import SMALL
from method_steps import plain

from sslshift import cluster
from sslshift.data import open_reader
from sslshift.methods import METHODS
from sslshift.models import PatchMLP, ViT
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser

BATCH = 32


def small(name):
    """A method whose every network is small, with views that round nothing: a jitter rounds to bytes."""
    recipe = METHODS[name]
    encoder = ViT(16, 2, 2, 7) if name == "mae" else PatchMLP(width=8, features=16)
    options = {key: value for key, value in SMALL.items() if key in recipe.options}
    return recipe.build(encoder, **options, views=tuple(plain(view) for view in recipe.views))


def main() -> None:
    out, methods, steps, address, processes, process = sys.argv[1:7]
    flags.FLAGS.mark_as_parsed()
    if int(processes) > 1:
        cluster.join(cluster.ClusterPlace(address, int(processes), int(process)), 60)
    import jax
    import numpy as np

    from sslshift.training.feed import images_of, place
    from sslshift.training.step import make_mesh

    for name in methods.split(","):
        reader = open_reader(
            "bundled:fashion_mnist@100*0.7 + bundled:mnist@50*0.3", int(steps) * BATCH, BATCH, (28, 28, 1), seed=3
        )
        placed = None
        if "--placed" in sys.argv:
            placed = place(images_of([reader.plan]), reader.sources, reader.canvas, make_mesh())
        training = Training(small(name), Optimiser("sgd", learning_rate=0.05, weight_decay=1e-4), checkpoint_every=7)
        if placed:
            training = dataclasses.replace(training, steps_per_dispatch=4)
        state = train(training, reader, seed=5, folder=Path(out) / name, placed=placed)
        if cluster.is_first():
            leaves = {str(i): each for i, each in enumerate(jax.tree.leaves(jax.device_get((state.variables, state.target))))}
            np.savez(Path(out) / f"{name}.npz", **leaves)
    if cluster.is_first():
        (Path(out) / "done.json").write_text(json.dumps({"devices": jax.device_count()}))
    cluster.leave()


if __name__ == "__main__":
    main()
