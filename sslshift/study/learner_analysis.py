"""Analysis of one method and encoder on one task by one evaluation: gains, comparisons, trends, and all that is tested."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sslshift.study.evaluate import PIXELS as RAW
from sslshift.study.opened import Run
from sslshift.transfer.claims import (
    CHANGE,
    CURVATURE,
    GAIN,
    MAIN_EVALUATION,
    PAIR,
    PIXELS,
    REFERENCE,
    TREND,
    Claim,
    Hypothesis,
    HypothesisTest,
)
from sslshift.transfer.inference import (
    FEWEST_SOURCES,
    Bootstrapped,
    Contrast,
    Estimate,
    PlannedTable,
    change_contrast,
    curvature_weights,
    moderated,
    pooled_with,
    shrunken,
    slope_weights,
    slopes,
)
from sslshift.transfer.paired import BadRun

if TYPE_CHECKING:
    from sslshift.study.analysis import TaskAnalysis

# Part of the shift index that the sources must span. A change for each unit of the index would otherwise be an extrapolation.
_SPAN = 0.5


class Kind(NamedTuple):
    """Runs that differ only by seed and draw, or a baseline.

    Attributes:
      learner: names of method and encoder; None for raw pixels.
      source: name of the candidate or of the baseline.
      unique: N as the study asks for it; None for a baseline.
    """

    learner: tuple[str, str] | None
    source: str
    unique: int | None

    @classmethod
    def of_run(cls, run: Run) -> "Kind":
        """Returns the kind that a run belongs to."""
        return cls(run.learner, run.source, run.unique)


RAW_PIXELS = Kind(None, RAW, None)


@dataclasses.dataclass(frozen=True)
class SourceTrend:
    """Trend of accuracy in diversity for one source.

    Attributes:
      source: name of the source.
      shift: shift index of the source; nan if unknown.
      levels: kinds of the source that share seeds, by unique samples.
      trend: slope of the accuracy for each factor of ten in D.
      curvature: change of the slope for each factor of ten in D; only of the nearest source, with three numbers or more.
    """

    source: str
    shift: float
    levels: tuple[Kind, ...]
    trend: Claim
    curvature: Claim | None


class LearnerAnalysis:
    """Analysis of a study's results for one method and encoder on one task, by one evaluation.

    Args:
      task: analysis of the task.
      learner: names of method and encoder.
      evaluation: name of the evaluation.

    Attributes:
      scores: scores of every run and baseline by the evaluation.
      baseline: kind that gains are measured against.
    """

    def __init__(self, task: "TaskAnalysis", learner: tuple[str, str], evaluation: str = MAIN_EVALUATION):
        self.task = task
        self.analysis = task.analysis
        self.learner = learner
        self.evaluation = evaluation
        self.scores = task.paired(evaluation)
        self.baseline = Kind(learner, self.analysis.baseline, None)
        self._shifts = task.shifts

    @functools.cached_property
    def kinds(self) -> list[Kind]:
        """The kinds with a finished run that have the evaluation, the nearest source first, then by unique samples."""
        return [kind for kind in self.analysis.of_learner(self.learner) if kind in self.scores.scores]

    @functools.cached_property
    def levels(self) -> dict[str, list[Kind]]:
        """The kinds of each candidate, by unique samples."""
        return {name: list(own) for name, own in itertools.groupby(self.kinds, key=lambda kind: kind.source)}

    @functools.cached_property
    def largest(self) -> list[Kind]:
        """The kind with the largest number of unique samples, for each candidate."""
        return [levels[-1] for levels in self.levels.values()]

    @functools.cached_property
    def reference(self) -> Kind:
        """The candidate that others are compared with: the nearest single source, or else the nearest mixture."""
        candidates = sorted(self.largest, key=lambda kind: self._shifts[kind.source].order)
        return next((kind for kind in candidates if kind.source not in self.analysis.mixtures), candidates[0])

    @functools.cached_property
    def ladders(self) -> dict[str, list[Kind]]:
        """The kinds of each source with several numbers of unique samples that share a seed, near sources first."""
        found = {
            source: levels
            for source, levels in self.levels.items()
            # A trend needs two numbers of unique samples that share a seed; an unfinished study may lack them.
            if len(levels) > 1 and self.scores.grid(levels) is not None
        }
        return dict(sorted(found.items(), key=lambda item: self._shifts[item[0]].order))

    @functools.cached_property
    def nearest_ladder(self) -> str | None:
        """The source nearest to the task of those with a trend; None if there is no trend."""
        # A source without an index could be far away, and is taken only if no source has an index.
        known = (source for source in self.ladders if not math.isnan(self._shifts[source].value))
        return next(known, None) or next(iter(self.ladders), None)

    @functools.cached_property
    def tests(self) -> dict[Hypothesis, HypothesisTest]:
        """Everything that a report tests about this learner.

        By the linear probe on the first task, it also compares what stands out.
        """
        tests = self._differences(GAIN, {kind: (kind, self.baseline) for kind in self.kinds})
        if self.analysis.mixtures:
            others = [kind for kind in self.largest if kind != self.reference]
            tests |= self._differences(REFERENCE, {kind: (kind, self.reference) for kind in others})
        tests |= self._trend_tests
        if not isinstance(self._changes, str):
            scatter = len(self._indexed) >= FEWEST_SOURCES
            contrast = self._changes[scatter]
            tests[self._name(CHANGE, "")] = HypothesisTest(contrast, contrast.of_seeds is None)
        if self.task is not self.analysis.task or self.evaluation != MAIN_EVALUATION:
            return tests
        # Only the sentence about the nearest source depends on the curvature, and each further test would weaken the others.
        nearest = self.ladders.get(self.nearest_ladder, [])
        if len(nearest) > 2:
            bends = dict(zip(nearest, curvature_weights(self._log_diversity(nearest)).tolist(), strict=True))
            tests |= self._table(CURVATURE, {self.nearest_ladder: (self.scores.contrast(bends), nearest)})
        pairs = [pair for pair in itertools.combinations(self.kinds, 2) if pair[0].source != pair[1].source]
        tests |= self._differences(PAIR, {pair: pair for pair in pairs}, kinds=len(self.kinds) - 1)
        return tests | self._differences(PIXELS, {kind: (kind, RAW_PIXELS) for kind in self.kinds})

    def _name(self, family: str, subject: Hashable) -> Hypothesis:
        return Hypothesis(self.task.name, self.learner, family, subject, self.evaluation)

    def _differences(self, family: str, pairs: Mapping[Hashable, tuple[Kind, Kind]], *, kinds: int | None = None):
        # Untrained encoders may have more seeds than runs, since they need no training.
        made = self.scores.over_reference if family == GAIN else self.scores.paired_contrast
        contrasts = {subject: (made(a, b), (a, b)) for subject, (a, b) in pairs.items()}
        return self._table(family, contrasts, kinds=kinds, one_reference=family in (GAIN, REFERENCE, PIXELS))

    def _table(
        self,
        family: str,
        contrasts: Mapping[Hashable, tuple[Contrast | None, Sequence[Kind]]],
        *,
        scales: Sequence[float] | None = None,
        kinds: int | None = None,
        one_reference: bool = False,
    ) -> dict[Hypothesis, HypothesisTest]:
        """Returns the tests of one table, whose variances of seeds are pooled; what could not be compared is not tested."""
        given = [contrast for contrast, _ in contrasts.values()]
        pooled = moderated(given, scales=scales, kinds=kinds, one_reference=one_reference)
        return {
            self._name(family, subject): HypothesisTest(contrast, self.scores.single_seed(members))
            for (subject, (_, members)), contrast in zip(contrasts.items(), pooled, strict=True)
            if contrast is not None
        }

    @functools.cached_property
    def _trend_tests(self) -> dict[Hypothesis, HypothesisTest]:
        # Sources differ in the range of their diversity: their slopes have variances on different scales.
        scales = [1 / float((slope_weights(self._log_diversity(levels)) ** 2).sum()) for levels in self.ladders.values()]
        return self._table(TREND, self._slopes(), scales=scales)

    def _slopes(self) -> dict[str, tuple[Contrast | None, Sequence[Kind]]]:
        """Returns the slope over the numbers of unique samples of each source."""
        found: dict[str, tuple[Contrast | None, Sequence[Kind]]] = {}
        for source, levels in self.ladders.items():
            each = slope_weights(self._log_diversity(levels)).tolist()
            found[source] = self.scores.contrast(dict(zip(levels, each, strict=True))), levels
        return found

    def _log_diversity(self, levels: Sequence[Kind]) -> list[float]:
        return [math.log10(self.analysis.diversity(kind)) for kind in levels]

    def _claim(self, family: str, subject: Hashable) -> Claim | None:
        return self.analysis.claims.get(self._name(family, subject))

    @functools.cached_property
    def gains(self) -> dict[Kind, Claim | None]:
        """Gains of each kind over the baseline of gains."""
        return {kind: self._claim(GAIN, kind) for kind in self.kinds}

    @functools.cached_property
    def pairs(self) -> dict[tuple[Kind, Kind], Claim]:
        """Differences of all pairs of kinds of different sources; the better kind comes first in each pair."""
        found = {}
        for (a, b), each in ((name.subject, claim) for name, claim in self._of_family(PAIR)):
            # Sorted by the means, every difference is positive or 0, which makes a table of differences easy to read.
            flipped = {"better": "worse", "worse": "better"}.get(each.verdict, each.verdict)
            reverse = each._replace(value=-each.value, low=-each.high, high=-each.low, verdict=flipped)
            found[(b, a) if each.value < 0 else (a, b)] = reverse if each.value < 0 else each
        return found

    def _of_family(self, family: str) -> list[tuple[Hypothesis, Claim]]:
        return [(name, self.analysis.claims[name]) for name in self.tests if name.family == family]

    @functools.cached_property
    def against_reference(self) -> dict[Kind, Claim]:
        """Differences from the reference of all other candidates that share a seed with it, each at its largest N.

        They are only tested in a study with mixtures.
        """
        found = {name.subject: claim for name, claim in self._of_family(REFERENCE)}
        return dict(sorted(found.items(), key=lambda item: self._shifts[item[0].source].order))

    @functools.cached_property
    def against_pixels(self) -> dict[Kind, Claim]:
        """Differences of each kind from raw pixels."""
        return {name.subject: claim for name, claim in self._of_family(PIXELS)}

    @functools.cached_property
    def trends(self) -> list[SourceTrend]:
        """The trend in diversity of each source with at least two numbers of unique samples, near sources first."""
        return [
            SourceTrend(
                source, self._shifts[source].value, tuple(levels), self._claim(TREND, source), self._claim(CURVATURE, source)
            )
            for source, levels in self.ladders.items()
        ]

    @functools.cached_property
    def _indexed(self) -> dict[str, list[Kind]]:
        return {source: levels for source, levels in self.ladders.items() if not math.isnan(self._shifts[source].value)}

    @functools.cached_property
    def change(self) -> Claim | str:
        """Change of the trend for each unit of the shift index; a sentence gives the reason if there is none.

        With five sources or more, it is tested for any sources, and otherwise for these sources only.
        """
        return self._changes if isinstance(self._changes, str) else self._claim(CHANGE, "")

    @functools.cached_property
    def change_of_any(self) -> Estimate | None:
        """The same change with an interval that is also valid for other sources; None if it is not known."""
        return None if isinstance(self._changes, str) else self._changes[True].estimate()

    @functools.cached_property
    def change_of_these(self) -> Estimate | None:
        """The same change with an interval that is valid for these sources only, without the scatter of sources."""
        return None if isinstance(self._changes, str) else self._changes[False].estimate()

    @property
    def change_is_of_any(self) -> bool:
        """True if the verdict on the change is about any sources, and not only about these."""
        return len(self._indexed) >= FEWEST_SOURCES

    @functools.cached_property
    def _changes(self) -> dict[bool, Contrast] | str:
        """The change without and with the scatter of sources, or the reason why there is none."""
        indexed = self._indexed
        places = [self._shifts[source].value for source in indexed]
        if len(indexed) < 3:
            return (
                "At least 3 sources with a shift index and several numbers of unique samples are needed, and there "
                f"{'is' if len(indexed) == 1 else 'are'} {len(indexed) or 'none'}."
            )
        span = max(places) - min(places)
        if span < _SPAN:
            return (
                f"The sources with several numbers of unique samples span {span:.2f} of the shift index, and a change for each "
                f"unit of the index needs at least {_SPAN}."
            )
        grid = self.scores.grid([kind for levels in indexed.values() for kind in levels])
        if grid is None:
            return "No seed is finished for all sources with several numbers of unique samples."
        values = []
        replicates = []
        start = 0
        for levels in indexed.values():
            own = slice(start, start + len(levels))
            x = self._log_diversity(levels)
            values.append(slopes(x, grid.values[own]))
            replicates.append(slopes(x, grid.replicates[:, own], axis=1))
            start = own.stop
        trends = Bootstrapped(np.array(values), np.stack(replicates, axis=1))
        # Three or four seeds say little about the variance of one number: the trends of all sources say more.
        parts = [self._trend_tests[self._name(TREND, source)].contrast for source in indexed]
        by_encoder = np.transpose([self._shifts[source].by_encoder for source in indexed])
        weights = np.mean([slope_weights(each) for each in by_encoder], axis=0).tolist()
        return {
            scatter: pooled_with(change_contrast(by_encoder, trends, self.scores.images, scatter=scatter), parts, weights)
            for scatter in (False, True)
        }

    @functools.cached_property
    def measured_table(self) -> PlannedTable | None:
        """Sizes and variances of the gains, as measured; None without two seeds."""
        found = [self.scores.over_reference(kind, self.baseline) for kind in self.kinds]
        reference = len(self.scores.scores.get(self.baseline, ()))
        known = [each for each in found if each is not None and each.seeds > 1]
        if not known:
            return None
        # The choice of images explains a part of the variance between seeds, which more images would reduce.
        of_seeds = [each.seeds * max(0.0, each.of_seeds.variance - each.of_seeds.explained) for each in known]
        of_images = [float(each.replicates.var(ddof=1)) * self.scores.images for each in known]
        return PlannedTable(
            max(each.seeds for each in known),
            self.scores.images,
            math.sqrt(np.mean(of_seeds)),
            float(np.mean(of_images)),
            len(known),
            self.analysis.comparisons,
            reference,
        )

    @functools.cached_property
    def bad_runs(self) -> list[BadRun]:
        """Runs whose linear probe ended far below that of the other runs of their kind, the clearest first."""
        return self.scores.bad_runs(self.kinds)

    @functools.cached_property
    def highest(self) -> Kind:
        """The kind with the highest mean score of all."""
        return max(self.kinds, key=lambda kind: self.scores.score(kind).value)

    @functools.cached_property
    def best(self) -> Kind:
        """The kind with the highest mean score of those whose gain is shown, or of all if no gain is."""
        # The kind with the highest mean may vary so much between seeds that only the gain of another one is shown.
        gaining = [kind for kind in self.kinds if self.gains[kind] and self.gains[kind].verdict == "better"]
        return max(gaining or self.kinds, key=lambda kind: self.scores.score(kind).value)

    @functools.cached_property
    def highest_score(self) -> Estimate:
        """The score of the highest kind, corrected for being the highest of all, with its interval."""
        found = self.scores.score(self.highest)
        luck = found.value - self._shrunken_scores[self.highest]
        return found._replace(value=found.value - luck, low=max(0.0, found.low - luck), high=found.high - luck)

    @functools.cached_property
    def _shrunken_scores(self) -> dict[Kind, float]:
        """The score of each kind, shrunken towards the mean of all as far as their differences may be chance."""
        scores = [self.scores.score(kind).value for kind in self.kinds]
        share = 1 / len(self.kinds)
        # What all kinds have in common, such as the choice of test images, does not decide which is the highest.
        contrasts = [self.scores.contrast({other: (other == kind) - share for other in self.kinds}) for kind in self.kinds]
        if len(self.kinds) < 3 or any(each is None or each.seeds < 2 for each in contrasts):
            return dict(zip(self.kinds, scores, strict=True))
        variances = [each.variance for each in moderated(contrasts, kinds=len(contrasts) - 1)]
        return dict(zip(self.kinds, shrunken(scores, variances).tolist(), strict=True))
