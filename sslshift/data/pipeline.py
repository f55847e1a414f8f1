"""The input pipeline: grain reads the sample plan's rows and yields uint8 batches. The only file that knows grain.

An element of the grain dataset is a whole batch, read by its step number. Order is therefore the plan's whatever the number
of workers, and sources that hold their images in arrays serve a batch with one indexing operation.

An image that cannot be read does not stop a run: another one of its component stands in, always the same one, and the batch
says so. Who reads the batches counts them, corrects N, and stops where they are too many.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import Source


class Broken(NamedTuple):
    """An image that could not be read: the source's name in the plan, its index there, and why."""

    source: str
    index: int
    reason: str


class Batch(NamedTuple):
    """A step's images, uint8 `[batch / hosts, height, width, channels]`, and those that others stand in for."""

    images: np.ndarray
    broken: tuple[Broken, ...] = ()


@dataclasses.dataclass(frozen=True)
class BatchReader:
    """Reads a step's batch, or one host's part of it, from the sources that a plan names.

    Args:
      plan: which sample stands where.
      sources: the opened sources by their name in the plan.
      canvas: what every image is brought to.
      host: number of this host.
      hosts: number of hosts; each reads an equal, contiguous part of every batch.
    """

    plan: SamplePlan
    sources: dict[str, Source]
    canvas: Canvas
    host: int = 0
    hosts: int = 1

    def __post_init__(self):
        if self.plan.batch_size % self.hosts:
            raise ValueError(
                f"A batch of {self.plan.batch_size} cannot be divided among {self.hosts} hosts; change the batch size."
            )

    def __call__(self, step: int) -> Batch:
        """Reads a step's batch.

        Raises:
          BrokenImageError: not one image of a component can be read.
        """
        rows = self.plan.batch(step)
        local = len(rows.index) // self.hosts
        first = self.host * local
        which = rows.source[first : first + local]
        index = rows.index[first : first + local]
        images = np.empty((local, *self.canvas), np.uint8)
        broken: dict[tuple[str, int], Broken] = {}
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            name = self.plan.sources[number]
            try:
                read = self.sources[name].read(index[places], self.canvas)
                if len(places) == local:
                    return Batch(read)
                images[places] = read
            except BrokenImageError:
                for place in places.tolist():
                    position = step * self.plan.batch_size + first + place
                    images[place] = self._readable(name, int(index[place]), position, broken)
        return Batch(images, tuple(broken.values()))

    def _readable(self, name: str, index: int, position: int, broken: dict[tuple[str, int], Broken]) -> np.ndarray:
        """The image at a position of the budget, or the first of its substitutes that can be read."""
        for candidate in itertools.chain([index], self.plan.substitutes(position)):
            try:
                return self.sources[name].read(np.array([candidate]), self.canvas)[0]
            except BrokenImageError as error:
                broken[name, candidate] = Broken(name, candidate, str(error))
        raise BrokenImageError(f"{name}: not one of its images can be read, e.g. {broken[name, index].reason}")


def batches(reader: BatchReader, start: int, stop: int, *, workers: int = 0, prefetch: int = 4) -> Iterator[Batch]:
    """The batches of steps `start` to `stop`, in order, read ahead.

    Args:
      reader: reads one batch.
      start: first step.
      stop: step after the last.
      workers: processes that read; 0 reads in threads of this one.
      prefetch: batches read ahead.
    """
    dataset = grain.MapDataset.range(start, stop).map(reader)
    threads = 0 if workers else 2
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0))
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch))
    return iter(dataset)
