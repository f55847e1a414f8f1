"""A study with everything that it names opened, checked and built: what is trained, on what, and how often."""

import dataclasses
import functools
import hashlib
import re

import jax
import numpy as np
from clu.parameter_overview import count_parameters

from sslshift.budget import Budget
from sslshift.data.decode import Canvas
from sslshift.data.mixture import Component, Mixture, Stage
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import PartialSource, Source, SyntheticSource, cached, digests, open_source
from sslshift.study.build import build_training, method_options
from sslshift.study.candidates import Candidate, open_candidates, sample_plan
from sslshift.study.declare import Study
from sslshift.training.loop import Training, traced_step
from sslshift.transfer.protocol import Task, make_task


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid: a candidate by its name and N, a training seed, and the draw of its subsets."""

    source: str
    unique: int
    seed: int
    draw: int


# Of a study's fields those that change a run and are recorded as they are given; what a recipe resolves is recorded so.
_RECORDED = ("downstream", "downstream_test", "labelled", "batch_size", "method", "encoder", "dtype")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A study with everything that it names opened, checked and built.

    Attributes:
      sources: by URI, less the images of a test split that was held out of the downstream images; `withheld` counts those.
      candidates: what is compared.
      runs: the grid.
    """

    study: Study
    budget: Budget
    canvas: Canvas
    sources: dict[str, Source]
    task: Task
    training: Training
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    withheld: dict[str, int]

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

    @staticmethod
    def slug(name: str) -> str:
        """A folder's name for a source or candidate: readable, and unlike that of any other."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        words = re.sub(r"[^A-Za-z0-9]+", "_", (name.partition(":")[2] or name).partition("?")[0]).strip("_")
        return f"{words[-40:]}-{digest}"

    def facts(self, candidate: Candidate) -> dict[str, dict]:
        """What a run's record keeps of its sources."""
        used = {uri: self.sources[uri] for uri in candidate.mixture.largest}
        return {uri: {"fingerprint": source.fingerprint, "licence": source.licence} for uri, source in used.items()}

    def cost(self, candidate: Candidate) -> float:
        """What the candidate's different images cost."""
        return sum(unique * self.sources[uri].cost_per_image for uri, unique in candidate.mixture.largest.items())

    @functools.cached_property
    def parameters(self) -> int:
        """Number of the encoder's parameters; traces a training step and computes nothing."""
        state = traced_step(self.training, self.canvas, self.study.batch_size)
        return count_parameters(state.params["encoder"])

    def candidate(self, run: Run) -> Candidate:
        """What a run spends the budget on."""
        return next(each for each in self.candidates if (each.name, each.unique) == (run.source, run.unique))

    @functools.cached_property
    def equal_shares(self) -> Mixture:
        """The mixture that favours no source."""
        sources = dict(sorted(self.sources.items()))
        share, part = 1 / len(sources), self.budget.samples // len(sources)
        components = (Component(uri, len(source), min(len(source), part), share) for uri, source in sources.items())
        return Mixture((Stage(tuple(components)),))

    def reader(self, mixture: Mixture, seed: int, draw: int) -> BatchReader:
        plan = sample_plan(mixture, self.budget, self.study.batch_size, self.sources, seed=seed, draw=draw)
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
    downstream = open_source(study.downstream)
    canvas = _canvas(downstream, study.image_size)
    downstream = cached(downstream, canvas)
    test = cached(open_source(study.downstream_test), canvas) if study.downstream_test else None
    task = make_task(downstream, test, canvas, labelled=study.labelled)

    withheld: dict[str, int] = {}

    def open_(uri: str) -> Source:
        source = cached(open_source(uri), canvas)
        if test:
            return source
        rest = _without(source, task)
        withheld[uri] = len(source) - len(rest)
        return rest

    sources, candidates = open_candidates(study, budget, open_)
    # All seeds of a kind one after another would show the first source's answer long before the others': seeds go outside.
    pairs = [(draw, seed) for draw in range(study.draws) for seed in range(study.seeds)]
    pairs = pairs or [(seed, seed) for seed in range(study.seeds)]
    runs = tuple(Run(each.name, each.unique, seed, draw) for draw, seed in pairs for each in candidates)
    opened = Opened(study, budget, canvas, sources, task, training, tuple(candidates), runs, withheld)
    # Counting traces a step: an encoder that does not take images of this size, or a loss its batch, says so now.
    _ = opened.parameters
    return opened


def _without(source: Source, task: Task) -> Source:
    """The source less the images of a held-out test split: they must not be pretrained on."""
    if isinstance(source, SyntheticSource):
        return source
    test, held_out = task.test
    stored, test_stored = source.stored_identities(), test.stored_identities()
    if stored and test_stored:
        known, own = {test_stored[0][index] for index in held_out.tolist()}, stored[0]
    else:
        known = set(digests(test, held_out, task.canvas)) - {b""}
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
