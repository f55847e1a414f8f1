"""Shardings of the training state: every device holds all of it, or an equal part of every large array (`fsdp`).

With `fsdp` parameters, target and optimiser state are split over the devices between the steps and where they are updated. A
step gathers parameters and target for its forward and backward pass and splits the gradient again. The compiler inserts the
communication; nothing here depends on the number of devices or processes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslshift.methods import Method

PyTree = Any

REPLICATED = "replicated"
FSDP = "fsdp"
SHARDINGS = (REPLICATED, FSDP)

# Arrays with fewer elements stay whole on every device: gathering one costs more time than its 64 KiB are worth.
SMALLEST = 1 << 14


def state_shardings(state: PyTree, mesh: Mesh, sharding: str) -> PyTree:
    """Returns the sharding of each array of a state.

    With `fsdp` an array of at least `SMALLEST` elements is split along its largest axis that the number of devices divides, the
    first of several. All other arrays are replicated.

    Args:
      state: arrays or their shapes, e.g. of `jax.eval_shape`.
      mesh: devices along the axis `data`.
      sharding: one of `SHARDINGS`.

    Raises:
      ValueError: the sharding is unknown.
    """
    if sharding not in SHARDINGS:
        raise ValueError(f"Expected one of {', '.join(SHARDINGS)} for sharding, got {sharding!r}.")

    def of(array) -> NamedSharding:
        split = [axis for axis, side in enumerate(array.shape) if side and side % mesh.size == 0]
        if sharding == REPLICATED or not split or math.prod(array.shape) < SMALLEST:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(split, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "data"))

    return jax.tree.map(of, state)


def bytes_per_device(state: PyTree, mesh: Mesh, sharding: str) -> int:
    """Returns the bytes that a state occupies on each device; `state` holds arrays or their shapes."""
    shardings = jax.tree.leaves(state_shardings(state, mesh, sharding))
    leaves = jax.tree.leaves(state)
    return sum(math.prod(of.shard_shape(x.shape)) * x.dtype.itemsize for x, of in zip(leaves, shardings, strict=True))


def split(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns the traced tree with its arrays split as `fsdp` splits them."""
    return lax.with_sharding_constraint(tree, state_shardings(tree, mesh, FSDP))


def gathering(method: Method, mesh: Mesh) -> Method:
    """Returns the method with a loss that gathers split parameters and targets, and whose gradient is split again."""

    def loss(variables, target, views, context):
        whole = _whole(target, mesh)
        value, output = method.loss(_whole(variables, mesh), whole, views, context)
        # Arrays that the loss only reads stay the split ones: nothing has to be gathered for them again.
        read = {id(new): old for new, old in zip(jax.tree.leaves(whole), jax.tree.leaves(target), strict=True)}
        return value, output._replace(target=jax.tree.map(lambda leaf: read.get(id(leaf), leaf), output.target))

    return dataclasses.replace(method, loss=loss)


def _whole(tree: PyTree, mesh: Mesh) -> PyTree:
    @jax.custom_vjp
    def gather(array):
        return lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec()))

    # By default, the gradient would have the sharding of the gathered array: every device would hold all of it.
    gather.defvjp(lambda array: (gather(array), None), lambda _, gradient: (split(gradient, mesh),))
    return jax.tree.map(gather, tree)


def gathered(tree: PyTree) -> PyTree:
    """Returns the tree with every array that is split over devices replicated on them; all other values stay as they are."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [i for i, leaf in enumerate(leaves) if _is_split(leaf)]
    # One program for all, which every process of a cluster runs.
    whole = _replicating(leaves[parts[0]].sharding.mesh)([leaves[i] for i in parts]) if parts else []
    for i, leaf in zip(parts, whole, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _is_split(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and not leaf.sharding.is_fully_replicated


@functools.lru_cache(maxsize=8)
def _replicating(mesh: Mesh) -> Callable[[list[jax.Array]], list[jax.Array]]:
    return jax.jit(lambda arrays: arrays, out_shardings=NamedSharding(mesh, PartitionSpec()))
