"""Runs a study: opens its sources, trains and judges each run, measures the shifts, and keeps everything in folders."""

import dataclasses
import functools
import hashlib
import math
import re
from pathlib import Path

import jax
import numpy as np
from clu.parameter_overview import count_parameters

from sslshift.budget import Budget
from sslshift.data.decode import Canvas
from sslshift.data.mixture import Component, Mixture, Stage, single
from sslshift.data.permutation import permute
from sslshift.data.pipeline import BatchReader
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import PartialSource, Source, SyntheticSource, cached, digests, open_source
from sslshift.shift import ShiftIndex, noise_like, shift_index
from sslshift.study.build import build_training, method_options
from sslshift.study.declare import Study, parse_sources
from sslshift.study.progress import Progress
from sslshift.study.records import remembered
from sslshift.training.loop import Training, initial_state, traced_step, train
from sslshift.training.metrics import loss_trend
from sslshift.transfer.features import Encoder, network_encoder, pixel_encoder, source_features
from sslshift.transfer.protocol import Task, evaluate, make_task


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid."""

    source: str
    unique: int
    seed: int


# Of a study's fields those that change a run and are recorded as they are given; what a recipe resolves is recorded so.
_RECORDED = ("downstream", "downstream_test", "labelled", "batch_size", "method", "encoder", "dtype")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A study with everything that it names opened, checked and built."""

    study: Study
    budget: Budget
    canvas: Canvas
    sources: dict[str, Source]
    task: Task
    training: Training
    runs: tuple[Run, ...]

    @functools.cached_property
    def record(self) -> dict:
        """What every run of the study shares."""
        settings = {name: getattr(self.study, name) for name in _RECORDED}
        resolved = {
            "budget": self.budget.samples,
            "canvas": self.canvas,
            "method_options": method_options(self.study),
            "optimiser": dataclasses.asdict(self.training.optimiser),
            "views": [dataclasses.asdict(view) for view in self.training.method.views],
            "downstream_fingerprints": [self.task.train[0].fingerprint, self.task.test[0].fingerprint],
        }
        return settings | resolved

    @functools.cached_property
    def parameters(self) -> int:
        """Number of the encoder's parameters; traces a training step and computes nothing."""
        state = traced_step(self.training, self.canvas, self.study.batch_size)
        return count_parameters(state.params["encoder"])

    def reader(self, mixture: Mixture, seed: int) -> BatchReader:
        plan = SamplePlan(mixture, self.budget, self.study.batch_size, seed=seed, subset_seed=seed)
        sources = {name: self.sources[name] for name in plan.sources}
        return BatchReader(plan, sources, self.canvas, jax.process_index(), jax.process_count())


def open_study(study: Study) -> Opened:
    """Opens what a study names. Every error in the declaration shows here, before anything is trained.

    Raises:
      ValueError: a source, method or encoder is unknown, or numbers do not fit each other.
    """
    training = build_training(study)
    if study.batch_size % jax.device_count():
        raise ValueError(f"--batch_size={study.batch_size} cannot be divided among {jax.device_count()} devices.")
    budget = Budget(study.budget).whole_batches(study.batch_size)
    wanted = parse_sources(study.sources)
    downstream = open_source(study.downstream)
    canvas = _canvas(downstream, study.image_size)
    downstream = cached(downstream, canvas)
    test = cached(open_source(study.downstream_test), canvas) if study.downstream_test else None
    task = make_task(downstream, test, canvas, labelled=study.labelled)
    sources = {uri: cached(open_source(uri), canvas) for uri, _ in wanted}
    if test is None:
        sources = {uri: _without(source, task) for uri, source in sources.items()}
    runs = []
    for uri, numbers in wanted:
        for unique in numbers or (min(len(sources[uri]), budget.samples),):
            SamplePlan(single(uri, len(sources[uri]), unique), budget, study.batch_size, seed=0, subset_seed=0)
            runs += [Run(uri, unique, seed) for seed in range(study.seeds)]
    # All seeds of a kind one after another would show the first source's answer long before the others': seeds go outside.
    runs.sort(key=lambda run: run.seed)
    opened = Opened(study, budget, canvas, sources, task, training, tuple(runs))
    # Counting traces a step: an encoder that does not take images of this size, or a loss its batch, says so now.
    _ = opened.parameters
    return opened


def _without(source: Source, task: Task) -> Source:
    """The source less the images of a held-out test split: they must not be pretrained on."""
    if isinstance(source, SyntheticSource):
        return source
    test, held_out = task.test
    known = set(digests(test, held_out, task.canvas))
    own = digests(source, np.arange(len(source)), task.canvas)
    kept = np.flatnonzero([digest not in known for digest in own])
    if not len(kept):
        raise ValueError(f"{source.name} holds nothing but images of the test split, which must not be pretrained on.")
    return source if len(kept) == len(source) else PartialSource(source, kept)


# Above this side the shape of one image is no sensible default for all: a forgotten flag would cost hours.
_LARGEST_DEFAULT_SIDE = 64


def _canvas(downstream: Source, side: int) -> Canvas:
    """The shape that all images are brought to; colour if any of a few downstream images has it."""
    shapes = [downstream[int(index)]["image"].shape for index in np.linspace(0, len(downstream) - 1, 16)]
    height, width, _ = shapes[0]
    if not side and (len(set(shapes)) > 1 or max(height, width) > _LARGEST_DEFAULT_SIDE):
        raise ValueError(
            f"{downstream.name}: images are large or differ in size (the first is {width} x {height}); "
            "say to which side all are brought, e.g. --image_size=32."
        )
    return Canvas(side or height, side or width, max(shape[2] for shape in shapes))


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study found: `runs` in the order of the grid, `untrained` by seed, `shifts` by source."""

    opened: Opened
    runs: tuple[tuple[Run, dict], ...]
    untrained: tuple[dict, ...]
    pixels: dict
    shifts: dict[str, dict]


def run_study(opened: Opened, progress: Progress) -> Results:
    """Floors, shifts, then every run; what a folder already holds is read, not computed."""
    out = Path(opened.study.out)
    record = opened.record
    pixels = remembered(out / "floors" / "pixels", record, lambda: evaluate(pixel_encoder, opened.task))
    progress.say("floor: raw pixels", pixels)
    untrained = tuple(
        remembered(out / "floors" / f"untrained-s{seed}", record | {"seed": seed}, lambda s=seed: _judge_untrained(opened, s))
        for seed in range(opened.study.seeds)
    )
    for seed, result in enumerate(untrained):
        progress.say(f"floor: untrained encoder, seed {seed}", result)
    shifts = _measure_shifts(opened, out, progress) if opened.study.shift_images else _no_shifts(opened)
    finished = []
    for number, run in enumerate(opened.runs, 1):
        source = opened.sources[run.source]
        folder = out / "runs" / f"{_slug(run.source)}-n{run.unique}-s{run.seed}"
        own = dataclasses.asdict(run) | {"fingerprint": source.fingerprint, "licence": source.licence}
        mixture = single(run.source, len(source), run.unique)
        what = f"{run.source} N={run.unique:,} seed {run.seed}"
        with progress.run(what, number, len(opened.runs), opened.budget.steps(opened.study.batch_size)) as on_step:
            judge = functools.partial(_train_and_judge, opened, mixture, run.seed, folder, on_step)
            finished.append((run, remembered(folder, record | own, judge)))
        progress.say(what, finished[-1][1])
    return Results(opened, tuple(finished), untrained, pixels, shifts)


def _judge_untrained(opened: Opened, seed: int) -> dict:
    mixture = _equal_shares(opened)
    state = initial_state(opened.training, opened.reader(mixture, seed), seed)
    return evaluate(network_encoder(opened.training.method, state.variables), opened.task)


def _train_and_judge(opened: Opened, mixture: Mixture, seed: int, folder: Path, on_step) -> dict:
    state = train(opened.training, opened.reader(mixture, seed), seed, folder, on_step)
    first, last = loss_trend(folder / "metrics.jsonl")
    scores = evaluate(network_encoder(opened.training.method, state.variables), opened.task)
    return scores | {"loss_first": first, "loss_last": last}


REFERENCE = "the study's own encoder, trained on an equal share of every candidate source"


def _measure_shifts(opened: Opened, out: Path, progress: Progress) -> dict[str, dict]:
    """The shift index of each source, by features that no single source has shaped."""
    fingerprints = {uri: source.fingerprint for uri, source in opened.sources.items()}
    record = opened.record | {"mixture": "equal shares", "fingerprints": fingerprints, "seed": 0}
    # In an order that does not depend on how they were typed.
    uris = sorted(opened.sources)
    folder = out / "shift" / "reference"

    def compute() -> dict:
        steps = opened.budget.steps(opened.study.batch_size)
        with progress.run("reference encoder of the shift index", 1, 1, steps) as on_step:
            state = train(opened.training, opened.reader(_equal_shares(opened), 0), 0, folder, on_step)
        encode = network_encoder(opened.training.method, state.variables)
        return {uri: _shift(opened, encode, opened.sources[uri], number) for number, uri in enumerate(uris)}

    shifts = remembered(folder, record | {"shift_images": opened.study.shift_images}, compute)
    for uri in uris:
        progress.say(f"shift index of {uri}", {"shift": shifts[uri]["value"]})
    return shifts


def _shift(opened: Opened, encode: Encoder, source: Source, number: int) -> dict:
    """Index of one source. The target is the test split: a source that is the training split shares no image with it."""
    target, indices = opened.task.test
    # Twice as many as are compared at a time, so that repeats draw different ones.
    count = 2 * opened.study.shift_images
    indices = indices[permute(np.arange(min(count, len(indices))), len(indices), number)]
    chosen = permute(np.arange(min(count, len(source))), len(source), number)
    noise = noise_like(target.read(indices, opened.canvas), key=jax.random.key(number))
    features = source_features(encode, source, chosen, opened.canvas)
    target_features = source_features(encode, target, indices, opened.canvas)
    try:
        size = min(opened.study.shift_images, len(chosen), len(indices) // 2)
        index = shift_index(features, target_features, key=jax.random.key(number), noise=encode(noise), sample_size=size)
        return index._asdict() | {"dimensions": features.shape[1]}
    except ValueError as error:
        # Accuracies are worth having without a scale for the distance: the table says n/a and the report says why.
        return _unknown_shift(str(error))


def _no_shifts(opened: Opened) -> dict[str, dict]:
    return {uri: _unknown_shift("--shift_images=0 asks for none") for uri in opened.sources}


def _unknown_shift(why: str) -> dict:
    return dict.fromkeys(ShiftIndex._fields, math.nan) | {"why": why}


def _equal_shares(opened: Opened) -> Mixture:
    sources = dict(sorted(opened.sources.items()))
    share = 1 / len(sources)
    part = opened.budget.samples // len(sources)
    components = (Component(uri, len(source), min(len(source), part), share) for uri, source in sources.items())
    return Mixture((Stage(tuple(components)),))


def _slug(uri: str) -> str:
    """A folder name for a URI: readable, and unlike that of any other URI."""
    digest = hashlib.sha256(uri.encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9]+", "_", uri.partition(":")[2].partition("?")[0]).strip("_")
    return f"{words[-40:]}-{digest}"
