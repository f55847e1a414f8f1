"""Sentences about a survey: the answer in one sentence, the order of the sources, and each source.

They claim only what the intervals allow, and only what the encoder sees: `seen` limits a sentence to it, as in "in colour and
texture".
"""

import itertools
from collections.abc import Mapping, Sequence

from sslshift.shift.distances import distance_of
from sslshift.shift.index import (
    FAR_ENDS,
    FAR_FROM,
    NEAR_END,
    NEAR_UP_TO,
    SEPARATION,
    IndexDifference,
    ShiftIndex,
    index_difference,
)
from sslshift.shift.survey.measure import Survey
from sslshift.transfer.inference import holm

# The limit of an encoder that was not trained.
SUPERFICIAL = "in colour and texture"
# A survey has one encoder, unlike a study, which trains several to see how much the index depends on them.
ONE_ENCODER = (
    "These distances are as this encoder sees them: their intervals do not cover the choice of encoder, and another may see "
    "other differences."
)
# Raw distances have no interval, and some are nearly equal for all distant sources: a difference below 5% does not count.
_CLEARLY = 0.95
# Largest distance of the ends of an interval from a part in words, and from 1 for "about as far as the far end".
_ABOUT = 0.05
_ABOUT_FAR = 0.2
# "a little away" ends here, and "indistinguishable" says how far away a source may be from here on.
_LITTLE = 0.1
# A sentence lists this many names, and gives the number of the others.
_NAMED = 6
# Parts of the way to the far end in words; a sentence uses one if it is near the whole interval.
_WAYS = {
    0.1: "a tenth of the way",
    1 / 7: "a seventh of the way",
    0.2: "a fifth of the way",
    0.25: "a quarter of the way",
    1 / 3: "a third of the way",
    0.4: "two fifths of the way",
    0.5: "half the way",
    0.6: "three fifths of the way",
    2 / 3: "two thirds of the way",
    0.75: "three quarters of the way",
    0.9: "nine tenths of the way",
}


def digits(index: ShiftIndex) -> list[str]:
    """Returns value, low and high as text with as many digits as the width of the interval justifies.

    Example:
      >>> digits(ShiftIndex(0.0004, -0.0011, 0.002, 0, 0, 1, 100, 20)), digits(ShiftIndex(0.514, 0.2, 0.8, 0, 0, 1, 100, 20))
      (['0.000', '-0.001', '0.002'], ['0.51', '0.20', '0.80'])
    """
    width = index.high - index.low
    places = 2 if width >= 0.02 else 3 if width >= 0.002 else 4
    # A value that rounds to 0 gets no minus sign.
    return [f"{0.0 if round(each, places) == 0 else each:.{places}f}" for each in index[:3]]


def answer(survey: Survey, seen: str = "") -> list[str]:
    """Returns the answer in one sentence, near, in between and far, and a sentence that states the thresholds.

    Args:
      survey: the survey.
      seen: what the encoder sees, as in "in colour and texture"; empty for a trained encoder.
    """
    groups: dict[str, list[str]] = {}
    for name, found in survey.measured.items():
        groups.setdefault(place(found.index), []).append(name)
    shown = _in_order(survey)
    parts = [_group_text(names, where, shown) for where, names in groups.items()]
    scale = (
        f"The index is 0 for {NEAR_END} and 1 for {FAR_ENDS[survey.far_end]}. A source is near if its whole 95% interval "
        f"lies below {NEAR_UP_TO:g}, far if it lies above {FAR_FROM:g}, and in between if it lies between the two."
        f"{_noise_text(survey)}"
    )
    return [_as_seen(f"{'; '.join(parts)}.", seen), scale]


def _noise_text(survey: Survey) -> str:
    """Returns a sentence about noise on a scale that does not end at it."""
    if not survey.noise:
        return ""
    return f" For comparison, noise with the pixel values of the target is at {digits(survey.noise)[0]}."


def place(index: ShiftIndex) -> str:
    """Returns the part of the scale that holds the whole interval, in words, or the parts that it reaches into.

    Example:
      >>> [place(ShiftIndex(x, x - 0.1, x + 0.1, 0, 0, 1, 100, 20)) for x in (0.1, 0.2, 0.38, 0.7)]
      ['near', 'near or in between', 'in between', 'far']
    """
    parts = [
        *(["near"] if index.low < NEAR_UP_TO else []),
        *(["in between"] if index.low < FAR_FROM and index.high > NEAR_UP_TO else []),
        *(["far"] if index.high > FAR_FROM else []),
    ]
    return " or ".join(parts) if len(parts) < 3 else "near, in between or far"


def _group_text(names: list[str], where: str, shown: Mapping[tuple[str, str], IndexDifference]) -> str:
    """Returns the sources of one part of the scale, with a remark if their intervals show no order among them."""
    text = f"{listed(names)} {'is' if len(names) == 1 else 'are'} {where}"
    if " or " in where:
        return f"{text} (more images would narrow this down)"
    alike = len(names) > 1 and not any(pair in shown for pair in itertools.combinations(names, 2))
    return f"{text}, indistinguishable in their distance" if alike else text


def _as_seen(sentence: str, seen: str) -> str:
    """Returns the sentence limited to what the encoder sees."""
    if not seen:
        return sentence
    # Names of sources keep their spelling; only our own words begin with a small letter.
    rest = f"t{sentence[1:]}" if sentence.startswith("These images do") else sentence
    return f"{seen[0].upper()}{seen[1:]}, {rest}"


def source_sentence(name: str, index: ShiftIndex, seen: str = "", far_end: str = SEPARATION) -> str:
    """Returns a sentence about one source, which is true of every value in the interval.

    Args:
      name: the source.
      index: its index.
      seen: what the encoder sees; empty for a trained encoder.
      far_end: name of the far end of the scale.
    """
    return _as_seen(_source_sentence(name, index, FAR_ENDS[far_end]), seen)


def _source_sentence(name: str, index: ShiftIndex, far_end: str) -> str:
    value, low, high = digits(index)
    interval = f"({value}, 95% interval {low} to {high})"
    # The conditions are ordered from near to far; each assumes that all earlier ones are false.
    if index.high < 0:
        return f"{name} is nearer to the target than halves of the target are to each other {interval}: look for copies."
    if index.low <= 0:
        if index.high <= _LITTLE:
            return f"{name} is indistinguishable from {NEAR_END} {interval}."
        return f"These images do not distinguish {name} from {NEAR_END}; it may be up to {high} away {interval}."
    if index.low > 1:
        return f"{name} is farther than {far_end} {interval}."
    if index.high >= 1:
        if 1 - index.low <= _ABOUT_FAR >= index.high - 1:
            return f"{name} is about as far as {far_end} {interval}."
        more = "; more images would narrow this down" if index.high - index.low > 0.3 else ""
        return f"{name} is at least {low} of the way to {far_end}, and may be as far as that {interval}{more}."
    if index.high <= _LITTLE:
        return f"{name} is a little away from the target, at most {high} of the way to {far_end} {interval}."
    part = min(_WAYS, key=lambda each: abs(each - index.value))
    if max(index.high - part, part - index.low) <= _ABOUT:
        return f"{name} is about {_WAYS[part]} to {far_end} {interval}."
    more = "; more images would narrow this down" if index.high - index.low > 0.3 else ""
    return f"{name} is between {low} and {high} of the way to {far_end}{more}."


def _in_order(survey: Survey) -> dict[tuple[str, str], IndexDifference]:
    """Returns the difference of every pair of sources, the nearer one first, whose order is shown.

    P-values are adjusted for all pairs by Holm's method: of six equal sources, some pair would seem to differ in a third of
    all surveys otherwise.
    """
    pairs = list(itertools.combinations(survey.measured, 2))
    found = [index_difference(survey.measured[far].index, survey.measured[near].index) for near, far in pairs]
    adjusted = holm([each.p_value for each in found])
    return {pair: each for pair, each, p_value in zip(pairs, found, adjusted, strict=True) if p_value < 0.05}


def ranking(survey: Survey) -> list[str]:
    """Returns which sources are nearest, and which neighbours in the order differ; nothing for a single source."""
    names = list(survey.measured)
    if len(names) < 2:
        return []
    shown = _in_order(survey)
    # Sources without a significant difference from the nearest one share its rank.
    first = [names[0], *(name for name in names[1:] if (names[0], name) not in shown)]
    sentences = [
        f"{names[0]} is the nearest."
        if len(first) == 1
        else f"{listed(first)} are the nearest, indistinguishable in their distance."
    ]
    for near, far in itertools.pairwise(names):
        if (near, far) in shown:
            difference = shown[near, far]
            interval = f"{difference.low:.2g} to {difference.high:.2g}"
            sentences.append(f"{far} is farther than {near} by {difference.value:.2g} (95% interval {interval}).")
        elif far not in first:
            sentences.append(f"{near} and {far} are indistinguishable in their distance.")
    return sentences


def second_opinions(survey: Survey) -> list[str]:
    """Returns which orders of the index raw distances contradict, each with those that do; nothing without either."""
    shown = _in_order(survey)
    others = [name for name in next(iter(survey.measured.values())).raw if name != survey.distance]
    turned: dict[str, list[str]] = {}
    # Only orders that the index shows can be contradicted.
    for near, far in shown:
        for name in others:
            values = [survey.measured[source].raw[name].value for source in (near, far)]
            if values[1] < _CLEARLY * values[0]:
                turned.setdefault(f"{far} is nearer than {near}", []).append(distance_of(name).title)
    sentences = [f"By {_number_of(names, others)} ({listed(names)}), {what}." for what, names in turned.items()]
    if shown and others and not sentences:
        sentences.append("The other distances agree with this order to within 5%.")
    return sentences


def _number_of(names: Sequence[str], others: Sequence[str]) -> str:
    if len(others) == 1:
        return "the other distance"
    return "all other distances" if len(names) == len(others) else f"{len(names)} of {len(others)} other distances"


def reading(survey: Survey, seen: str = "") -> list[str]:
    """Returns the sentences below the answer: first the order, then each source.

    Args:
      survey: the survey.
      seen: what the encoder sees; empty for a trained encoder.
    """
    order = [_as_seen(sentence, seen) for sentence in ranking(survey)]
    alone = [source_sentence(name, found.index, seen, survey.far_end) for name, found in survey.measured.items()]
    return [*order, *second_opinions(survey), *alone, ONE_ENCODER]


def listed(names: Sequence[str]) -> str:
    """Returns a list of a few names, or of the first names and the number of the others.

    Example:
      >>> listed(["a", "b", "c"]), listed([*"abcdefgh"])
      ('a, b and c', 'a, b, c, d, e, f and 2 more')
    """
    *others, last = names if len(names) <= _NAMED + 1 else [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    return f"{', '.join(others)} and {last}" if others else last
