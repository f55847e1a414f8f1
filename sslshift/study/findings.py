"""What a study shows, in sentences that claim no more than the intervals do: the answer in three, then the rest."""

import math

import numpy as np

from sslshift.study.compared import (
    ONE_SEED,
    against,
    gains,
    kind_of,
    largest,
    learners,
    pairs,
    read,
)
from sslshift.study.intervals import signed, two_digits
from sslshift.study.leaks import told
from sslshift.study.results import Results
from sslshift.study.sampled import PIXELS, Kind, sampled
from sslshift.study.trending import trend_change, trends
from sslshift.transfer.inference import Trend, crossed_deviations
from sslshift.transfer.metrics import METRICS

# So many names fit into a sentence.
_FEW = 4


def answer(results: Results) -> list[str]:
    """What to pretrain on, what diversity does near the task, and how that changes with the shift: a sentence each.

    With several methods or encoders they are about the first, and say for how many the same holds.
    """
    if not results.runs:
        return ["No run of this study is finished: there is no answer yet."]
    named = learners(results)
    said = [(_what_to_use(results, each), _near(results, each), _with_shift(results, each)) for each in named]
    if len(named) == 1:
        return [text for text, _ in said[0]]
    about = " on ".join(named[0])
    sentences = []
    for number in range(3):
        text, verdict = said[0][number]
        same = sum(each[number][1] == verdict for each in said)
        sentences.append(
            f"{text.removesuffix('.')} ({about}; the same verdict with {same} of {len(named)} methods and encoders)."
        )
    return sentences


def findings(results: Results) -> list[str]:
    """What else there is to say: every source, mixtures, the answers of other methods, scatter, and warnings."""
    sentences = []
    named = learners(results)
    for learner in named:
        prefix = f"{' on '.join(learner)}: " if len(named) > 1 else ""
        if learner != named[0]:
            said = (_what_to_use(results, learner), _near(results, learner), _with_shift(results, learner))
            sentences += [prefix + text for text, _ in said]
        else:
            sentences += [prefix + text for text in (*_sources(results, learner), *_mixtures(results, learner))]
        sentences += [prefix + text for text in _pixels(results, learner)]
    leaked = [
        f"Warning: {told(uri, leaks, results.opened)}; accuracies after pretraining on it may be too high"
        f"{'' if leaks['equal'] else ' if the similar images show the same things (leaks.csv lists them)'}."
        for uri, leaks in results.leaks.items()
        if leaks.get("count")
    ]
    return sentences + _scatter(results) + leaked


def _metric(results: Results) -> str:
    return METRICS[results.opened.task.metric].text


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _what_to_use(results: Results, learner: tuple[str, str]) -> tuple[str, str]:
    """The sentence, and its verdict in a form that can be compared with another learner's."""
    task = results.opened.task.name
    candidates = largest(results, learner)
    numbers = sampled(results, task, "linear")
    scores = {kind: numbers.score(kind) for kind in candidates}
    highest = max(candidates, key=lambda kind: scores[kind].value)
    # A source that varies from seed to seed can end highest and still show no gain, where another one does.
    shown = [kind for kind in candidates if gains(results, task)[kind].verdict == "better"]
    best = highest if highest in shown or not shown else max(shown, key=lambda kind: scores[kind].value)
    gain = gains(results, task)[best]
    score = scores[best]
    reached = (
        f"{score.value:.1%} of linear-probe {_metric(results)} ({score.low:.1%} to {score.high:.1%}), {gain.points} from the "
        f"untrained encoder"
    )
    with_images = f"{best.source} with {read(results, best):,} different images"
    if best != highest:
        text = (
            f"Pretrain on {with_images}: it reaches {reached}, which is shown to be better; {highest.source} ends higher, at "
            f"{scores[highest].value:.1%}, but its gain is not shown"
        )
    elif gain.verdict == "better":
        text = f"Pretrain on {with_images}: it ends highest, at {reached}, which is shown to be better"
    else:
        text = f"No gain from pretraining is shown: {with_images} ends highest, at {reached} ({gain.verdict})"
    others: dict[str, list[str]] = {
        "it is shown to be ahead of": [],
        "it is shown to be behind": [],
        "no difference is shown from": [],
    }
    beats, loses, level = others.values()
    for (a, b), each in pairs(results, task, learner).items():
        # The one with the higher mean is named first: the best need not be it, see above.
        differs = each is not None and each.verdict == "better"
        if best == a:
            (beats if differs else level).append(b.source)
        elif best == b:
            (loses if differs else level).append(a.source)
    for what, names in others.items():
        if names:
            text += f"; {what} {_listed(names) if len(names) <= _FEW else f'{len(names)} others'}"
    return f"{text}.", f"{best.source} {gain.verdict}"


def _near(results: Results, learner: tuple[str, str]) -> tuple[str, str]:
    found = trends(results, results.opened.task.name, learner)
    near = next((each for each in found if not math.isnan(each.shift)), None) or next(iter(found), None)
    if near is None:
        return "What diversity does is not asked: no source has runs of several numbers of unique samples on shared seeds.", ""
    verdict = trend_verdict(near.trend, near.trend.p_value)
    said = {
        "rises": "more diversity is better",
        "falls": "more diversity is worse",
        ONE_SEED: "of one seed, with an interval that does not count what other seeds would give, so that nothing is shown",
    }
    which = f"the source nearest to the task ({near.source}, shift index {two_digits(near.shift)})"
    if near.source != largest(results, learner)[0].source:
        which = which.replace("nearest to the task", "nearest to the task of those with several numbers of images", 1)
    if math.isnan(near.shift):
        which = f"{near.source} (no shift index is known)"
    return (
        f"With {which} each factor of ten in diversity changes "
        f"linear-probe {_metric(results)} by {in_points(near.trend)}: {said.get(verdict, verdict)}."
    ), verdict


def _with_shift(results: Results, learner: tuple[str, str]) -> tuple[str, str]:
    change = trend_change(results, results.opened.task.name, learner)
    if isinstance(change, str):
        return f"How diversity's effect changes with the shift cannot be told: {change[0].lower()}{change[1:]}", ""
    verdict = trend_verdict(change, change.p_value)
    said = {
        "rises": "diversity helps more where the data is farther from the task",
        "falls": "diversity helps less where the data is farther from the task",
        "no trend shown": "no change is shown",
        ONE_SEED: "of one seed, so that nothing is shown",
    }
    these = trend_change(results, results.opened.task.name, learner, scatter=False)
    return (
        f"From data like the task's to noise (one unit of the shift index) that effect changes by {in_points(change)}: "
        f"{said[verdict]}; of these very sources alone the interval is {signed(these.low)} to {signed(these.high)}."
    ), verdict


def in_points(trend: Trend) -> str:
    """A slope with its interval, as text."""
    text = f"{signed(trend.slope)} points"
    return text if math.isnan(trend.low) else f"{text} ({signed(trend.low)} to {signed(trend.high)})"


def trend_verdict(trend: Trend, p_value: float) -> str:
    """What a trend shows; `p_value` may be one adjusted for a table, and is nan of a single seed."""
    if math.isnan(p_value):
        return ONE_SEED
    if p_value >= 0.05:
        return "no trend shown"
    return "rises" if trend.slope > 0 else "falls"


def _sources(results: Results, learner: tuple[str, str]) -> list[str]:
    task = results.opened.task.name
    sentences = []
    slopes = {each.source: each for each in trends(results, task, learner)}
    for kind in largest(results, learner):
        gain = gains(results, task)[kind]
        text = (
            f"{kind.source} (shift index {two_digits(results.shifts[kind.source]['value'])}): {gain.points} from the untrained "
            f"encoder with {read(results, kind):,} different images: {gain.verdict}"
        )
        if kind.source in slopes:
            each = slopes[kind.source]
            text += f"; {in_points(each.trend)} for each factor of ten in diversity: {trend_verdict(each.trend, each.adjusted)}"
        sentences.append(f"{text}.")
    return sentences


def _mixtures(results: Results, learner: tuple[str, str]) -> list[str]:
    mixed = {candidate.name for candidate in results.opened.candidates if candidate.text}
    reference, found = against(results, results.opened.task.name, learner)
    parts = [f"{kind.source} {each.points} ({each.verdict})" for kind, each in found.items() if kind.source in mixed]
    if not parts:
        return []
    return [f"Mixtures against {reference.source} with {read(results, reference):,} different images: {_listed(parts)}."]


def _pixels(results: Results, learner: tuple[str, str]) -> list[str]:
    """Raw pixels are a floor that an encoder worth its training should pass; said where the best one is not shown to."""
    numbers = sampled(results, results.opened.task.name, "linear")
    best = max(largest(results, learner), key=lambda kind: numbers.score(kind).value)
    found = numbers.difference(best, Kind(None, PIXELS, None))
    one = numbers.alone([best])
    if found is None or (found.low > 0 and not one):
        return []
    place = "stays below" if found.high < 0 and not one else "is not shown to pass"
    return [
        f"The best, {best.source} with {read(results, best):,} different images, {place} raw pixels: "
        f"{found.value * 100:+.1f} points ({ONE_SEED if one else f'{found.low * 100:+.1f} to {found.high * 100:+.1f}'})."
    ]


def _scatter(results: Results) -> list[str]:
    """How much of the differences between runs comes from the draw of the subset, and how much from the training seed."""
    study = results.opened.study
    task = results.opened.task.name
    parts = []
    if min(study.draws, study.seeds) < 2:
        return []
    values: dict[Kind, list[float]] = {}
    for run, judged in results.runs:
        values.setdefault(kind_of(run), []).append(judged.scores[task]["linear"])
    parts = [
        crossed_deviations(np.reshape(each, (study.draws, study.seeds)))
        for each in values.values()
        if len(each) == study.draws * study.seeds
    ]
    if not parts:
        return []
    draws, seeds = (100 * np.sqrt(np.mean([getattr(part, what) ** 2 for part in parts])) for what in ("draws", "seeds"))
    return [
        f"Runs of one kind differ by {draws:.2f} points between draws of the subset and by {seeds:.2f} points between training "
        f"seeds (standard deviations of linear accuracy; {study.draws} draws x {study.seeds} seeds)."
    ]
