"""Runs an import in parallel processes on one machine, or as an Apache Beam pipeline on many machines.

Both ways call the same steps of `importing`, and make the same files.
"""

import contextlib
import functools
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

from sslshift.data.ranges import WHOLE
from sslshift.data.records.folder import locked
from sslshift.data.records.importing import (
    Import,
    Result,
    begin,
    choose_range,
    import_group,
    join_shards,
    list_task,
    tasks_of,
    waiting_tasks,
)
from sslshift.data.records.listing import Listing, find_containers
from sslshift.data.records.shards import FinishedShard
from sslshift.stopping import StoppedError, follow_parent

# Otherwise each process would use all cores for small matrix products and wait for the others, at half the speed on two cores.
_ONE_THREAD = dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run_import(
    job: Import,
    *,
    workers: int | None = None,
    on_listed: Callable[[int, int], None] | None = None,
    on_shard: Callable[[FinishedShard], None] | None = None,
) -> Result:
    """Imports images into `job.output`, or continues an earlier call.

    Args:
      job: the input, the output and the settings.
      workers: number of processes; None: the number of cores; 0: this process only.
      on_listed: called with the numbers of containers listed and of images found so far.
      on_shard: called with every shard that is finished.

    Raises:
      ValueError: there is nothing to import, the folder was made with other settings, or images of more than 8 bits need a
        stated range.
      OSError: the disk is full; repeat the call.
    """
    done = begin(job)
    if done:
        return Result(done, {}, earlier=True)
    with locked(job.output), _pool(workers) as run:
        listings: list[Listing] = []
        for listing in run(functools.partial(list_task, job), find_containers(job.input)):
            listings.append(listing)
            if on_listed:
                on_listed(len(listings), sum(each.images for each in listings))
        # The first pass has no pixel range, since the values of all images decide it.
        import_once = functools.partial(import_group, job)
        for shard in run(import_once, tasks_of(listings)):
            if on_shard and shard:
                on_shard(shard)
        waiting = waiting_tasks(job, listings)
        if waiting:
            # Images that are completely transparent wait for a range too, but have no visible values: any range is correct.
            import_once = functools.partial(import_once, pixel_range=choose_range(job) or WHOLE)
            for shard in run(import_once, waiting):
                if on_shard:
                    on_shard(shard)
        return join_shards(job, listings)


def run_on_beam(job: Import, options: Sequence[str] = ()) -> Result:
    """Imports images into `job.output` by Apache Beam, for collections that are too large for one machine.

    Input and output must be paths that every worker can read and write: a network file system or a mounted bucket. Beam is an
    optional extra: pip install -e ".[beam]".

    Args:
      job: the input, the output and the settings.
      options: options of the pipeline, as on Beam's command line: `["--runner=DirectRunner", "--direct_num_workers=2"]`.

    Raises:
      ValueError: Beam is not installed, or `run_import` would raise it.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError('Apache Beam is not installed: pip install -e ".[beam]".') from error
    done = begin(job)
    if done:
        return Result(done, {}, earlier=True)
    options = PipelineOptions(list(options))
    with beam.Pipeline(options=options) as pipeline:
        # Reshuffle keeps Beam from fusing the steps: one worker would list and encode everything.
        _ = (
            pipeline
            | "containers" >> beam.Create(find_containers(job.input))
            | "spread containers" >> beam.Reshuffle()
            | "list" >> beam.Map(functools.partial(list_task, job))
            | "groups" >> beam.FlatMap(lambda listing: tasks_of([listing]))
            | "spread groups" >> beam.Reshuffle()
            | "import" >> beam.Map(functools.partial(import_group, job))
        )
    # A pipeline returns no values to its caller, so the listings are read from the shared folder.
    listings = [list_task(job, container) for container in find_containers(job.input)]
    waiting = waiting_tasks(job, listings)
    if waiting:
        import_once = functools.partial(import_group, job, pixel_range=choose_range(job) or WHOLE)
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | "groups" >> beam.Create(waiting) | "spread" >> beam.Reshuffle() | "import" >> beam.Map(import_once)
    return join_shards(job, listings)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for processes that start while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _begin_worker() -> None:
    follow_parent()
    # As in `sslshift.command`: unreadable files are listed, and need no warnings of Pillow's.
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def _pool(workers: int | None) -> Iterator[Callable[[Callable, Sequence], Iterator]]:
    """Yields a `map` over processes, which yields results in the order in which they are finished."""
    workers = os.cpu_count() if workers is None else workers
    if not workers:
        yield map
        return
    # The processes are spawned, since a process with threads cannot be forked safely.
    # The environment is set first, since libraries read these variables when a process loads them.
    context = multiprocessing.get_context("spawn")
    with _environment(_ONE_THREAD), ProcessPoolExecutor(workers, context, _begin_worker) as pool:

        def run(function: Callable, items: Sequence) -> Iterator:
            waiting = set()
            items = iter(items)
            try:
                while True:
                    # Few tasks are queued: 100,000 tasks would take memory, and would have to finish after an interrupt.
                    while len(waiting) < 2 * workers and (item := next(items, None)) is not None:
                        waiting.add(pool.submit(function, item))
                    if not waiting:
                        return
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except StoppedError:
                # Time is short, and the next call makes an unfinished shard again.
                for process in multiprocessing.active_children():
                    process.kill()
                raise
            except BaseException:
                # After an error or an interrupt, waiting tasks are cancelled, and running tasks finish their shards.
                pool.shutdown(wait=True, cancel_futures=True)
                raise

        yield run
