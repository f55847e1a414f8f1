"""Benchmark of a training step of SimCLR against another framework, on equal networks, in turns within one process."""

import importlib
import importlib.util
import itertools
import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import flags

from .bench_turns import PeerCase, compare

# For each peer, its module here, which defines `Peer`, and the module that must be installed.
PEERS = {"torch": (".peer_torch", "torch")}
# For each encoder, side and batch on an accelerator, and a batch for which a step takes seconds on two CPU cores.
SIZES = {"resnet18_cifar": (32, 512, 64), "resnet50": (224, 256, 4), "vit_b16": (224, 256, 4)}
DTYPES = ("float32", "bfloat16")


def compare_with_peer(show: Callable[..., None], given_flags: flags.FlagValues) -> None:
    """Compares our step with that of `--peer`, for all cases or for those that the flags of `bench` name; see `measure`."""
    names = ("encoder", "dtype", "image_size", "batch_size", "attention")
    given = {name: given_flags[name].value for name in names if given_flags[name].present}
    measure(show, given_flags.peer, given_flags.repeats, given)


def measure(show: Callable[..., None], peer: str, repeats: int, given: Mapping[str, Any]) -> None:
    """Compares our step with a peer's for every encoder and dtype, or for those in `given`, each in a process of its own.

    Raises:
      ValueError: there is no such peer, or it has no such encoder.
      RuntimeError: the peer is not installed, or a comparison failed.
    """
    if peer not in PEERS:
        raise ValueError(f"--peer: expected one of {', '.join(PEERS)}, got {peer!r}.")
    if given.get("encoder", "vit_b16") not in SIZES:
        raise ValueError(f"--encoder: expected one of {', '.join(SIZES)} with --peer, got {given['encoder']!r}.")
    if importlib.util.find_spec(PEERS[peer][1]) is None:
        raise RuntimeError(f"--peer={peer} needs {PEERS[peer][1]}, which is not installed: pip install 'sslshift[peer]'.")
    failed = []
    chosen = ([given[name]] if name in given else known for name, known in (("encoder", SIZES), ("dtype", DTYPES)))
    for encoder, dtype in itertools.product(*chosen):
        # A process of its own starts with free device memory, and its peak is that of one case.
        work = (show, peer, repeats, {**given, "encoder": encoder, "dtype": dtype}, "dtype" in given)
        child = multiprocessing.get_context("spawn").Process(target=_measure_one, args=work)
        child.start()
        child.join()
        failed += [f"{encoder} in {dtype}"] if child.exitcode else []
    if failed:
        raise RuntimeError(f"Not measured: {'; '.join(failed)}. The errors above say why.")


def _measure_one(show: Callable[..., None], peer: str, repeats: int, given: Mapping[str, Any], forced: bool) -> None:
    # Both sides share the device's memory, most of which JAX would otherwise reserve at its start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cpu = jax.default_backend() == "cpu"
    side, batch, small = SIZES[given["encoder"]]
    size = given.get("image_size", side), given.get("batch_size", small if cpu else batch)
    case = PeerCase(given["encoder"], given["dtype"], *size, given.get("attention", "xla"))
    if cpu and case.dtype == "bfloat16" and not forced:
        reason = "CPUs compute in float32; --dtype=bfloat16 measures it all the same"
    elif case.attention == "cudnn" and (cpu or case.dtype != "bfloat16" or "vit" not in case.encoder):
        reason = "cuDNN's attention is for a ViT in bfloat16 on an NVIDIA GPU"
    else:
        show("peer", **case._asdict(), **compare(importlib.import_module(PEERS[peer][0], __package__).Peer, case, repeats))
        return
    show("peer", **case._asdict(), skipped=reason)
