"""One process at a time in a study's folder."""

import contextlib
import datetime
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds a study's folder. The operating system lets go of it when the process ends, however it ends.

    Args:
      out: the folder; it is made if it is not there.

    Raises:
      RuntimeError: another process holds it; the message says which, where and since when.
    """
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise RuntimeError(
                f"{out} is in use by {holder}: two studies cannot write to one folder. Wait until it is done, or give another "
                "--out."
            ) from error
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()} since {now}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
