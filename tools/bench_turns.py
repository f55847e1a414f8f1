"""Comparison of our training step with a peer's, in turns within one process, which `bench_peer` makes for every case."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.methods import METHODS
from sslshift.models import ENCODERS
from sslshift.training import Optimiser
from sslshift.training.repeated import step_runner


class PeerCase(NamedTuple):
    """Encoder, arithmetic and batch of a comparison, and the implementation of our attention."""

    encoder: str
    dtype: str
    side: int
    batch: int
    attention: str = "xla"


@contextlib.contextmanager
def _attention(implementation: str) -> Iterator[None]:
    """Replaces the implementation of attention in steps that are compiled within this context."""
    chosen = None if implementation == "xla" else implementation
    ours = jax.nn.dot_product_attention
    with mock.patch.object(jax.nn, "dot_product_attention", lambda *arrays: ours(*arrays, implementation=chosen)):
        yield


def compare(make_peer: Callable[..., Any], case: PeerCase, repeats: int, turn: float = 1.0) -> dict[str, Any]:
    """Returns samples/s of our step, views included, and of the peer's, views excluded, and the ratio.

    Args:
      make_peer: the class `Peer` of a peer's module.
      case: encoder, arithmetic and batch.
      repeats: number of turns of each side.
      turn: approximate seconds of a turn, which has at least one step.

    Raises:
      ValueError: the peer's networks have another number of parameters.
    """
    recipe = METHODS["simclr"]
    method = recipe.build(ENCODERS[case.encoder].clone(dtype=jnp.dtype(case.dtype)))
    images = np.random.default_rng(0).integers(0, 256, (case.batch, case.side, case.side, 3), np.uint8)
    with _attention(case.attention):
        ours = step_runner(method, Optimiser("adamw"), images, 1000)
        ours.steps(1)
    peer = make_peer(case, **recipe.options)
    if peer.parameters != ours.parameters:
        raise ValueError(f"Expected {ours.parameters:,} parameters in the peer's networks, got {peer.parameters:,}.")
    sides = {"ours": ours.steps, "peer": peer.steps}
    counts = {name: max(1, round(turn / _seconds(steps, 1))) for name, steps in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, steps in sides.items():
            # The first step of a turn may allocate the memory that the other side has just returned.
            steps(1)
            times[name].append(_seconds(steps, counts[name]) / counts[name])
            peer.release()
    ratios = [theirs / own for own, theirs in zip(times["ours"], times["peer"], strict=True)]
    memory = {"ours": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"), "peer": peer.peak_bytes()}
    return {
        "parameters": peer.parameters,
        **{f"{name}_samples_per_s": case.batch / statistics.median(each) for name, each in times.items()},
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        **{f"{name}_peak_gib": used / 2**30 for name, used in memory.items() if used},
        "versions": f"jax {jax.__version__}, {peer.version}",
        **({"notes": peer.notes} if peer.notes else {}),
    }


def _seconds(steps: Callable[[int], None], count: int) -> float:
    started = time.perf_counter()
    steps(count)
    return time.perf_counter() - started
