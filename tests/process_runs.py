"""Commands that run as several processes on the loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE = 600


def free_port():
    """A port that is free, like the one after it."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                two.bind(("127.0.0.1", one.getsockname()[1] + 1))
                return one.getsockname()[1]


@contextlib.contextmanager
def started(command, processes, devices, folder, of_process=lambda process: []):
    """Starts the processes of a command, which all end with the block; their output is in files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": paths,
    }
    running = []
    try:
        for process in range(processes):
            own = command(f"127.0.0.1:{port}", processes, process) + of_process(process)
            out = (folder / f"out{process}.txt").open("w")
            running.append(
                subprocess.Popen([sys.executable, *own], cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
            )
        yield running
    finally:
        for each in running:
            each.kill()
            each.wait()


def ended(running, seconds=PATIENCE):
    return [each.wait(seconds) for each in running]


def said(folder, process):
    return (folder / f"out{process}.txt").read_text()


def of_module(module, *flags):
    """The command line of a module, by address, number of processes and process."""

    def command(address, processes, process):
        places = [f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={process}"]
        return ["-m", module, *flags, *(places if processes > 1 else [])]

    return command
