"""A check for collapse while a run trains: whether the networks still tell images apart. It needs no labels.

Two signals are computed from up to 256 images of a batch at a quarter, at half, at three quarters and at the end of a run, and
are added to the line of that step in `metrics.jsonl`. They use embeddings, the output of the projector, because the encoder's
features keep several directions long after the embeddings have lost theirs. dino and mae have no embeddings: for them the
spread is that of the features, and there is no rank.

| name | meaning | collapsed |
|---|---|---|
| `embedding_rank` | number of directions in which images differ, the participation ratio of their variances | below 1.6 |
| `embedding_spread` | share of the differences between images in the squared length of the embeddings | below 0.001 |
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslshift.data.views import normalise
from sslshift.methods import Method
from sslshift.methods.siamese import Siamese
from sslshift.models import PrototypeHead
from sslshift.training.feed import StepChunk
from sslshift.training.step import Metrics

PyTree = Any

RANK = "embedding_rank"
SPREAD = "embedding_spread"

_CHECKS = 4
_IMAGES = 256
# The features of a shorter run are still those of the untrained encoder, and fewer images differ in few directions anyway.
_FEWEST_STEPS = 100
_FEWEST_IMAGES = 32

_LEAST_RANK = 1.6
_LEAST_SPREAD = 0.001


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
        return _compiled(self._method, self._mesh)(variables, chunk.arrays[0])


# Runs of one study share the program.
@functools.lru_cache(maxsize=8)
def _compiled(method: Method, mesh: Mesh) -> Callable[[PyTree, jax.Array], Metrics]:
    networks = method.networks
    # The head of dino returns logits of prototypes, a few of which are far more frequent than others.
    embeds = isinstance(networks, Siamese) and not isinstance(networks.projector, PrototypeHead)

    def signals(variables, images):
        # Several steps in one program have several batches.
        batch = normalise((images if images.ndim == 4 else images[0])[:_IMAGES])
        if not embeds:
            return {SPREAD: embedding_signals(method.features(variables, batch))[SPREAD]}
        (embeddings,) = networks.apply(variables, (batch,), train=False, method="project")
        return embedding_signals(embeddings.astype(jnp.float32))

    return jax.jit(signals, out_shardings=NamedSharding(mesh, PartitionSpec()))


def collapse_text(line: Mapping[str, float]) -> str:
    """Returns how a run has collapsed according to a line of metrics; empty if it has not, or if the line has no check."""
    found = []
    if line.get(RANK, math.inf) < _LEAST_RANK:
        found.append(f"embeddings of different images differ in {line[RANK]:.2f} directions (expected at least {_LEAST_RANK})")
    if line.get(SPREAD, math.inf) < _LEAST_SPREAD:
        found.append(f"differences between images are {line[SPREAD]:.2%} of what the networks return")
    return f"at step {line['step']:,} {' and '.join(found)}" if found else ""


def final_collapse(lines: Iterable[Mapping[str, float]]) -> str:
    """Returns how a run had collapsed at its last check; empty if it had not, or if there was no check."""
    checks = [line for line in lines if SPREAD in line]
    return collapse_text(checks[-1]) if checks else ""
