"""Several processes that train one run: what one learns while it reads a batch, all know before any of them trains on it.

A process that stops alone would leave the others waiting in the step's program for ever.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from sslshift import cluster
from sslshift.data.decode import BrokenImageError
from sslshift.data.pipeline import Broken
from sslshift.training.feed import StepChunk


class OtherProcessError(RuntimeError):
    """Another process cannot go on with a run; its message is the other's."""


def in_lockstep(chunks: Iterator[StepChunk]) -> Iterator[StepChunk]:
    """Yields chunks with the unreadable images that any process found in them.

    Args:
      chunks: this process's chunks, of the same steps in every process.

    Raises:
      BrokenImageError, OSError: a chunk cannot be read here; all other processes raise OtherProcessError.
    """
    if cluster.process_count() == 1:
        yield from chunks
        return
    for step in itertools.count():
        read = _read(chunks)
        if read is None:
            return
        reports = cluster.gathered(f"chunk {step} of a run", read.report)
        if read.error:
            raise read.error
        for process, report in enumerate(reports):
            if report["error"]:
                raise OtherProcessError(f"Process {process}: {report['error']}")
        # In the order of the processes, which is the order in the batch.
        broken = tuple(Broken(*each) for report in reports for each in report["broken"])
        yield read.chunk._replace(broken=broken)


class _Read(NamedTuple):
    """The next chunk of this process, or the error in its place."""

    chunk: StepChunk | None
    error: Exception | None = None

    @property
    def report(self) -> dict[str, Any]:
        error = f"{type(self.error).__name__}: {self.error}" if self.error else ""
        return {"error": error, "broken": [list(each) for each in self.chunk.broken] if self.chunk else []}


def _read(chunks: Iterator[StepChunk]) -> _Read | None:
    try:
        return _Read(next(chunks))
    except StopIteration:
        return None
    except (BrokenImageError, OSError) as error:
        return _Read(None, error)
