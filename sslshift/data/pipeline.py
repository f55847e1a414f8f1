"""Input pipeline: grain reads the sample plan's rows and yields uint8 batches. This is the only file that uses grain.

An element of the grain dataset is a whole batch, read by its step number. The order is therefore the plan's order for any
number of workers, and sources that hold their images in arrays return a batch with one indexing operation.

An image that cannot be read does not stop a run. Another image of its component, always the same one, replaces it, and the
batch reports the unreadable image. The training loop counts unreadable images and stops if there are too many;
`sslshift.study.runner.train_run` subtracts them from N.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sslshift.budget import Budget
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import parse_mixture
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import Source, open_source
from sslshift.stopping import follow_parent


class Broken(NamedTuple):
    """Image that could not be read: the source's name in the plan, the image's index in the source, and the reason."""

    source: str
    index: int
    reason: str


class Batch(NamedTuple):
    """Images of a step, uint8 `[batch / hosts, height, width, channels]`, and the unreadable images that others replace."""

    images: np.ndarray
    broken: tuple[Broken, ...] = ()


@dataclasses.dataclass(frozen=True)
class BatchReader:
    """Reads a step's batch, or one host's part of it, from the sources that a plan names.

    Args:
      plan: the sample plan.
      sources: the opened sources, by their name in the plan.
      canvas: shape to which every image is brought.
      host: number of this host.
      hosts: number of hosts; each reads an equal, contiguous part of every batch.
      dtype: dtype of what the sources return.
    """

    plan: SamplePlan
    sources: dict[str, Source]
    canvas: Canvas
    host: int = 0
    hosts: int = 1
    dtype: type = np.uint8

    def __post_init__(self):
        if self.plan.batch_size % self.hosts:
            raise ValueError(f"Expected a batch size that the {self.hosts} hosts divide, got {self.plan.batch_size}.")

    def __call__(self, step: int) -> Batch:
        """Reads a step's batch.

        Raises:
          BrokenImageError: no image of a component can be read.
        """
        rows = self.plan.batch(step)
        local = len(rows.index) // self.hosts
        first = self.host * local
        which = rows.source[first : first + local]
        index = rows.index[first : first + local]
        images = np.empty((local, *self.canvas), self.dtype)
        # The dictionary is keyed by image, so that an image that occurs several times in a batch is reported once.
        broken: dict[tuple[str, int], Broken] = {}
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            name = self.plan.sources[number]
            try:
                # Reading all images at once is fast. After a failure they are read one by one, to find the unreadable ones.
                read = self.sources[name].read(index[places], self.canvas)
                # With a single source there is nothing to merge, so its array is the batch.
                if len(places) == local:
                    return Batch(read)
                images[places] = read
            except BrokenImageError:
                for place in places.tolist():
                    position = step * self.plan.batch_size + first + place
                    images[place] = self._readable(name, int(index[place]), position, broken)
        return Batch(images, tuple(broken.values()))

    def _readable(self, name: str, index: int, position: int, broken: dict[tuple[str, int], Broken]) -> np.ndarray:
        """Returns the image at a position of the budget, or the first of its substitutes that can be read."""
        for candidate in itertools.chain([index], self.plan.substitutes(position)):
            try:
                return self.sources[name].read(np.array([candidate]), self.canvas)[0]
            except BrokenImageError as error:
                broken[name, candidate] = Broken(name, candidate, str(error))
        raise BrokenImageError(f"{name}: no image of this component can be read, e.g. {broken[name, index].reason}")


def open_reader(
    mixture: str,
    budget: int,
    batch_size: int,
    canvas: Sequence[int],
    *,
    seed: int = 0,
    subset_seed: int = 0,
) -> BatchReader:
    """Opens the sources of a mixture and returns the reader of its batches.

    Example:
      >>> reader = open_reader("bundled:mnist@500*0.5 + synthetic:noise?size=2000", 10_000, 256, (28, 28, 1))
      >>> reader.plan.budget.samples, reader(0).images.shape
      (9984, (256, 28, 28, 1))

    Args:
      mixture: text of a mixture, see `sslshift.data.mixture_text`.
      budget: C, samples seen over all sources; reduced to whole batches.
      batch_size: global batch size.
      canvas: height, width and channels to which every image is brought.
      seed: seed of the order in which samples are seen.
      subset_seed: seed of the draw of the N unique samples of each source.

    Raises:
      ValueError: the text is not a mixture, a source cannot be opened, or the numbers contradict each other.
    """
    declaration = parse_mixture(mixture)
    sources = {name: open_source(uri) for name, uri in declaration.uris.items()}
    whole = Budget(budget).whole_batches(batch_size)
    resolved = resolve(declaration, {name: len(source) for name, source in sources.items()}, whole)
    labels = {name: source.labels for name, source in sources.items() if source.labels is not None}
    plan = SamplePlan(resolved, whole, batch_size, seed, subset_seed, labels)
    return BatchReader(plan, sources, Canvas(*canvas), jax.process_index(), jax.process_count())


def batches(reader: BatchReader, start: int, stop: int, *, workers: int = 0, prefetch: int = 4) -> Iterator[Batch]:
    """Yields the batches of steps `start` to `stop` in order, read ahead.

    Args:
      reader: reads one batch.
      start: first step.
      stop: step after the last.
      workers: number of reading processes; 0: threads of this process read.
      prefetch: number of batches read ahead.
    """
    # Imported here, since it takes a tenth of a command's start.
    import grain

    # Elements are steps and not images: grain must neither shuffle nor batch, since the plan has done both already.
    dataset = grain.MapDataset.range(start, stop).map(reader)
    # Workers read ahead themselves, so threads of this process would only hold further batches.
    threads = 0 if workers else 2
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0))
    if workers:
        # grain's workers start only if absl has parsed the flags, as it has in every command.
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
    return iter(dataset)


def _start_worker(number: int, count: int) -> None:
    del number, count
    follow_parent()
