r"""Benchmarks, whose results are medians as JSON lines; ratios are measured in one process.

python -m tools.bench                       # everything
python -m tools.bench --what=convolution    # the kernel gradient of sslshift/models/convolution.py
python -m tools.bench --what=curation       # recall of planted leaks; with --source=URI, of changed copies of its images
python -m tools.bench --what=data           # reading and importing JPEG files, compared with Pillow and torch
python -m tools.bench --what=far_ends       # definitions of the far end of the shift index, on several targets
python -m tools.bench --what=pipeline       # samples per second of the pipeline and of the training step
python -m tools.bench --what=planning       # coverage and regret of plans, in simulated worlds
python -m tools.bench --what=scaling        # training over devices and processes of this machine, checkpoints, first step
python -m tools.bench --what=shift          # time and memory of distances against the number of images
python -m tools.bench --what=startup        # start of a process to its first step, with and without kept programs
python -m tools.bench --what=statistics     # coverage, false claims and power of reports, in simulated studies
python -m tools.bench --what=step --method=all --encoder=vit_b16 --image_size=224 --batch_size=256 --dtype=bfloat16
python -m tools.bench --what=transfer       # kNN and probes, compared with a matrix product and scikit-learn
python -m tools.bench --peer=torch          # SimCLR's step and the same step in PyTorch, in turns
"""

import functools
import json
import statistics
import time
from collections.abc import Callable

import jax
from absl import flags

from sslshift.command import run_command
from sslshift.methods import METHODS
from sslshift.models import ENCODERS

from . import bench_convolution, bench_curation, bench_data, bench_knn, bench_pipeline, bench_probes, bench_shift
from .bench_far_ends import measure_far_ends
from .bench_peer import compare_with_peer
from .bench_planning import FAMILIES, measure_planning
from .bench_scaling import measure_scaling
from .bench_startup import measure_startup
from .bench_statistics import WORLDS, measure_statistics
from .bench_step import StepBenchmark

FLAGS = flags.FLAGS
BENCHMARKS = [
    "convolution",
    "curation",
    "data",
    "far_ends",
    "pipeline",
    "planning",
    "scaling",
    "shift",
    "startup",
    "statistics",
    "step",
    "transfer",
]
flags.DEFINE_enum("what", "all", ["all", *BENCHMARKS], "Benchmark.")
flags.DEFINE_string(
    "source", "bundled:fashion_mnist", "Source that the pipeline reads, or whose copies --what=curation plants."
)
flags.DEFINE_enum("method", "simclr", ["all", *METHODS], "Method of the training step; all: every method.")
flags.DEFINE_enum("encoder", "patch_mlp", list(ENCODERS), "Encoder of the training step.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Arithmetic of the networks in --what=step.")
flags.DEFINE_integer("image_size", 32, "Side in pixels of the colour images in --what=step.", lower_bound=1)
flags.DEFINE_integer("batch_size", 256, "Number of images in a batch.", lower_bound=1)
flags.DEFINE_integer("steps", 50, "Largest number of batches in one timing.", lower_bound=1)
flags.DEFINE_integer("images", 2048, "Number of JPEG files in --what=data.", lower_bound=1)
flags.DEFINE_integer("largest", 1_000_000, "Largest number of images in --what=shift.", lower_bound=1)
flags.DEFINE_string("peer", "", "Framework to compare SimCLR's step with: torch; nothing else is measured then.")
flags.DEFINE_enum("attention", "xla", ["xla", "cudnn"], "Implementation of our attention with --peer.")
flags.DEFINE_integer("repeats", 5, "Number of timings; the result is their median.", lower_bound=1)
flags.DEFINE_integer("studies", 50, "Simulated studies of each world in --what=statistics and --what=planning.", lower_bound=2)
flags.DEFINE_string("world", "all", f"World of --what=statistics, one of {WORLDS}, or of --what=planning, one of {FAMILIES}.")
flags.DEFINE_list("folders", [], "Folders of pictures in --what=far_ends: the target's, then sources from near to far.")
flags.DEFINE_integer("workers", 1, "Processes of --what=statistics and --what=planning; they change no number.", lower_bound=1)


def seconds(work: Callable[[], object]) -> float:
    """Returns the median time of a call, after a first call that compiles."""
    work()
    times = []
    for _ in range(FLAGS.repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def show(what: str, **figures: object) -> None:
    """Prints one line of figures, rounded to three digits."""
    rounded = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, "device": jax.devices()[0].device_kind, **rounded}), flush=True)


def main() -> None:
    step = StepBenchmark(show, seconds, FLAGS.encoder, FLAGS.dtype, FLAGS.image_size, FLAGS.batch_size, FLAGS.steps)
    shared = {name: FLAGS[name].value for name in ("source", "encoder", "batch_size", "steps")}
    work = {
        # First, since their processes need a device that this one does not occupy.
        "startup": [lambda: measure_startup(show, FLAGS.repeats)],
        "scaling": [lambda: measure_scaling(show, FLAGS.repeats)],
        "convolution": [lambda: bench_convolution.measure(show, seconds)],
        "curation": [lambda: bench_curation.measure(show, seconds, FLAGS.source)],
        "data": [lambda: bench_data.measure(show, seconds, FLAGS.images, FLAGS.repeats)],
        "far_ends": [lambda: measure_far_ends(show, FLAGS.folders, "untrained")],
        "pipeline": [lambda: bench_pipeline.measure(show, seconds, **shared)],
        "planning": [lambda: measure_planning(show, FLAGS.studies, FLAGS.workers, FLAGS.world)],
        "shift": [lambda: bench_shift.measure(show, seconds, FLAGS.largest)],
        "step": [functools.partial(step.measure, name) for name in (METHODS if FLAGS.method == "all" else [FLAGS.method])],
        "statistics": [lambda: measure_statistics(show, FLAGS.studies, FLAGS.workers, FLAGS.world)],
        "transfer": [
            lambda: bench_knn.measure(show, FLAGS.repeats),
            lambda: bench_probes.measure(show, seconds, FLAGS.repeats),
        ],
    }
    if FLAGS.peer:
        work = {FLAGS.what: [lambda: compare_with_peer(show, FLAGS)]}
    for part in (part for name, parts in work.items() if FLAGS.what in ("all", name) for part in parts):
        part()


if __name__ == "__main__":
    run_command(main)
