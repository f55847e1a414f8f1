"""Joining of the processes of a command, at the address that the user gives or in the cluster that JAX finds."""

import dataclasses
import json
import platform
import socket
import threading
import time
from importlib import metadata
from typing import Any

from sslshift.cluster.links import ClusterError, exit_now, listening
from sslshift.cluster.members import ClusterMember, Coordinator, Hello, Participant

# Packages whose versions must be equal, since programs and the order of their collectives depend on them.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "sslshift")


@dataclasses.dataclass(frozen=True)
class ClusterPlace:
    """The place of a process in a cluster that the user describes.

    Args:
      coordinator: address of process 0 as HOST:PORT. The port and the one after it must be free and reachable.
      processes: number of processes.
      process: number of this process, from 0.
    """

    coordinator: str
    processes: int
    process: int

    def __post_init__(self):
        if self.processes < 1:
            raise ValueError(f"Expected --num_processes of at least 1, got {self.processes}.")
        if not 0 <= self.process < self.processes:
            raise ValueError(
                f"Expected --process_id from 0 to {self.processes - 1} for --num_processes={self.processes}, got "
                f"{self.process}."
            )
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_535:
            raise ValueError(
                f"Expected --coordinator_address as HOST:PORT with a port from 1 to 65,534, got {self.coordinator!r}."
            )

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def jax_address(self) -> str:
        """The address of JAX's own service in process 0, one port above."""
        return f"{self.coordinator.rpartition(':')[0]}:{self.address[1] + 1}"


def join_described(place: ClusterPlace, deadline: float, timeout: float) -> "ClusterMember":
    hello = Hello(place.process, place.processes, socket.gethostname(), _versions())
    if place.process == 0:
        listener = listening(*place.address)
        listening(place.address[0], place.address[1] + 1).close()
        member = Coordinator.open(listener, hello, deadline, timeout)
    else:
        member = Participant.open([place.address], hello, deadline, timeout)
    _initialize(
        place.jax_address, place.processes, place.process, initialization_timeout=max(10, int(deadline - time.monotonic()))
    )
    return member


def _initialize(*place: Any, **options: Any) -> None:
    import jax

    # JAX would catch SIGTERM, which the training loop answers with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(*place, **options)


def join_found(deadline: float, timeout: float) -> "ClusterMember | None":
    import jax

    # JAX would end the process with a stack trace of its own after its time limit.
    late = threading.Timer(
        deadline - time.monotonic(),
        exit_now,
        [f"Error: The processes of the cluster that JAX found did not all join within {timeout:g} s (--join_timeout)."],
    )
    late.daemon = True
    late.start()
    try:
        _initialize(initialization_timeout=int(timeout) + 60)
    except (ValueError, RuntimeError) as error:
        raise ClusterError(
            f"--distributed found no cluster ({error}). It is found on TPU pods, under Slurm and under Open MPI; elsewhere "
            "give --coordinator_address, --num_processes and --process_id."
        ) from error
    finally:
        late.cancel()
    if jax.process_count() == 1:
        return None
    import numpy as np
    from jax.experimental import multihost_utils

    hello = Hello(jax.process_index(), jax.process_count(), socket.gethostname(), _versions())
    listener = listening("", 0) if hello.process == 0 else None
    # The addresses of process 0 go through the devices, once.
    text = json.dumps([[name, listener.getsockname()[1]] for name in _own_names()]) if listener else ""
    sent = np.frombuffer(text.encode().ljust(2048), np.uint8)
    received = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes())
    if listener:
        return Coordinator.open(listener, hello, deadline, timeout)
    return Participant.open([(str(name), int(port)) for name, port in received], hello, deadline, timeout)


def _own_names() -> list[str]:
    """Returns names and addresses by which other hosts may reach this one, the likeliest first."""
    names = [socket.getfqdn(), socket.gethostname()]
    # The address from which packets leave; connecting a datagram socket sends nothing.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            names.append(probe.getsockname()[0])
        except OSError:
            pass
    return list(dict.fromkeys([*names, "127.0.0.1"]))


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
