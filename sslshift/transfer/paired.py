"""Paired scores: many encoders on the same test images, with one bootstrap for all of them.

The test images are resampled once for every encoder. Means, differences and slopes of scores are therefore paired over images
and need only a few sums.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sslshift.transfer.inference import (
    REFERENCE_SEEDS,
    ROUNDING,
    SEEDS,
    Bootstrapped,
    Contrast,
    Estimate,
    bootstrap,
    count_units,
    estimate_mean,
    find_outliers,
    robust_means,
    variance_components,
    widened_score,
)
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.predictions import Predictions, on_common_images, with_labelled_draws

# Number of bootstrap replicates. More replicates would change the ends of intervals by less than the printed digits.
_REPLICATES = 1000

LEVEL = 0.95


class EncoderPredictions(NamedTuple):
    """Predictions of one encoder, with its kind, seed and draw.

    Attributes:
      kind: kind of the encoder; encoders of one kind differ only by seed and draw.
      seed: training seed; None: the encoder is compared with every seed, for example raw pixels.
      draw: draw of the training images; None: the encoder is compared with every draw, for example an untrained encoder.
      predictions: predictions for the test images, by evaluation.
    """

    kind: Hashable
    seed: int | None
    draw: int | None
    predictions: Predictions


class BadRun(NamedTuple):
    """A run whose score is far below those of the other runs of its kind, see `inference.find_outliers`.

    Attributes:
      kind, seed, draw: the run.
      deviation: its score minus the mean of its siblings.
      p_value: p-value, corrected for the number of runs.
    """

    kind: Hashable
    seed: int | None
    draw: int | None
    deviation: float
    p_value: float


_Place = tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True, eq=False)
class PairedScores:
    """One evaluation of several encoders on one task.

    Attributes:
      scores: metric for each draw of labelled images `[k]`, with replicates `[R, k]`, by kind and by (seed, draw).
      images: number of test images, or of their groups if they have groups, which is what the degrees of freedom count.
      effective: effective number of test images, see `Metric.effective_images`.
      grouped: whether the test images have groups.
    """

    scores: dict[Hashable, dict[_Place, tuple[np.ndarray, np.ndarray]]]
    images: int
    effective: float = 0.0
    grouped: bool = False

    @classmethod
    def of_members(cls, members: Sequence[EncoderPredictions], evaluation: str) -> "PairedScores":
        """Returns the scores of encoders that have an evaluation, on the test images that all of them predicted.

        Raises:
          ValueError: the encoders were evaluated on different tasks.
        """
        members = [each for each in members if evaluation in each.predictions.predictions]
        common = on_common_images([each.predictions for each in members])
        # An evaluation can fail for a single encoder, which then has no predictions.
        known = [(member, each) for member, each in zip(members, common, strict=True) if len(each.predictions[evaluation])]
        scores: dict[Hashable, dict[_Place, tuple[np.ndarray, np.ndarray]]] = {}
        if not known:
            return cls(scores, 0)
        metric = METRICS[known[0][1].metric]
        labels = known[0][1].labels
        sides = [[with_labelled_draws(each.predictions[evaluation], metric)] for _, each in known]
        groups = known[0][1].groups
        numbers = bootstrap(metric, sides, labels, groups=groups, resamples=_REPLICATES)
        for (member, _), each in zip(known, numbers, strict=True):
            scores.setdefault(member.kind, {})[member.seed, member.draw] = (each.values[0, 0], each.replicates[:, 0, 0])
        units = count_units(len(labels), groups)
        return cls(scores, units, metric.effective_images(labels, groups), groups is not None)

    def grid(self, kinds: Sequence[Hashable]) -> Bootstrapped | None:
        """Returns scores `[kinds, seeds, draws, labelled draws]` with replicates `[R, kinds, ...]` of a block of runs.

        A kind without draws is repeated for each draw. In a study that is not finished, the block excludes runs, see
        `complete_block`.

        Returns:
          None if the kinds share no seed.
        """
        places = self._block(kinds)
        if not places:
            return None
        columns = [[[self._at(kind, *place) for place in row] for row in places] for kind in kinds]
        return Bootstrapped(
            np.stack([np.stack([np.stack([one[0] for one in row]) for row in rows]) for rows in columns]),
            np.stack([np.stack([np.stack([one[1] for one in row], 1) for row in rows], 1) for rows in columns], 1),
        )

    def _block(self, kinds: Sequence[Hashable]) -> list[list[_Place]]:
        """Returns the (seed, draw) pairs, in rows by seed, on which kinds are compared; empty if they share no seed."""
        # Kinds with draws define the (seed, draw) pairs; other kinds only need these seeds.
        trained = [kind for kind in kinds if any(draw is not None for _, draw in self._places(kind))]
        shared = set.intersection(*(self._places(kind) for kind in trained or kinds))
        return complete_block({place for place in shared if all(self._at(kind, *place) is not None for kind in kinds)})

    def _places(self, kind: Hashable) -> set[_Place]:
        return set(self.scores.get(kind, ()))

    def _at(self, kind: Hashable, seed: int | None, draw: int | None) -> tuple[np.ndarray, np.ndarray] | None:
        scores = self.scores.get(kind, {})
        # The most specific entry comes first: a kind has one entry per draw, per seed, or in total.
        return next((scores[place] for place in ((seed, draw), (seed, None), (None, None)) if place in scores), None)

    def score(self, kind: Hashable) -> Estimate | None:
        """Returns the metric with its interval over seeds, draws and test images; None if the kind has no scores."""
        grid = self.grid([kind])
        if grid is None:
            return None
        found = estimate_mean(Bootstrapped(grid.values[0], grid.replicates[:, 0]), self.images, grouped=self.grouped)
        return widened_score(found, self.effective)

    def contrast(self, coefficients: Mapping[Hashable, float]) -> Contrast | None:
        """Returns a linear combination of the scores of kinds, seed by seed and draw by draw on the same images.

        Returns:
          None if the kinds share no seed.
        """
        grid = self.grid(list(coefficients))
        if grid is None:
            return None
        weights = np.array(list(coefficients.values()))
        values = np.tensordot(weights, grid.values, (0, 0))
        numbers = Bootstrapped(values, np.tensordot(weights, grid.replicates, (0, 1)))
        found = Contrast.of(numbers, self.images)._replace(grouped=self.grouped)
        # A difference or slope does not depend on what all kinds have in common; other combinations are no differences.
        if abs(weights.sum()) > ROUNDING * np.abs(weights).sum():
            return found
        return found._replace(effective=self.effective, scale=float(weights[weights > 0].sum()))

    def paired_contrast(self, a: Hashable, b: Hashable) -> Contrast | None:
        """Returns the contrast a - b, see `contrast`."""
        return self.contrast({a: 1.0, b: -1.0})

    def over_reference(self, kind: Hashable, reference: Hashable) -> Contrast | None:
        """Returns the mean of a kind minus that of a reference that may have more seeds, on the same images.

        With as many seeds as the kind, the reference is paired with it seed by seed. With more, the seeds of each side
        contribute on their own, and the more precise mean of the reference makes the difference more precise.

        Returns:
          None if they share no seed.
        """
        paired = self.paired_contrast(kind, reference)
        sides = [Bootstrapped(grid.values[0], grid.replicates[:, 0]) for grid in map(self.grid, ([kind], [reference])) if grid]
        if paired is None or len(sides[0].values) >= len(sides[1].values):
            return paired
        of_kind = [each for each in variance_components(sides[:1]) if each.factor == SEEDS]
        of_reference = [each for each in variance_components(sides[1:]) if each.factor == SEEDS]
        others = [each for each in paired.components if each.factor != SEEDS]
        means = [side.replicates.mean(axis=(1, 2, 3)) for side in sides]
        return paired._replace(
            value=float(sides[0].values.mean() - sides[1].values.mean()),
            replicates=means[0] - means[1],
            components=(*of_kind, *(each._replace(factor=REFERENCE_SEEDS) for each in of_reference), *others),
        )

    def difference(self, a: Hashable, b: Hashable) -> Estimate | None:
        """Returns a - b, seed by seed and draw by draw on the same images; None if they share no seed."""
        found = self.paired_contrast(a, b)
        return found and found.estimate()

    def bad_runs(self, kinds: Sequence[Hashable]) -> list[BadRun]:
        """Returns the outliers among the runs of these kinds, whose spread is pooled; the clearest first."""
        runs = [list(self.scores.get(kind, {}).items()) for kind in kinds]
        found = find_outliers([[float(values.mean()) for _, (values, _) in own] for own in runs])
        return [BadRun(kinds[each.kind], *runs[each.kind][each.run][0], each.deviation, each.p_value) for each in found]

    def robust_scores(self, kinds: Sequence[Hashable]) -> dict[Hashable, Estimate]:
        """Returns the median over seeds of each kind with an interval, see `inference.robust_means`.

        Kinds without scores are missing; all are missing if no kind has two seeds.
        """
        grids = {kind: grid for kind in kinds if (grid := self.grid([kind])) is not None}
        if all(len(grid.values[0]) < 2 for grid in grids.values()):
            return {}
        numbers = [Bootstrapped(grid.values[0], grid.replicates[:, 0]) for grid in grids.values()]
        found = robust_means(numbers, self.images)
        return {kind: widened_score(each, self.effective) for kind, each in zip(grids, found, strict=True)}

    def single_seed(self, kinds: Sequence[Hashable]) -> bool:
        """Returns whether fewer than two training seeds are compared, so that an interval does not cover other seeds."""
        return len(self._block(kinds)) < 2


def complete_block(places: set[_Place]) -> list[list[_Place]]:
    """Returns (seed, draw) pairs in rows by seed, all with the same draws; empty if there is no pair.

    If each seed has its own draw, these are all seeds. Otherwise they are a block with several seeds and several draws where
    possible, since an interval needs both, and the largest of such blocks, or the one with more seeds.
    """
    # None is mapped to a number, because sorting cannot compare it with numbers.
    ordered = sorted(places, key=lambda place: (place[0] or 0, place[1] or 0))
    by_seed: dict[int | None, list[int | None]] = {}
    for seed, draw in ordered:
        by_seed.setdefault(seed, []).append(draw)
    if len(by_seed) == len(ordered) == len({draw for _, draw in ordered}):
        return [[place] for place in ordered]
    # The largest block has the draws that some of the seeds have in common.
    common: dict[frozenset[int | None], None] = {}
    for draws in by_seed.values():
        common |= dict.fromkeys([frozenset(draws), *(each.intersection(draws) for each in common)])
    blocks = [
        [[(seed, draw) for draw in draws if draw in chosen] for seed, draws in by_seed.items() if chosen <= set(draws)]
        for chosen in common
        if chosen
    ]

    def preference(block):
        seeds = len(block)
        draws = len(block[0])
        return min(seeds, 2), min(draws, 2), seeds * draws, seeds

    # The first of equal blocks is used.
    return max(blocks, key=preference, default=[])
