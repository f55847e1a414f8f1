"""The answer in three sentences, and what qualifies it."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sslshift.planning.averaging import Forecast
from sslshift.planning.next_pilot import NextPilot
from sslshift.planning.planner import NEGLIGIBLE, Decision, Judged
from sslshift.planning.prices import Prices
from sslshift.planning.search import Plan
from sslshift.reporting.numbers import listed

# Different numbers of unique images without which no law is fitted.
_FEWEST_SIZES = 5
# A plan of at most half the cost that brings most of the gain is worth a sentence.
_THRIFTY_COST = 0.5
_MOST = 0.8
# Epochs of the pilots that are proposed at a further budget.
_EPOCHS = (1, 4, 16)


@dataclasses.dataclass(frozen=True, eq=False)
class Outlook:
    """Everything that a plan says.

    Attributes:
      forecast: the laws.
      prices: the prices.
      money: the most that may be spent.
      decision: the plan and its options.
      candidates: pilots that could be run, the most valuable first; those that are missing if the forecast predicts nothing
        beyond the pilots.
      excluded: mixtures of the tables, which cannot be bought.
    """

    forecast: Forecast
    prices: Prices
    money: float
    decision: Decision
    candidates: Sequence[NextPilot]
    excluded: Sequence[str] = ()

    @property
    def next_pilot(self) -> NextPilot | None:
        """The most valuable pilot, or None if none pays; a missing pilot, whose value is NaN, always does."""
        best = None if self.is_sure or not self.candidates else self.candidates[0]
        return best if best and not best.value <= NEGLIGIBLE else None

    @property
    def is_sure(self) -> bool:
        """True if the plan reaches the target with the wanted probability, so that no pilot is needed for it."""
        return self.decision.target is not None and self.decision.chosen.reaches >= self.decision.level

    @property
    def is_unshown(self) -> bool:
        """True if the plan is indistinguishable from keeping the best pilot."""
        return any(each.plan == self.decision.kept.plan for each in self.decision.indistinguishable)

    @property
    def action(self) -> str:
        """The action: to run a pilot first, to collect, to train, or nothing."""
        if self.next_pilot:
            return "pilot"
        return self.action_of(self.decision.chosen.plan) if self.decision.chosen.gain > 0 else "nothing"

    @property
    def facts(self) -> Mapping[str, str]:
        """The task, metric, method and encoder of the pilots."""
        return self.forecast.pilots.facts

    @property
    def metric(self) -> str:
        """The metric in words."""
        return self.facts.get("metric", "accuracy").replace("_", " ")

    def price(self, cost: float) -> str:
        """Returns an amount of money in words."""
        # A pilot can cost less than a cent, which is not the same as nothing.
        amount = f"{cost:.2g}" if 0 < cost < 0.01 else f"{cost:,.2f}"
        return f"{amount} {self.prices.currency}".strip()

    def action_of(self, plan: Plan) -> str:
        """Returns "collect" for a plan that buys images, "train" if it only trains, "nothing" if it keeps the best pilot."""
        return "collect" if plan.buy else "nothing" if plan == self.decision.kept.plan else "train"

    def describe(self, plan: Plan) -> str:
        """Returns a plan in words, to follow "to"."""
        if self.action_of(plan) == "nothing":
            return f"keep the encoder of the best pilot ({self.best_pilot})"
        names = sorted(plan.shares, key=lambda name: (-plan.shares[name], name))
        what = f"buy {listed([f'{images:,} images of {name}' for name, images in plan.buy.items()])} and " if plan.buy else ""
        if len(names) == 1:
            return f"{what}train with C = {plan.budget:,} on {plan.unique[names[0]]:,} images of {names[0]}"
        parts = [f"{plan.shares[name]:.0%} on {plan.unique[name]:,} images of {name}" for name in names]
        return f"{what}train with C = {plan.budget:,}, {listed(parts)}"

    @property
    def best_pilot(self) -> str:
        """The pilot of the highest mean accuracy, in words."""
        kept = self.decision.kept.plan
        (name,) = kept.shares
        return f"{name}, N = {kept.unique[name]:,}, C = {kept.budget:,}"


def answer(outlook: Outlook) -> list[str]:
    """Returns what to do, what it returns and how sure that is, and what else could be done."""
    return [_what_to_do(outlook), _what_it_returns(outlook), _what_else(outlook)]


def _what_to_do(outlook: Outlook) -> str:
    pilot = outlook.next_pilot
    plan = outlook.decision.chosen.plan
    if pilot:
        what = f"{pilot.source} with N = {pilot.unique:,} and C = {pilot.budget:,}, for {outlook.price(pilot.cost)}"
        if math.isnan(pilot.value):
            count = len(outlook.candidates)
            first = f"{count} more pilots, first" if count > 1 else "one more pilot,"
            return f"Train {first} {what}: otherwise nothing beyond the pilots is predicted."
        gain = f"it is expected to add {_points(pilot.value)} points to what the money buys"
        return f"Train a pilot before you decide: {what}; {gain}."
    if outlook.action == "nothing" and outlook.is_sure:
        return f"Buy and train nothing: the best pilot so far reaches the target already ({outlook.best_pilot})."
    if outlook.action == "nothing":
        return (
            f"Buy and train nothing: no plan for {outlook.price(outlook.money)} is expected to be better than the best pilot "
            f"so far ({outlook.best_pilot})."
        )
    cost = f"{outlook.price(plan.cost)} in all" if plan.buy else outlook.price(plan.cost)
    none = "" if plan.buy else "buy no images and "
    lead = "Decide now, since no further pilot pays" if outlook.forecast.extrapolates else "Within the pilots' range"
    if outlook.is_unshown:
        return (
            f"No plan for {outlook.price(outlook.money)} is shown to be better than the best pilot so far "
            f"({outlook.best_pilot}); the most promising one is to {none}{outlook.describe(plan)}, for {cost}."
        )
    if outlook.is_sure:
        return f"The cheapest way to the target is to {none}{outlook.describe(plan)}, for {cost}."
    return f"{lead}: {none}{outlook.describe(plan)}, for {cost}."


def _what_it_returns(outlook: Outlook) -> str:
    chosen = outlook.decision.chosen
    level = f"{outlook.decision.level:.0%} interval"
    lead = "This"
    if outlook.next_pilot:
        price = f" ({outlook.price(chosen.plan.cost)})" if chosen.plan.cost else ""
        lead = f"Without it, the best plan is to {outlook.describe(chosen.plan)}{price}, which"
    elif outlook.action == "nothing":
        lead = "It"
    reached = f"{lead} is expected to reach {_percent(chosen.value)}% {outlook.metric} ({level} of a run: {_span(chosen)})"
    gain = f"{_points(chosen.gain)} points more than the best pilot so far ({level}: {_ends(chosen)})"
    parts = [reached] if chosen.plan == outlook.decision.kept.plan else [reached, gain]
    if outlook.decision.target is not None:
        parts.append(f"and {_percent(outlook.decision.target)}% with a probability of {chosen.reaches:.0%}")
    return f"{', '.join(parts)}."


def _what_else(outlook: Outlook) -> str:
    chosen = outlook.decision.chosen
    # The first sentence has said it of the best pilot.
    said = outlook.decision.kept.plan if outlook.is_unshown and not outlook.next_pilot else None
    equal = [each for each in outlook.decision.indistinguishable if each.plan != said]
    cheaper = bool(equal) and equal[0].plan.cost < chosen.plan.cost
    least = None if cheaper else _thrifty(outlook)
    if least:
        return (
            f"Most of the gain costs less: {_points(least.gain)} points for {outlook.price(least.plan.cost)}, to "
            f"{outlook.describe(least.plan)} ({_percent(least.value)}%; {_span(least)})."
        )
    if equal:
        first = equal[0]
        one = len(equal) == 1
        those = "One other plan is" if one else f"{len(equal)} other plans are"
        which = f"it is {'cheaper' if cheaper else 'not cheaper'}" if one else "the cheapest of them is"
        if not one and not cheaper:
            which = "none of them is cheaper; the cheapest is"
        about = (
            f"{outlook.describe(first.plan)}, for {outlook.price(first.plan.cost)} ({_percent(first.value)}%; {_span(first)})"
        )
        return f"{those} indistinguishable from it: {f'to {about}; {which}' if one else f'{which} to {about}'}."
    others = [each for each in outlook.decision.options.values() if each.plan != chosen.plan]
    if not others:
        return "Nothing else can be done for the money."
    second = max(others, key=lambda each: each.value)
    return (
        f"The next best option is to {outlook.describe(second.plan)}, for {outlook.price(second.plan.cost)}: "
        f"{_percent(second.value)}% ({_span(second)})."
    )


def _thrifty(outlook: Outlook) -> Judged | None:
    """Returns the cheapest plan that brings most of the gain for at most half the cost, or None."""
    chosen = outlook.decision.chosen
    plans = [each for several in outlook.decision.returns.values() for each in several]
    enough = [
        each for each in plans if each.plan.cost <= _THRIFTY_COST * chosen.plan.cost and each.gain >= _MOST * chosen.gain > 0
    ]
    return min(enough, key=lambda each: (each.plan.cost, -each.gain), default=None)


def warnings(outlook: Outlook) -> list[str]:
    """Returns what the pilots do not show, and what to know of the plan."""
    return list(dict.fromkeys(_warnings(outlook)))


def _warnings(outlook: Outlook) -> Iterator[str]:
    forecast = outlook.forecast
    decision = outlook.decision
    notes = [note for law in forecast.results if law.weight for note in law.notes]
    yield from (each for each in forecast.warnings if each not in notes)
    if notes:
        # The page and plan.json list all of them: one for each law says the same of the same pilots.
        names = dict.fromkeys(note.partition(": ")[2].split()[0] for note in notes)
        yield f"The pilots do not identify {listed(list(names))}, which the priors of the laws decide instead."
    if not forecast.extrapolates and outlook.candidates:
        yield f"These pilots would do, one seed each: {_named(outlook.candidates)}."
    if not outlook.prices.per_sample:
        yield "The file of prices has no price of training ([compute]): training counts as free."
    if decision.target is not None and not outlook.is_sure:
        yield (
            f"No plan for {outlook.price(outlook.money)} reaches {_percent(decision.target)}% with a probability of "
            f"{decision.level:.0%}: the plan is the one with the highest probability."
        )
    widest = max(forecast.inflation)
    if forecast.extrapolates and widest > 1.05:
        yield (
            f"Intervals beyond the pilots' range are up to {widest:.1f} times as wide as the laws say, most for "
            f"{forecast.pilots.sources[forecast.inflation.index(widest)]}: by as much were errors on the pilots of the largest "
            "budget, predicted from the others, larger than expected."
        )
    plan = decision.chosen.plan
    largest = forecast.pilots.budgets[-1]
    if plan.budget > largest:
        yield (
            f"The plan's budget is {plan.budget / largest:.3g} times that of the largest pilot: no pilot shows that the "
            "laws hold there."
        )
    for name, images in plan.unique.items():
        shown = forecast.pilots.largest.get(name, 0)
        if not shown:
            yield f"{name} has no pilots: what it is worth rests on its shift index alone."
        elif images > shown:
            yield f"The plan uses {images:,} images of {name}, and the pilots used at most {shown:,}."
    without = [name for name in forecast.pilots.sources if name not in decision.options]
    if without and forecast.extrapolates:
        yield (
            f"No image of {listed(without)} can be bought: what is available, affordable or within max_share is owned already."
        )
    if len(forecast.pilots.sources) > 1:
        yield (
            "The pilots trained on single sources: they show neither which order of sources is best nor whether a mixture "
            "helps more."
        )
    if outlook.excluded:
        yield f"Mixtures cannot be bought, so that their runs are excluded: {listed(list(outlook.excluded))}."


def missing_pilots(forecast: Forecast, prices: Prices) -> list[NextPilot]:
    """Returns the pilots that would let a law be fitted and let it predict other budgets; their value is not known (NaN)."""
    pilots = forecast.pilots
    largest = pilots.budgets[-1]
    name = nearest(forecast)
    price = prices.sources[name]
    # No image has to be bought for them.
    limit = min(max(pilots.largest[name], price.owned), largest)
    sizes = {unique for _, unique, _ in pilots.cells}
    places = []
    if len(pilots.budgets) == 1:
        budget = max(1, largest // 4)
        places = [(min(limit, unique), budget) for epochs in _EPOCHS if (unique := budget // epochs)]
        sizes |= {unique for unique, _ in places}
    halves = itertools.takewhile(bool, (limit >> step for step in itertools.count()))
    new = [unique for unique in halves if unique not in sizes][: max(0, _FEWEST_SIZES - len(sizes))]
    places += [(unique, largest) for unique in new]
    return [NextPilot(name, *place, place[1] * prices.per_sample, math.nan, math.nan) for place in places]


def nearest(forecast: Forecast) -> str:
    """Returns the source with pilots of the smallest shift index; the one with the best pilot if no index is known."""
    pilots = forecast.pilots
    places = {name: place for name, place in zip(pilots.sources, pilots.places, strict=True) if name in pilots.largest}
    if any(math.isfinite(place) for place in places.values()):
        return min(places, key=lambda name: (not math.isfinite(places[name]), places[name]))
    return pilots.cells[int(np.argmax(pilots.means))][0]


def _named(pilots: Sequence[NextPilot]) -> str:
    """Returns pilots of one source in words."""
    budgets = sorted({pilot.budget for pilot in pilots})
    sizes = {budget: sorted({pilot.unique for pilot in pilots if pilot.budget == budget}) for budget in budgets}
    parts = [f"N = {listed([f'{each:,}' for each in sizes[budget]])} at C = {budget:,}" for budget in budgets]
    return f"{pilots[0].source} with {', and '.join(parts)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(share: float) -> str:
    return f"{100 * share:.2f}" if abs(share) < 0.01 else f"{100 * share:.1f}"


def _signed(share: float) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _ends(evaluated: Judged) -> str:
    return f"{_signed(evaluated.gain_low)} to {_signed(evaluated.gain_high)}"


def _span(evaluated: Judged) -> str:
    return f"{_percent(evaluated.low)} to {_percent(evaluated.high)}%"
