"""Opened study: its sources, tasks and learners, checked and built, and its grid of runs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np

from sslshift import cluster
from sslshift.budget import Budget
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.mixture import Component, Mixture, Stage
from sslshift.data.permutation import permute
from sslshift.data.pipeline import BatchReader
from sslshift.data.ranges import compare_ranges
from sslshift.data.sources import PartialSource, Source, cached, digests, open_source, readable
from sslshift.shards import deal
from sslshift.storage import digest
from sslshift.study.candidates import Candidate, named_candidate, named_text, names_of, open_candidates, sample_plan
from sslshift.study.declare import Study
from sslshift.study.design import Design, parse_study
from sslshift.study.learners import Learner, open_learners
from sslshift.training import Training
from sslshift.training.feed import PlacedImages, images_of, memory_for_images, place
from sslshift.training.observe import Observation
from sslshift.training.online import Labelled, Online
from sslshift.training.profile import Profiler
from sslshift.training.programs import steps_per_dispatch
from sslshift.training.step import make_mesh
from sslshift.transfer.declaration import TaskDeclaration, open_task, own_canvas
from sslshift.transfer.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid: method, encoder, candidate (name and N), training seed, and draw of the subsets."""

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


# Largest number of labelled images to train and to test an online probe. More would slow training down.
_ONLINE_IMAGES = 5000
# Number of images for the signals without labels.
_SIGNAL_IMAGES = 512
# Key of the order in which these images are drawn; it differs from the key of every subset.
_ONLINE_KEY = 6
# Images of a split whose shapes are compared: enough to find a folder of another kind, few enough to decode at once.
_LOOKED_AT = 16
# Above this side, the shape of an image is no default: without --image_size, a study would take hours.
_LARGEST_DEFAULT_SIDE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """Opened study: its sources, tasks and learners, checked and built, and its grid of runs.

    Attributes:
      design: design of the study.
      canvas: shape of every image.
      sources: sources by URI, without the images of a held-out test split.
      withheld: number of these removed images by URI.
      tasks: tasks on which encoders are evaluated and to which shifts are measured.
      learners: every method on every encoder, in the order of the declaration.
      candidates: candidates on which the budget is spent.
      runs: runs of the grid, in the order of their execution.
      names: name of each source in tables, figures and sentences, by its URI.
    """

    design: Design
    canvas: Canvas
    sources: dict[str, Source]
    withheld: dict[str, int]
    tasks: tuple[Task, ...]
    learners: tuple[Learner, ...]
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    names: Mapping[str, str]

    @property
    def task(self) -> Task:
        """The main task of the study, which is the first one."""
        return self.tasks[0]

    @functools.cached_property
    def reference(self) -> Learner:
        """The learner that trains the reference encoders of the shift index: the first method on the first encoder.

        All of them together have the budget of one run.
        """
        part = self.design.budget.samples // max(1, self.design.shift.seeds)
        budget = Budget(max(part, self.design.batch_size)).whole_batches(self.design.batch_size)
        return dataclasses.replace(self.learners[0], budget=budget)

    @functools.cached_property
    def weights(self) -> dict[tuple[str, str], float]:
        """Relative time of a run of each learner, by the FLOPs of its steps."""
        if len(self.learners) == 1:
            return {self.learners[0].key: 1.0}
        return {learner.key: learner.flops for learner in self.learners}

    @functools.cached_property
    def shard_of(self) -> dict[Run, int]:
        """The number of the shard of each run; 1 without shards."""
        # Sorted by what all machines agree on. The grid's own order depends on FLOPs, which are unknown without a CPU's JAX.
        runs = sorted(self.runs, key=lambda run: (run.seed, run.draw, *dataclasses.astuple(run)))
        kinds = [(run.learner, (run.source, run.unique)) for run in runs]
        count = self.design.shard.count if self.design.shard else 1
        return dict(zip(runs, deal(kinds, count), strict=True))

    @functools.cached_property
    def own(self) -> tuple[Run, ...]:
        """Runs of this process: those of its shard, or all."""
        shard = self.design.shard
        return tuple(run for run in self.runs if self.shard_of[run] == shard.number) if shard else self.runs

    @functools.cached_property
    def named(self) -> "Opened":
        """The study with names in place of URIs, for people; records, folders and the results table have the URIs."""
        names = self.names
        mixtures = (dataclasses.replace(each, name=named_text(each.name or str(each), names)) for each in self.design.mixtures)
        return dataclasses.replace(
            self,
            design=dataclasses.replace(self.design, mixtures=tuple(mixtures)),
            sources={names[uri]: source for uri, source in self.sources.items()},
            withheld={names[uri]: count for uri, count in self.withheld.items()},
            candidates=tuple(named_candidate(each, names) for each in self.candidates),
            runs=tuple(self.named_run(run) for run in self.runs),
            names={name: name for name in names.values()},
        )

    def named_run(self, run: Run) -> Run:
        """Returns a run with names in place of the URIs of its sources."""
        return dataclasses.replace(run, source=named_text(run.source, self.names))

    def learner(self, run: Run) -> Learner:
        """Returns the learner that trains a run."""
        return next(each for each in self.learners if each.key == run.learner)

    def candidate(self, run: Run) -> Candidate:
        """Returns the candidate of a run."""
        return next(each for each in self.candidates if (each.name, each.unique) == (run.source, run.unique))

    def cost(self, candidate: Candidate) -> float:
        """Returns the cost of a candidate's unique samples."""
        return sum(unique * self.sources[uri].cost_per_image for uri, unique in candidate.mixture.largest.items())

    @functools.cached_property
    def equal_shares(self) -> Mixture:
        """The mixture with an equal share of every source, which favours no source."""
        sources = dict(sorted(self.sources.items()))
        share = 1 / len(sources)
        part = self.reference.budget.samples // len(sources)
        components = (Component(uri, len(source), min(len(source), part), share) for uri, source in sources.items())
        return Mixture((Stage(tuple(components)),))

    @functools.cached_property
    def online(self) -> Online | None:
        """The probe and the signals that are reported during training, on images of the first task; None without reports."""
        if not self.design.online_every:
            return None
        # Training never uses the test split, which is scored once at the end.
        parts = []
        for part in (self.task.train, self.task.validation):
            # The order is random with a seed, because the first images of a sorted source have few classes.
            places = permute(np.arange(len(part.indices)), len(part.indices), _ONLINE_KEY)[:_ONLINE_IMAGES]
            some = readable(part.source, part.indices[places], self.canvas)
            parts.append(Labelled(part.source.read(some, self.canvas), part.source.labels[some]))
        return Online(self.design.online_every, parts[0].images[:_SIGNAL_IMAGES], *parts, self.task.classes)

    @functools.cached_property
    def observation(self) -> Observation:
        """Returns what is observed while the runs train: one object, because only one of them is traced."""
        profiler = Profiler(self.design.profile) if self.design.profile else None
        return Observation(self.design.tensorboard, profiler, self.design.hang_after)

    @functools.cached_property
    def _seen(self) -> dict[str, np.ndarray]:
        """Indices of the images that the runs see, by URI. The seed of a run only decides their order."""
        seen = {(run.source, run.unique, run.draw): run for run in self.own}
        return images_of(self.reader(self.candidate(run).mixture, 0, run.draw).plan for run in seen.values())

    @functools.cached_property
    def _room(self) -> int:
        """Bytes for training images on the device that has least room, of all processes."""
        return min(cluster.gathered("memory for images", memory_for_images(self.design.device_memory)))

    @functools.cached_property
    def memory_note(self) -> str:
        """Says that the training images do not fit into an accelerator's memory; empty if they do, and on a CPU."""
        room = self._room
        needed = sum(map(len, self._seen.values())) * int(np.prod(self.canvas))
        if not room or needed <= room:
            return ""
        return (
            f"The training images need {needed / 2**30:.3g} GiB, and a device has {room / 2**30:.3g} GiB for them "
            f"(--device_memory={self.design.device_memory:g} of its free memory): images are read on the host."
        )

    @functools.cached_property
    def placed(self) -> PlacedImages | None:
        """All training images in the accelerator's memory, read once for all runs; None if they do not fit, and on a CPU."""
        if self.memory_note or not self._room:
            return None
        return place(self._seen, self.sources, self.canvas, make_mesh())

    def training(self, run: Run) -> Training:
        """Returns the settings of a run's training."""
        learner = self.learner(run)
        # On a CPU the start of a program takes no time beside its steps.
        short = jax.default_backend() != "cpu"
        most = self.design.steps_per_dispatch or (steps_per_dispatch(learner.flops) if short else 1)
        return dataclasses.replace(learner.training, steps_per_dispatch=most)

    def reader(self, mixture: Mixture, seed: int, draw: int, budget: Budget | None = None) -> BatchReader:
        """Returns the batches of a run on a mixture; at the budget of the study if no other is given."""
        plan = sample_plan(mixture, budget or self.design.budget, self.design.batch_size, self.sources, seed=seed, draw=draw)
        sources = {name: self.sources[name] for name in plan.sources}
        return BatchReader(plan, sources, self.canvas, jax.process_index(), jax.process_count())


def open_study(study: Study | Design) -> Opened:
    """Opens everything that a study names. Every mistake in a declaration is reported here, before anything is trained.

    Args:
      study: the declaration, or its parsed design.

    Raises:
      ValueError: a source, method or encoder is unknown, or numbers do not fit each other.
    """
    # The settings are checked before any source is opened, because opening may take long.
    design = study if isinstance(study, Design) else parse_study(study)
    # Opening a folder decodes its images, so each URI is opened only once.
    open_once = functools.cache(open_source)
    canvas = _canvas_of(open_once(design.tasks[0].source), design.image_size)
    kept = functools.cache(lambda uri: cached(open_once(uri), canvas))
    tasks = tuple(_open_in_shape(each, canvas, kept, asked=bool(design.image_size)) for each in design.tasks)
    # A test split in --downstream_test may be part of a source on purpose; it is reported as a leak.
    held_out = [task for task, each in zip(tasks, design.tasks, strict=True) if not each.test]

    withheld: dict[str, int] = {}

    def open_(uri: str) -> Source:
        rest = source = kept(uri)
        for task in held_out:
            rest = _without_test(rest, task)
        if held_out:
            withheld[uri] = len(source) - len(rest)
        return rest

    return _with_grid(design, canvas, tasks, open_, withheld)


def open_again(opened: Opened, study: Study) -> Opened:
    """Opens a study of images that another study has opened, such as one at another budget; no image is read again.

    Args:
      opened: a study with the same tasks and image size, and with all sources of the new one.
      study: declaration of the new study.
    """
    return _with_grid(parse_study(study), opened.canvas, opened.tasks, opened.sources.__getitem__, dict(opened.withheld))


def _with_grid(
    design: Design, canvas: Canvas, tasks: tuple[Task, ...], open_: Callable[[str], Source], withheld: dict[str, int]
) -> Opened:
    sources, candidates = open_candidates(design, open_)
    # Learners are built last, because tracing is slow: a missing folder is reported first.
    learners = open_learners(design.learners, design.budget, design.batch_size, canvas)
    runs = _grid(design, learners, candidates)
    names = names_of(design, sources)
    return Opened(design, canvas, sources, withheld, tasks, learners, tuple(candidates), runs, names)


def _grid(design: Design, learners: tuple[Learner, ...], candidates: list[Candidate]) -> tuple[Run, ...]:
    """Returns all runs: first one run of every kind, the cheapest first, then the second seed of every kind, and so on.

    A study that is stopped early therefore has results for every kind, with wider intervals.
    """
    cheapest = sorted(learners, key=lambda learner: learner.flops) if len(learners) > 1 else learners
    return tuple(
        Run(*learner.key, each.name, each.unique, seed, draw)
        for draw, seed in design.replicates
        for learner in cheapest
        for each in candidates
    )


def _without_test(source: Source, task: Task) -> Source:
    """Returns the source without the images of a held-out test split, which must not be used for pretraining.

    Two images are equal if their pixels are equal in the shape that encoders take. If that shape is grey, pictures that differ
    only in colour can be equal.
    """
    test, held_out = task.test
    if source.shares_none_with(test):
        return source
    stored = source.stored_identities()
    test_stored = test.stored_identities()
    # Stored digests are computed from the original pixels, so no image has to be decoded.
    if stored and test_stored:
        known = {test_stored[0][index] for index in held_out.tolist()}
        own = stored[0]
    else:
        known = set(digests(test, held_out, task.canvas)) - {b""}
        own = digests(source, np.arange(len(source)), task.canvas)
    kept = np.flatnonzero([digest not in known for digest in own])
    if not len(kept):
        raise ValueError(
            f"{source.name} holds only images of the test split, which must not be used for pretraining; name another source."
        )
    return source if len(kept) == len(source) else PartialSource(source, kept)


def _canvas_of(downstream: Source, side: int) -> Canvas:
    """Returns the shape of all images; it has colour if any of a few downstream images has colour."""
    if not side:
        return own_canvas(downstream, largest=_LARGEST_DEFAULT_SIDE)
    channels = max(downstream[int(index)]["image"].shape[2] for index in np.linspace(0, len(downstream) - 1, 16))
    return Canvas(side, side, channels)


def _open_in_shape(declaration: TaskDeclaration, canvas: Canvas, open_: Callable[[str], Source], *, asked: bool) -> Task:
    """Returns a task whose images have the shape that the study's encoders take.

    Args:
      declaration: declaration of the task.
      canvas: shape that encoders take.
      open_: function that opens a source by its URI.
      asked: whether --image_size was given. Images of other sizes are then resized.

    Raises:
      ValueError: like `open_task`; or images have another shape, and --image_size was not given.
    """
    task = open_task(declaration, canvas, open_)
    notes = list(task.notes)
    for split, part in task.splits.items():
        shapes = _shapes(part.source, part.indices)
        other = next((shape for shape in shapes if shape[:2] != canvas[:2]), None)
        # A few colour images among grey ones are accepted: folders often contain a few scans in colour.
        coloured = canvas.channels == 1 and bool(shapes) and all(shape[2] == 3 for shape in shapes)
        # Resizing without --image_size would change the task silently.
        if not asked and (other or coloured):
            raise ValueError(
                f"{task.name}: images of the {split} split are {_shape_text(other or shapes[0])}, but encoders take "
                f"{_shape_text(canvas)} as in --downstream. Set --image_size={canvas.height} to resize all images to it."
            )
        if coloured:
            notes.append(f"colours of the {split} split are dropped, since encoders take {_shape_text(canvas)}")
    return dataclasses.replace(task, notes=tuple(notes))


def _shapes(source: Source, indices: np.ndarray) -> list[tuple[int, ...]]:
    """Returns the shapes of some images; unreadable images are skipped here, and the evaluation reports them."""
    found = []
    for index in indices[np.linspace(0, len(indices) - 1, min(_LOOKED_AT, len(indices))).astype(int)].tolist():
        try:
            found.append(source[index]["image"].shape)
        except BrokenImageError:
            continue
    return found


def _shape_text(shape) -> str:
    return f"{shape[1]} x {shape[0]} {'colour' if shape[2] == 3 else 'gray'}"


def range_notes(opened: Opened) -> list[str]:
    """Returns a sentence without a full stop if sources and tasks have different pixel ranges."""
    tasks = {each.train.source.name: each.train.source for each in opened.tasks}
    return compare_ranges({name: source.pixel_range for name, source in (tasks | opened.sources).items()})


def require_same_images(opened: Opened) -> None:
    """Raises ClusterError if the processes of this command do not see the same images."""
    seen = {f"the fingerprint of {uri}": source.fingerprint[:12] for uri, source in opened.sources.items()}
    seen |= {f"the digest of task {task.name}": digest(task.facts, 12) for task in opened.tasks}
    # All learners continue from the same encoder; the digest is empty without one.
    seen["the digest of the encoder of --init"] = opened.learners[0].settings.initial_digest[:12]
    cluster.require_equal("the images", seen, "Every host must see the same files.")
