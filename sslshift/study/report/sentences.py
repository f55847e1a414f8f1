"""All sentences of a study's report, whose claims are those that the intervals allow.

`answer` has the three sentences at the top of the report, `findings` the other claims, `caption` the line under the title, and
`notes` the explanations at the end.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from sslshift.data.ranges import compare_ranges
from sslshift.reporting.numbers import listed, points, two_digits
from sslshift.shift import DISTANCES
from sslshift.study.compared import ONE_SEED, against, gains, kind_of, largest, learners, pairs, read, runs_of
from sslshift.study.floors import starts_silent
from sslshift.study.leaks import told
from sslshift.study.opened import Opened
from sslshift.study.report.text import FALLS, NO_TREND, RISES, trend_points, trend_verdict
from sslshift.study.results import Results
from sslshift.study.sampled import PIXELS, Kind, sampled
from sslshift.study.shifts import name_of_features
from sslshift.study.trending import trend_change, trends
from sslshift.transfer.inference import crossed_deviations
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.tasks import Task

# A sentence with more names than these is hard to read; it gives their number instead.
_FEW = 4


class Claim(NamedTuple):
    """One sentence of the answer.

    Attributes:
      text: the sentence.
      verdict: the result in a form that can be compared with that of another method; empty where there is none.
    """

    text: str
    verdict: str


def answer(results: Results) -> list[str]:
    """Returns the answer in three sentences: what to pretrain on, the effect of diversity, and its change with the shift.

    With several methods or encoders the sentences are about the first, and give the number of those with the same verdict.
    """
    if not results.runs:
        return ["No run of this study is finished: there is no answer yet."]
    named = learners(results)
    claims = [_claims(results, each) for each in named]
    if len(named) == 1:
        return [claim.text for claim in claims[0]]
    sentences = []
    # One page answers for one method; a reader of the others must see at once whether they agree.
    for number, claim in enumerate(claims[0]):
        same = sum(each[number].verdict == claim.verdict for each in claims)
        about = f"{' on '.join(named[0])}; this verdict holds for {same} of {len(named)} methods and encoders"
        sentences.append(f"{claim.text.removesuffix('.')} ({about}).")
    return sentences


def findings(results: Results) -> list[str]:
    """Returns the other claims: each source, mixtures, other methods, the baseline of raw pixels, scatter, and warnings."""
    sentences = []
    named = learners(results)
    for learner in named:
        prefix = f"{' on '.join(learner)}: " if len(named) > 1 else ""
        if learner == named[0]:
            own = [*_sources(results, learner), *_mixtures(results, learner)]
        else:
            own = [claim.text for claim in _claims(results, learner)]
        sentences += [prefix + text for text in (*own, *_pixels(results, learner))]
    return sentences + _scatter(results) + _leaks(results)


def _claims(results: Results, learner: tuple[str, str]) -> tuple[Claim, Claim, Claim]:
    return _best_source(results, learner), _diversity(results, learner), _diversity_with_shift(results, learner)


def _metric(results: Results) -> str:
    return f"linear-probe {METRICS[results.opened.task.metric].text}"


def _with_images(results: Results, kind: Kind) -> str:
    return f"{kind.source} with {read(results, kind):,} unique images"


def _best_source(results: Results, learner: tuple[str, str]) -> Claim:
    task = results.opened.task.name
    candidates = largest(results, learner)
    numbers = sampled(results, task, "linear")
    scores = {kind: numbers.score(kind) for kind in candidates}
    highest = max(candidates, key=lambda kind: scores[kind].value)
    # A source that varies from seed to seed can have the highest mean and no significant gain, while another has one.
    gaining = [kind for kind in candidates if gains(results, task)[kind].verdict == "better"]
    best = highest if highest in gaining or not gaining else max(gaining, key=lambda kind: scores[kind].value)
    gain = gains(results, task)[best]
    score = scores[best]
    reached = f"{_metric(results)}, {score.value:.1%} ({score.low:.1%} to {score.high:.1%})"
    over = f"{gain.points} over the untrained encoder"
    if best != highest:
        text = (
            f"Pretrain on {_with_images(results, best)}: its {reached}, is a significant gain of {over}; {highest.source} "
            f"reaches {scores[highest].value:.1%}, but its gain is not significant"
        )
    elif gain.verdict == "better":
        text = f"Pretrain on {_with_images(results, best)}: it reaches the highest {reached}, a significant gain of {over}"
    else:
        text = (
            f"No gain from pretraining is significant: {_with_images(results, best)} reaches the highest {reached}, {over} "
            f"({gain.verdict})"
        )
    return Claim("; ".join([text, *_compared_with_others(results, learner, best)]) + ".", f"{best.source} {gain.verdict}")


def _compared_with_others(results: Results, learner: tuple[str, str], best: Kind) -> list[str]:
    """Returns clauses on which other sources the best one differs from significantly."""
    better: list[str] = []
    worse: list[str] = []
    alike: list[str] = []
    for (a, b), each in pairs(results, results.opened.task.name, learner).items():
        # The source with the higher mean comes first in a pair. The best source need not have the highest mean, see above.
        differs = each is not None and each.verdict == "better"
        if best == a:
            (better if differs else alike).append(b.source)
        elif best == b:
            (worse if differs else alike).append(a.source)
    clauses = {
        "it is significantly better than": better,
        "it is significantly worse than": worse,
        "it is indistinguishable from": alike,
    }
    return [
        f"{clause} {listed(names) if len(names) <= _FEW else f'{len(names)} other sources'}"
        for clause, names in clauses.items()
        if names
    ]


def _diversity(results: Results, learner: tuple[str, str]) -> Claim:
    found = trends(results, results.opened.task.name, learner)
    # Sources are sorted by shift. One without an index could be far away, so it is named only where no source has an index.
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
    if near.source != largest(results, learner)[0].source:
        which = which.replace("nearest to the task", "nearest to the task among those with several numbers of images", 1)
    if math.isnan(near.shift):
        which = f"{near.source} (its shift index is unknown)"
    return Claim(
        f"With {which}, each factor of ten in diversity changes the {_metric(results)} by {trend_points(near.trend)}: "
        f"{meaning[verdict]}.",
        verdict,
    )


def _diversity_with_shift(results: Results, learner: tuple[str, str]) -> Claim:
    task = results.opened.task.name
    change = trend_change(results, task, learner)
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
    # The first interval is for sources that were not studied, which is what a reader wants and is wide with few sources.
    these = trend_change(results, task, learner, scatter=False)
    return Claim(
        "From data like that of the task to noise (one unit of the shift index), this effect changes by "
        f"{trend_points(change)}: {meaning[verdict]}; for these sources alone the interval is {points(these.low)} to "
        f"{points(these.high)}.",
        verdict,
    )


def _sources(results: Results, learner: tuple[str, str]) -> list[str]:
    task = results.opened.task.name
    sentences = []
    slopes = {each.source: each for each in trends(results, task, learner)}
    for kind in largest(results, learner):
        gain = gains(results, task)[kind]
        text = (
            f"{kind.source} (shift index {two_digits(results.shifts[kind.source]['value'])}) with {read(results, kind):,} "
            f"unique images: {gain.points} compared with the untrained encoder ({gain.verdict})"
        )
        if kind.source in slopes:
            each = slopes[kind.source]
            verdict = trend_verdict(each.trend, each.adjusted)
            text += f"; {trend_points(each.trend)} for each factor of ten in diversity ({verdict})"
        sentences.append(f"{text}.")
    return sentences


def _mixtures(results: Results, learner: tuple[str, str]) -> list[str]:
    mixed = {candidate.name for candidate in results.opened.candidates if candidate.text}
    reference, found = against(results, results.opened.task.name, learner)
    parts = [f"{kind.source} {each.points} ({each.verdict})" for kind, each in found.items() if kind.source in mixed]
    return [f"Mixtures compared with {_with_images(results, reference)}: {listed(parts)}."] if parts else []


def _pixels(results: Results, learner: tuple[str, str]) -> list[str]:
    """Returns a sentence where the best encoder is not significantly better than raw pixels."""
    numbers = sampled(results, results.opened.task.name, "linear")
    best = max(largest(results, learner), key=lambda kind: numbers.score(kind).value)
    found = numbers.difference(best, Kind(None, PIXELS, None))
    one = numbers.alone([best])
    # A significant gain over raw pixels needs no sentence: any useful encoder has one.
    if found is None or (found.low > 0 and not one):
        return []
    is_below = "is significantly worse" if found.high < 0 and not one else "is not significantly better"
    return [
        f"The best encoder ({_with_images(results, best)}) {is_below} than the baseline of raw pixels: "
        f"{found.value * 100:+.1f} points ({ONE_SEED if one else f'{found.low * 100:+.1f} to {found.high * 100:+.1f}'})."
    ]


def _scatter(results: Results) -> list[str]:
    """Returns a sentence on the variation between draws of the subset and between training seeds, where both have several."""
    study = results.opened.study
    task = results.opened.task.name
    # With one draw or one seed, the two sources of variation cannot be separated.
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
        f"Runs of one kind vary by {draws:.2f} points between draws of the subset and by {seeds:.2f} points between training "
        f"seeds (standard deviations of {_metric(results)}; {study.draws} draws x {study.seeds} seeds)."
    ]


def _leaks(results: Results) -> list[str]:
    return [
        f"Warning: {told(uri, leaks, results.opened)}; accuracies after pretraining on it may be too high"
        f"{'' if leaks['equal'] else ' if the similar images show the same things (leaks.csv lists them)'}."
        for uri, leaks in results.leaks.items()
        if leaks.get("count")
    ]


def caption(results: Results) -> str:
    """Returns one sentence on what was done and what the intervals include."""
    opened = results.opened
    named = ", ".join(" on ".join(learner.key) for learner in opened.learners)
    return (
        f"Test {METRICS[opened.task.metric].text} on {opened.task.name} after pretraining on each source with one budget of "
        f"C = {opened.budget.samples:,} samples ({named}); {_counted(opened.study.seeds, opened.study.draws)}"
    )


def _counted(seeds: int, draws: int) -> str:
    subsets = f"{draws} draws of each subset" if draws > 1 else "one draw of each subset" if draws else ""
    if seeds > 1:
        return f"mean and 95% interval over {', '.join(filter(None, [f'{seeds} seeds', subsets]))} and the test images."
    over = f"{subsets} and the test images" if draws > 1 else "the test images alone"
    return f"one seed: the intervals are over {over} and do not include the variation between seeds."


def notes(results: Results) -> list[str]:
    """Returns what a reader must know to understand the numbers, a sentence or two each."""
    opened = results.opened
    sampled_over = "draws of the subset, training seeds" if opened.study.draws > 1 else "seeds"
    included = f"{sampled_over} and test images" if opened.study.seeds > 1 else "the test images alone"
    return [
        f"Intervals include the variation of {included} (Student's t and a bootstrap). A seed determines the order of the "
        f"samples, the initial weights and the views{'' if opened.study.draws else ', and draws the subset'}. All rows share "
        "their test images: differences and gains are computed seed by seed on the same images, and are therefore more precise "
        "than two separate intervals suggest.",
        "Where many pairs are compared, verdicts use p-values adjusted by Holm's method: the probability that a table without "
        "any true difference contains a significant one is at most 5%. The interval beside a difference is that of the pair "
        "alone.",
        *(_about_task(task) for task in opened.tasks),
        f"The shift index uses the {DISTANCES[opened.study.shift_distance].title} distance between features of "
        f"{name_of_features(opened.study)}: 0 is another sample of the downstream images, 1 is noise with their pixel values. "
        "Another encoder or another distance gives other values. Trends over the index treat it as exact.",
        *baseline_notes(opened),
        *_task_notes(results),
        *_shifts(results),
        *_read_images(results),
    ]


def baseline_notes(opened: Opened) -> list[str]:
    """Returns notes on untrained encoders that are evaluated with other weights than those that training starts from."""
    silent = dict.fromkeys(learner.study.encoder for learner in opened.learners if starts_silent(learner))
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


def _task_notes(results: Results) -> list[str]:
    """Returns the notes of evaluations, each once however many encoders it is about."""
    everyone = [results.pixels, *results.floors.values(), *(judged for _, judged in results.runs)]
    found = [
        f"{task}: {note.rstrip('.')}."
        for judged in everyone
        for task, scores in judged.scores.items()
        for note in scores["notes"]
    ]
    # Evaluations repeat a note for each encoder, and a study has hundreds of encoders.
    return [
        note if count == len(everyone) else f"{note} ({count} of {len(everyone)} encoders)"
        for note, count in Counter(found).items()
    ]


def _shifts(results: Results) -> list[str]:
    found = [f"{name}: no shift index. {shift['why']}" for name, shift in results.shifts.items() if "why" in shift]
    # Distances between covariances need more images than features; other distances do not.
    frechet = results.opened.study.shift_distance.startswith("frechet")
    few: dict[tuple[int, int], list[str]] = {}
    for name, shift in results.shifts.items():
        if frechet and shift["sample_size"] < 2 * shift.get("dimensions", 0):
            few.setdefault((shift["sample_size"], shift["dimensions"]), []).append(name)
    return found + [
        f"The shift index of {', '.join(names)} uses {size} images on each side for {dimensions} features, too few for a "
        "stable value; do not compare it with an index of another number of images."
        for (size, dimensions), names in sorted(few.items())
    ]


def range_notes(opened: Opened) -> list[str]:
    """Returns a sentence without a full stop where sources and tasks have different pixel ranges, else none."""
    tasks = {each.train.source.name: each.train.source for each in opened.tasks}
    return compare_ranges({name: source.pixel_range for name, source in (tasks | opened.sources).items()})


def _read_images(results: Results) -> list[str]:
    """Returns notes on images that could not be read, were not searched, or were excluded."""
    opened = results.opened
    found = []
    for candidate in opened.candidates:
        broken = max((judged.trained["broken"] for _, judged in runs_of(results, candidate.name, candidate.unique)), default=0)
        if broken:
            found.append(
                f"{candidate.name}: up to {broken:,} of {candidate.unique:,} unique images could not be read in a run; each "
                "was replaced by another, and N counts those that could be read. broken.csv in the run's folder lists them."
            )
    for uri, leaks in results.leaks.items():
        if "why" in leaks:
            found.append(f"{uri}: not searched for test images, because {leaks['why']}.")
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
