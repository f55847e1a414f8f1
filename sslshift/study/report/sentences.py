"""Sentences of a study's report; they claim only what the intervals support.

`answer` has the three sentences at the top of the report, `findings` the other claims, `caption` the line under the title, and
`notes` the explanations at the end.
"""

import math
from collections import Counter
from typing import NamedTuple

from sslshift.data.ranges import compare_ranges
from sslshift.reporting.numbers import listed, points, two_digits
from sslshift.shift import DISTANCES
from sslshift.study.analysis import RAW_PIXELS, Analysis, Kind, LearnerAnalysis
from sslshift.study.evaluate import has_silent_branches
from sslshift.study.opened import Opened
from sslshift.study.report.text import FALLS, NO_TREND, RISES, difference_points, trend_points, trend_verdict
from sslshift.study.shifts import name_of_features
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import ONE_SEED
from sslshift.transfer.tasks import Task

# Largest number of names in a sentence; beyond it, the sentence gives their number instead.
_FEW = 4


class Claim(NamedTuple):
    """One sentence of the answer.

    Attributes:
      text: the sentence.
      verdict: the result in a form that can be compared between methods; empty if there is no result.
    """

    text: str
    verdict: str


def answer(analysis: Analysis) -> list[str]:
    """Returns the answer in three sentences: what to pretrain on, the effect of diversity, and its change with the shift.

    With several methods or encoders the sentences are about the first, and give the number of those with the same verdict.
    """
    if not analysis.runs:
        return ["No run of this study is finished: there is no answer yet."]
    named = analysis.learners
    claims = [_claims(each) for each in analysis.task.learners.values()]
    if len(named) == 1:
        return [claim.text for claim in claims[0]]
    sentences = []
    # The answer is about one method, so it states how many of the other methods agree.
    for number, claim in enumerate(claims[0]):
        same = sum(each[number].verdict == claim.verdict for each in claims)
        about = f"{' on '.join(named[0])}; this verdict holds for {same} of {len(named)} methods and encoders"
        sentences.append(f"{claim.text.removesuffix('.')} ({about}).")
    return sentences


def findings(analysis: Analysis) -> list[str]:
    """Returns the other claims: each source, mixtures, other methods, the baseline of raw pixels, scatter, and warnings."""
    sentences = []
    named = analysis.learners
    for learner, own_analysis in analysis.task.learners.items():
        prefix = f"{' on '.join(learner)}: " if len(named) > 1 else ""
        if learner == named[0]:
            own = [*_sources(own_analysis), *_mixtures(own_analysis)]
        else:
            own = [claim.text for claim in _claims(own_analysis)]
        sentences += [prefix + text for text in (*own, *_pixels(own_analysis))]
    return sentences + _scatter(analysis) + _leaks(analysis)


def _claims(learner: LearnerAnalysis) -> tuple[Claim, Claim, Claim]:
    return _best_source(learner), _diversity(learner), _diversity_with_shift(learner)


def _metric(analysis: Analysis) -> str:
    return f"linear-probe {METRICS[analysis.opened.task.metric].text}"


def _with_images(analysis: Analysis, kind: Kind) -> str:
    return f"{kind.source} with {analysis.unique_read(kind):,} unique images"


def _best_source(learner: LearnerAnalysis) -> Claim:
    analysis = learner.analysis
    candidates = learner.largest
    scores = {kind: learner.task.linear.score(kind) for kind in candidates}
    highest = max(candidates, key=lambda kind: scores[kind].value)
    # The source with the highest mean may vary so much between seeds that only another source has a significant gain.
    gaining = [kind for kind in candidates if learner.gains[kind].verdict == "better"]
    best = highest if highest in gaining or not gaining else max(gaining, key=lambda kind: scores[kind].value)
    gain = learner.gains[best]
    score = scores[best]
    value = f"{score.value:.1%} ({score.low:.1%} to {score.high:.1%})"
    reached = f"{_metric(analysis)}, {value}"
    over = f"{difference_points(gain)} over the untrained encoder"
    if best != highest:
        text = (
            f"Pretrain on {_with_images(analysis, best)}: it reaches a {_metric(analysis)} of {value}, a significant gain of "
            f"{over}; {highest.source} "
            f"reaches {scores[highest].value:.1%}, but its gain is not significant"
        )
    elif gain.verdict == "better":
        text = f"Pretrain on {_with_images(analysis, best)}: it reaches the highest {reached}, a significant gain of {over}"
    else:
        text = (
            f"No gain from pretraining is significant: {_with_images(analysis, best)} reaches the highest {reached}, {over} "
            f"({gain.verdict})"
        )
    return Claim(f"{text}{_compared_with_others(learner, best)}.", f"{best.source} {gain.verdict}")


def _compared_with_others(learner: LearnerAnalysis, best: Kind) -> str:
    """Returns a clause that names the sources from which the best one differs significantly; empty without other sources."""
    better: list[str] = []
    worse: list[str] = []
    alike: list[str] = []
    for (a, b), each in learner.pairs.items():
        # The source with the higher mean comes first in a pair. The best source may have a lower mean, see `_best_source`.
        differs = each is not None and each.verdict == "better"
        if best == a:
            (better if differs else alike).append(b.source)
        elif best == b:
            (worse if differs else alike).append(a.source)
    clauses = {
        "is significantly better than": better,
        "is significantly worse than": worse,
        "is not significantly different from": alike,
    }
    parts = [
        f"{clause} {listed(names) if len(names) <= _FEW else f'{len(names)} other sources'}"
        for clause, names in clauses.items()
        if names
    ]
    return f"; {best.source} {', and '.join(parts)}" if parts else ""


def _diversity(learner: LearnerAnalysis) -> Claim:
    found = learner.trends
    # Sources are sorted by shift. A source without an index could be far away and is named only if no source has an index.
    near = next((each for each in found if not math.isnan(each.shift)), None) or next(iter(found), None)
    if near is None:
        return Claim(
            "The effect of diversity was not measured: no source has runs with several numbers of unique samples on shared "
            "seeds.",
            "",
        )
    verdict = trend_verdict(near.trend, near.trend.p_value)
    meaning = {
        RISES: "more diversity is better",
        FALLS: "more diversity is worse",
        NO_TREND: "the trend is not significant",
        ONE_SEED: "with one seed, whose interval does not include the variation between seeds, no trend can be claimed",
    }
    which = f"the source nearest to the task ({near.source}, shift index {two_digits(near.shift)})"
    if near.source != learner.largest[0].source:
        which = which.replace("nearest to the task", "nearest to the task among those with several numbers of images", 1)
    if math.isnan(near.shift):
        which = f"{near.source} (its shift index is unknown)"
    return Claim(
        f"With {which}, each factor of ten in diversity changes the {_metric(learner.analysis)} by {trend_points(near.trend)}: "
        f"{meaning[verdict]}.",
        verdict,
    )


def _diversity_with_shift(learner: LearnerAnalysis) -> Claim:
    change = learner.change
    if isinstance(change, str):
        text = f"The change of this effect with the shift cannot be estimated: {change[0].lower()}{change[1:]}"
        return Claim(text, "")
    verdict = trend_verdict(change, change.p_value)
    meaning = {
        RISES: "diversity helps more where the data is farther from the task",
        FALLS: "diversity helps less where the data is farther from the task",
        NO_TREND: "the change is not significant",
        ONE_SEED: "with one seed, no change can be claimed",
    }
    # The first interval is valid for other sources too, which readers want, and is wide if the study has few sources.
    these = learner.change_of_these
    return Claim(
        "From data like that of the task to noise (one unit of the shift index), this effect changes by "
        f"{trend_points(change)}: {meaning[verdict]}; for these sources alone the interval is {points(these.low)} to "
        f"{points(these.high)}.",
        verdict,
    )


def _sources(learner: LearnerAnalysis) -> list[str]:
    analysis = learner.analysis
    sentences = []
    slopes = {each.source: each for each in learner.trends}
    for kind in learner.largest:
        gain = learner.gains[kind]
        text = (
            f"{kind.source} (shift index {two_digits(analysis.results.shifts[kind.source].value)}) with "
            f"{analysis.unique_read(kind):,} unique images: {difference_points(gain)} compared with the untrained "
            f"encoder ({gain.verdict})"
        )
        if kind.source in slopes:
            each = slopes[kind.source]
            verdict = trend_verdict(each.trend, each.adjusted)
            text += f"; {trend_points(each.trend)} for each factor of ten in diversity ({verdict})"
        sentences.append(f"{text}.")
    return sentences


def _mixtures(learner: LearnerAnalysis) -> list[str]:
    parts = [
        f"{kind.source} {difference_points(each)} ({each.verdict})"
        for kind, each in learner.against_reference.items()
        if kind.source in learner.analysis.mixtures
    ]
    return [f"Mixtures compared with {_with_images(learner.analysis, learner.reference)}: {listed(parts)}."] if parts else []


def _pixels(learner: LearnerAnalysis) -> list[str]:
    """Returns a sentence if the best encoder is not significantly better than raw pixels."""
    linear = learner.task.linear
    best = max(learner.largest, key=lambda kind: linear.score(kind).value)
    found = linear.difference(best, RAW_PIXELS)
    one = linear.single_seed([best])
    # A significant gain over raw pixels is expected of any useful encoder and needs no sentence.
    if found is None or (found.low > 0 and not one):
        return []
    is_below = "is significantly worse" if found.high < 0 and not one else "is not significantly better"
    return [
        f"The best encoder ({_with_images(learner.analysis, best)}) {is_below} than the baseline of raw pixels: "
        f"{found.value * 100:+.1f} points ({ONE_SEED if one else f'{found.low * 100:+.1f} to {found.high * 100:+.1f}'})."
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


def _leaks(analysis: Analysis) -> list[str]:
    test_images = len(analysis.opened.task.test.indices)
    return [
        f"Warning: {leaks.sentence(uri, test_images)}; accuracies after pretraining on it may be too high"
        f"{'' if leaks.equal else ' if the similar images show the same things (leaks.csv lists them)'}."
        for uri, leaks in analysis.results.leaks.items()
        if leaks.count
    ]


def caption(analysis: Analysis) -> str:
    """Returns one sentence on the study and on the meaning of its intervals."""
    opened = analysis.opened
    named = ", ".join(" on ".join(learner.key) for learner in opened.learners)
    return (
        f"Test {METRICS[opened.task.metric].text} on {opened.task.name} after pretraining on each source with one budget of "
        f"C = {opened.design.budget.samples:,} samples ({named}); {_counted(opened.design.seeds, opened.design.draws)}"
    )


def _counted(seeds: int, draws: int) -> str:
    subsets = f"{draws} draws of each subset" if draws > 1 else "one draw of each subset" if draws else ""
    if seeds > 1:
        return f"mean and 95% interval over {', '.join(filter(None, [f'{seeds} seeds', subsets]))} and the test images."
    over = f"{subsets} and the test images" if draws > 1 else "the test images alone"
    return f"one seed: the intervals are over {over} and do not include the variation between seeds."


def notes(analysis: Analysis) -> list[str]:
    """Returns explanations that a reader needs to understand the numbers, one or two sentences each."""
    opened = analysis.opened
    sampled_over = "draws of the subset, training seeds" if opened.design.draws > 1 else "seeds"
    included = f"{sampled_over} and test images" if opened.design.seeds > 1 else "the test images alone"
    return [
        f"Intervals include the variation of {included} (Student's t and a bootstrap). A seed determines the order of the "
        f"samples, the initial weights and the views{'' if opened.design.draws else ', and draws the subset'}. All rows share "
        "their test images: differences and gains are computed seed by seed on the same images, and are therefore more precise "
        "than two separate intervals suggest.",
        "Where many pairs are compared, verdicts use p-values adjusted by Holm's method: the probability that a table without "
        "any true difference contains a significant one is at most 5%. The interval beside a difference is that of the pair "
        "alone.",
        *(_about_task(task) for task in opened.tasks),
        f"The shift index uses the {DISTANCES[opened.design.shift.distance].title} distance between features of "
        f"{name_of_features(opened.design.shift)}: 0 is another sample of the downstream images, 1 is noise with their pixel "
        "values. Another encoder or another distance gives other values. Trends over the index treat it as exact.",
        *baseline_notes(opened),
        *_task_notes(analysis),
        *_shifts(analysis),
        *_read_images(analysis),
    ]


def baseline_notes(opened: Opened) -> list[str]:
    """Returns notes on untrained encoders whose evaluated weights differ from the start of training."""
    silent = dict.fromkeys(learner.settings.encoder for learner in opened.learners if has_silent_branches(learner))
    return [
        f"The untrained {name} is evaluated with its residual branches switched on: training starts with zero-initialised "
        "branches, which compute almost nothing, and almost any training would exceed such a baseline."
        for name in silent
    ]


def _about_task(task: Task) -> str:
    return (
        f"{task.name}: probes are trained on {len(task.train.indices):,} labelled images; hyperparameters are chosen on "
        f"{len(task.validation.indices):,} others; the {METRICS[task.metric].text} of the {len(task.test.indices):,} test "
        "images is computed once. Encoders are finished and frozen (offline evaluation) unless fine-tuning is named."
    )


def _task_notes(analysis: Analysis) -> list[str]:
    """Returns the notes of evaluations; equal notes of several encoders are shown once."""
    everyone = analysis.results.encoders
    found = [
        f"{task}: {note.rstrip('.')}."
        for encoder in everyone
        for task, scores in encoder.scores.items()
        for note in scores.notes
    ]
    # Every encoder repeats the notes of its evaluations, and a study has hundreds of encoders.
    return [
        note if count == len(everyone) else f"{note} ({count} of {len(everyone)} encoders)"
        for note, count in Counter(found).items()
    ]


def _shifts(analysis: Analysis) -> list[str]:
    shifts = analysis.results.shifts
    found = [f"{name}: no shift index. {shift.why}" for name, shift in shifts.items() if shift.why]
    # Only distances between covariances need more images than features.
    of_covariances = DISTANCES[analysis.opened.design.shift.distance].of_covariances
    few: dict[tuple[int, int], list[str]] = {}
    for name, shift in shifts.items():
        if of_covariances and shift.index.sample_size < 2 * shift.dimensions:
            few.setdefault((shift.index.sample_size, shift.dimensions), []).append(name)
    return found + [
        f"The shift index of {', '.join(names)} uses {size} images on each side for {dimensions} features, too few for a "
        "stable value; do not compare it with an index of another number of images."
        for (size, dimensions), names in sorted(few.items())
    ]


def range_notes(opened: Opened) -> list[str]:
    """Returns a sentence without a full stop if sources and tasks have different pixel ranges."""
    tasks = {each.train.source.name: each.train.source for each in opened.tasks}
    return compare_ranges({name: source.pixel_range for name, source in (tasks | opened.sources).items()})


def _read_images(analysis: Analysis) -> list[str]:
    """Returns notes on images that could not be read, were not searched, or were excluded."""
    opened = analysis.opened
    found = []
    for candidate in opened.candidates:
        runs = analysis.runs_of(candidate.name, candidate.unique)
        broken = max((each.trained.broken for each in runs), default=0)
        if broken:
            found.append(
                f"{candidate.name}: up to {broken:,} of {candidate.unique:,} unique images could not be read in a run; each "
                "was replaced by another, and N counts those that could be read. broken.csv in the run's folder lists them."
            )
    for uri, leaks in analysis.results.leaks.items():
        if leaks.why:
            found.append(f"{uri}: not searched for test images, because {leaks.why}.")
    found += [f"{sentence}." for sentence in range_notes(opened)]
    for uri, source in opened.sources.items():
        if opened.withheld.get(uri):
            found.append(
                f"{uri}: images that equal an image of the held-out test split, as the encoders see them, are excluded; "
                f"{len(source):,} remain."
            )
        found += [f"{uri}: {note}." for note in source.notes]
        if source.refused:
            some = "; ".join(f"{path} ({reason})" for path, reason in source.refused[:5])
            found.append(f"{uri}: {len(source.refused)} files are not readable images and are not counted in N, e.g. {some}.")
    return found
