"""The processes of one command on several hosts: how they join, agree, and end together.

All processes run the same command. A step of training is one program over the devices of all of them. What a process learns
alone (a file that is there, an image that it cannot read, a signal to stop) must be agreed before anything depends on it, or
the processes would wait for each other for ever:

- `gathered` returns every process's value to all; `first` returns the value of process 0.
- Process 0 alone writes results, reports, logs and progress (`is_first`); all others compute and wait.

Agreement goes through connections of all processes to process 0, not through the devices, so that it needs no compilation
and ends if a process ends. An error on one process, its death, or `SILENCE` seconds without a sign of life ends all others
with one sentence; the same command then continues from files that are whole or absent.

Like JAX's own (`jax.distributed`), the cluster of a process is global: a process joins at most one, before its first
computation, and stays in it to its end. Without a cluster, the functions here act as in a cluster of one process.

Messages are JSON, and nothing that is received is run. Like JAX's own service, the connections are not encrypted: the ports
should be reachable by the hosts of the job alone.
"""

from sslshift.cluster.agreement import (
    end,
    first,
    gathered,
    gathered_rows,
    is_first,
    join,
    leave,
    process_count,
    process_index,
    require_equal,
)
from sslshift.cluster.joining import ClusterPlace
from sslshift.cluster.links import SILENCE, ClusterError

__all__ = [
    "SILENCE",
    "ClusterError",
    "ClusterPlace",
    "end",
    "first",
    "gathered",
    "gathered_rows",
    "is_first",
    "join",
    "leave",
    "process_count",
    "process_index",
    "require_equal",
]
