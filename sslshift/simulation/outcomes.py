"""Outcome of one simulated study: which of its intervals hold the truth, and which of its claims are true."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sslshift.simulation.studies import results_of, source_name
from sslshift.simulation.world import SimulatedStudy
from sslshift.study.analysis import Analysis
from sslshift.study.learner_analysis import Kind
from sslshift.study.opened import Opened
from sslshift.study.report.decision import decision
from sslshift.study.report.sentences import answer, findings
from sslshift.transfer import claims as families
from sslshift.transfer.claims import Hypothesis
from sslshift.transfer.inference import slopes

# Negated claims of a sentence, which are removed, and the words of the other claims.
_NEGATED = re.compile(
    r"(?i)\bno\b[^.;:(]*?\bshown|\bnot shown to be (better|worse)|no difference from [^;.]* is shown"
    r"|none of the [^.;:(]* is shown to help or to hurt|shown neither to help nor to hurt"
)
_CLAIM = re.compile(
    r"(?i)\b(better|worse|rises|falls|raises|lowers|saturates|curved|helps?|hurts?|harms|pretrain on|collect)\b"
)


class CheckedClaim(NamedTuple):
    """A hypothesis that a report tests, with the truth, in points.

    Attributes:
      family: table or sentence of the report.
      low, high: interval of the number; nan if there is none.
      sign: 1 or -1 if the report claims that the number is above or below 0, and 0 if it claims neither.
      truth: the true number.
      exploratory: whether the report marks the claim as exploratory.
      primary: whether it is the report's primary hypothesis.
    """

    family: str
    low: float
    high: float
    sign: int
    truth: float
    exploratory: bool
    primary: bool

    @property
    def false(self) -> bool:
        """True if the report claims a direction that is not the true one."""
        # A true number of 0 is a difference of equal sums, up to rounding.
        return self.sign not in (0, np.sign(round(self.truth, 9)))


def outcome(study: SimulatedStudy, opened: Opened) -> dict[tuple[str, str], float]:
    """Returns shares between 0 and 1 of one study, by what is measured and its object.

    | measure | share |
    |---|---|
    | coverage | of the intervals of this kind that hold the truth |
    | false claim | 1 if the report makes a false claim of this family; the whole report excludes exploratory ones |
    | shown | of the true differences or trends of this family that the report claims |
    | sentences | 1 if answer or findings make a claim and no verdict of the report does |

    Args:
      study: the study.
      opened: result of `open_world` for the study's world.
    """
    analysis = Analysis(results_of(study, opened))
    found: dict[tuple[str, str], list[float]] = {}
    for what, low, high, truth in [*_accuracies(study, analysis), *_changes(study, analysis)]:
        found.setdefault(("coverage", what), []).append(low <= truth <= high)
    claims = list(_claims(study, analysis))
    for each in claims:
        if not math.isnan(each.low):
            found.setdefault(("coverage", each.family), []).append(each.low <= each.truth <= each.high)
    groups = {
        family: [each for each in claims if each.family == family] for family in dict.fromkeys(each.family for each in claims)
    }
    groups["primary hypothesis"] = [each for each in claims if each.primary]
    groups["whole report"] = [each for each in claims if not each.exploratory]
    groups["exploratory"] = [each for each in claims if each.exploratory]
    for name, own in groups.items():
        found["false claim", name] = [any(each.false for each in own)]
        found["shown", name] = [each.sign == np.sign(each.truth) for each in own if round(each.truth, 9)]
    claiming = any(map(claims_something, [*decision(analysis), *answer(analysis), *findings(analysis)]))
    found["sentences", "claim without a verdict"] = [claiming and not any(each.sign for each in claims)]
    return {name: float(np.mean(each)) for name, each in found.items() if each}


def claims_something(sentence: str) -> bool:
    """Returns whether a sentence of a report claims a difference or a trend.

    Example:
      >>> claims_something("a: +1.0 points ± 0.5 (better)"), claims_something("a is not shown to be better than b")
      (True, False)
    """
    return bool(_CLAIM.search(_NEGATED.sub("", sentence)))


def _accuracy(study: SimulatedStudy, kind: Kind) -> float:
    """Returns the true accuracy of a kind of runs, or of a baseline, in points."""
    world = study.world
    if kind.unique is None:
        return world.untrained
    return float(study.accuracies[_number(study, kind.source), world.unique.index(kind.unique)])


def _number(study: SimulatedStudy, source: str) -> int:
    return [source_name(study.world, number) for number in range(study.world.sources)].index(source)


def _accuracies(study: SimulatedStudy, analysis: Analysis) -> Iterable[tuple[str, float, float, float]]:
    """Yields the name, ends and true value of the intervals of accuracies, in points."""
    for learner in analysis.task.learners.values():
        for kind in learner.kinds:
            score = learner.scores.score(kind)
            yield "accuracy", 100 * score.low, 100 * score.high, _accuracy(study, kind)
        score = learner.highest_score
        yield "highest accuracy", 100 * score.low, 100 * score.high, _accuracy(study, learner.highest)


def _changes(study: SimulatedStudy, analysis: Analysis) -> Iterable[tuple[str, float, float, float]]:
    """Yields the same of the change of the trend with the shift, for any sources and for these."""
    for learner in analysis.task.learners.values():
        if learner.change_of_any is None or learner.change_of_these is None:
            continue
        for which, found, truth in (
            ("any", learner.change_of_any, study.world.trend_by_index),
            ("these", learner.change_of_these, _change_of_these(study)),
        ):
            yield f"change, {which} sources", 100 * found.low, 100 * found.high, truth


def _change_of_these(study: SimulatedStudy) -> float:
    return float(slopes(study.world.index, study.trends))


def _claims(study: SimulatedStudy, analysis: Analysis) -> Iterable[CheckedClaim]:
    for hypothesis, claim in analysis.claims.items():
        truth = _truth(study, analysis, hypothesis)
        sign = int(np.sign(claim.value)) if claim.shown else 0
        ends = (math.nan, math.nan) if math.isnan(claim.half_width) else (100 * claim.low, 100 * claim.high)
        yield CheckedClaim(hypothesis.family, *ends, sign, truth, claim.exploratory, hypothesis == analysis.primary)


def _truth(study: SimulatedStudy, analysis: Analysis, hypothesis: Hypothesis) -> float:
    """Returns the true number of a tested hypothesis, in points."""
    subject = hypothesis.subject
    learner = analysis.task.learners[hypothesis.learner]
    if hypothesis.family in (families.GAIN, families.PIXELS):
        return _accuracy(study, subject) - study.world.untrained
    if hypothesis.family == families.REFERENCE:
        return _accuracy(study, subject) - _accuracy(study, learner.reference)
    if hypothesis.family == families.PAIR:
        return _accuracy(study, subject[0]) - _accuracy(study, subject[1])
    if hypothesis.family == families.TREND:
        return float(study.trends[_number(study, subject)])
    if hypothesis.family == families.CHANGE:
        return study.world.trend_by_index if learner.change_is_of_any else _change_of_these(study)
    if hypothesis.family == families.CURVATURE:
        return 0.0
    raise ValueError(f"Expected a family of claims whose truth is known, got {hypothesis.family!r}.")
