"""Tables of what runs say of each other: trends, pairs of sources, orders."""

import math

from sslshift.reporting import Table
from sslshift.study.compared import against, learners, pairs
from sslshift.study.contents.text import learner_table, p_text, percent
from sslshift.study.findings import trend_verdict
from sslshift.study.intervals import signed, two_digits
from sslshift.study.results import Results
from sslshift.study.trending import trend_change, trends
from sslshift.transfer.inference import Trend


def trend_table(results: Results) -> Table:
    """What diversity does for each source, and how that changes with the shift."""
    task = results.opened.task.name
    lines = []
    seeds = set()
    for learner in learners(results):
        found = trends(results, task, learner)
        seeds |= {each.trend.seeds for each in found}
        for each in found:
            levels = f"{each.levels[0].unique:,} to {each.levels[-1].unique:,}"
            verdict = trend_verdict(each.trend, each.adjusted)
            lines.append([" on ".join(learner), each.source, two_digits(each.shift), levels, *_slope(each.trend), verdict])
        for scatter, what in ((True, "any"), (False, "these very")):
            change = trend_change(results, task, learner, scatter=scatter)
            if found and isinstance(change, Trend):
                name = f"change for each unit of the shift index, {what} sources"
                verdict = trend_verdict(change, change.p_value)
                lines.append([" on ".join(learner), name, "", "", *_slope(change), verdict])
    note = (
        "Slope of linear-probe accuracy for each factor of ten in D, in points, fitted to each seed's own runs. Intervals count"
        f" seeds ({', '.join(map(str, sorted(seeds)))}) and test images, that of the change for any sources also how they "
        "scatter. The nearest source is what the study asks about first; verdicts on the others are corrected (Holm)."
    )
    head = ["source", "shift index", "N", "points per factor of ten", "95% interval", "verdict"]
    return learner_table(results, "trends", "What diversity does, and how that changes with the shift", head, lines, note)


def _slope(trend: Trend) -> list[str]:
    interval = "n/a" if math.isnan(trend.low) else f"{signed(trend.low)} to {signed(trend.high)}"
    return [signed(trend.slope), interval]


def pair_table(results: Results) -> Table:
    """Every candidate against every other."""
    task = results.opened.task.name
    lines = []
    count = []
    for learner in learners(results):
        found = pairs(results, task, learner)
        count.append(sum(each is not None and not math.isnan(each.half) for each in found.values()))
        for (a, b), each in found.items():
            cells = [percent(each, signed=True), p_text(each), each.verdict if each else "no seed in common"]
            lines.append([" on ".join(learner), f"{a.source}, N = {a.unique:,}", f"{b.source}, N = {b.unique:,}", *cells])
    many = " and ".join(dict.fromkeys(map(str, filter(None, count))))
    adjusted = f" p is adjusted for the {many} comparisons of a method (Holm); ± is half of the pair's own 95% interval."
    note = (
        "Differences in points of the linear probe, first less second, paired over seeds and test images, each source with its "
        f"most images.{adjusted if many else ' Intervals and p-values need two seeds at least.'}"
    )
    head = ["first", "second", "difference", "adjusted p", "verdict on the first"]
    return learner_table(results, "pairs", "Every source against every other", head, lines, note, words=2)


def order_table(results: Results) -> Table:
    """Mixtures and single sources against the nearest source alone; no lines where there are no mixtures."""
    task = results.opened.task.name
    lines = []
    references = []
    if any(candidate.text for candidate in results.opened.candidates):
        for learner in learners(results):
            reference, found = against(results, task, learner)
            references.append(f"{reference.source}, N = {reference.unique:,}")
            for kind, each in found.items():
                cells = [f"{kind.unique:,}", percent(each, signed=True), p_text(each), each.verdict]
                lines.append([" on ".join(learner), kind.source, *cells])
    note = f"Differences in points of the linear probe from {references[0] if references else ''}; p adjusted by Holm's method."
    head = ["candidate", "N", "difference", "adjusted p", "verdict"]
    return learner_table(results, "order", "Orders and mixtures", head, lines, note)
