"""Agreement among the processes of a command. Outside of a cluster, the functions act as in one of a single process."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from sslshift.cluster.joining import ClusterPlace, join_described, join_found
from sslshift.cluster.links import ClusterError, exit_now
from sslshift.cluster.members import ClusterMember, difference_of

T = TypeVar("T")

# Seconds in which the reason of a failure arrives from another process: its death breaks the collectives of all others.
_VERDICT = 3


def process_index() -> int:
    """Returns the number of this process, from 0."""
    return _joined.index if _joined else 0


def process_count() -> int:
    """Returns the number of processes of this command."""
    return _joined.count if _joined else 1


def is_first() -> bool:
    """Returns whether this process writes the files and messages of the command."""
    return process_index() == 0


def gathered(label: str, value: T) -> list[T]:
    """Returns the values of all processes in their order; every process must call it, in the same order of calls.

    Args:
      label: what is agreed on, for the error if another process agrees on something else.
      value: a JSON value.
    """
    return _joined.gathered(label, value) if _joined else [value]


def first(label: str, compute: Callable[[], T]) -> T:
    """Returns what process 0 computes, a JSON value. The others do not call the function.

    The value is converted to JSON and back in a cluster, so that all processes have the same.
    """
    if not _joined:
        return compute()
    return gathered(label, compute() if is_first() else None)[0]


def gathered_rows(own: Any, counts: Sequence[int]) -> Any:
    """Returns the rows of all processes in the order of the processes, as a NumPy array; every process must call it.

    Args:
      own: NumPy array with the rows of this process; dtype and shape of a row are the same in all processes.
      counts: number of rows of each process.
    """
    import numpy as np
    from jax.experimental import multihost_utils

    # All processes send arrays of one shape.
    padded = np.zeros((max(counts), *own.shape[1:]), own.dtype)
    padded[: len(own)] = own
    parts = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(counts), *padded.shape)
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])


def require_equal(what: str, values: Mapping[str, Any], remedy: str) -> None:
    """Raises ClusterError in all processes if a value differs among them; the message names the first.

    Args:
      what: what is compared.
      values: JSON values by name.
      remedy: sentence that says what to do.
    """
    difference = difference_of(gathered(what, dict(values))) if _joined else ""
    if difference:
        raise ClusterError(f"The processes differ in {what}: {difference}. {remedy}")


def join(place: ClusterPlace | None, timeout: float) -> None:
    """Joins the processes of a command; call it before the first computation of JAX.

    Args:
      place: place of this process; None: JAX finds the cluster (TPU pods, Slurm, Open MPI).
      timeout: seconds in which all processes must have joined.

    Raises:
      ClusterError: no cluster was found, a process is missing, or they differ in versions.
    """
    global _joined
    deadline = time.monotonic() + timeout
    if place is None:
        _joined = join_found(deadline, timeout)
    elif place.processes > 1:
        _joined = join_described(place, deadline, timeout)


def leave() -> None:
    """Waits for all processes to reach their end; without it, process 0 could end while others still need it."""
    if _joined:
        gathered("the end of the command", None)
        import jax

        jax.distributed.shutdown()
        _joined.close()


def end(message: str, code: int) -> NoReturn:
    """Ends this process after an error, and all others with the same sentence. Only for processes in a cluster.

    Args:
      message: sentence about the error, which was not printed yet.
      code: exit code of this process.
    """
    # If another process has ended, the error here follows from that, and the thread that listens ends this process.
    time.sleep(_VERDICT)
    _joined.fail(message, code)
    exit_now(message, code)


# The cluster of this process, as in `jax.distributed`; None outside of a cluster.
_joined: ClusterMember | None = None
