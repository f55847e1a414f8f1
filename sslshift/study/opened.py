"""A study with everything that it names opened, checked and built: what is trained, on what, and how often."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from sslshift.budget import Budget
from sslshift.data.decode import Canvas
from sslshift.data.mixture import Component, Mixture, Stage
from sslshift.data.permutation import permute
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import Source, cached, open_source, readable
from sslshift.models.opening import open_encoder
from sslshift.shift import distance_of
from sslshift.study.build import build_training
from sslshift.study.candidates import Candidate, open_candidates, sample_plan
from sslshift.study.declare import Study
from sslshift.study.downstream import canvas_of, declared_evaluations, declared_tasks, open_in_shape, without_test
from sslshift.study.learners import Learner, open_learners, single_studies
from sslshift.training.online import Labelled, Online
from sslshift.transfer.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid: method, encoder, a candidate by its name and N, a training seed, and the draw of its subsets."""

    method: str
    encoder: str
    source: str
    unique: int
    seed: int
    draw: int


# Labelled images that an online probe learns from and is tested on, at most, and images of the signals without labels.
_ONLINE_IMAGES = 5000
_SIGNAL_IMAGES = 512
_ONLINE_KEY = 6


@dataclasses.dataclass(frozen=True)
class Opened:
    """A study with everything that it names opened, checked and built.

    Attributes:
      sources: by URI, less the images of a test split that was held out of the downstream images; `withheld` counts those.
      tasks: what encoders are judged on; distances are measured to the first.
      evaluations: how, by name.
      learners: every method on every encoder, in the order in which they are named.
      candidates: what the budget is spent on.
      runs: the grid, in the order in which it is run.
    """

    study: Study
    budget: Budget
    canvas: Canvas
    sources: dict[str, Source]
    tasks: tuple[Task, ...]
    evaluations: dict[str, Any]
    learners: tuple[Learner, ...]
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    withheld: dict[str, int]

    @property
    def task(self) -> Task:
        """The task that the study is about: gains and distances are those to it."""
        return self.tasks[0]

    @property
    def reference(self) -> Learner:
        """What the reference encoder of the shift index is trained with: the first method on the first encoder."""
        return self.learners[0]

    @functools.cached_property
    def weights(self) -> dict[tuple[str, str], float]:
        """How long a run of each learner takes beside those of others, by the FLOPs of its steps."""
        if len(self.learners) == 1:
            return {self.reference.key: 1.0}
        return {learner.key: learner.flops for learner in self.learners}

    def learner(self, run: Run) -> Learner:
        """What a run is trained with."""
        return next(each for each in self.learners if each.key == (run.method, run.encoder))

    def facts(self, candidate: Candidate) -> dict[str, dict]:
        """What a run's record keeps of its sources."""
        used = {uri: self.sources[uri] for uri in candidate.mixture.largest}
        return {uri: {"fingerprint": source.fingerprint, "licence": source.licence} for uri, source in used.items()}

    def cost(self, candidate: Candidate) -> float:
        """What the candidate's different images cost."""
        return sum(unique * self.sources[uri].cost_per_image for uri, unique in candidate.mixture.largest.items())

    def candidate(self, run: Run) -> Candidate:
        """What a run spends the budget on."""
        return next(each for each in self.candidates if (each.name, each.unique) == (run.source, run.unique))

    @functools.cached_property
    def equal_shares(self) -> Mixture:
        """The mixture that favours no source."""
        sources = dict(sorted(self.sources.items()))
        share = 1 / len(sources)
        part = self.budget.samples // len(sources)
        components = (Component(uri, len(source), min(len(source), part), share) for uri, source in sources.items())
        return Mixture((Stage(tuple(components)),))

    @functools.cached_property
    def online(self) -> Online | None:
        """What is reported of an encoder while it is trained, on images of the first task; None if nothing is."""
        if not self.study.online_every:
            return None
        parts = []
        for part in (self.task.train, self.task.validation):
            # In a seeded order: a source sorted by class would give images of a few classes.
            places = permute(np.arange(len(part.indices)), len(part.indices), _ONLINE_KEY)[:_ONLINE_IMAGES]
            some = readable(part.source, part.indices[places], self.canvas)
            parts.append(Labelled(part.source.read(some, self.canvas), part.source.labels[some]))
        return Online(self.study.online_every, parts[0].images[:_SIGNAL_IMAGES], *parts, self.task.classes)

    def reader(self, mixture: Mixture, seed: int, draw: int) -> BatchReader:
        plan = sample_plan(mixture, self.budget, self.study.batch_size, self.sources, seed=seed, draw=draw)
        sources = {name: self.sources[name] for name in plan.sources}
        return BatchReader(plan, sources, self.canvas, jax.process_index(), jax.process_count())


def open_study(study: Study) -> Opened:
    """Opens what a study names. Every error in the declaration shows here, before anything is trained.

    Raises:
      ValueError: a source, method or encoder is unknown, or numbers do not fit each other.
    """
    # A mistake in the settings shows before any source is opened.
    trainings = [build_training(single) for single in single_studies(study)]
    if study.batch_size % jax.device_count():
        raise ValueError(f"--batch_size={study.batch_size} cannot be divided among {jax.device_count()} devices.")
    # Both are needed late, after floors are judged: what is wrong with them is told now.
    distance_of(study.shift_distance)
    if study.shift_encoder:
        open_encoder(study.shift_encoder)
    budget = Budget(study.budget).whole_batches(study.batch_size)
    evaluations = declared_evaluations(study)
    declared = declared_tasks(study)
    # A folder is decoded whenever it is opened: each URI once.
    open_once = functools.cache(open_source)
    canvas = canvas_of(open_once(declared[0].source), study.image_size)
    kept = functools.cache(lambda uri: cached(open_once(uri), canvas))
    tasks = tuple(open_in_shape(each, canvas, kept, asked=bool(study.image_size)) for each in declared)
    held_out = [task for task, each in zip(tasks, declared, strict=True) if not each.test]

    withheld: dict[str, int] = {}

    def open_(uri: str) -> Source:
        rest = source = kept(uri)
        for task in held_out:
            rest = without_test(rest, task)
        if held_out:
            withheld[uri] = len(source) - len(rest)
        return rest

    sources, candidates = open_candidates(study, budget, open_)
    learners = open_learners(study, budget, canvas, trainings)
    # One run of every kind, the cheapest first, comes before the second seed of any.
    cheapest = sorted(learners, key=lambda learner: learner.flops) if len(learners) > 1 else learners
    pairs = [(draw, seed) for draw in range(study.draws) for seed in range(study.seeds)]
    pairs = pairs or [(seed, seed) for seed in range(study.seeds)]
    runs = tuple(
        Run(*learner.key, each.name, each.unique, seed, draw)
        for draw, seed in pairs
        for learner in cheapest
        for each in candidates
    )
    return Opened(study, budget, canvas, sources, tasks, evaluations, tuple(learners), tuple(candidates), runs, withheld)
