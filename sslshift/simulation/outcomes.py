"""Outcome of one simulated study: which of its intervals hold the truth, and which of its claims are true."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sslshift.simulation.studies import results_of, source_name
from sslshift.simulation.world import SimulatedStudy
from sslshift.study.analysis import RAW_PIXELS, Analysis, Kind, LearnerAnalysis
from sslshift.study.opened import Opened
from sslshift.study.report.sentences import answer, findings
from sslshift.study.report.text import FALLS, RISES, trend_verdict
from sslshift.transfer.inference import Trend, slopes
from sslshift.transfer.paired import Difference

# Negated claims of a sentence, which are removed, and the words of the other claims.
_NEGATED = re.compile(
    r"(?i)\bno\b[^.;:(]*?\bsignificant|\bnot significant(ly (better|worse|different))?|(better|worse), but not"
)
_CLAIM = re.compile(r"(?i)\b(significant(ly)?|better|worse|rises|falls|helps (more|less))\b")


class TrueInterval(NamedTuple):
    """An interval of a report with the true number, all in points."""

    what: str
    low: float
    high: float
    truth: float


class TrueClaim(NamedTuple):
    """A hypothesis that a report tests, with its direction and the true one.

    Attributes:
      family: table or sentence of the report.
      sign: 1 or -1 if the report claims a difference or trend in this direction, 0 if it claims none.
      truth: the true number, in points.
    """

    family: str
    sign: int
    truth: float

    @property
    def false(self) -> bool:
        """True if the report claims a direction that is not the true one."""
        return self.sign not in (0, np.sign(self.truth))


def outcome(study: SimulatedStudy, opened: Opened) -> dict[tuple[str, str], float]:
    """Returns shares between 0 and 1 of one study, by what is measured and its object.

    | measure | share |
    |---|---|
    | coverage | of the intervals of this kind that hold the truth |
    | false claim | 1 if the report makes a false claim of this family, or any |
    | shown | of the true differences or trends of this family that the report claims |
    | sentences | 1 if answer or findings make a claim and no verdict of the report does |

    Args:
      study: the study.
      opened: result of `open_world` for the study's world.
    """
    analysis = Analysis(results_of(study, opened))
    found: dict[tuple[str, str], list[float]] = {}
    claims = []
    for learner in analysis.task.learners.values():
        for each in _intervals(study, learner):
            found.setdefault(("coverage", each.what), []).append(each.low <= each.truth <= each.high)
        claims += _claims(study, learner)
    families = dict.fromkeys(each.family for each in claims)
    for family in families:
        own = [each for each in claims if each.family == family]
        found["false claim", family] = [any(each.false for each in own)]
        found["shown", family] = [each.sign == np.sign(each.truth) for each in own if each.truth]
    found["false claim", "whole report"] = [any(each.false for each in claims)]
    claiming = any(map(claims_something, [*answer(analysis), *findings(analysis)]))
    found["sentences", "claim without a verdict"] = [claiming and not any(each.sign for each in claims)]
    return {name: float(np.mean(each)) for name, each in found.items() if each}


def claims_something(sentence: str) -> bool:
    """Returns whether a sentence of a report claims a difference or a trend.

    Example:
      >>> claims_something("a: +1.0 points ± 0.5 (better)"), claims_something("a is not significantly better than b")
      (True, False)
    """
    return bool(_CLAIM.search(_NEGATED.sub("", sentence)))


def _accuracy(study: SimulatedStudy, kind: Kind) -> float:
    """Returns the true accuracy of a kind of runs, or of a baseline, in points."""
    world = study.world
    if kind.unique is None:
        return world.untrained
    names = [source_name(world, number) for number in range(world.sources)]
    return float(study.accuracies[names.index(kind.source), world.unique.index(kind.unique)])


def _trend(study: SimulatedStudy, source: str) -> float:
    names = [source_name(study.world, number) for number in range(study.world.sources)]
    return float(study.trends[names.index(source)])


def _intervals(study: SimulatedStudy, learner: LearnerAnalysis) -> Iterable[TrueInterval]:
    world = study.world
    for kind, gain in learner.gains.items():
        truth = _accuracy(study, kind)
        score = learner.task.linear.score(kind)
        yield TrueInterval("accuracy", 100 * score.low, 100 * score.high, truth)
        half = gain.half_width
        yield TrueInterval("gain", 100 * (gain.value - half), 100 * (gain.value + half), truth - world.untrained)
    for each in learner.trends:
        yield TrueInterval("trend", 100 * each.trend.low, 100 * each.trend.high, _trend(study, each.source))
    for what, change, truth in _changes(study, learner):
        yield TrueInterval(what, 100 * change.low, 100 * change.high, truth)


def _changes(study: SimulatedStudy, learner: LearnerAnalysis) -> list[tuple[str, Trend, float]]:
    these = float(slopes(study.world.index, study.trends)) if study.world.sources > 1 else 0.0
    named = [
        ("change, any sources", learner.change, study.world.trend_by_index),
        ("change, these sources", learner.change_of_these, these),
    ]
    return [each for each in named if isinstance(each[1], Trend)]


def _claims(study: SimulatedStudy, learner: LearnerAnalysis) -> Iterable[TrueClaim]:
    world = study.world
    for kind, gain in learner.gains.items():
        yield TrueClaim("gains", _sign(gain), _accuracy(study, kind) - world.untrained)
    for (a, b), each in learner.pairs.items():
        yield TrueClaim("pairs of sources", _sign(each), _accuracy(study, a) - _accuracy(study, b))
    for each in learner.trends:
        yield TrueClaim("trends", _trend_sign(each.trend, each.adjusted), _trend(study, each.source))
    for what, change, truth in _changes(study, learner):
        yield TrueClaim(what, _trend_sign(change, change.p_value), truth)
    linear = learner.task.linear
    best = max(learner.largest, key=lambda kind: linear.score(kind).value)
    pixels = linear.difference(best, RAW_PIXELS)
    below = pixels.high < 0 and not linear.single_seed([best])
    # The report has a sentence only if the best encoder is not better than raw pixels.
    yield TrueClaim("raw pixels", -1 if below else 0, min(0.0, _accuracy(study, best) - world.untrained))


def _sign(difference: Difference | None) -> int:
    signs = {"better": 1, "worse": -1}
    return 0 if difference is None else signs.get(difference.verdict, 0)


def _trend_sign(trend: Trend, p_value: float) -> int:
    return {RISES: 1, FALLS: -1}.get(trend_verdict(trend, p_value), 0)
