"""The same import as an Apache Beam pipeline, for collections beyond one machine: the same steps, the same records.

Input and output must be paths that every worker sees (a network file system or a mounted bucket). Beam is an optional extra:
pip install -e ".[beam]".
"""

import functools
from collections.abc import Sequence

from sslshift.data.ranges import WHOLE
from sslshift.data.records.containers import find_containers
from sslshift.data.records.importing import (
    Import,
    Result,
    begin,
    choose_range,
    import_group,
    join,
    list_task,
    tasks_of,
    waiting_tasks,
)


def run_on_beam(job: Import, options: Sequence[str] = ()) -> Result:
    """Imports images into `job.output` by Beam.

    Args:
      job: what and how.
      options: of the pipeline, as on Beam's command line, e.g. `["--runner=DirectRunner", "--direct_num_workers=2"]`.

    Raises:
      ValueError: as `run_import`, or Beam is not installed.
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
    # Listings are read back from the shared folder: a Beam pipeline returns nothing to its caller.
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "containers" >> beam.Create(find_containers(job.input))
            | "spread containers" >> beam.Reshuffle()
            | "list" >> beam.Map(functools.partial(list_task, job))
            | "groups" >> beam.FlatMap(lambda listing: tasks_of([listing]))
            | "spread groups" >> beam.Reshuffle()
            | "import" >> beam.Map(functools.partial(import_group, job))
        )
    listings = [list_task(job, container) for container in find_containers(job.input)]
    waiting = waiting_tasks(job, listings)
    if waiting:
        import_once = functools.partial(import_group, job, pixel_range=choose_range(job) or WHOLE)
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | "groups" >> beam.Create(waiting) | "spread" >> beam.Reshuffle() | "import" >> beam.Map(import_once)
    return join(job, listings)
