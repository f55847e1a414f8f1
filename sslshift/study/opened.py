"""A study with everything that it names opened, checked and built: what is trained, on what, and how often."""

import dataclasses
import functools

import jax
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.mixture import Component, Mixture, Stage
from sslshift.data.permutation import permute
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import Source, cached, open_source, readable
from sslshift.study.candidates import Candidate, open_candidates, sample_plan
from sslshift.study.declare import Study
from sslshift.study.design import Design, parse_study
from sslshift.study.downstream import canvas_of, open_in_shape, without_test
from sslshift.study.learners import Learner, open_learners
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

    @property
    def learner(self) -> tuple[str, str]:
        """The names of method and encoder."""
        return self.method, self.encoder


# Labelled images that an online probe learns from and is tested on, at most. More would slow training without being surer.
_ONLINE_IMAGES = 5000
# Images of the signals that need no labels.
_SIGNAL_IMAGES = 512
# Key of the order in which these images are drawn, unlike that of any subset.
_ONLINE_KEY = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A study with everything that it names opened, checked and built.

    Attributes:
      design: of the study.
      canvas: shape of every image.
      sources: by URI, without the images of a test split that was held out of the downstream images.
      withheld: number of these images by URI.
      tasks: what encoders are evaluated on; shifts are measured to each.
      learners: every method on every encoder, in the order in which they are named.
      candidates: what the budget is spent on.
      runs: the grid, in the order in which it is run.
    """

    design: Design
    canvas: Canvas
    sources: dict[str, Source]
    withheld: dict[str, int]
    tasks: tuple[Task, ...]
    learners: tuple[Learner, ...]
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]

    @property
    def task(self) -> Task:
        """The task that the study is about: its first."""
        return self.tasks[0]

    @property
    def reference(self) -> Learner:
        """The learner that trains the reference encoder of the shift index: the first method on the first encoder."""
        return self.learners[0]

    @functools.cached_property
    def weights(self) -> dict[tuple[str, str], float]:
        """Relative time of a run of each learner, by the FLOPs of its steps."""
        if len(self.learners) == 1:
            return {self.reference.key: 1.0}
        return {learner.key: learner.flops for learner in self.learners}

    def learner(self, run: Run) -> Learner:
        """Returns the learner that trains a run."""
        return next(each for each in self.learners if each.key == run.learner)

    def candidate(self, run: Run) -> Candidate:
        """Returns the candidate that a run spends the budget on."""
        return next(each for each in self.candidates if (each.name, each.unique) == (run.source, run.unique))

    def cost(self, candidate: Candidate) -> float:
        """Returns the cost of a candidate's unique samples."""
        return sum(unique * self.sources[uri].cost_per_image for uri, unique in candidate.mixture.largest.items())

    @functools.cached_property
    def equal_shares(self) -> Mixture:
        """The mixture with an equal share of every source, which favours none."""
        sources = dict(sorted(self.sources.items()))
        share = 1 / len(sources)
        part = self.design.budget.samples // len(sources)
        components = (Component(uri, len(source), min(len(source), part), share) for uri, source in sources.items())
        return Mixture((Stage(tuple(components)),))

    @functools.cached_property
    def online(self) -> Online | None:
        """The probe and the signals that are reported during training, on images of the first task; None without reports."""
        if not self.design.online_every:
            return None
        # The test split is not touched during training: it is reported once, at the end.
        parts = []
        for part in (self.task.train, self.task.validation):
            # In a seeded order: a source sorted by class would give images of a few classes.
            places = permute(np.arange(len(part.indices)), len(part.indices), _ONLINE_KEY)[:_ONLINE_IMAGES]
            some = readable(part.source, part.indices[places], self.canvas)
            parts.append(Labelled(part.source.read(some, self.canvas), part.source.labels[some]))
        return Online(self.design.online_every, parts[0].images[:_SIGNAL_IMAGES], *parts, self.task.classes)

    def reader(self, mixture: Mixture, seed: int, draw: int) -> BatchReader:
        """Returns the batches of a run on a mixture."""
        plan = sample_plan(mixture, self.design.budget, self.design.batch_size, self.sources, seed=seed, draw=draw)
        sources = {name: self.sources[name] for name in plan.sources}
        return BatchReader(plan, sources, self.canvas, jax.process_index(), jax.process_count())


def open_study(study: Study | Design) -> Opened:
    """Opens everything that a study names. Every mistake in a declaration is reported here, before anything is trained.

    Args:
      study: the declaration, or its design where it is parsed already.

    Raises:
      ValueError: a source, method or encoder is unknown, or numbers do not fit each other.
    """
    # A mistake in the settings is reported before any source is opened, which may take long.
    design = study if isinstance(study, Design) else parse_study(study)
    # A folder is decoded each time it is opened, so each URI is opened once.
    open_once = functools.cache(open_source)
    canvas = canvas_of(open_once(design.tasks[0].source), design.image_size)
    kept = functools.cache(lambda uri: cached(open_once(uri), canvas))
    tasks = tuple(open_in_shape(each, canvas, kept, asked=bool(design.image_size)) for each in design.tasks)
    # A split that was named apart may be in a source on purpose; leaks are searched for and reported.
    held_out = [task for task, each in zip(tasks, design.tasks, strict=True) if not each.test]

    withheld: dict[str, int] = {}

    def open_(uri: str) -> Source:
        rest = source = kept(uri)
        for task in held_out:
            rest = without_test(rest, task)
        if held_out:
            withheld[uri] = len(source) - len(rest)
        return rest

    sources, candidates = open_candidates(design, open_)
    # Last, since building traces every network: a missing folder is reported at once.
    learners = open_learners(design.learners, design.budget, design.batch_size, canvas)
    runs = _grid(design, learners, candidates)
    return Opened(design, canvas, sources, withheld, tasks, learners, tuple(candidates), runs)


def _grid(design: Design, learners: tuple[Learner, ...], candidates: list[Candidate]) -> tuple[Run, ...]:
    """Returns all runs. One run of every kind, the cheapest first, comes before the second seed of any.

    A study that is stopped early has then compared everything, if with wider intervals.
    """
    cheapest = sorted(learners, key=lambda learner: learner.flops) if len(learners) > 1 else learners
    return tuple(
        Run(*learner.key, each.name, each.unique, seed, draw)
        for draw, seed in design.replicates
        for learner in cheapest
        for each in candidates
    )
