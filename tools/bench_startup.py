"""Benchmark of the start of a command: from the start of its process to the first training step of quickstart's learner."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

# A process of its own, as for a user: imports, opening, compilation and one step. It prints its parts and ends at once.
_PROCESS = """
import dataclasses, importlib, json, os, sys, tempfile

from sslshift.__main__ import commands
from sslshift.cache import kept_programs
from sslshift.clock import TRAINING, Clock, process_age
from sslshift.study.opened import open_study
from sslshift.training.loop import train

study = importlib.import_module(commands()["quickstart"].module).QUICKSTART
with kept_programs(sys.argv[1], print), Clock(process_age()).running() as clock, tempfile.TemporaryDirectory() as folder:
    with clock.part("opening"):
        opened = open_study(dataclasses.replace(study, sources="bundled:fashion_mnist@20000", seeds=1))

    def end(step, scalars):
        timing = clock.timing()
        print(json.dumps([timing.parts, timing.compiled, timing.from_cache]), flush=True)
        os._exit(0)

    (run,) = opened.runs
    with clock.part(TRAINING):
        reader = opened.reader(opened.candidate(run).mixture, run.seed, run.draw)
        train(opened.learner(run).training, reader, run.seed, folder, end, online=opened.online)
"""


def measure_startup(show: Callable[..., None], repeats: int) -> None:
    """Prints the median seconds of each part without kept programs (cold), and with those of an earlier call (warm)."""
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for cache, calls in found.items():
                calls.append(_started(folder) | {"cache": cache})
    # Printed at the end: naming the device occupies it, and the processes need it.
    for cache, calls in found.items():
        numbers = [name for name in calls[0] if name != "cache"]
        show("startup", cache=cache, **{name: statistics.median(call[name] for call in calls) for name in numbers})


def _started(folder: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", _PROCESS, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The measured process failed:\n{done.stderr}")
    parts, compiled, from_cache = json.loads(done.stdout)
    named = {name: parts.get(name, 0.0) for name in ("start", "opening", "compiling", "training", "other")}
    return {"seconds": sum(parts.values()), **named, "compiled": compiled, "from_cache": from_cache}
