"""Benchmark of training over several devices and processes of one machine, which shows what each path costs."""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WITHOUT = ", no checkpoints"
# Processes, devices of each, and other settings. The paths are compared with the first one.
_PATHS = {
    "1 device": (1, 1, {"steps": 420}),
    "1 device" + _WITHOUT: (1, 1, {"steps": 420, "every": 10_000}),
    "8 devices": (1, 8, {}),
    "8 devices" + _WITHOUT: (1, 8, {"every": 10_000}),
    "8 devices, fsdp": (1, 8, {"sharding": "fsdp"}),
    "2 processes of 4": (2, 4, {}),
    "4 processes of 2": (4, 2, {}),
}
_STEPS = 120
_EVERY = 20
# The first steps compile and fill the pipeline.
_WARM_UP = 20

# The same batch and budget in every path.
_PROCESS = """
import dataclasses, json, os, sys, tempfile, time

settings = json.loads(sys.argv[1])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={settings['devices']}"
from absl import flags
flags.FLAGS.mark_as_parsed()
from sslshift import cluster
if settings["processes"] > 1:
    cluster.join(cluster.ClusterPlace(settings["address"], settings["processes"], settings["process"]), 120)
from sslshift.clock import process_age
from sslshift.data import open_reader
from sslshift.models import ENCODERS
from sslshift.training import Training, train

reader = open_reader("bundled:fashion_mnist", settings["steps"] * 256, 256, (28, 28, 1))
training = Training.from_recipe("simclr", ENCODERS["patch_mlp"])
training = dataclasses.replace(training, checkpoint_every=settings["every"], **settings["training"])
times = []
def on_step(step, scalars):
    times.append(time.perf_counter())
    if step == 1:
        print(json.dumps(process_age()), flush=True)
train(training, reader, 0, settings["folder"], on_step)
ended = time.perf_counter()
if cluster.is_first():
    print(json.dumps((ended - times[settings["warm_up"]]) / (settings["steps"] - settings["warm_up"] - 1)), flush=True)
cluster.leave()
"""


def measure_scaling(show: Callable[..., None], repeats: int) -> None:
    """Prints the median milliseconds of a step of each path, its ratio to one device, and the seconds to the first step."""
    found: dict[str, list[tuple[float, float]]] = {path: [] for path in _PATHS}
    # In turns, so that a slow minute of the machine falls on every path.
    for _ in range(repeats):
        for path in _PATHS:
            found[path].append(_run(*_PATHS[path]))
    seconds = {path: statistics.median(step for _, step in runs) for path, runs in found.items()}
    for path, runs in found.items():
        first = statistics.median(start for start, _ in runs)
        ratio = seconds[path] / seconds["1 device"]
        show("scaling", path=path, milliseconds=1000 * seconds[path], ratio=ratio, seconds_to_first_step=first)
    for path in (each for each in _PATHS if each + _WITHOUT in _PATHS):
        turns = zip(found[path], found[path + _WITHOUT], strict=True)
        shares = [1 - without / step for (_, step), (_, without) in turns]
        middle = statistics.median(shares)
        show(
            "scaling",
            path=f"{path}: share of checkpoints, one in {_EVERY} steps",
            share=middle,
            lowest=min(shares),
            highest=max(shares),
        )


def _run(processes: int, devices: int, options: dict[str, Any]) -> tuple[float, float]:
    """Returns the seconds from the start of process 0 to its first step, and the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "processes": processes,
            "devices": devices,
            "address": f"127.0.0.1:{_free_port()}",
            "folder": str(Path(folder) / "run"),
            "steps": options.get("steps", _STEPS),
            "every": options.get("every", _EVERY),
            "warm_up": _WARM_UP,
            "training": {name: value for name, value in options.items() if name not in ("every", "steps")},
        }
        commands = [[sys.executable, "-c", _PROCESS, json.dumps(settings | {"process": i})] for i in range(processes)]
        running = [subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for each in commands]
        outputs = [each.communicate() for each in running]
    if any(each.returncode for each in running):
        raise RuntimeError(f"A measured process failed:\n{outputs[0][1]}")
    first, step = map(json.loads, outputs[0][0].splitlines()[-2:])
    return first, step


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
