"""Paired scores: many encoders on the same test images, with one bootstrap for all of them.

The test images are resampled once for every encoder. A mean, a difference or a slope of scores is therefore paired over images,
and costs a few sums.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from sslshift.transfer.inference import Bootstrapped, Estimate, bootstrap, estimate_mean, holm
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.predictions import Predictions, on_common_images

# A report has hundreds of intervals; with more replicates their ends move by less than they are printed to.
_REPLICATES = 1000

LEVEL = 0.95
NOTHING = "no significant difference"
ONE_SEED = "one seed, not tested"


class EncoderPredictions(NamedTuple):
    """Predictions of one encoder, with its place among others.

    Attributes:
      kind: encoders of one kind differ by seed and draw alone.
      seed: of the training; None: the encoder is compared with every seed, as raw pixels are.
      draw: of the training images; None: the encoder is compared with every draw, as untrained encoders are.
      predictions: of the test images, by evaluation.
    """

    kind: Hashable
    seed: int | None
    draw: int | None
    predictions: Predictions


_Place = tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True, eq=False)
class PairedScores:
    """One evaluation of several encoders on one task.

    Attributes:
      scores: by kind and by (seed, draw): the metric for each draw of labelled images `[k]`, with replicates `[R, k]`.
      images: number of test images.
    """

    scores: dict[Hashable, dict[_Place, tuple[np.ndarray, np.ndarray]]]
    images: int

    @classmethod
    def of_members(cls, members: Sequence[EncoderPredictions], evaluation: str) -> "PairedScores":
        """Returns the scores of encoders that have an evaluation, on the test images that all of them predicted.

        Raises:
          ValueError: the encoders were evaluated on different tasks.
        """
        members = [each for each in members if evaluation in each.predictions.predictions]
        common = on_common_images([each.predictions for each in members])
        # An evaluation can fail for one encoder alone, which then has no predictions.
        known = [(member, each) for member, each in zip(members, common, strict=True) if len(each.predictions[evaluation])]
        scores: dict[Hashable, dict[_Place, tuple[np.ndarray, np.ndarray]]] = {}
        if not known:
            return cls(scores, 0)
        metric = METRICS[known[0][1].metric]
        labels = known[0][1].labels
        sides = [[_with_draws(each.predictions[evaluation], metric.axes)] for _, each in known]
        numbers = bootstrap(metric, sides, labels, resamples=_REPLICATES)
        for (member, _), each in zip(known, numbers, strict=True):
            scores.setdefault(member.kind, {})[member.seed, member.draw] = (each.values[0], each.replicates[:, 0])
        return cls(scores, len(labels))

    def grid(self, kinds: Sequence[Hashable]) -> Bootstrapped | None:
        """Returns scores `[kinds, seeds, draws]` with replicates `[R, kinds, seeds, draws]` on the seeds that all kinds share.

        In a study that is not finished, seeds that lack a draw are excluded. A kind without draws is repeated for each draw.

        Returns:
          None if the kinds share no seed.
        """
        # Kinds with draws decide which places there are; the others only have to have their seeds.
        trained = [kind for kind in kinds if any(draw is not None for _, draw in self._places(kind))]
        shared = set.intersection(*(self._places(kind) for kind in trained or kinds))
        for kind in kinds:
            shared = {(seed, draw) for seed, draw in shared if self._at(kind, seed, draw) is not None}
        by_seed: dict[int | None, list[int | None]] = {}
        # None cannot be compared with a number.
        for seed, draw in sorted(shared, key=lambda place: (place[0] or 0, place[1] or 0)):
            by_seed.setdefault(seed, []).append(draw)
        most = max(map(len, by_seed.values()), default=0)
        places = [[(seed, draw) for draw in draws] for seed, draws in by_seed.items() if len(draws) == most]
        if not places:
            return None
        columns = [[[self._at(kind, *place) for place in row] for row in places] for kind in kinds]
        values = np.stack([np.stack([np.concatenate([one[0] for one in row]) for row in rows]) for rows in columns])
        replicates = np.stack(
            [np.stack([np.concatenate([one[1] for one in row], axis=1) for row in rows], axis=1) for rows in columns], axis=1
        )
        return Bootstrapped(values, replicates)

    def _places(self, kind: Hashable) -> set[_Place]:
        return set(self.scores.get(kind, ()))

    def _at(self, kind: Hashable, seed: int | None, draw: int | None) -> tuple[np.ndarray, np.ndarray] | None:
        scores = self.scores.get(kind, {})
        # The most specific first: a kind has its own draws, one for every draw of a seed, or one for everything.
        return next((scores[place] for place in ((seed, draw), (seed, None), (None, None)) if place in scores), None)

    def score(self, kind: Hashable) -> Estimate | None:
        """Returns the metric with its interval over seeds, draws and test images; None if the kind has no scores."""
        grid = self.grid([kind])
        if grid is None:
            return None
        found = estimate_mean(Bootstrapped(grid.values[0], grid.replicates[:, 0]), self.images)
        # Student's t knows nothing of the range of a metric.
        return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))

    def difference(self, a: Hashable, b: Hashable) -> Estimate | None:
        """Returns a - b, seed by seed and draw by draw on the same images; None if they share no seed."""
        grid = self.grid([a, b])
        if grid is None:
            return None
        values = grid.values[0] - grid.values[1]
        return estimate_mean(Bootstrapped(values, grid.replicates[:, 0] - grid.replicates[:, 1]), self.images)

    def single_seed(self, kinds: Sequence[Hashable]) -> bool:
        """Returns whether the kinds share fewer than two training seeds, so that an interval does not cover other seeds."""
        trained = [places for places in map(self._places, kinds) if any(draw is not None for _, draw in places)]
        return len({seed for seed, _ in set.intersection(*trained)}) < 2


def _with_draws(predictions: np.ndarray, axes: int) -> np.ndarray:
    """Returns predictions with a first axis of draws of labelled images, which may be missing."""
    return predictions.reshape(-1, *predictions.shape[predictions.ndim - axes :])


class Difference(NamedTuple):
    """One difference of a table of differences.

    Attributes:
      value: the difference.
      half_width: half the width of its own 95% interval; nan for a single seed.
      p_value: the p-value that belongs to the interval.
      adjusted: the p-value adjusted by Holm's method for all comparisons of the table.
      verdict: `better` or `worse` by the adjusted p-value, `better, but not after correction`, or that nothing is shown.
    """

    value: float
    half_width: float
    p_value: float
    adjusted: float
    verdict: str


def adjusted_differences(estimates: Sequence[Estimate | None], single_seed: Sequence[bool]) -> list[Difference | None]:
    """Returns the differences of one table, with verdicts that hold for all of them together.

    Example:
      >>> sure, unsure = Estimate(0.1, 0.05, 0.15, 0.01), Estimate(0.1, 0.01, 0.19, 0.03)
      >>> [each.verdict for each in adjusted_differences([sure, unsure, unsure], [False] * 3)]
      ['better', 'better, but not after correction', 'better, but not after correction']

    Args:
      estimates: None for a pair that could not be compared, which stays None and does not count.
      single_seed: whether an estimate is of one seed. Its interval, over test images, does not cover other seeds.
    """
    # Holm's method does not count nan: comparisons that are not tested must not weaken the others.
    p_values = [math.nan if each is None or one else each.p_value for each, one in zip(estimates, single_seed, strict=True)]
    found: list[Difference | None] = []
    for each, one, p_value in zip(estimates, single_seed, holm(p_values).tolist(), strict=True):
        if each is None:
            found.append(None)
        elif one:
            found.append(Difference(each.value, math.nan, math.nan, math.nan, ONE_SEED))
        else:
            found.append(Difference(each.value, each.half_width, each.p_value, p_value, _verdict(each, p_value)))
    return found


def _verdict(found: Estimate, adjusted: float) -> str:
    side = "better" if found.value > 0 else "worse"
    if adjusted < 1 - LEVEL:
        return side
    # Beside an interval that excludes 0 a bare "no difference" would puzzle.
    return f"{side}, but not after correction" if found.p_value < 1 - LEVEL else NOTHING
