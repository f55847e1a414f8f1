"""Analysis of a study's results: gains, comparisons and trends with their intervals and verdicts.

`Analysis` covers all tasks, `TaskAnalysis` one task, and `LearnerAnalysis` one method and encoder on one task. Verdicts are
corrected for everything that a report tests, see `sslshift.transfer.claims`. Every value is computed when it is first needed
and then kept. `report` turns the values into sentences and tables.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable

import numpy as np

from sslshift.study.cost import KindCost, kind_cost
from sslshift.study.evaluate import INITIAL, UNTRAINED
from sslshift.study.learner_analysis import RAW_PIXELS, Kind, LearnerAnalysis
from sslshift.study.results import FinishedRun, Results
from sslshift.study.shifts import MeasuredShift
from sslshift.transfer.by_class import ClassGroup, class_groups, scores_within
from sslshift.transfer.claims import (
    CHANGE,
    CLASS,
    GAIN,
    MAIN_EVALUATION,
    REFERENCE,
    TREND,
    Claim,
    Hypothesis,
    HypothesisTest,
    corrected,
    is_exploratory,
    shared_comparisons,
)
from sslshift.transfer.inference import CrossedDeviations, Estimate, crossed_deviations, moderated
from sslshift.transfer.paired import EncoderPredictions, PairedScores


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """A kind of runs, or a baseline, with its numbers.

    Attributes:
      kind: kind of the runs, or the baseline.
      unique, diversity, epochs: N, D and E of the readable images, the mean over runs; None for a baseline.
      shift: shift of the source to the first task; None for a baseline.
      scores: metric of finished runs on the test split, by task and evaluation.
      gains: gain of the linear probe over the baseline of gains, by task; empty for a baseline.
      finished, planned: numbers of runs; 0 for a baseline.
    """

    kind: Kind
    unique: int | None
    diversity: float | None
    epochs: float | None
    shift: MeasuredShift | None
    scores: dict[str, dict[str, Estimate]]
    gains: dict[str, Claim | None]
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

    @property
    def baseline(self) -> str:
        """Name of the baseline that gains are measured over: the encoder of `--init`, or else the untrained encoder."""
        return INITIAL if self.results.initial else UNTRAINED

    @property
    def gain_over(self) -> str:
        """Heading of a column of gains."""
        return f"gain over {self.baseline.removesuffix(' encoder')}"

    @functools.cached_property
    def tasks(self) -> dict[str, "TaskAnalysis"]:
        """The analysis of each task by its name."""
        return {task.name: TaskAnalysis(self, task.name) for task in self.opened.tasks}

    @property
    def task(self) -> "TaskAnalysis":
        """The analysis of the study's first task."""
        return self.tasks[self.opened.task.name]

    @functools.cached_property
    def claims(self) -> dict[Hypothesis, Claim]:
        """Everything that the report tests, with verdicts that are corrected for all of it."""
        tests = {}
        for task in self.tasks.values():
            for learners in task.by_evaluation.values():
                for learner in learners.values():
                    tests |= learner.tests
        return corrected(tests, self.primary, self.task.name, as_planned=not self.results.deviations)

    @property
    def comparisons(self) -> int:
        """The number of comparisons that the correction counts for a confirmatory test that is not the primary one."""
        tested = (name for name, each in self.claims.items() if not math.isnan(each.p_value))
        return shared_comparisons(sum(not is_exploratory(name, self.primary, self.task.name) for name in tested))

    @functools.cached_property
    def primary(self) -> Hypothesis | None:
        """The primary hypothesis, about the first method and encoder; None if nothing can be tested about it yet."""
        if not self.learners:
            return None
        learner = self.task.learners[self.learners[0]]
        mixtures = (kind for kind in learner.largest if kind.source == self.opened.design.primary_mixture)
        nearest = min(learner.largest, key=lambda kind: self.results.shifts[kind.source].order)
        family, subject = {
            "diversity": (TREND, learner.nearest_ladder),
            "shift": (CHANGE, ""),
            "source": (GAIN, nearest),
            "mixture": (REFERENCE, next(mixtures, None)),
        }[self.opened.design.primary]
        name = Hypothesis(self.task.name, learner.learner, family, subject)
        return name if name in learner.tests else None

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

    @functools.cached_property
    def costs(self) -> dict[Kind, KindCost]:
        """The cost of each kind; empty if nothing has a cost."""
        found = {kind: kind_cost(self.opened, runs) for kind, runs in self.runs.items()}
        return found if any(each.total for each in found.values()) else {}

    def leaked(self, candidate: str) -> int:
        """Returns the number of test images that the sources of a candidate contain or resemble, in the worst of them."""
        sources = {uri for each in self.opened.candidates if each.name == candidate for uri in each.mixture.largest}
        return max((leaks.count for uri, leaks in self.results.leaks.items() if uri in sources), default=0)

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
        baselines = [(RAW_PIXELS, None, None), *((Kind(key, INITIAL, None), None, None) for key in self.results.initial)]
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
        baselines = [Kind(learner, name, None) for name in (INITIAL, UNTRAINED) for learner in named]
        baselines = [kind for kind in baselines if kind.source == UNTRAINED or kind.learner in self.results.initial]
        baselines.append(RAW_PIXELS)
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
        baselines = [*results.untrained.values(), *results.initial.values(), results.pixels]
        encoders = [*(each.evaluated for each in results.runs), *baselines]
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
        return self.paired(MAIN_EVALUATION)

    @functools.cached_property
    def by_evaluation(self) -> dict[str, dict[tuple[str, str], LearnerAnalysis]]:
        """The analyses of learners that have a finished run, by evaluation, then by method and encoder; the main one first."""
        names = sorted(self.evaluations, key=lambda name: name != MAIN_EVALUATION) if self.analysis.learners else []
        found = {name: {learner: LearnerAnalysis(self, learner, name) for learner in self.analysis.learners} for name in names}
        # An evaluation may have failed for every run of a learner.
        return {
            name: {learner: own for learner, own in learners.items() if own.kinds or name == MAIN_EVALUATION}
            for name, learners in found.items()
        }

    @functools.cached_property
    def learners(self) -> dict[tuple[str, str], LearnerAnalysis]:
        """The analysis by the linear probe of each learner that has a finished run, by method and encoder."""
        return self.by_evaluation.get(MAIN_EVALUATION, {})

    @functools.cached_property
    def class_gains(self) -> dict[tuple[Kind, ClassGroup], Claim]:
        """Gains of each candidate with its largest N within each class, by the linear probe; empty for a single class.

        They are exploratory, and corrected for all classes and candidates of a learner.
        """
        test = next(each.test for each in self.analysis.opened.tasks if each.name == self.name)
        groups = class_groups(self._members[0].predictions.labels, test.source.classes)
        tests = {}
        for learner in self.learners.values() if len(groups) > 1 else ():
            compared = {learner.baseline, *learner.largest}
            members = [each for each in self._members if each.kind in compared]
            for group in groups:
                scores = scores_within(members, MAIN_EVALUATION, group)
                contrasts = [scores.over_reference(kind, learner.baseline) for kind in learner.largest]
                for kind, each in zip(learner.largest, moderated(contrasts, one_reference=True), strict=True):
                    if each is not None:
                        name = Hypothesis(self.name, learner.learner, CLASS, (kind, group))
                        tests[name] = HypothesisTest(each, scores.single_seed([kind, learner.baseline]))
        found = corrected(tests, None, self.analysis.task.name)
        return {name.subject: claim for name, claim in found.items()}

    def claims_by_evaluation(self, learner: tuple[str, str], family: str, subject: Hashable) -> dict[str, Claim]:
        """Returns the claims about one subject by each evaluation that has it, the linear probe first."""
        names = {name: Hypothesis(self.name, learner, family, subject, name) for name in self.by_evaluation}
        return {name: self.analysis.claims[each] for name, each in names.items() if each in self.analysis.claims}

    @functools.cached_property
    def gains(self) -> dict[Kind, Claim | None]:
        """Gains of the linear probe over the baseline of gains."""
        return {kind: gain for learner in self.learners.values() for kind, gain in learner.gains.items()}
