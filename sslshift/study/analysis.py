"""Analysis of a study's results: gains, comparisons and trends with their intervals and verdicts.

`Analysis` covers all tasks, `TaskAnalysis` one task, and `LearnerAnalysis` one method and encoder on one task. Every
value is computed when it is first needed and then kept. `report` turns the values into sentences and tables.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sslshift.study.evaluate import PIXELS, UNTRAINED
from sslshift.study.opened import Run
from sslshift.study.results import FinishedRun, Results
from sslshift.study.shifts import MeasuredShift
from sslshift.transfer.inference import (
    FEWEST_SOURCES,
    Bootstrapped,
    CrossedDeviations,
    Estimate,
    Trend,
    change_by_shift,
    crossed_deviations,
    holm,
    mean_trend,
    slopes,
)
from sslshift.transfer.paired import Difference, EncoderPredictions, PairedScores, adjusted_differences


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


RAW_PIXELS = Kind(None, PIXELS, None)


@dataclasses.dataclass(frozen=True)
class SourceTrend:
    """Trend of accuracy in diversity for one source.

    Attributes:
      source: name of the source.
      shift: shift index of the source; nan if unknown.
      levels: kinds of the source that share seeds, by unique samples.
      trend: trend of accuracy in log10 D.
      adjusted: p-value of the trend. The p-value of the nearest source is not adjusted, because the study tests it first; the
        p-values of the other sources are adjusted by Holm's method.
    """

    source: str
    shift: float
    levels: tuple[Kind, ...]
    trend: Trend
    adjusted: float


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """A kind of runs, or a baseline, with its numbers.

    Attributes:
      kind: kind of the runs, or the baseline.
      unique, diversity, epochs: N, D and E of the readable images, the mean over runs; None for a baseline.
      shift: shift of the source to the first task; None for a baseline.
      scores: metric of finished runs on the test split, by task and evaluation.
      gains: gain of the linear probe over untrained encoders of the same seeds, by task; empty for a baseline.
      finished, planned: numbers of runs; 0 for a baseline.
    """

    kind: Kind
    unique: int | None
    diversity: float | None
    epochs: float | None
    shift: MeasuredShift | None
    scores: dict[str, dict[str, Estimate]]
    gains: dict[str, Difference | None]
    finished: int = 0
    planned: int = 0


class Analysis:
    """Analysis of a study's results on all tasks.

    Args:
      results: results of the study, finished or not.
    """

    def __init__(self, results: Results):
        self.results = results
        self.opened = results.opened

    @functools.cached_property
    def tasks(self) -> dict[str, "TaskAnalysis"]:
        """The analysis of each task by its name."""
        return {task.name: TaskAnalysis(self, task.name) for task in self.opened.tasks}

    @property
    def task(self) -> "TaskAnalysis":
        """The analysis of the study's first task."""
        return self.tasks[self.opened.task.name]

    @functools.cached_property
    def learners(self) -> list[tuple[str, str]]:
        """Method and encoder of each learner that has a finished run, in the order of the declaration."""
        known = {each.run.learner for each in self.results.runs}
        return [learner.key for learner in self.opened.learners if learner.key in known]

    @functools.cached_property
    def planned_kinds(self) -> list[Kind]:
        """All kinds of the grid: by learner, then the nearest source first, then by unique samples."""
        order = [learner.key for learner in self.opened.learners]
        shifts = self.results.shifts
        found = {Kind.of_run(run) for run in self.opened.runs}
        return sorted(found, key=lambda kind: (order.index(kind.learner), shifts[kind.source].order, kind[1:]))

    @functools.cached_property
    def runs(self) -> dict[Kind, list[FinishedRun]]:
        """Finished runs by their kind, in the order of `planned_kinds`."""
        # The kinds of the grid come first, so that the order does not depend on which runs are finished.
        found: dict[Kind, list[FinishedRun]] = {kind: [] for kind in self.planned_kinds}
        for each in self.results.runs:
            found[Kind.of_run(each.run)].append(each)
        return {kind: runs for kind, runs in found.items() if runs}

    def of_learner(self, learner: tuple[str, str]) -> list[Kind]:
        """Returns a learner's kinds with a finished run, the nearest source first, then by unique samples."""
        return [kind for kind in self.runs if kind.learner == learner]

    def levels(self, learner: tuple[str, str]) -> dict[str, list[Kind]]:
        """Returns the kinds of each candidate, by unique samples."""
        return {name: list(own) for name, own in itertools.groupby(self.of_learner(learner), key=lambda kind: kind.source)}

    def runs_of(self, source: str, unique: int) -> list[FinishedRun]:
        """Returns the finished runs of a candidate, of every learner."""
        return [each for each in self.results.runs if (each.run.source, each.run.unique) == (source, unique)]

    def unique_read(self, kind: Kind) -> int:
        """Returns the number of unique images that could be read, the mean over runs."""
        counts = [each.trained.unique_read for each in self.runs_of(kind.source, kind.unique)]
        return round(sum(counts) / len(counts))

    def diversity(self, kind: Kind) -> float:
        """Returns the diversity D of the images that could be read."""
        return self.opened.design.budget.diversity(self.unique_read(kind))

    @functools.cached_property
    def mixtures(self) -> set[str]:
        """Names of the candidates that are mixtures."""
        return {candidate.name for candidate in self.opened.candidates if candidate.text}

    @functools.cached_property
    def members(self) -> list[tuple[Kind, int | None, int | None]]:
        """Kind, seed and draw of each encoder of `Results.encoders`, in the same order."""
        baselines = [(RAW_PIXELS, None, None)]
        for method, encoder, seed in self.results.untrained:
            baselines.append((Kind((method, encoder), UNTRAINED, None), seed, None))
        return [*baselines, *((Kind.of_run(each.run), each.run.seed, each.run.draw) for each in self.results.runs)]

    @functools.cached_property
    def scatter(self) -> CrossedDeviations | None:
        """Standard deviations of linear accuracy between draws and between seeds; None without several of both."""
        design = self.opened.design
        if min(design.draws, design.seeds) < 2:
            return None
        task = self.opened.task.name
        accuracies = [[each.evaluated.scores[task].linear for each in runs] for runs in self.runs.values()]
        parts = [
            crossed_deviations(np.reshape(each, (design.draws, design.seeds)))
            for each in accuracies
            if len(each) == design.draws * design.seeds
        ]
        if not parts:
            return None
        # The mean is over variances, not over standard deviations.
        draws, seeds = (float(np.sqrt(np.mean([getattr(part, name) ** 2 for part in parts]))) for name in ("draws", "seeds"))
        return CrossedDeviations(draws, seeds)

    @functools.cached_property
    def rows(self) -> list[SummaryRow]:
        """The rows of a table: kinds by method and encoder, the nearest source first, then baselines."""
        known = {(method, encoder) for method, encoder, _ in self.results.untrained}
        named = [learner.key for learner in self.opened.learners if learner.key in known]
        baselines = [*(Kind(learner, UNTRAINED, None) for learner in named), RAW_PIXELS]
        return [
            *(self._row(kind) for kind in self.planned_kinds),
            *(SummaryRow(kind, None, None, None, None, self._scores(kind), {}) for kind in baselines),
        ]

    def _row(self, kind: Kind) -> SummaryRow:
        budget = self.opened.design.budget
        finished = len(self.runs.get(kind, ()))
        unique = self.unique_read(kind) if finished else kind.unique
        return SummaryRow(
            kind,
            unique,
            budget.diversity(unique),
            budget.epochs(unique),
            self.results.shifts[kind.source],
            self._scores(kind),
            {name: task.gains.get(kind) for name, task in self.tasks.items()},
            finished,
            sum(Kind.of_run(run) == kind for run in self.opened.runs),
        )

    def _scores(self, kind: Kind) -> dict[str, dict[str, Estimate]]:
        found: dict[str, dict[str, Estimate]] = {}
        for name, task in self.tasks.items():
            scores = {evaluation: task.paired(evaluation).score(kind) for evaluation in task.evaluations}
            found[name] = {evaluation: each for evaluation, each in scores.items() if each}
        return found


class TaskAnalysis:
    """Analysis of a study's results on one task.

    Args:
      analysis: analysis of the study.
      task: name of the task.
    """

    def __init__(self, analysis: Analysis, task: str):
        self.analysis = analysis
        self.name = task
        self.shifts = analysis.results.task_shifts[task]
        self._paired: dict[str, PairedScores] = {}

    @functools.cached_property
    def evaluations(self) -> list[str]:
        """Names of the evaluations; raw pixels lack some."""
        results = self.analysis.results
        # Runs come first, because their evaluations determine the order of the columns.
        encoders = [*(each.evaluated for each in results.runs), *results.untrained.values(), results.pixels]
        return list(dict.fromkeys(name for each in encoders for name in each.evaluations(self.name)))

    @functools.cached_property
    def _members(self) -> list[EncoderPredictions]:
        encoders = self.analysis.results.encoders
        places = self.analysis.members
        return [EncoderPredictions(*place, each.predicted(self.name)) for place, each in zip(places, encoders, strict=True)]

    def paired(self, evaluation: str) -> PairedScores:
        """Returns the scores of every run and baseline that has an evaluation, with one bootstrap for all of them."""
        if evaluation not in self._paired:
            self._paired[evaluation] = PairedScores.of_members(self._members, evaluation)
        return self._paired[evaluation]

    @property
    def linear(self) -> PairedScores:
        """The scores of the linear probe."""
        return self.paired("linear")

    @functools.cached_property
    def learners(self) -> dict[tuple[str, str], "LearnerAnalysis"]:
        """The analysis of each learner that has a finished run, by method and encoder."""
        return {learner: LearnerAnalysis(self, learner) for learner in self.analysis.learners}

    @functools.cached_property
    def gains(self) -> dict[Kind, Difference | None]:
        """Gains of the linear probe over the same seeds' untrained encoders, adjusted for the kinds of each learner."""
        return {kind: gain for learner in self.learners.values() for kind, gain in learner.gains.items()}


class LearnerAnalysis:
    """Analysis of a study's results for one method and encoder on one task.

    Args:
      task: analysis of the task.
      learner: names of method and encoder.
    """

    def __init__(self, task: TaskAnalysis, learner: tuple[str, str]):
        self.task = task
        self.analysis = task.analysis
        self.learner = learner
        self._shifts = task.shifts

    @functools.cached_property
    def largest(self) -> list[Kind]:
        """The kind with the largest number of unique samples, for each candidate."""
        return [levels[-1] for levels in self.analysis.levels(self.learner).values()]

    def _differences(self, pairs: Sequence[tuple[Kind, Kind]]) -> list[Difference | None]:
        linear = self.task.linear
        return adjusted_differences([linear.difference(a, b) for a, b in pairs], [linear.single_seed(pair) for pair in pairs])

    @functools.cached_property
    def gains(self) -> dict[Kind, Difference | None]:
        """Gains of each kind over the same seeds' untrained encoders."""
        kinds = self.analysis.of_learner(self.learner)
        untrained = Kind(self.learner, UNTRAINED, None)
        return dict(zip(kinds, self._differences([(kind, untrained) for kind in kinds]), strict=True))

    @functools.cached_property
    def pairs(self) -> dict[tuple[Kind, Kind], Difference | None]:
        """Differences of all pairs of candidates at their largest N; the better candidate comes first in each pair."""
        # Sorted by the means, every difference is positive or 0, which makes a table of differences easy to read.
        pairs = []
        for a, b in itertools.combinations(self.largest, 2):
            found = self.task.linear.difference(a, b)
            pairs.append((b, a) if found is not None and found.value < 0 else (a, b))
        return dict(zip(pairs, self._differences(pairs), strict=True))

    @functools.cached_property
    def reference(self) -> Kind:
        """The candidate that others are compared with: the nearest single source, or else the nearest mixture."""
        candidates = sorted(self.largest, key=lambda kind: self._shifts[kind.source].order)
        return next((kind for kind in candidates if kind.source not in self.analysis.mixtures), candidates[0])

    @functools.cached_property
    def against_reference(self) -> dict[Kind, Difference]:
        """Differences from the reference of all other candidates that share a seed with it, each at its largest N."""
        candidates = sorted(self.largest, key=lambda kind: self._shifts[kind.source].order)
        others = [kind for kind in candidates if kind != self.reference]
        found = self._differences([(kind, self.reference) for kind in others])
        return {kind: each for kind, each in zip(others, found, strict=True) if each is not None}

    @functools.cached_property
    def trends(self) -> list[SourceTrend]:
        """The trend in diversity of each source with at least two numbers of unique samples, near sources first."""
        linear = self.task.linear
        found = []
        for source, levels in self.analysis.levels(self.learner).items():
            grid = linear.grid(levels) if len(levels) > 1 else None
            if grid is None:
                # A trend needs two numbers of unique samples that share a seed; an unfinished study may lack them.
                continue
            x = self._log_diversity(levels)
            trend = mean_trend(Bootstrapped(slopes(x, grid.values), slopes(x, grid.replicates, axis=1)), linear.images)
            if linear.single_seed(levels):
                trend = trend._replace(p_value=math.nan)
            found.append(SourceTrend(source, self._shifts[source].value, tuple(levels), trend, math.nan))
        found.sort(key=lambda each: self._shifts[each.source].order)
        p_values = [each.trend.p_value for each in found]
        # The nearest source is the study's first question, and a single question needs no correction.
        adjusted = [*p_values[:1], *holm(p_values[1:]).tolist()]
        return [dataclasses.replace(each, adjusted=p_value) for each, p_value in zip(found, adjusted, strict=True)]

    def _log_diversity(self, levels: Sequence[Kind]) -> list[float]:
        return [math.log10(self.analysis.diversity(kind)) for kind in levels]

    @functools.cached_property
    def change(self) -> Trend | str:
        """Change of the trend for each unit of the shift index, with an interval that is also valid for other sources.

        It uses the sources with an index and their common seeds. A sentence gives the reason if there is no change.
        """
        return self._change(scatter=True)

    @functools.cached_property
    def change_of_these(self) -> Trend | str:
        """The same change with an interval that is valid for these sources only, without the scatter of sources."""
        return self._change(scatter=False)

    def _change(self, *, scatter: bool) -> Trend | str:
        usable = [each for each in self.trends if not math.isnan(each.shift)]
        if len(usable) < FEWEST_SOURCES:
            return (
                f"At least {FEWEST_SOURCES} sources with a shift index and several numbers of unique samples are needed, and "
                f"there {'is' if len(usable) == 1 else 'are'} {len(usable) or 'none'}."
            )
        linear = self.task.linear
        grid = linear.grid([kind for each in usable for kind in each.levels])
        if grid is None:
            return "No seed is finished for all sources with several numbers of unique samples."
        values = []
        replicates = []
        start = 0
        for each in usable:
            own = slice(start, start + len(each.levels))
            x = self._log_diversity(each.levels)
            values.append(slopes(x, grid.values[own]))
            replicates.append(slopes(x, grid.replicates[:, own], axis=1))
            start = own.stop
        trends = Bootstrapped(np.array(values), np.stack(replicates, axis=1))
        try:
            change = change_by_shift([each.shift for each in usable], trends, linear.images, scatter=scatter)
        except ValueError as error:
            return str(error)
        # With one seed, the p-value would cover only the choice of test images.
        return change._replace(p_value=math.nan) if len(grid.values[0]) < 2 else change
