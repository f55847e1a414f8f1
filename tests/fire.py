"""Jobs that are killed at chosen moments and started again, each time in a process forked from this one.

    python tests/fire.py '[{"job": "methods", "arguments": {"folder": "/tmp/x"}, "kill": ["step byol", 3]}]'

A process is forked, since importing takes longer than most jobs. A kill is a pattern and a number: the process is killed by
SIGKILL just before its n-th event that fits the pattern. Events are lines such as `os.rename a b`, `os.mkdir path`, `open path`
(for writing; here the process is killed just after it), and `step NAME NUMBER` of a training. A line of JSON is printed for
every process: its exit code, and the end of what it wrote on stderr.
"""

import json
import os
import re
import runpy
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import jax
import numpy as np
from conftest import SMALL
from test_feed import Faulty

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.methods import METHODS
from sslshift.models import PatchMLP, ViT
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser

STEPS = 10
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Events:
    """Counts the events of this process that fit a pattern, and kills it before the n-th; 0: never."""

    def __init__(self, pattern: str, at: int):
        self._pattern = re.compile(pattern)
        self._at = at
        self.count = 0
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            self.happens(" ".join([event, *(os.fsdecode(each) for each in arguments[:2] if isinstance(each, str | bytes))]))
        elif event == "open" and isinstance(arguments[0], str) and arguments[2] & _WRITING:
            # Killed when the file is open and empty.
            self.happens(f"open {arguments[0]}", arguments[0] if arguments[2] & os.O_TRUNC else "")

    def happens(self, event: str, opened: str = "") -> None:
        if self._pattern.search(event):
            self.count += 1
            if self.count == self._at:
                if opened:
                    os.close(os.open(opened, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
                os.kill(os.getpid(), signal.SIGKILL)


def reader() -> BatchReader:
    random = np.random.default_rng(0)
    source = Faulty("memory:gray", random.integers(0, 256, (200, 12, 12, 1), np.uint8))
    plan = SamplePlan(single(source.name, 200, 90), Budget(16 * STEPS), 16, seed=1, subset_seed=2)
    return BatchReader(plan, {source.name: source}, Canvas(12, 12, 1))


def training(name: str, optimiser: str) -> Training:
    encoder = ViT(16, 2, 2, 4) if name == "mae" else PatchMLP(width=8, features=16)
    recipe = METHODS[name]
    method = recipe.build(encoder, **{key: value for key, value in SMALL.items() if key in recipe.options})
    return Training(method, Optimiser(optimiser, learning_rate=5e-3), checkpoint_every=3, max_broken=0.5)


def methods(events: Events, folder: str, names=tuple(METHODS), optimiser: str = "adamw", until: int = STEPS) -> None:
    """Trains methods one after the other, and writes their final states; ends after the checkpoint of step `until`."""

    class HaltedError(Exception):
        pass

    for name in names:
        run = Path(folder) / name
        if (run / "final.npz").exists():
            continue

        def on_step(step, scalars, name=name):
            events.happens(f"step {name} {step}")
            # A step is reported when its checkpoint has been started, which is complete when the run is closed.
            if step > until:
                raise HaltedError

        try:
            state = train(training(name, optimiser), reader(), 0, run, on_step)
        except HaltedError:
            continue
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state))}
        np.savez(run / "final.part.npz", **leaves)
        (run / "final.part.npz").rename(run / "final.npz")


def command(events: Events, module: str, flags, identities: str = "") -> None:
    """Runs a command as `python -m MODULE FLAGS` does, with a cache folder for the identities of images."""
    del events
    os.environ["SSLSHIFT_IDENTITIES"] = identities
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__")


JOBS = {"methods": methods, "command": command}


def forked(job: str, arguments: dict, kill=("$^", 0), devices: int = 1) -> dict:
    """Runs a job in a process of its own, and returns what became of it."""
    # Read when the first array is made, which no process has done that is forked.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    with open(os.devnull, "w") as output, tempfile.TemporaryFile("w+") as errors:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                try:
                    JOBS[job](Events(*kill), **arguments)
                    code = 0
                except SystemExit as end:
                    code = end.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        errors.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "errors": errors.read()[-3000:]}


if __name__ == "__main__":
    for each in json.loads(sys.argv[1]):
        print(json.dumps(forked(**each)), flush=True)
