"""A check for collapse while a run trains: whether the networks still tell images apart. It needs no labels.

In a run of at least 100 steps, signals are computed from up to 256 images of a batch at a quarter, at half, at three quarters
and at the end, and are added to the line of that step in `metrics.jsonl`. They use embeddings, the output of the
projector, because the encoder's features keep several directions long after the embeddings have lost theirs. mae has no
embeddings.

| name | meaning | collapsed below |
|---|---|---|
| `embedding_rank` | directions in which images differ: the participation ratio of the variances; not of dino and swav | 1.6 |
| `embedding_spread` | share of the differences between images in the squared length of the embeddings | 0.1 |
| `feature_spread` | the same of the features of a method without embeddings | 0.001 |

The limits lie between what sound and collapsed runs of patch_mlp (mae: vit_nano4) on bundled:fashion_mnist had after 50 to 200
steps. Sound runs of all ten methods: rank at least 2.06, spread at least 0.43, mae's 0.0045. The rank is not used for dino and
swav, whose embeddings are assigned to prototypes: theirs was 1.16 to 2.1. SimSiam with a gradient through its target: rank 1.1
to 1.9; SimSiam without its predictor: 1.3 to 1.8; Barlow Twins without its off-diagonal term: 1.0; BYOL without its predictor:
spread 0.04 to 0.05. Other encoders were not measured. Embeddings that shrink without losing directions, as in vicreg without
its variance term, are not noticed.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslshift.methods import Method
from sslshift.methods.siamese import Siamese
from sslshift.models import PrototypeHead, Prototypes
from sslshift.training.feed import StepChunk
from sslshift.training.sharding import gathered
from sslshift.training.step import Metrics

PyTree = Any

RANK = "embedding_rank"
SPREAD = "embedding_spread"
FEATURE_SPREAD = "feature_spread"

_CHECKS = 4
_IMAGES = 256
# The features of a shorter run are still those of the untrained encoder, and fewer images differ in few directions anyway.
_FEWEST_STEPS = 100
_FEWEST_IMAGES = 32

# See the docstring of this file.
_LEAST = {RANK: 1.6, SPREAD: 0.1, FEATURE_SPREAD: 0.001}


def embedding_signals(embeddings: jax.Array) -> Metrics:
    """Returns `embedding_rank` and `embedding_spread`.

    Example:
      >>> found = embedding_signals(jnp.array([[3.0, 1.0], [3.0, -1.0]]))
      >>> float(found["embedding_rank"]), round(float(found["embedding_spread"]), 3)
      (1.0, 0.1)

    Args:
      embeddings: embeddings of different images, float32 `[n, dim]`.
    """
    # The signals do not depend on scale. At length 1 no square overflows.
    embeddings = embeddings / jnp.maximum(jnp.max(jnp.abs(embeddings)), jnp.finfo(jnp.float32).tiny)
    centred = embeddings - embeddings.mean(axis=0, keepdims=True)
    variance = jnp.square(centred).sum()
    length = jnp.square(embeddings).sum()
    # The smaller of the two products has the same eigenvalues besides zeros.
    product = centred @ centred.T if len(embeddings) < embeddings.shape[1] else centred.T @ centred
    squares = jnp.square(product).sum()
    return {
        RANK: jnp.where(squares > 0, jnp.square(variance) / jnp.where(squares > 0, squares, 1.0), 1.0),
        SPREAD: jnp.where(length > 0, variance / jnp.where(length > 0, length, 1.0), 0.0),
    }


class CollapseCheck:
    """The check of one run, with a program of its own: the program of the training step is the same without it.

    Args:
      method: method that trains the encoder.
      mesh: the devices.
      steps: number of steps of the run.
      unique: number of different images of the run.
    """

    def __init__(self, method: Method, mesh: Mesh, steps: int, unique: int):
        self._method = method
        self._mesh = mesh
        enough = steps >= _FEWEST_STEPS and unique >= _FEWEST_IMAGES
        self._steps = [math.ceil(steps * part / _CHECKS) for part in range(1, _CHECKS + 1)] if enough else []

    def due(self, chunk: StepChunk) -> bool:
        """Returns whether the check is made after these steps."""
        return any(chunk.stop - chunk.count < step <= chunk.stop for step in self._steps)

    def signals(self, variables: PyTree, chunk: StepChunk) -> Metrics:
        """Returns the signals after some steps if a check is due, on the devices; does not wait for their computation."""
        if not self.due(chunk):
            return {}
        # With fsdp the variables are split over the devices; the program takes whole ones.
        return _compiled(self._method, self._mesh)(gathered(variables), chunk.arrays[0])


# Runs of one study share the program.
@functools.lru_cache(maxsize=8)
def _compiled(method: Method, mesh: Mesh) -> Callable[[PyTree, jax.Array], Metrics]:
    networks = method.networks

    def signals(variables, images):
        # Several steps in one program have several batches.
        batch = method.normalised((images if images.ndim == 4 else images[0])[:_IMAGES])
        if not isinstance(networks, Siamese):
            return {FEATURE_SPREAD: embedding_signals(method.features(variables, batch))[SPREAD]}
        (embeddings,) = networks.apply(variables, (batch,), train=False, method="project")
        found = embedding_signals(embeddings.astype(jnp.float32))
        # Some prototypes are far more frequent than others.
        prototypes = isinstance(networks.projector, PrototypeHead) or isinstance(networks.predictor, Prototypes)
        return {SPREAD: found[SPREAD]} if prototypes else found

    return jax.jit(signals, out_shardings=NamedSharding(mesh, PartitionSpec()))


def collapse_text(line: Mapping[str, float]) -> str:
    """Returns how a run has collapsed according to a line of metrics; empty if it has not, or if the line has no check."""
    found = [
        f"{name.replace('_', ' ')} {line[name]:.3g} (expected at least {least:g})"
        for name, least in _LEAST.items()
        if line.get(name, math.inf) < least
    ]
    return f"{' and '.join(found)} at step {line['step']:,}" if found else ""


def final_collapse(lines: Iterable[Mapping[str, float]]) -> str:
    """Returns how a run had collapsed at its last check; empty if it had not, or if there was no check."""
    checks = [line for line in lines if not _LEAST.keys().isdisjoint(line)]
    return collapse_text(checks[-1]) if checks else ""
