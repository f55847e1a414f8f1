"""Activations of every layer of an encoder, counted into bins on the devices.

Only extremes and counts are copied from the devices, because the activations would not fit into memory.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslshift.models import PretrainedEncoder, layer_activations
from sslshift.training.step import local_mesh, replicate, shard_batch

# The greatest count and the greatest index of int32.
_MOST = 2**31 - 1


class Limits(NamedTuple):
    """The least and the greatest activation of each neuron of a layer, `[neurons]` each."""

    minimum: np.ndarray
    maximum: np.ndarray


def layer_extremes(
    encoder: PretrainedEncoder, batches: Iterable[np.ndarray], *, batch_size: int, mesh: Mesh | None = None
) -> dict[str, Limits]:
    """Returns the least and the greatest activation of each neuron of every layer, float32 `[neurons]`."""
    mesh = mesh or local_mesh()
    compute = _compiled_extremes(encoder.module, encoder.shape, encoder.mean, encoder.std, mesh)
    variables = replicate(mesh, encoder.variables)
    seen = None
    layers = {}
    for images, _ in _blocks(batches, _rounded(batch_size, mesh)):
        layers = layers or _layers(encoder, images)
        # Extremes stay on the devices until the end: a transfer for each block would be slow.
        # The last block is filled with copies of its last image, which do not change extremes.
        found = compute(variables, shard_batch(mesh, images))
        seen = found if seen is None else _wider(seen, found)
    if seen is None:
        raise ValueError("Expected at least one image to compute activations of, got none.")
    seen = jax.device_get(seen)
    # One check at the end is enough, because minimum and maximum propagate nan and infinite values.
    # jit sorts the names of a dict: block10 would come before block2.
    for name in layers:
        _require_finite(name, np.isfinite(seen[name]).all())
    return {name: Limits(*seen[name]) for name in layers}


def layer_counts(
    encoder: PretrainedEncoder,
    batches: Iterable[np.ndarray],
    ranges: Mapping[str, Limits],
    *,
    bins: int,
    groups: int,
    batch_size: int,
    mesh: Mesh | None = None,
) -> tuple[dict[str, np.ndarray], int]:
    """Returns counts of each neuron of every layer in each of its bins, int64 `[groups, neurons, bins]`, and the number of
    images.

    Image i counts in group i modulo groups. Values are placed in float32: a value within rounding error of a bin's edge may
    count in a neighbouring bin.
    """
    mesh = mesh or local_mesh()
    size = _rounded(batch_size, mesh)
    count = _compiled_counts(encoder.module, encoder.shape, encoder.mean, encoder.std, bins, groups, mesh)
    variables = replicate(mesh, encoder.variables)
    scales = replicate(mesh, _scales(ranges))
    # In 64 bits: the 32-bit counts of VisualDNA's reference code overflow beyond about 10 million images.
    totals = {name: np.zeros((groups, len(each.minimum), bins), np.int64) for name, each in ranges.items()}
    done = held = 0
    counts = None
    pending = None
    for images, real in _blocks(batches, size):
        if not done:
            # Transfers are slow: 32-bit counts stay on the devices until they might overflow.
            room = max(size, _MOST // _positions(encoder, images, ranges))
        if counts is None or held + size > room:
            _add(totals, counts)
            counts = _zeros(ranges, bins, groups, mesh)
            held = 0
        # Copies that fill the last block get a group that does not exist, whose counts the scatter drops.
        of = np.where(np.arange(size) < real, (done + np.arange(size)) % groups, groups).astype(np.int32)
        counts, finite = count(variables, scales, counts, shard_batch(mesh, images), shard_batch(mesh, of))
        # The counts are read one block later, so that the devices do not wait.
        _require_all_finite(ranges, pending)
        done = done + real
        held = held + size
        pending = finite
    if not done:
        raise ValueError("Expected at least one image to count activations of, got none.")
    _require_all_finite(ranges, pending)
    _add(totals, counts)
    return totals, done


@functools.lru_cache(maxsize=8)
def _compiled_extremes(module, shape, mean, std, mesh):
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))

    def extremes(variables, images):
        seen = layer_activations(PretrainedEncoder(module, variables, shape, mean, std), images)
        return {name: (each.min(axis=(0, 1)), each.max(axis=(0, 1))) for name, each in seen.items()}

    return jax.jit(extremes, in_shardings=(everywhere, split), out_shardings=everywhere)


@functools.lru_cache(maxsize=8)
def _compiled_counts(module, shape, mean, std, bins, groups, mesh):
    def count(variables, scales, counts, images, of):
        seen = layer_activations(PretrainedEncoder(module, variables, shape, mean, std), images)
        finite = {name: jnp.isfinite(each).all()[None] for name, each in seen.items()}
        placed = {name: _placed(each, *scales[name], bins, of) for name, each in seen.items()}
        # Inside shard_map, a device sees only its own row of counts, which is row 0.
        # On a CPU one flat scatter is the fastest form in XLA, and takes a fraction of the forward pass's time.
        added = {name: counts[name].at[0, where].add(1, mode="drop") for name, where in placed.items()}
        return added, finite

    everywhere = PartitionSpec()
    split = PartitionSpec("data")
    # Each device counts its own images, so that devices exchange nothing.
    shared = jax.shard_map(
        count, mesh=mesh, in_specs=(everywhere, everywhere, split, split, split), out_specs=split, check_vma=False
    )
    # Counts are the largest arrays here, so their buffers are donated to the new counts.
    return jax.jit(shared, donate_argnums=2)


def _placed(values: jax.Array, low: jax.Array, width: jax.Array, bins: int, of: jax.Array) -> jax.Array:
    """Returns the index of each value `[n, positions, neurons]` in a flat array `[groups, neurons, bins]`."""
    neurons = values.shape[-1]
    # The limits may come from other images: values outside them count in the first or the last bin.
    bin_ = jnp.clip((values - low) / width * bins, 0, bins - 1).astype(jnp.int32)
    first = (of[:, None, None] * neurons + jnp.arange(neurons)) * bins
    return (first + bin_).reshape(-1)


def _scales(ranges: Mapping[str, Limits]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns minimum and width of each neuron in float32; constant neurons get an infinite width and fill one bin."""
    scales = {}
    for name, each in ranges.items():
        width = each.maximum - each.minimum
        # Devices flush subnormal numbers to 0.
        narrow = np.maximum(width, np.finfo(np.float32).tiny)
        scales[name] = each.minimum.astype(np.float32), np.where(width > 0, narrow, np.inf).astype(np.float32)
    return scales


def _layers(encoder: PretrainedEncoder, images: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each layer's activations `[n, positions, neurons]`, from the first to the last."""
    shapes = {}

    def look(images):
        shapes.update({name: each.shape for name, each in layer_activations(encoder, images).items()})

    # Tracing is enough for names and shapes.
    jax.eval_shape(look, jax.ShapeDtypeStruct(images.shape, images.dtype))
    return shapes


def _positions(encoder: PretrainedEncoder, images: np.ndarray, ranges: Mapping[str, Limits]) -> int:
    """Returns the largest number of values of a neuron in one image; raises ValueError for limits of other layers."""
    shapes = _layers(encoder, images)
    neurons = {name: shape[-1] for name, shape in shapes.items()}
    wanted = {k: len(r.minimum) for k, r in ranges.items()}
    if neurons != wanted:
        raise ValueError(f"Expected ranges of layers with {neurons} neurons, as the encoder has, got {wanted}.")
    return max(shape[1] for shape in shapes.values())


def _zeros(ranges: Mapping[str, Limits], bins: int, groups: int, mesh: Mesh) -> dict[str, jax.Array]:
    sizes = {name: groups * len(each.minimum) * bins for name, each in ranges.items()}
    widest = max(sizes, key=sizes.get)
    # There is one additional group for the copies that fill a block.
    if sizes[widest] // groups * (groups + 1) > _MOST:
        raise ValueError(
            f"Layer {widest!r} has {sizes[widest]:,} counts, more than 32-bit indices can address; use fewer bins."
        )
    split = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jnp.zeros((mesh.size, each), jnp.int32, device=split) for name, each in sizes.items()}


def _add(totals: dict[str, np.ndarray], counts: dict[str, jax.Array] | None) -> None:
    for name, each in (counts or {}).items():
        for of_device in np.asarray(each):
            totals[name] += of_device.reshape(totals[name].shape)


def _wider(x, y):
    return {name: (jnp.minimum(x[name][0], y[name][0]), jnp.maximum(x[name][1], y[name][1])) for name in x}


def _require_all_finite(ranges: Mapping[str, Limits], finite: Mapping[str, jax.Array] | None) -> None:
    if finite is not None:
        # Layers are checked in order, because a broken layer breaks all later ones and the error should name the first.
        for name in ranges:
            _require_finite(name, np.asarray(finite[name]).all())


def _require_finite(layer: str, finite: bool) -> None:
    if not finite:
        raise ValueError(f"Layer {layer!r} has activations that are not finite; the encoder is broken.")


def _rounded(size: int, mesh: Mesh) -> int:
    if size < 1:
        raise ValueError(f"Expected a batch of at least one image, got {size}.")
    return -(-size // mesh.size) * mesh.size


def _blocks(batches: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields all images in blocks of one size, and the number of real images; copies of the last image fill the last block."""
    held = None
    for batch in batches:
        batch = np.asarray(batch)
        if batch.ndim != 4 or batch.dtype != np.uint8 or (held is not None and batch.shape[1:] != held.shape[1:]):
            expected = "[n, height, width, channels]" if held is None else f"[n, {', '.join(map(str, held.shape[1:]))}]"
            raise ValueError(f"Expected batches of images uint8 {expected}, got {batch.dtype} of shape {batch.shape}.")
        held = batch if held is None else np.concatenate([held, batch])
        while len(held) >= size:
            yield held[:size], size
            held = held[size:]
    if held is not None and len(held):
        yield np.concatenate([held, np.repeat(held[-1:], size - len(held), axis=0)]), len(held)
