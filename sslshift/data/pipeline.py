"""The input pipeline: grain reads the sample plan's rows and yields uint8 batches. The only file that knows grain.

An element of the grain dataset is a whole batch, read by its step number. Order is therefore the plan's whatever the number
of workers, and sources that hold their images in arrays serve a batch with one indexing operation.
"""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import Source


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

    def __call__(self, step: int) -> np.ndarray:
        """uint8 `[batch / hosts, height, width, channels]`."""
        rows = self.plan.batch(step)
        local = len(rows.index) // self.hosts
        mine = slice(self.host * local, (self.host + 1) * local)
        which, index = rows.source[mine], rows.index[mine]
        batch = np.empty((local, *self.canvas), np.uint8)
        for number in np.unique(which):
            chosen = which == number
            batch[chosen] = self.sources[self.plan.sources[number]].read(index[chosen], self.canvas)
        return batch


def batches(reader: BatchReader, start: int, stop: int, *, workers: int = 0, prefetch: int = 4) -> Iterator[np.ndarray]:
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
