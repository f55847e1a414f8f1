"""Connections between the processes of a command."""

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from typing import Any, NoReturn

# Seconds without a sign of life after which a process counts as dead.
SILENCE = 40
# Largest message in bytes. Results are the largest, with a few megabytes.
_LONGEST = 1 << 28


class ClusterError(RuntimeError):
    """The processes of a command could not join, or do not agree; the message says which ones."""


class Link:
    """A connection that carries JSON values; a beat is sent when nothing else is."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._sending = threading.Lock()
        connection.settimeout(SILENCE)
        # Small messages are sent at once; a connection inside of this machine has no such option.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def wait(self, seconds: float) -> None:
        """Sets the seconds of silence after which `receive` raises TimeoutError."""
        self._connection.settimeout(seconds)

    def send(self, value: Any) -> None:
        text = json.dumps(value).encode()
        with self._sending:
            self._connection.sendall(struct.pack(">I", len(text)) + text)

    def receive(self) -> Any:
        """Returns the next value. Raises OSError if the connection has ended or is silent, ValueError for other messages."""
        (size,) = struct.unpack(">I", self._exactly(4))
        if size > _LONGEST:
            raise ValueError(f"a message of {size:,} bytes")
        return json.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            part = self._connection.recv(min(size - len(found), 1 << 20))
            if not part:
                raise ConnectionError("the connection ended")
            found += part
        return bytes(found)

    def close(self) -> None:
        self._connection.close()


def send_quietly(link: Link, value: Any) -> None:
    """Sends a value; if the other process has ended, the thread that listens to it says so."""
    with contextlib.suppress(OSError):
        link.send(value)


def listening(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # Loopback stays private; any other name may belong to a network that this host does not see under it.
        found.bind((host if host in ("127.0.0.1", "localhost", "::1") else "", port))
        found.listen(1024)
    except OSError as error:
        found.close()
        raise ClusterError(
            f"Process 0 cannot listen on port {port} ({error.strerror}); the port of --coordinator_address and the one after "
            "it must be free."
        ) from error
    return found


def connected(addresses: list[tuple[str, int]], deadline: float, timeout: float) -> Link:
    reason = "no time was left"
    while time.monotonic() < deadline:
        for address in addresses:
            try:
                return Link(socket.create_connection(address, timeout=min(5, max(0.1, deadline - time.monotonic()))))
            except OSError as error:
                reason = str(error.strerror or error)
        time.sleep(0.2)
    raise ClusterError(f"Process 0 did not answer at {readable(addresses)} within {timeout:g} s (--join_timeout): {reason}.")


def readable(addresses: list[tuple[str, int]]) -> str:
    return " or ".join(f"{host}:{port}" for host, port in addresses)


def exit_now(message: str, code: int = 1) -> NoReturn:
    print(f"\n{message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Without the usual end of a process, which would wait for the other processes. Files are whole or absent at any moment.
    os._exit(code)
