"""Sentences of a study's report; they claim only what the intervals support.

`answer` has the answers to the study's questions, and `findings` the other claims. `decision` has the sentences above them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sslshift.reporting.numbers import listed, points, two_digits
from sslshift.study.analysis import Analysis
from sslshift.study.learner_analysis import Kind, LearnerAnalysis, SourceTrend
from sslshift.study.results import describe_run
from sslshift.study.shifts import far_end_text, seen_by
from sslshift.transfer.claims import (
    BETTER,
    FALLS,
    ONE_SEED,
    RISES,
    WORSE,
    Claim,
    difference_points,
    interval_text,
    power_text,
    size,
    slope_points,
    unshown_text,
)
from sslshift.transfer.inference import FEWEST_SOURCES
from sslshift.transfer.metrics import METRICS

# Largest number of names in a sentence; beyond it, the sentence gives their number instead.
_FEW = 4


class Sentence(NamedTuple):
    """One sentence of the answer.

    Attributes:
      text: the sentence.
      verdict: the result in a form that can be compared between methods; empty if there is no result.
    """

    text: str
    verdict: str


def answer(analysis: Analysis) -> list[str]:
    """Returns the answer: the primary hypothesis, and what to pretrain on, the effect of diversity, its change with the shift.

    With several methods or encoders the sentences are about the first, and give the number of those with the same verdict.
    """
    if not analysis.runs:
        return ["No run of this study is finished: there is no answer yet."]
    named = analysis.learners
    several = [_answers(each) for each in analysis.task.learners.values()]
    sentences = []
    for number, sentence in enumerate(several[0]):
        text = sentence.text
        # The answer is about one method, so it states how many of the other methods agree.
        if len(named) > 1:
            same = sum(each[number].verdict == sentence.verdict for each in several)
            about = f"{' on '.join(named[0])}; this verdict holds for {same} of {len(named)} methods and encoders"
            text = f"{text.removesuffix('.')} ({about})."
        sentences.append(text)
    return [f"Primary question: {sentences[0][0].lower()}{sentences[0][1:]}", *sentences[1:]]


def findings(analysis: Analysis) -> list[str]:
    """Returns the other claims: each source, mixtures, other methods, the baseline of raw pixels, scatter, and warnings."""
    sentences = []
    named = analysis.learners
    for learner, own_analysis in analysis.task.learners.items():
        prefix = f"{' on '.join(learner)}: " if len(named) > 1 else ""
        if learner == named[0]:
            own = [*_sources(own_analysis), *_mixtures(own_analysis)]
        else:
            own = [sentence.text for sentence in _answers(own_analysis)]
        sentences += [prefix + text for text in (*own, *_pixels(own_analysis))]
    return sentences + _power(analysis) + _bad_runs(analysis) + _collapsed(analysis) + _scatter(analysis)


def _answers(learner: LearnerAnalysis) -> list[Sentence]:
    """Returns the sentences of a learner, the one about the primary hypothesis first."""
    made = {"source": _best_source(learner), "diversity": _diversity(learner), "shift": _diversity_with_shift(learner)}
    primary = learner.analysis.opened.design.primary
    if primary == "mixture":
        first = _first_mixture(learner)
    else:
        first = _nearest_source(learner) if primary == "source" else made.pop(primary)
    return [first, *made.values()]


def _metric(analysis: Analysis) -> str:
    return f"linear-probe {METRICS[analysis.opened.task.metric].text}"


def _with_images(analysis: Analysis, kind: Kind) -> str:
    return f"{kind.source} with {analysis.unique_read(kind):,} unique images"


def _nearest_source(learner: LearnerAnalysis) -> Sentence:
    nearest = min(learner.largest, key=lambda kind: learner.analysis.results.shifts[kind.source].order)
    gain = learner.gains[nearest]
    if gain is None:
        return Sentence("The gain of the nearest source could not be tested: its runs share no seed with a baseline.", "")
    return Sentence(
        f"Pretraining on the nearest source, {_with_images(learner.analysis, nearest)}, changes the "
        f"{_metric(learner.analysis)} by {difference_points(gain)} compared with the {learner.baseline.source}: "
        f"{unshown_text(gain)}.",
        gain.verdict,
    )


def _first_mixture(learner: LearnerAnalysis) -> Sentence:
    name = learner.analysis.opened.design.primary_mixture
    found = next(((kind, each) for kind, each in learner.against_reference.items() if kind.source == name), None)
    if found is None:
        return Sentence(f"The mixture {name} could not be compared with the nearest source yet.", "")
    kind, claim = found
    return Sentence(
        f"The {_metric(learner.analysis)} after {_with_images(learner.analysis, kind)} differs from that after "
        f"{_with_images(learner.analysis, learner.reference)} by {difference_points(claim)}: {unshown_text(claim)}.",
        claim.verdict,
    )


def _best_source(learner: LearnerAnalysis) -> Sentence:
    analysis = learner.analysis
    best = learner.best
    highest = learner.highest
    gain = learner.gains[best]
    score = learner.scores.score(best)
    value = f"{score.value:.1%} ({score.low:.1%} to {score.high:.1%})"
    corrected = learner.highest_score
    if best == highest and f"{corrected.value:.1%}" != f"{score.value:.1%}":
        # The highest of many is too high on average, because chance helped it to be the highest.
        interval = f"{corrected.low:.1%} to {corrected.high:.1%}"
        value = f"{score.value:.1%}, or {corrected.value:.1%} ({interval}) corrected for this choice"
    among = f" of {len(learner.kinds)} kinds of runs" if len(learner.kinds) > 1 else ""
    if gain is None:
        text = f"The highest {_metric(analysis)}{among} is that of {_with_images(analysis, best)}, {value}"
        return Sentence(f"{text}; it shares no seed with the baseline, {learner.baseline.source}.", "")
    over = f"{difference_points(gain)} over the {learner.baseline.source}"
    if gain.verdict != BETTER:
        text = (
            f"No gain from pretraining is shown for any number of unique images: {_with_images(analysis, best)} reaches the "
            f"highest {_metric(analysis)}{among}, {value}, {over} ({unshown_text(gain)})"
        )
    elif best == highest:
        text = (
            f"Pretrain on {_with_images(analysis, best)}: it reaches the highest {_metric(analysis)}{among}, {value}, a "
            f"gain of {over}"
        )
    else:
        top = f"{learner.scores.score(highest).value:.1%}, the highest{among}"
        text = (
            f"Pretrain on {_with_images(analysis, best)}: it reaches a {_metric(analysis)} of {value}, a gain of {over}; "
            f"{_with_images(analysis, highest)} reaches {top}, but no gain of it is shown"
        )
    return Sentence(f"{text}{_compared_with_others(learner, best)}.", f"{best.source} {gain.verdict}")


def _compared_with_others(learner: LearnerAnalysis, best: Kind) -> str:
    """Returns a clause that names the sources from which the best one differs, each at its highest score."""
    better: list[str] = []
    worse: list[str] = []
    alike: list[tuple[str, float]] = []
    others: dict[str, Kind] = {}
    for kind in learner.kinds:
        if kind.source != best.source:
            rival = others.setdefault(kind.source, kind)
            others[kind.source] = max(rival, kind, key=lambda each: learner.scores.score(each).value)
    for other in others.values():
        # The kind with the higher mean comes first in a pair. The best kind may have a lower mean, see `best`.
        won = learner.pairs.get((best, other))
        claim = won or learner.pairs.get((other, best))
        if claim is None or claim.verdict == ONE_SEED:
            continue
        if claim.verdict == BETTER:
            (better if won else worse).append(other.source)
        else:
            alike.append((other.source, claim.smallest))
    parts = []
    for clause, names in {"better": better, "worse": worse}.items():
        if names:
            parts.append(f"{best.source} is {clause} than {_some(names)}")
    if alike:
        shows = size(max(smallest for _, smallest in alike))
        parts.append(f"no difference from {_some([name for name, _ in alike])} is shown ({shows} would be)")
    # All pairs of kinds are compared, so that the correction covers the choice of the best.
    return f"; in exploratory comparisons, {', and '.join(parts)}" if parts else ""


def _some(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= _FEW else f"{len(names)} other sources"


def _diversity(learner: LearnerAnalysis) -> Sentence:
    near = next((each for each in learner.trends if each.source == learner.nearest_ladder), None)
    if near is None:
        return Sentence(
            "The effect of diversity was not measured: no source has runs with several numbers of unique samples on shared "
            "seeds.",
            "",
        )
    which = f"the source nearest to the task ({near.source}, shift index {two_digits(near.shift)})"
    if near.source != learner.largest[0].source:
        which = which.replace("nearest to the task", "nearest to the task among those with several numbers of images", 1)
    if math.isnan(near.shift):
        which = f"{near.source} (its shift index is unknown)"
    return Sentence(
        f"With {which}, each factor of ten in diversity changes the {_metric(learner.analysis)} by {slope_points(near.trend)}: "
        f"{_trend_words(learner, near)}.",
        near.trend.verdict,
    )


def _trend_words(learner: LearnerAnalysis, near: SourceTrend) -> str:
    """Returns what a trend means; where the relation bends, or another number than the largest is the best, it says so."""
    claim = near.trend
    if claim.verdict == ONE_SEED:
        return "with one seed, whose interval does not include the variation between seeds, no trend can be claimed"
    linear = learner.scores
    scores = [linear.score(kind).value for kind in near.levels]
    highest = near.levels[max(range(len(scores)), key=scores.__getitem__)]
    bends = near.curvature is not None and near.curvature.shown
    if claim.verdict == RISES:
        if bends and near.curvature.value < 0:
            last = f"from {near.levels[-2].unique:,} to {near.levels[-1].unique:,} images it changes by"
            return f"more diversity is better at first and saturates; {last} {points(scores[-1] - scores[-2])} points"
        if highest != near.levels[-1]:
            return f"accuracy rises with diversity on the whole; the highest mean is at {highest.unique:,} unique images"
        return "more diversity is better"
    if claim.verdict == FALLS:
        if highest != near.levels[0]:
            return f"accuracy falls with diversity on the whole; the highest mean is at {highest.unique:,} unique images"
        return "more diversity is worse"
    text = f"{unshown_text(claim)}"
    if bends:
        shape = "falls" if near.curvature.value < 0 else "rises"
        text += f"; but the relation is curved, and {shape} away from the middle"
    return text


def _diversity_with_shift(learner: LearnerAnalysis) -> Sentence:
    change = learner.change
    if isinstance(change, str):
        text = f"The change of the effect of diversity with the shift cannot be estimated: {change[0].lower()}{change[1:]}"
        return Sentence(text, "")
    intervals = [learner.change_of_these, learner.change_of_any]
    tested, other = intervals[:: -1 if learner.change_is_of_any else 1]
    about = "for these sources alone" if learner.change_is_of_any else "for any sources"
    which = "" if learner.change_is_of_any else " for these sources"
    second = f"; {about} the interval is {interval_text(other.low, other.high)}"
    if not learner.change_is_of_any:
        second += f" (no verdict: that takes at least {FEWEST_SOURCES} sources)"
    settings = learner.analysis.opened.design.shift
    return Sentence(
        f"From data like that of the task to {far_end_text(settings)} (one unit of the shift index, {seen_by(settings)}), the "
        "effect of a factor of ten in diversity changes by "
        f"{points(change.value)} points ({interval_text(tested.low, tested.high)}){which}: {_change_words(learner, change)}"
        f"{second}.",
        change.verdict,
    )


def _change_words(learner: LearnerAnalysis, change: Claim) -> str:
    """Returns what a change of trends means; the words depend on what is shown for the nearest and the farthest source."""
    if change.verdict == ONE_SEED:
        return "with one seed, no change can be claimed"
    if not change.shown:
        return unshown_text(change)
    known = [each.trend for each in learner.trends if not math.isnan(each.shift)]
    near, far = ({RISES: 1, FALLS: -1}.get(each.verdict, 0) for each in (known[0], known[-1]))
    falls = change.verdict == FALLS
    words = {
        (1, 1, True): "diversity helps less where the data is farther from the task",
        (1, 1, False): "diversity helps more where the data is farther from the task",
        (1, 0, True): "diversity helps near the task, and this effect falls with the distance; far from it, no effect is shown",
        (0, 1, False): "diversity helps far from the task, and this effect falls towards the task; near it, no effect is shown",
        (1, -1, True): "diversity helps near the task and harms far from it",
        (-1, 1, False): "diversity harms near the task and helps far from it",
        (-1, -1, True): "diversity harms more where the data is farther from the task",
        (-1, -1, False): "diversity harms less where the data is farther from the task",
        (0, -1, True): "diversity harms far from the task; near it, no effect is shown",
        (-1, 0, False): "diversity harms near the task; far from it, no effect is shown",
    }
    plain = f"the effect of diversity {'falls' if falls else 'rises'} with the distance from the task"
    return words.get((near, far, falls), f"{plain}; at neither end is an effect shown" if near == far == 0 else plain)


def _sources(learner: LearnerAnalysis) -> list[str]:
    analysis = learner.analysis
    sentences = []
    trends = {each.source: each for each in learner.trends}
    for kind in learner.largest:
        gain = learner.gains[kind]
        text = (
            f"{kind.source} (shift index {two_digits(analysis.results.shifts[kind.source].value)}) with "
            f"{analysis.unique_read(kind):,} unique images: "
        )
        text += (
            f"{difference_points(gain)} compared with the {learner.baseline.source} ({unshown_text(gain)})"
            if gain
            else "no gain"
        )
        if kind.source in trends:
            claim = trends[kind.source].trend
            text += f"; {slope_points(claim)} for each factor of ten in diversity ({unshown_text(claim)})"
        sentences.append(f"{text}.")
    return sentences


def _mixtures(learner: LearnerAnalysis) -> list[str]:
    parts = [
        f"{kind.source} {difference_points(each)} ({unshown_text(each)})"
        for kind, each in learner.against_reference.items()
        if kind.source in learner.analysis.mixtures
    ]
    return [f"Mixtures compared with {_with_images(learner.analysis, learner.reference)}: {listed(parts)}."] if parts else []


def _pixels(learner: LearnerAnalysis) -> list[str]:
    """Returns a sentence if the best encoder is not shown to be better than raw pixels."""
    best = learner.highest
    found = learner.against_pixels.get(best)
    # A gain over raw pixels is expected of any useful encoder and needs no sentence.
    if found is None or found.verdict == BETTER:
        return []
    is_below = "is worse" if found.verdict == WORSE else "is not shown to be better"
    return [
        f"The best encoder ({_with_images(learner.analysis, best)}) {is_below} than the baseline of raw pixels: "
        f"{difference_points(found)} ({unshown_text(found)})."
    ]


def _power(analysis: Analysis) -> list[str]:
    if not analysis.learners:
        return []
    table = analysis.task.learners[analysis.learners[0]].measured_table
    return [power_text(table, analysis.opened.design.wanted_difference, "measured here", analysis.baseline)] if table else []


def _bad_runs(analysis: Analysis) -> list[str]:
    """Returns a sentence for each run that ended far below its siblings, with a typical number of its kind."""
    sentences = []
    for learner, own in analysis.task.learners.items():
        prefix = f"{' on '.join(learner)}: " if len(analysis.learners) > 1 else ""
        robust = own.scores.robust_scores(own.kinds) if own.bad_runs else {}
        for bad in own.bad_runs:
            draw = f", draw {bad.draw}" if analysis.opened.design.draws else ""
            typical = robust[bad.kind]
            sentences.append(
                f"{prefix}Warning: the run of {_with_images(analysis, bad.kind)} with seed {bad.seed}{draw} ended "
                f"{-bad.deviation * 100:.1f} points below its siblings (p = {bad.p_value:.1g}): look at its loss in "
                f"metrics.jsonl. The median of these runs, which it hardly moves, is {typical.value:.1%} ({typical.low:.1%} to "
                f"{typical.high:.1%})."
            )
    return sentences


def _collapsed(analysis: Analysis) -> list[str]:
    found = [each for each in analysis.results.runs if each.trained.collapse]
    return [
        f"Warning: {len(found)} of {len(analysis.results.runs)} runs collapsed, because of their data (noise has nothing to "
        "learn) or of their settings: their networks give all images nearly the same embedding, and their accuracies do not "
        f"show what pretraining can give, e.g. {describe_run(analysis.opened, each.run)}: {each.trained.collapse}."
        for each in found[:1]
    ]


def _scatter(analysis: Analysis) -> list[str]:
    """Returns a sentence on the variation between draws and between seeds if there are several of both."""
    design = analysis.opened.design
    found = analysis.scatter
    if found is None:
        return []
    return [
        f"Runs of one kind vary by {100 * found.draws:.2f} points between draws of the subset and by {100 * found.seeds:.2f} "
        f"points between training seeds (standard deviations of {_metric(analysis)}; {design.draws} draws x {design.seeds} "
        "seeds)."
    ]
