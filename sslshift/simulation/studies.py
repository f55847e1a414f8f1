"""Simulated studies as `Results`, which the package analyses and reports like those of a real study."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from sslshift.shift import ShiftIndex
from sslshift.simulation.world import Answers, SimulatedStudy, World
from sslshift.study.declare import Study
from sslshift.study.opened import Opened, Run, open_study
from sslshift.study.results import FinishedRun, Results, Trained
from sslshift.study.shifts import MeasuredShift
from sslshift.transfer import protocol
from sslshift.transfer.claims import MAIN_EVALUATION
from sslshift.transfer.predictions import Predictions
from sslshift.transfer.scores import EvaluatedEncoder, EvaluationScore, TaskScores

# Evaluations in the order of `SimulatedStudy.answers`; the first is that of the primary hypothesis.
EVALUATIONS = (MAIN_EVALUATION, *(name for name in protocol.EVALUATIONS if name != MAIN_EVALUATION))


@dataclasses.dataclass(frozen=True, eq=False)
class SimulatedEncoder(EvaluatedEncoder):
    """An encoder whose predictions are drawn, and not in a folder."""

    drawn: Predictions

    def predicted(self, task: str) -> Predictions:
        """Returns the drawn predictions, which are for the only task."""
        return self.drawn


def source_name(world: World, number: int) -> str:
    """Returns the name of a source in a simulated study; its images are never read."""
    return f"synthetic:noise?size={world.unique[-1]}&seed={number}"


def open_world(world: World) -> Opened:
    """Returns the opened study of a world. All studies of the world share it, because it holds no results.

    Raises:
      ValueError: the budget, `unique[-1]`, is not a multiple of two images for each device.
    """
    levels = ",".join(map(str, world.unique))
    opened = open_study(
        Study(
            sources="; ".join(f"{source_name(world, number)}@{levels}" for number in range(world.sources)),
            downstream="bundled:mnist",
            downstream_test="bundled:mnist/test",
            labelled=100,
            budget=world.unique[-1],
            batch_size=2 * jax.device_count(),
            seeds=world.seeds,
            draws=world.draws,
            head="32,16",
            shift_images=0,
        )
    )
    # One built method under several names: building others would take seconds, and no method is ever trained here.
    (built,) = opened.learners
    names = [f"method{number}" for number in range(world.methods)]
    learners = tuple(dataclasses.replace(built, settings=dataclasses.replace(built.settings, method=name)) for name in names)
    runs = tuple(
        Run(*learner.key, candidate.name, candidate.unique, seed, draw)
        for draw, seed in world.replicates
        for learner in learners
        for candidate in opened.candidates
    )
    task = dataclasses.replace(opened.task, test=opened.task.test._replace(indices=np.arange(world.images)))
    return dataclasses.replace(opened, learners=learners, runs=runs, tasks=(task,))


def results_of(study: SimulatedStudy, opened: Opened) -> Results:
    """Returns the results of a simulated study; in an unfinished one, the last runs are missing.

    Args:
      study: the study.
      opened: result of `open_world` for the study's world.
    """
    world = study.world
    methods = {learner.key: number for number, learner in enumerate(opened.learners)}
    sources = {source_name(world, number): number for number in range(world.sources)}
    indices = np.arange(world.images)

    def encoder(part: Callable[[Answers], np.ndarray]) -> SimulatedEncoder:
        right = dict(zip(EVALUATIONS, map(part, study.answers), strict=False))
        # All labels are 0, so that a right prediction is 0 and a wrong one 1.
        predicted = {name: (~each).view(np.int8) for name, each in right.items()}
        labels = np.zeros(world.images, np.int8)
        kept = {name: each if len(each) > 1 else each[0] for name, each in predicted.items()}
        values = {name: EvaluationScore(*[float(each.mean())] * 4, {}) for name, each in right.items()}
        scores = TaskScores("accuracy", world.images, 1.0, values, ())
        return SimulatedEncoder({opened.task.name: scores}, {}, Predictions("accuracy", labels, indices, kept))

    def finished(run: Run) -> FinishedRun:
        place = (methods[run.learner], sources[run.source], world.unique.index(run.unique))
        replicate = world.replicates.index((run.draw, run.seed))
        return FinishedRun(
            run, Trained(2.0, 1.0, 0, run.unique, 1.0), encoder(lambda answers: answers.trained[(*place, replicate)])
        )

    untrained = {
        (*key, seed): encoder(lambda answers, place=(method, seed): answers.untrained[place])
        for key, method in methods.items()
        for seed in range(study.untrained.shape[1])
    }
    shifts = {name: _measured(study.index_by_encoder[:, number]) for name, number in sources.items()}
    ended = max(1, round(world.finished * len(opened.runs)))
    runs = tuple(map(finished, opened.runs[:ended]))
    shifts_by_task = {opened.task.name: shifts}
    pixels = encoder(lambda answers: answers.pixels)
    return Results(opened, runs, untrained, pixels, shifts_by_task, {}, missing=opened.runs[ended:])


def _measured(by_encoder: np.ndarray) -> MeasuredShift:
    index = ShiftIndex(*[float(by_encoder.mean())] * 6, sample_size=1, repeats=2)
    return MeasuredShift(index, dimensions=1, by_encoder=tuple(by_encoder.tolist()))
