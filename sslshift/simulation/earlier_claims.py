"""Claims of reports whose analysis has no list of them yet."""

from sslshift.study.analysis import RAW_PIXELS
from sslshift.transfer.inference import slopes


def earlier_claims(study, analysis, accuracy, number):
    """Yields what a report tests, as its tables and sentences have it."""
    from sslshift.simulation.outcomes import CheckedClaim
    from sslshift.study.report.text import FALLS, RISES, trend_verdict
    from sslshift.transfer.inference import Trend

    world = study.world

    def difference(family, found, truth):
        sign = {"better": 1, "worse": -1}.get(found.verdict, 0)
        ends = 100 * (found.value - found.half_width), 100 * (found.value + found.half_width)
        return CheckedClaim(family, *ends, sign, truth, False)

    def trend(family, found, p_value, truth):
        sign = {RISES: 1, FALLS: -1}.get(trend_verdict(found, p_value), 0)
        return CheckedClaim(family, 100 * found.low, 100 * found.high, sign, truth, False)

    for learner in analysis.task.learners.values():
        for kind, gain in learner.gains.items():
            yield difference("gain over untrained", gain, accuracy(study, kind) - world.untrained)
        for (a, b), each in learner.pairs.items():
            yield difference("pair of sources", each, accuracy(study, a) - accuracy(study, b))
        for each in learner.trends:
            yield trend("trend in diversity", each.trend, each.adjusted, float(study.trends[number(study, each.source)]))
        these = float(slopes(world.index, study.trends)) if world.sources > 1 else 0.0
        for what, change, truth in (("any", learner.change, world.trend_by_index), ("these", learner.change_of_these, these)):
            if isinstance(change, Trend):
                yield trend(f"change of the trend with the shift, {what} sources", change, change.p_value, truth)
        linear = learner.task.linear
        best = max(learner.largest, key=lambda kind: linear.score(kind).value)
        pixels = linear.difference(best, RAW_PIXELS)
        below = pixels.high < 0 and not linear.single_seed([best])
        # The report has a sentence only if the best encoder is not better than raw pixels.
        truth = min(0.0, accuracy(study, best) - world.untrained)
        yield CheckedClaim("difference from raw pixels", float("nan"), float("nan"), -1 if below else 0, truth, False)
