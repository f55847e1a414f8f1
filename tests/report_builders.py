"""Results of a study whose truth is known, for tests of the analysis and the report."""

import dataclasses
import math

import numpy as np

from sslshift.shift import ShiftIndex
from sslshift.study.declare import Study
from sslshift.study.results import FinishedRun, Results, Trained
from sslshift.study.shifts import MeasuredShift
from sslshift.transfer.predictions import Predictions
from sslshift.transfer.scores import EvaluatedEncoder, EvaluationScore, TaskScores

NEAR = "bundled:mnist"
MIDDLE = "bundled:fashion_mnist"
FAR = "synthetic:noise?size=400"
SHIFTS = {NEAR: 0.0, MIDDLE: 0.4, FAR: 0.9, "staged": 0.2}
STUDY = Study(
    sources=f"{NEAR}@8,64,320; {MIDDLE}@8,64,320; {FAR}@8,320",
    mixture=(f"staged = near:{NEAR}@160 -> far:{MIDDLE}@160",),
    downstream="bundled:mnist",
    downstream_test="bundled:mnist/test",
    labelled=100,
    budget=640,
    batch_size=64,
    seeds=3,
    head="32,16",
    shift_images=0,
)
LEARNER = ("simclr", "patch_mlp")


@dataclasses.dataclass(frozen=True, eq=False)
class Planned(EvaluatedEncoder):
    """An encoder whose predictions are made up."""

    found: dict[str, Predictions] | None = None

    def predicted(self, task):
        return self.found[task]


def planned(opened, accuracy, seed):
    """Right on about this share of every task's test images, on much the same ones whatever the seed."""
    scores = {}
    found = {}
    for task in opened.tasks:
        labels = task.test.source.labels[task.test.indices]
        ease = (np.random.default_rng(0).permutation(len(labels)) + 0.5) / len(labels)
        ease += np.random.default_rng([seed, int(accuracy * 1e6)]).normal(0, 0.02, len(labels))
        predictions = {name: np.where(ease < accuracy, labels, (labels + 1) % 10) for name in ("knn", "linear")}
        values = {name: float(np.mean(each == labels)) for name, each in predictions.items()}
        evaluations = {name: EvaluationScore(value, value, value, value, {}) for name, value in values.items()}
        scores[task.name] = TaskScores("accuracy", len(labels), 5.0, evaluations, ())
        found[task.name] = Predictions("accuracy", labels, task.test.indices, predictions)
    return Planned(scores, {}, found)


def truth(run):
    """Near the task diversity helps, far from it not."""
    rise = {NEAR: 0.04, MIDDLE: 0.02, FAR: 0.0, "staged": 0.03}[run.source]
    wobble = 0.002 * (run.seed - 1) + 0.001 * ((run.unique + run.seed) % 3)
    return 0.75 - 0.1 * SHIFTS[run.source] + rise * math.log10(run.unique / 8) + wobble


def planned_shift(value):
    return MeasuredShift(ShiftIndex(*[value] * 6, sample_size=100, repeats=2), dimensions=16, by_encoder=(value,))


def results_of(opened, accuracy=truth, keep=lambda run: True, failed=(), shifts=SHIFTS):
    """Results of a study with this accuracy of each run; runs that are not kept are missing, if they have not failed."""
    runs = []
    for run in (run for run in opened.runs if keep(run) and run not in dict(failed)):
        trained = Trained(loss_first=2.0, loss_last=1.0, broken=0, unique_read=run.unique, seconds=1.5)
        runs.append(FinishedRun(run, trained, planned(opened, accuracy(run), run.seed)))
    untrained = {
        (*learner.key, seed): planned(opened, 0.7 + 0.001 * seed, 100 + seed)
        for learner in opened.learners
        for seed in range(3)
    }
    shifts = {each.name: planned_shift(shifts[each.name]) for each in opened.candidates}
    missing = tuple(run for run in opened.runs if not keep(run) and run not in dict(failed))
    pixels = planned(opened, 0.72, 200)
    task_shifts = {task.name: shifts for task in opened.tasks}
    return Results(opened, tuple(runs), untrained, pixels, task_shifts, {}, tuple(failed), missing)
