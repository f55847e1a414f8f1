"""Claims of a report: what is tested, the correction for all tests together, and verdicts and their words.

A report has one primary hypothesis, which the study declares, by the linear probe. It has half of the allowed 5% of false
findings; all other confirmatory tests, of all methods and evaluations, share the other half, and what a finding does not need
passes on (Holm, weighted). Tests that
compare whatever stands out afterwards are exploratory: each of their tables is corrected alone, and they are marked.
"""

import math
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from sslshift.reporting.numbers import points
from sslshift.transfer.inference import POWER, Comparison, Contrast, Estimate, PlannedTable, holm
from sslshift.transfer.paired import LEVEL

# Families of tests, with the words for a number above 0, below 0, and neither.
GAIN = "gain over untrained"
REFERENCE = "difference from the nearest source"
TREND = "trend in diversity"
CURVATURE = "curvature of the trend"
CHANGE = "change of the trend with the shift"
PAIR = "pair of sources"
PIXELS = "difference from raw pixels"
CLASS = "gain within a class"
ENCODERS = "pair of encoders"

# Evaluation of the primary hypothesis, of curvatures and of exploratory tests; every study has it.
MAIN_EVALUATION = "linear"

BETTER = "better"
WORSE = "worse"
NOTHING = "no difference shown"
RISES = "rises"
FALLS = "falls"
NO_TREND = "no trend shown"
ONE_SEED = "one seed, not tested"
_COMPARED = (BETTER, WORSE, NOTHING)
_WORDS = {TREND: (RISES, FALLS, NO_TREND), CHANGE: (RISES, FALLS, NO_TREND), CURVATURE: ("steepens", "flattens", NO_TREND)}
# Families that no plan names: the sources or classes that stand out are compared.
_EXPLORATORY = (PAIR, PIXELS, CLASS)


class Hypothesis(NamedTuple):
    """Subject of a test.

    Attributes:
      task: name of the task.
      learner: names of method and encoder.
      family: one of the families above.
      subject: kind or kinds of runs, or the source.
      evaluation: name of the evaluation.
    """

    task: str
    learner: tuple[str, str]
    family: str
    subject: Hashable
    evaluation: str = MAIN_EVALUATION


class HypothesisTest(NamedTuple):
    """A contrast of scores, and whether it has a single seed, whose interval does not cover other seeds."""

    contrast: Contrast
    one_seed: bool


class Claim(NamedTuple):
    """A number of a report with its verdict, which is corrected for all tests.

    Attributes:
      hypothesis: what was tested.
      value: the number, a difference or a slope in shares.
      low, high: 95% interval of this number alone; for one seed it covers only the choice of test images.
      p_value: uncorrected p-value; nan for one seed.
      adjusted: corrected p-value; nan for one seed.
      smallest: smallest true value that the study shows with a probability of 80%; nan for one seed.
      verdict: word for the result, such as `better` or `no difference shown`.
      exploratory: whether the test is outside of what the study set out to show.
    """

    hypothesis: Hypothesis
    value: float
    low: float
    high: float
    p_value: float
    adjusted: float
    smallest: float
    verdict: str
    exploratory: bool

    @property
    def half_width(self) -> float:
        """Half the width of the interval; nan for one seed, whose interval does not cover other seeds."""
        return math.nan if self.verdict == ONE_SEED else (self.high - self.low) / 2

    @property
    def shown(self) -> bool:
        """True if the number differs from 0 after correction."""
        return self.adjusted < 1 - LEVEL


def corrected(
    tests: Mapping[Hypothesis, HypothesisTest],
    primary: Hypothesis | None,
    main_task: str,
    *,
    as_planned: bool = True,
    level: float = LEVEL,
) -> dict[Hypothesis, Claim]:
    """Returns the claims of a report, in the order of the tests.

    Args:
      tests: all tests of the report.
      primary: the primary hypothesis; None, or one that was not tested: all confirmatory tests have the same weight.
      main_task: task of the confirmatory tests; what is tested on other tasks is exploratory.
      as_planned: whether nothing was changed after results were known; otherwise all claims are exploratory.
      level: confidence level of the whole report.
    """
    estimates = {name: each.contrast.estimate() for name, each in tests.items()}
    p_values = {name: math.nan if tests[name].one_seed else each.p_value for name, each in estimates.items()}
    tables: dict[Hashable, list[Hypothesis]] = {}
    for name in tests:
        exploratory = is_exploratory(name, primary, main_task)
        tables.setdefault((name.task, name.learner, name.family) if exploratory else None, []).append(name)
    claims: dict[Hypothesis, Claim] = {}
    for table, names in tables.items():
        counted = [name for name in names if not math.isnan(p_values[name])]
        weights = {name: float(max(1, len(counted) - 1)) if name == primary else 1.0 for name in names}
        adjusted = holm([p_values[name] for name in names], [weights[name] for name in names])
        total = sum(weights[name] for name in counted)
        for name, p_value in zip(names, adjusted.tolist(), strict=True):
            exploratory = table is not None or not as_planned
            allowed = (1 - level) * weights[name] / total if name in counted else math.nan
            claims[name] = _claim(name, tests[name], estimates[name], p_values[name], p_value, allowed, exploratory)
    return {name: claims[name] for name in tests}


def corrected_differences(found: Mapping[Hypothesis, Comparison]) -> dict[Hypothesis, Claim]:
    """Returns differences of finished encoders with verdicts that are corrected for all of them.

    Nothing is declared before these encoders are compared, so that all differences have the same weight.
    """
    adjusted = holm([each.interval_p for each in found.values()])
    claims = {}
    for (name, each), p_value in zip(found.items(), adjusted.tolist(), strict=True):
        verdict = (BETTER if each.difference > 0 else WORSE) if p_value < 1 - LEVEL else NOTHING
        numbers = each.difference, each.low, each.high, each.interval_p, p_value, math.nan
        claims[name] = Claim(name, *numbers, verdict, exploratory=False)
    return claims


def is_exploratory(name: Hypothesis, primary: Hypothesis | None, main_task: str) -> bool:
    """Returns whether a test is outside of what a study set out to show."""
    return name != primary and (name.task != main_task or name.family in _EXPLORATORY)


def shared_comparisons(tests: int) -> int:
    """Returns the number of comparisons for which a test counts that is not the primary one.

    All tests but the primary one share half of the allowed false findings.

    Args:
      tests: number of confirmatory tests, with the primary one.
    """
    return 2 * max(1, tests - 1)


def _claim(
    name: Hypothesis,
    tested: HypothesisTest,
    found: Estimate,
    p_value: float,
    adjusted: float,
    allowed: float,
    exploratory: bool,
) -> Claim:
    above, below, neither = _WORDS.get(name.family, _COMPARED)
    verdict = neither
    smallest = math.nan
    if tested.one_seed:
        verdict = ONE_SEED
    else:
        smallest = tested.contrast.smallest_shown(allowed)
        if adjusted < 1 - LEVEL:
            verdict = above if found.value > 0 else below
    return Claim(name, *found[:3], p_value, adjusted, smallest, verdict, exploratory)


def verdict_text(claim: Claim) -> str:
    """Returns the verdict for a table; an interval that excludes 0 by itself is explained by its p-value.

    Example:
      >>> about = Hypothesis("t", ("m", "e"), GAIN, "kind")
      >>> verdict_text(Claim(about, 0.012, 0.001, 0.023, 0.03, 0.2, 0.02, NOTHING, False))
      'no difference shown (p = 0.03 uncorrected)'
    """
    text = claim.verdict
    if not claim.shown and claim.p_value < 1 - LEVEL:
        text += f" (p = {claim.p_value:.1g} uncorrected)"
    return f"{text}, exploratory" if claim.exploratory and claim.verdict != ONE_SEED else text


def unshown_text(claim: Claim) -> str:
    """Returns the verdict for a sentence: where nothing is shown, also what the study would have shown.

    Example:
      >>> about = Hypothesis("t", ("m", "e"), GAIN, "kind")
      >>> unshown_text(Claim(about, 0.002, -0.008, 0.012, 0.6, 1.0, 0.014, NOTHING, False))
      'no difference shown; 1.4 points would be, with 80% probability'
    """
    text = verdict_text(claim).replace(" (p = ", ", p = ").replace(" uncorrected)", " uncorrected")
    if claim.shown or math.isnan(claim.smallest):
        return text
    return f"{text}; {size(claim.smallest)} would be, with {POWER:.0%} probability"


def power_text(table: PlannedTable, wanted: float, source: str, baseline: str = "untrained encoder") -> str:
    """Returns what a study can show, and what a wanted difference takes, in sentences.

    Example:
      >>> power_text(PlannedTable(3, 5000, 0.005, 0.1, kinds=9, comparisons=40), 0.02, "assumed").split(" (")[0]
      'With 3 seeds and 5,000 test images, a gain of 2.3 points over the untrained encoder is shown with 80% probability'

    Args:
      table: sizes and variances of the gains.
      wanted: difference that the study should show, as a share.
      source: where the variances come from.
      baseline: what gains are measured against.
    """
    smallest = table.smallest_shown()
    deviation = f"{table.seed_deviation * 100:.2g} points"
    about = (
        f"{source}: gains differ by {deviation} between seeds, and exactly one of two encoders is right on "
        f"{table.disagreement:.0%} of the images; corrected for {table.comparisons} comparisons"
    )
    if math.isinf(smallest):
        shows = f"With one seed, no difference is shown ({about})"
    else:
        shows = (
            f"With {table.seeds} seeds and {table.images:,} test images, a gain of {size(smallest)} over the {baseline} "
            f"is shown with {POWER:.0%} probability ({about})"
        )
    return f"{shows}. {ways_text(table, wanted).capitalize()}."


def ways_text(table: PlannedTable, wanted: float) -> str:
    """Returns what it takes to show a wanted difference, as a clause.

    Example:
      >>> ways_text(PlannedTable(3, 5000, 0.005, 0.1, kinds=9, comparisons=40), 0.02)
      'a gain of 2.0 points takes 7 seeds with 5,000 test images'
    """
    seeds = table.seeds_for(wanted)
    images = table.images_for(wanted)
    ways = [] if seeds is None else [f"{seeds} seeds with {table.images:,} test images"]
    ways += [] if images is None or table.seeds < 2 else [f"{images:,} test images with {table.seeds} seeds"]
    if not ways:
        larger = [table._replace(images=table.images * factor) for factor in (2, 5, 20, 100, 500)]
        both = [(each.seeds_for(wanted), each.images) for each in larger]
        ways = [f"{seeds} seeds with {images:,} test images" for seeds, images in both if seeds][:1]
    return f"a gain of {size(wanted)} takes {' or '.join(ways) or 'more seeds and test images than any study has'}"


def size(value: float) -> str:
    """Returns a size in percentage points, without a sign."""
    if not value < 1:
        return "no size"
    if value < 0.0005:
        return "less than 0.1 points"
    return f"{value * 100:.0f} points" if value >= 0.0995 else f"{value * 100:.1f} points"


def plus_minus(value: float, half_width: float, *, signed: bool = True) -> str:
    """Returns a number in percent with half the width of its interval, with digits that show whether 0 is inside.

    Example:
      >>> plus_minus(0.0171, 0.0169), plus_minus(0.0171, 0.005), plus_minus(0.79, 0.011, signed=False)
      ('+1.71 ± 1.69', '+1.7 ± 0.5', '79.0 ± 1.1')
    """
    sign = "+" if signed else ""
    if math.isnan(half_width):
        return f"{value * 100:{sign}.1f}"
    for digits in (1, 2, 3):
        # Adding 0.0 turns -0.0, which small negative numbers are rounded to, into 0.0.
        centre = f"{round(value * 100, digits) + 0.0:{sign}.{digits}f}"
        half = f"{half_width * 100:.{digits}f}"
        # The printed interval excludes 0 if and only if the computed one does.
        if (abs(float(centre)) > float(half)) == (abs(value) > half_width):
            break
    return f"{centre} ± {half}"


def percent(found: Claim | Estimate | None, signed: bool = False) -> str:
    """Returns a number in percent, or a difference in points, with half the width of its interval."""
    return "missing" if found is None else plus_minus(found.value, found.half_width, signed=signed)


def difference_points(claim: Claim) -> str:
    """Returns a difference in percentage points with its interval.

    Example:
      >>> about = Hypothesis("t", ("m", "e"), GAIN, "kind")
      >>> difference_points(Claim(about, 0.012, 0.001, 0.023, 0.03, 0.2, 0.02, NOTHING, False))
      '+1.2 ± 1.1 points'
    """
    return f"{percent(claim, signed=True)} points"


def p_text(claim: Claim | None) -> str:
    """Returns a corrected p-value as text; `n/a` if there is no p-value."""
    if claim is None or math.isnan(claim.adjusted):
        return "n/a"
    return f"{claim.adjusted:.2g}" if claim.adjusted >= 0.001 else "<0.001"


def interval_text(low: float, high: float) -> str:
    """Returns an interval in points; empty if there is no interval. Two digits never hide that 0 is outside.

    Example:
      >>> interval_text(0.0037, 0.0063), interval_text(0.00001, 0.0063)
      ('+0.37 to +0.63', '+0.001 to +0.630')
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    texts = [points(low), points(high)]
    if low * high > 0 and any(float(text) == 0 for text in texts):
        texts = [f"{end * 100:+.3f}" for end in (low, high)]
    return " to ".join(texts)


def interval_for_money(claim: Claim, cost: float) -> str:
    """Returns a difference in points for each unit of money, with half the width of its interval.

    Example:
      >>> about = Hypothesis("t", ("m", "e"), GAIN, "kind")
      >>> interval_for_money(Claim(about, 0.032, 0.024, 0.040, 0.03, 0.2, 0.02, BETTER, False), 20.0)
      '+0.16 ± 0.04'
    """
    half = claim.half_width * 100 / cost
    value = claim.value * 100 / cost
    # Costs of any size leave two digits of the larger of both numbers.
    largest = max(abs(value), 0.0 if math.isnan(half) else half)
    digits = max(0, 1 - math.floor(math.log10(largest))) if largest else 0
    return f"{value:+.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def slope_points(claim: Claim) -> str:
    """Returns a slope in points with its interval."""
    interval = interval_text(claim.low, claim.high)
    return f"{points(claim.value)} points" + (f" ({interval})" if interval else "")
