"""What a survey of sources says, in sentences: no more than its intervals allow."""

import itertools
from collections.abc import Sequence

from sslshift.shift.distances import distance_of
from sslshift.shift.index import ShiftIndex, index_difference
from sslshift.shift.survey import Survey

# Raw distances have no interval, and some are nearly the same for all distant sources: less than 5% is no other order.
_CLEARLY = 0.95
# Of more names than these, and one, a sentence gives the number.
_NAMED = 6
# The way to noise in words: the nearest of these.
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
    """Value, low and high with as many digits as the interval deserves.

    Example:
      >>> digits(ShiftIndex(0.0004, -0.0011, 0.002, 0, 0, 1, 100, 20)), digits(ShiftIndex(0.514, 0.2, 0.8, 0, 0, 1, 100, 20))
      (['0.000', '-0.001', '0.002'], ['0.51', '0.20', '0.80'])
    """
    width = index.high - index.low
    places = 2 if width >= 0.02 else 3 if width >= 0.002 else 4
    # No minus before what is printed as 0.
    return [f"{0.0 if round(each, places) == 0 else each:.{places}f}" for each in index[:3]]


def source_sentence(name: str, index: ShiftIndex) -> str:
    """One source, by itself."""
    value, low, high = digits(index)
    interval = f"({value}, 95% interval {low} to {high})"
    if index.low <= 0 <= index.high:
        more = f"; it may be up to {high} away" if index.high > 0.1 else ""
        return f"{name} cannot be told from more of the same as the target {interval}{more}."
    if index.high < 0:
        return f"{name} is nearer to the target than the target's halves are to each other {interval}: look for copies."
    if index.low > 1:
        return f"{name} is farther from the target than noise {interval}."
    if index.high >= 1:
        return f"{name} is about as far from the target as noise {interval}."
    if index.high - index.low > 0.3:
        return f"{name} lies somewhere between {low} and {high} of the way to noise; too few images to say."
    if index.value < 0.07:
        return f"{name} is a little away from the target, {_percent(index.value)} of the way to noise {interval}."
    way = _WAYS[min(_WAYS, key=lambda each: abs(each - index.value))]
    return f"{name} is about {way} to noise from the target {interval}."


def ranking(survey: Survey) -> list[str]:
    """Which sources are the nearest, and whether neighbours in the order differ; nothing if there is only one."""
    names = list(survey.measured)
    if len(names) < 2:
        return []
    indices = {name: found.index for name, found in survey.measured.items()}
    first = [name for name in names if not index_difference(indices[name], indices[names[0]]).shown]
    sentences = [
        f"{names[0]} is the nearest."
        if len(first) == 1
        else f"{listed(first)} are the nearest; which of them is nearer is not shown by these images."
    ]
    for near, far in itertools.pairwise(names):
        difference = index_difference(indices[far], indices[near])
        if difference.shown:
            interval = f"{difference.low:.2g} to {difference.high:.2g}"
            sentences.append(f"{far} is farther than {near} by {difference.value:.2g} (95% interval {interval}).")
        elif far not in first:
            sentences.append(f"The difference between {near} and {far} is not shown by these images.")
    return sentences


def second_opinions(survey: Survey) -> list[str]:
    """Which raw distances turn an order that the index shows; nothing if there is no other distance or no order."""
    shown = [
        (near, far)
        for near, far in itertools.combinations(survey.measured, 2)
        if index_difference(survey.measured[far].index, survey.measured[near].index).shown
    ]
    others = [name for name in next(iter(survey.measured.values())).raw if name != survey.distance]
    turned = {}
    for name in others:
        values = {source: found.raw[name].value for source, found in survey.measured.items()}
        turned[name] = [f"{far} before {near}" for near, far in shown if values[far] < _CLEARLY * values[near]]
    sentences = [
        f"By the {distance_of(name).title} distance the order is another: {', '.join(pairs)}."
        for name, pairs in turned.items()
        if pairs
    ]
    if shown and others and not sentences:
        sentences.append("The other distances shown agree with this order, to 5%.")
    return sentences


def reading(survey: Survey) -> list[str]:
    """All of it: first the order, then each source."""
    alone = [source_sentence(name, found.index) for name, found in survey.measured.items()]
    return ranking(survey) + second_opinions(survey) + alone


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share < 0.01 else f"{100 * share:.0f}%"


def listed(names: Sequence[str]) -> str:
    """All of a few names, or the first and how many more there are.

    Example:
      >>> listed(["a", "b", "c"]), listed([*"abcdefgh"])
      ('a, b and c', 'a, b, c, d, e, f and 2 more')
    """
    *others, last = names if len(names) <= _NAMED + 1 else [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    return f"{', '.join(others)} and {last}" if others else last
