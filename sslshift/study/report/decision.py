"""The first sentences of a report: what to collect, what hurts, or how much more it takes to know, and what qualifies that.

The decision uses every evaluation. It names only what the verdicts of the report show, which are corrected for all tests.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sslshift.reporting.numbers import listed
from sslshift.study.analysis import Analysis
from sslshift.study.cost import planned_table
from sslshift.study.learner_analysis import Kind, LearnerAnalysis
from sslshift.transfer.claims import (
    BETTER,
    GAIN,
    MAIN_EVALUATION,
    ONE_SEED,
    TREND,
    WORSE,
    Claim,
    difference_points,
    interval_for_money,
    percent,
    plus_minus,
    size,
    ways_text,
)
from sslshift.transfer.inference import POWER
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import evaluation_phrase

# Largest number of names in a sentence.
_FEW = 4


class _Effect(NamedTuple):
    """The clearest gain or loss of a source, and the evaluation that shows it."""

    kind: Kind
    evaluation: str
    claim: Claim


def decision(analysis: Analysis) -> list[str]:
    """Returns the decision in one sentence, then leaks, evaluations that disagree, and money.

    If a plan was changed after results were known, that comes first.

    With several methods or encoders, the sentences are about the first, and give the number of those with the same decision.
    """
    if not analysis.runs:
        return []
    learner = analysis.task.learners[analysis.learners[0]]
    made = {key: _decided(own) for key, own in analysis.task.learners.items()}
    (text, *rest), verdict = made[learner.learner]
    if len(made) > 1:
        same = sum(other == verdict for _, other in made.values())
        about = f"{' on '.join(learner.learner)}; the same holds for {same} of {len(made)} methods and encoders"
        text = f"{text.removesuffix('.')} ({about})."
    changed = [
        f"{deviation}: false findings are more frequent than stated, and all verdicts are exploratory."
        for deviation in analysis.results.deviations
    ]
    return [*changed, *_weak_start(learner), text, *rest, *_leaks(analysis), *_disagreements(learner), *_money(learner)]


def _weak_start(learner: LearnerAnalysis) -> list[str]:
    """Returns a warning if the encoder that training continues from scores below an untrained one."""
    results = learner.analysis.results
    initial = results.initial.get(learner.learner)
    task = learner.analysis.opened.task
    untrained = [each.scores[task.name].linear for key, each in results.untrained.items() if key[:2] == learner.learner]
    if initial is None or not untrained:
        return []
    own = initial.scores[task.name].linear
    without = sum(untrained) / len(untrained)
    if own >= without:
        return []
    return [
        f"Warning: the encoder of --init has a linear-probe {METRICS[task.metric].text} of {100 * own:.1f}%, less than an "
        f"untrained network of its architecture ({100 * without:.1f}%): a gain over it need not be worth having."
    ]


def _decided(learner: LearnerAnalysis) -> tuple[list[str], str]:
    """Returns the sentences of a learner's decision, and the sources that help and hurt as a text that can be compared."""
    analysis = learner.analysis
    sources = list(learner.levels)
    helps = {source: effect for source in sources if (effect := _clearest(learner, source, BETTER))}
    # A source that hurts with few of its images only is not advised against: the largest number is what would be collected.
    largest = {kind.source: {kind} for kind in learner.largest}
    hurts = {source: effect for source in sources if (effect := _clearest(learner, source, WORSE, largest[source]))}
    mixed = [source for source in helps if source in hurts]
    good = [source for source in helps if source not in hurts]
    bad = [source for source in hurts if source not in helps]
    undecided = [source for source in sources if source not in helps and source not in hurts]
    metric = METRICS[analysis.opened.task.metric].text
    parts = []
    if good:
        # The best by the linear probe comes first, as in the next sentences.
        first = learner.best.source if learner.best.source in good else good[0]
        effect = helps[first]
        which = f"the mixture {first}" if first in analysis.mixtures else first
        parts.append(
            f"Collect {which}: pretraining on {analysis.unique_read(effect.kind):,} of its images raises the {metric} by "
            f"{_points(effect.claim)} over the {analysis.baseline} ({_by(effect)})"
        )
        others = [source for source in good if source != first]
        if others:
            parts.append(f"{_some(others)} {'helps' if len(others) == 1 else 'help'} as well")
    if bad:
        about = [f"{source} ({percent(hurts[source].claim, signed=True)} points {_by(hurts[source])})" for source in bad[:_FEW]]
        more = f" and {len(bad) - _FEW} more sources" if len(bad) > _FEW else ""
        lead = "do not collect" if parts else "Do not collect"
        parts.append(f"{lead} {listed(about)}{more}, which {'hurts' if len(bad) == 1 else 'hurt'}")
    if mixed:
        words = "helps by one evaluation and hurts" if len(mixed) == 1 else "help by one evaluation and hurt"
        parts.append(f"{_some(mixed)} {words} by another")
    sentences = [f"{'; '.join(parts)}." if parts else f"{_nothing_shown(learner)}."]
    if parts and undecided:
        are = "is" if len(undecided) == 1 else "are"
        sentences.append(f"{_some(undecided)} {are} shown neither to help nor to hurt ({_price(learner, undecided)}).")
    return sentences, f"{sorted(good)} {sorted(bad)} {sorted(mixed)}"


def _clearest(learner: LearnerAnalysis, source: str, verdict: str, kinds: Collection[Kind] = ()) -> _Effect | None:
    """Returns the gain or loss of a source that is shown: by the linear probe if it shows one, with the largest effect.

    Args:
      learner: analysis of a method and encoder.
      source: name of the source.
      verdict: `BETTER` or `WORSE`.
      kinds: kinds of the source to look at; empty: all.
    """
    found = []
    for evaluation, learners in learner.task.by_evaluation.items():
        gains = learners[learner.learner].gains if learner.learner in learners else {}
        wanted = kinds or [kind for kind in gains if kind.source == source]
        shown = [(kind, gains[kind]) for kind in wanted if gains.get(kind) and gains[kind].verdict == verdict]
        found += [_Effect(kind, evaluation, claim) for kind, claim in shown]
    # The kind that the answer names, so that both sentences give one number.
    named = [each for each in found if each.evaluation == MAIN_EVALUATION and each.kind == learner.best]
    main = named or [each for each in found if each.evaluation == MAIN_EVALUATION] or found
    return max(main, key=lambda each: abs(each.claim.value), default=None)


def _nothing_shown(learner: LearnerAnalysis) -> str:
    """Returns a clause for a study that shows no gain and no loss, with what it takes to show one."""
    analysis = learner.analysis
    if all(each is None or each.verdict == ONE_SEED for each in learner.gains.values()):
        ways = ways_text(planned_table(analysis.opened), analysis.opened.design.wanted_difference)
        return f"With one seed, nothing can be decided; with variances as in quickstart, {ways}"
    count = len(learner.levels)
    what = "the source is shown neither to help nor" if count == 1 else f"none of the {count} sources is shown to help or"
    gain = learner.gains.get(learner.best)
    # Whoever continues from an encoder asks for the difference from it.
    own = f"; with the best, {learner.best.source}, the accuracy is at {difference_points(gain)} from the {analysis.baseline}"
    about = own if analysis.results.initial and gain else ""
    return f"Nothing can be decided yet: {what} to hurt{about} ({_price(learner, list(learner.levels))})"


def _price(learner: LearnerAnalysis, sources: list[str]) -> str:
    """Returns what the study shows of these sources, and what the wanted difference takes."""
    table = learner.measured_table
    if table is None:
        return "it has one seed"
    gains = [claim for kind, claim in learner.gains.items() if kind.source in sources and claim]
    smallest = [claim.smallest for claim in gains if not math.isnan(claim.smallest)]
    shows = f"{size(max(smallest))} would be, with {POWER:.0%} probability; " if smallest else ""
    return f"{shows}{ways_text(table, learner.analysis.opened.design.wanted_difference)}"


def _disagreements(learner: LearnerAnalysis) -> list[str]:
    """Returns sentences on different verdicts of evaluations: one for the sources with the same verdicts, one for the trend."""
    patterns: dict[tuple, dict[str, dict[str, Claim]]] = {}
    for kind in learner.largest:
        claims = learner.task.claims_by_evaluation(learner.learner, GAIN, kind)
        patterns.setdefault(tuple((name, each.verdict) for name, each in claims.items()), {})[kind.source] = claims
    sentences = [_by_each(each, ("helps", "help"), ("hurts", "hurt"), "no difference") for each in patterns.values()]
    nearest = learner.nearest_ladder
    if nearest is not None:
        about = f"each factor of ten in diversity of {nearest}"
        claims = learner.task.claims_by_evaluation(learner.learner, TREND, nearest)
        sentences.append(_by_each({about: claims}, ("helps", "help"), ("hurts", "hurt"), "no trend"))
    return [each for each in sentences if each]


def _by_each(claims: Mapping[str, Mapping[str, Claim]], above: tuple[str, str], below: tuple[str, str], nothing: str) -> str:
    """Returns a sentence on claims with the same verdicts by each evaluation; empty if all evaluations agree.

    Args:
      claims: claims by evaluation, by their subject in words.
      above, below: verbs for one and for several subjects, for numbers above and below 0 that are shown.
      nothing: words for a number that is not shown.
    """
    first = next(iter(claims.values()))
    verdicts = {each.verdict for each in first.values()}
    if len(verdicts) < 2 or ONE_SEED in verdicts:
        return ""
    parts = []
    for name in (name for name, each in first.items() if each.shown):
        verb = (above if first[name].value > 0 else below)[len(claims) > 1]
        sizes = [f"by {_points(each[name])}" for each in claims.values()]
        # "By kNN, a hurts by 2 points", or "by kNN, a and b hurt (by 2 points, by 3 points)".
        sizes_text = sizes[0] if len(sizes) == 1 else f"({', '.join(sizes)})"
        parts.append(f"by {evaluation_phrase(name)}, {listed(list(claims))} {verb} {sizes_text}")
    silent = [name for name, each in first.items() if not each.shown]
    if silent:
        smallest = size(max(each[name].smallest for each in claims.values() for name in silent))
        by = listed([f"by {evaluation_phrase(name)}" for name in silent])
        parts.append(f"{by}, {nothing} is shown ({smallest} would be, with {POWER:.0%} probability)")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _money(learner: LearnerAnalysis) -> list[str]:
    """Returns a sentence on the cheapest gain that is shown, and on the gain for money that is largest of those shown."""
    analysis = learner.analysis
    shown = {
        kind: claim
        for kind, claim in learner.gains.items()
        if kind in analysis.costs and analysis.costs[kind].total > 0 and claim and claim.verdict == BETTER
    }
    if not shown:
        return []
    cost = {kind: analysis.costs[kind].total for kind in shown}
    most = max(shown, key=lambda kind: shown[kind].value / cost[kind])
    texts = [
        f"{analysis.unique_read(kind):,} images of {kind.source}: {_points(shown[kind])} for {cost[kind]:,.2f}, "
        f"{interval_for_money(shown[kind], cost[kind])} points for each unit of money"
        for kind in dict.fromkeys([most, learner.best])
        if kind in shown
    ]
    second = f"; the highest accuracy costs more: {texts[1]}" if len(texts) > 1 else ""
    return [f"Most gain for the money, of the gains that are shown: {texts[0]}{second} (estimates, not compared by a test)."]


def _leaks(analysis: Analysis) -> list[str]:
    test_images = len(analysis.opened.task.test.indices)
    return [
        f"Warning: {leaks.sentence(uri, test_images)}; accuracies after pretraining on it may be too high"
        f"{'' if leaks.equal else ' if the similar images show the same things (leaks.csv lists them)'}."
        for uri, leaks in analysis.results.leaks.items()
        if leaks.count
    ]


def _points(claim: Claim) -> str:
    return f"{plus_minus(abs(claim.value), claim.half_width, signed=False)} points"


def _by(effect: _Effect) -> str:
    return f"by {evaluation_phrase(effect.evaluation)}"


def _some(names: list[str]) -> str:
    return listed(names) if len(names) <= _FEW else f"{len(names)} other sources"
