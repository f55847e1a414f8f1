"""The metric of every run of a study, and what it is in each resample of the test images: all that its intervals are made of.

The images are resampled once for all runs, floors among them: whatever is made of the numbers, a mean, a difference, a slope,
is paired over the images, and costs a few sums.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sslshift.study.judged import Judged
from sslshift.study.results import Results
from sslshift.transfer.inference import Bootstrapped, Estimate, bootstrap, estimate_mean
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.predictions import on_common_images

UNTRAINED = "untrained encoder"
PIXELS = "raw pixels"
_RESAMPLES = 1000


class Kind(NamedTuple):
    """Runs that differ by seed and draw alone, or a floor, whose `unique` is None; raw pixels have no learner either.

    Attributes:
      learner: names of method and encoder.
      source: a candidate's name, or the floor's.
      unique: N as it was asked for.
    """

    learner: tuple[str, str] | None
    source: str
    unique: int | None


class Grid(NamedTuple):
    """Numbers of some kinds of runs on the same seeds and draws.

    Attributes:
      values: `[kinds, seeds, draws]`.
      boots: what they are in each resample of the test images, `[N, kinds, seeds, draws]`.
    """

    values: np.ndarray
    boots: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """One evaluation of one task.

    Attributes:
      runs: by kind, then by (seed, draw of the subset): the metric for each draw of labelled images `[k]`, and in each resample
        `[N, k]`.
      images: how many test images all of them are of.
    """

    runs: dict[Kind, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]]
    images: int

    def grid(self, kinds: Sequence[Kind]) -> Grid | None:
        """What the kinds share: of a study that is not finished, the seeds that all of them have with all draws.

        A floor knows no draws: it stands beside each.

        Returns:
          None where they share no seed.
        """
        rungs = [kind for kind in kinds if kind.unique is not None]
        shared = set.intersection(*(set(self.runs.get(kind, ())) for kind in rungs or kinds))
        for floor in (kind for kind in kinds if rungs and kind.unique is None and kind.learner):
            shared = {(seed, draw) for seed, draw in shared if (seed, 0) in self.runs.get(floor, ())}
        by_seed: dict[int, list[int]] = {}
        for seed, draw in sorted(shared):
            by_seed.setdefault(seed, []).append(draw)
        most = max(map(len, by_seed.values()), default=0)
        places = [[(seed, draw) for draw in draws] for seed, draws in by_seed.items() if len(draws) == most]
        if not places:
            return None
        columns = [[[self._at(kind, *place) for place in row] for row in places] for kind in kinds]
        values = np.stack([np.stack([np.concatenate([one[0] for one in row]) for row in rows]) for rows in columns])
        boots = np.stack(
            [np.stack([np.concatenate([one[1] for one in row], axis=1) for row in rows], axis=1) for rows in columns], axis=1
        )
        return Grid(values, boots)

    def _at(self, kind: Kind, seed: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
        runs = self.runs[kind]
        return runs[seed, draw] if kind.unique is not None else runs[seed if kind.learner else 0, 0]

    def score(self, kind: Kind) -> Estimate | None:
        """The metric with its interval over seeds, draws and test images; None where there is no run."""
        grid = self.grid([kind])
        if grid is None:
            return None
        found = estimate_mean(Bootstrapped(grid.values[0], grid.boots[:, 0]), self.images)
        return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))

    def difference(self, a: Kind, b: Kind) -> Estimate | None:
        """a less b, seed by seed and draw by draw on the same images; None where they share no seed."""
        grid = self.grid([a, b])
        if grid is None:
            return None
        difference = Bootstrapped(grid.values[0] - grid.values[1], grid.boots[:, 0] - grid.boots[:, 1])
        return estimate_mean(difference, self.images)

    def alone(self, kinds: Sequence[Kind]) -> bool:
        """Whether they share one training seed alone, with however many draws: then chance between seeds cannot be known."""
        trained = [set(self.runs.get(kind, ())) for kind in kinds if kind.unique is not None]
        return len({seed for seed, _ in set.intersection(*trained)}) < 2


@functools.lru_cache(maxsize=32)
def sampled(results: Results, task: str, evaluation: str) -> Sampled:
    """Resamples the test images of a task for one evaluation of every run and floor that has it."""
    members = [(kind, place, judged) for kind, place, judged in _members(results) if evaluation in judged.evaluations(task)]
    several = on_common_images([judged.predicted(task) for _, _, judged in members])
    # An evaluation may have failed for one encoder alone: then there is no prediction.
    known = [(member, each) for member, each in zip(members, several, strict=True) if len(each.predictions[evaluation])]
    runs: dict[Kind, dict] = {}
    if not known:
        return Sampled(runs, 0)
    metric = METRICS[known[0][1].metric]
    labels = known[0][1].labels
    sides = [[_of_draws(each.predictions[evaluation], metric.axes)] for _, each in known]
    numbers = bootstrap(metric, sides, labels, resamples=_RESAMPLES)
    for ((kind, place, _), _), each in zip(known, numbers, strict=True):
        runs.setdefault(kind, {})[place] = (each.values[0], each.replicates[:, 0])
    return Sampled(runs, len(labels))


def _of_draws(predictions: np.ndarray, axes: int) -> np.ndarray:
    return predictions.reshape(-1, *predictions.shape[predictions.ndim - axes :])


def _members(results: Results) -> Iterable[tuple[Kind, tuple[int, int], Judged]]:
    for run, judged in results.runs:
        yield Kind((run.method, run.encoder), run.source, run.unique), (run.seed, run.draw), judged
    for (method, encoder, seed), judged in results.floors.items():
        yield Kind((method, encoder), UNTRAINED, None), (seed, 0), judged
    yield Kind(None, PIXELS, None), (0, 0), results.pixels
