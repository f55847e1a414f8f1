"""Batches of a run on the devices: read on the host, or taken from images that were placed in device memory.

Images in device memory are read and decoded once for all runs of a study, and a step needs only the plan's row numbers. Both
ways give the same batches to the bit, unreadable images included.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslshift import cluster
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.pipeline import Batch, BatchReader, Broken, batches
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import Source
from sslshift.data.threads import in_threads
from sslshift.training.step import replicate, shard_batch

# Images that are read and copied to the devices at once.
_BLOCK = 256
# Steps whose samples are looked up at once.
_STEPS = 64
# Bytes that images may take on a device that does not report its memory.
_UNREPORTED = 1 << 30


class StepChunk(NamedTuple):
    """Batches of consecutive steps, which one dispatch trains on.

    Attributes:
      stop: number of finished steps after the chunk.
      count: number of steps.
      arrays: arguments of the compiled step between the state and the key, on the devices.
      broken: unreadable images of these batches.
    """

    stop: int
    count: int
    arrays: tuple[jax.Array, ...]
    broken: tuple[Broken, ...]


class RowNumbers:
    """Row numbers of a source's images among the placed images; `BatchReader` reads them in place of the images."""

    def __init__(self, indices: np.ndarray, first: int):
        self._indices = indices
        self._first = first
        self.reasons: dict[int, str] = {}

    def read(self, indices: np.ndarray, canvas: tuple[int, ...]) -> np.ndarray:
        """Returns the row of each image, int32 `[n]`.

        Raises:
          BrokenImageError: an image could not be read when it was placed.
        """
        del canvas
        for index in indices.tolist() if self.reasons else ():
            if index in self.reasons:
                raise BrokenImageError(self.reasons[index])
        return (np.searchsorted(self._indices, indices) + self._first).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedImages:
    """Images in device memory.

    Attributes:
      mesh: the devices; each holds all images.
      canvas: shape of every image.
      pixels: uint8 `[images, height * width * channels]`; images of a few channels would be padded on some devices.
      numbers: rows of the images, by the name of their source.
    """

    mesh: Mesh
    canvas: Canvas
    pixels: jax.Array
    numbers: Mapping[str, RowNumbers]

    def batches(self, rows: np.ndarray) -> jax.Array:
        """Returns the images of these rows, uint8 `[..., batch, height, width, channels]`; the batch is split over the mesh."""
        take = _compiled_take(self.mesh, self.canvas, rows.ndim)
        return take(self.pixels, replicate(self.mesh, rows))


@functools.lru_cache(maxsize=8)
def _compiled_take(mesh: Mesh, canvas: Canvas, axes: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    split = NamedSharding(mesh, PartitionSpec(*[None] * (axes - 1), "data"))

    def take(pixels, rows):
        return jnp.take(pixels, rows, axis=0, mode="clip").reshape(*rows.shape, *canvas)

    return jax.jit(take, out_shardings=split)


@functools.partial(jax.jit, donate_argnums=0)
def written(rows: jax.Array, block: jax.Array, first: jax.Array) -> jax.Array:
    """Returns the rows with a block in place of those from `first` on. The memory of the argument is reused."""
    return lax.dynamic_update_slice_in_dim(rows, block, first, axis=0)


def images_of(plans: Iterable[SamplePlan]) -> dict[str, np.ndarray]:
    """Returns the indices of the images that the runs of these plans see, ascending, by the name of their source."""
    seen: dict[str, np.ndarray] = {}
    for plan in plans:
        for name, indices in plan.images().items():
            seen[name] = np.union1d(seen[name], indices) if name in seen else indices
    return seen


def place(images: Mapping[str, np.ndarray], sources: Mapping[str, Source], canvas: Canvas, mesh: Mesh) -> PlacedImages:
    """Reads images and copies them to every device of the mesh; a block of them is on the host at a time.

    Args:
      images: ascending indices by the name of the source.
      sources: sources by name.
      canvas: shape to which every image is brought.
      mesh: the devices.
    """
    shape = (sum(map(len, images.values())), int(np.prod(canvas)))
    pixels = jax.jit(lambda: jnp.zeros(shape, jnp.uint8), out_shardings=NamedSharding(mesh, PartitionSpec()))()
    numbers = {}
    first = 0
    for name, indices in images.items():
        numbers[name] = RowNumbers(indices, first)
        read = functools.partial(_block, sources[name], canvas)
        for block, reasons in in_threads(read, np.split(indices, range(_BLOCK, len(indices), _BLOCK))):
            pixels = written(pixels, replicate(mesh, block), replicate(mesh, np.int32(first)))
            first += len(block)
            numbers[name].reasons |= reasons
        # An image that one process cannot read is replaced in all of them.
        for part in cluster.gathered(f"unreadable images of {name}", list(numbers[name].reasons.items())):
            numbers[name].reasons |= {int(index): str(reason) for index, reason in part}
    return PlacedImages(mesh, canvas, pixels, numbers)


def _block(source: Source, canvas: Canvas, indices: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Returns images as rows of pixels, and the reasons why images could not be read, by index; their rows are 0."""
    try:
        return source.read(indices, canvas).reshape(len(indices), -1), {}
    except BrokenImageError:
        rows = np.zeros((len(indices), int(np.prod(canvas))), np.uint8)
        reasons = {}
        for place, index in enumerate(indices.tolist()):
            try:
                rows[place] = source.read(np.array([index]), canvas).reshape(-1)
            except BrokenImageError as error:
                reasons[index] = str(error)
        return rows, reasons


def memory_for_images(share: float) -> int:
    """Returns the bytes that images may take on each device: a share of its free memory.

    It is 0 on a CPU, whose sources keep small data sets in memory already: another copy would save 1 ms of CPU time per batch.
    """
    if jax.default_backend() == "cpu":
        return 0
    stats = [device.memory_stats() for device in jax.local_devices()]
    free = [each["bytes_limit"] - each["bytes_in_use"] if each else _UNREPORTED / share for each in stats] if share else [0]
    return int(share * min(free))


def chunks(
    reader: BatchReader,
    placed: PlacedImages | None,
    mesh: Mesh,
    start: int,
    steps: int,
    *,
    most: int | None,
    every: int,
    workers: int,
) -> Iterator[StepChunk]:
    """Yields the batches of steps `start` to `steps`.

    Args:
      reader: reads the batches of the plan.
      placed: images of all batches in device memory; None: images are read on the host.
      mesh: the devices.
      start: number of finished steps.
      steps: number of steps of the run.
      most: largest number of steps in a chunk, for `compiled_steps`; None: chunks of one step, for `compiled_step`.
      every: a chunk ends after every step that is a multiple of this number.
      workers: number of processes that read images on the host.
    """
    stream = _rows(reader, placed, start, steps) if placed else batches(reader, start, steps, workers=workers)
    put = placed.batches if placed else functools.partial(shard_batch, mesh)
    while start < steps:
        # Chunks end at the same steps in an interrupted and in an uninterrupted run.
        stop = min(start - start % every + every, start + (most or 1), steps)
        some = [next(stream) for _ in range(start, stop)]
        broken = tuple(one for batch in some for one in batch.broken)
        if most is None:
            yield StepChunk(stop, 1, (put(some[0].images),), broken)
        else:
            # The program has one shape: the last batch fills the places of missing ones.
            filled = np.stack([batch.images for batch in some] + [some[-1].images] * (most - len(some)))
            yield StepChunk(stop, len(some), (put(filled), replicate(mesh, np.int32(len(some)))), broken)
        start = stop


def _rows(reader: BatchReader, placed: PlacedImages, start: int, steps: int) -> Iterator[Batch]:
    """Yields the batches of steps `start` to `steps` with row numbers in place of images."""
    single = dataclasses.replace(reader, sources=placed.numbers, canvas=(), dtype=np.int32, host=0, hosts=1)
    # Images that replace others are looked up one by one, and are reported with the step in which they occur.
    if any(each.reasons for each in placed.numbers.values()):
        yield from map(single, range(start, steps))
        return
    plan = reader.plan
    at_once = min(_STEPS, steps)
    # The plan computes 20 batches in twice the time of one, which on a GPU may exceed the time of a step.
    wide = dataclasses.replace(single, plan=dataclasses.replace(plan, batch_size=plan.batch_size * at_once))
    for block in range(start // at_once, -(-steps // at_once)):
        rows = wide(block).images.reshape(-1, plan.batch_size)
        yield from map(Batch, rows[max(0, start - block * at_once) :])
