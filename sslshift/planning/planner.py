"""The plan: how many more images of each source to buy, at which budget to train, and how much of it to spend on each source.

All plans that are compared are written down first: budgets from the smallest of the pilots to sixteen times the largest, bought
images of no, one, two or several sources for a part or all of the money that training leaves, and shares of the sources. Their
accuracies are then predicted with the same draws of the forecast, so that two plans are compared by their difference in every
draw. The best plan has the highest mean; plans that differ from it by less than the draws do are named beside it.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sslshift.planning.averaging import Forecast, interval_of
from sslshift.planning.fitting import Fit
from sslshift.planning.laws import Exposure, Floats
from sslshift.planning.prices import Prices
from sslshift.planning.search import Plan, PlanSearch, trainings

# Difference of mean accuracies, as a share, for which no money is spent: a twentieth of a point.
NEGLIGIBLE = 5e-4
_CHUNK = 2000


class Judged(NamedTuple):
    """A plan with what is predicted for it.

    Attributes:
      plan: the plan.
      value: mean predicted accuracy.
      low, high: ends of the interval of a run's accuracy.
      gain: mean difference to keeping the best pilot.
      gain_low, gain_high: interval of this difference.
      reaches: probability that a run reaches the target; None without a target.
    """

    plan: Plan
    value: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    reaches: float | None


@dataclasses.dataclass(frozen=True)
class Decision:
    """A decision about an amount of money.

    Attributes:
      chosen: the best plan.
      kept: the plan that costs nothing: to keep the encoder of the best pilot.
      indistinguishable: plans of other options that the forecast cannot tell from the best one, the cheapest first.
      options: the best plan of each source alone, by name of the source, and of compute alone under the name "".
      returns: for each option, the best plan for each of several amounts of money.
      level: probability of the intervals.
      target: wanted accuracy; None without one.
      ceiling: accuracy with unlimited images and compute, its low and high end; None if no law says it.
    """

    chosen: Judged
    kept: Judged
    indistinguishable: tuple[Judged, ...]
    options: Mapping[str, Judged]
    returns: Mapping[str, tuple[Judged, ...]]
    level: float
    target: float | None
    ceiling: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Considered:
    """Plans with draws of their accuracies.

    Attributes:
      plans: all plans that the money allows; the first one keeps the best pilot.
      draws: accuracies [draws, plans], without the noise of a run.
      costs: of the plans [plans].
    """

    plans: tuple[Plan, ...]
    draws: Floats
    costs: Floats


def consider(forecast: Forecast, prices: Prices, money: float) -> Considered:
    """Returns all plans that the money allows, with draws of their accuracies."""
    search = PlanSearch(forecast, prices)
    # To train what the best pilot has trained again would only cost money.
    again = dataclasses.replace(search.kept, cost=0.0)
    plans = [search.kept, *(plan for plan in _unlike(search.plans(money)) if dataclasses.replace(plan, cost=0.0) != again)]
    if not forecast.extrapolates:
        inside = forecast.outside(trainings(plans, forecast.pilots.sources)) < 1e-9
        plans = [plan for plan, kept in zip(plans, inside, strict=True) if kept]
    draws = np.concatenate(
        [
            forecast.predict(trainings(plans[start : start + _CHUNK], forecast.pilots.sources))
            for start in range(0, len(plans), _CHUNK)
        ],
        axis=1,
    )
    return Considered(tuple(plans), draws, np.array([plan.cost for plan in plans]))


def decide(
    forecast: Forecast,
    prices: Prices,
    money: float,
    target: float | None = None,
    level: float = 0.9,
    considered: Considered | None = None,
) -> Decision:
    """Returns what to do with an amount of money.

    Args:
      forecast: fitted laws.
      prices: prices of all sources of the forecast.
      money: the most that images and training may cost.
      target: accuracy to reach; the cheapest plan that reaches it with probability `level` is then the best one.
      level: probability of the intervals.
      considered: the plans, if they are known already.

    Raises:
      ValueError: the money is not a positive number, the level is not between 0 and 1, or no law allows the target.
    """
    if not (money > 0 and math.isfinite(money)):
        raise ValueError(f"Expected a positive amount of --money, got {money:g}.")
    if not 0 < level < 1:
        raise ValueError(f"Expected a --level between 0 and 1, got {level:g}.")
    ceiling = _ceiling(forecast, level)
    if target is not None:
        _require_possible(target, ceiling)
    return choose(forecast, considered or consider(forecast, prices, money), money, target, level, ceiling)


def choose(
    forecast: Forecast,
    considered: Considered,
    money: float,
    target: float | None,
    level: float,
    ceiling: tuple[float, float, float] | None,
) -> Decision:
    """Returns the decision among plans whose accuracies are predicted."""
    noise = forecast.run_noise(len(considered.draws))
    means = considered.draws.mean(axis=0)
    reaches = np.full(len(means), math.nan)
    if target is not None:
        reaches = (considered.draws + noise[:, None] >= target).mean(axis=0)
    best = _best(means, considered.costs, reaches, target, level)

    def judged(index: int) -> Judged:
        draws = considered.draws[:, [index]]
        _, low, high = (float(side[0]) for side in interval_of(draws, noise, level))
        difference = draws[:, 0] - considered.draws[:, 0]
        tail = (1 - level) / 2
        gain_low, gain_high = np.quantile(difference, [tail, 1 - tail])
        value = float(np.clip(means[index], low, high))
        return Judged(
            considered.plans[index],
            value,
            low,
            high,
            float(difference.mean()),
            float(gain_low),
            float(gain_high),
            None if target is None else float(reaches[index]),
        )

    options = {}
    returns = {}
    for name in ("", *forecast.pilots.sources):
        index = np.array([i for i, plan in enumerate(considered.plans) if i and set(plan.buy) == ({name} if name else set())])
        if len(index):
            chosen = index[_best(means[index], considered.costs[index], reaches[index], target, level)]
            options[name] = judged(int(chosen))
            returns[name] = tuple(judged(int(i)) for i in _along_money(index, means, considered.costs, money))
    equal = _equal(considered, best, [0, *(considered.plans.index(option.plan) for option in options.values())], level)
    return Decision(judged(best), judged(0), tuple(map(judged, equal)), options, returns, level, target, ceiling)


def _best(means: Floats, costs: Floats, reaches: Floats, target: float | None, level: float) -> int:
    """Returns the index of the best plan: the cheapest of those of the highest mean, or of those that reach the target."""
    if target is not None and (reaches >= level).any():
        return int(np.lexsort((-means, np.where(reaches >= level, costs, np.inf)))[0])
    if target is not None:
        return int(np.lexsort((costs, -means, -reaches))[0])
    good = means >= means.max() - NEGLIGIBLE
    return int(np.lexsort((-means, np.where(good, costs, np.inf)))[0])


def _along_money(index: Floats, means: Floats, costs: Floats, money: float) -> Iterator[int]:
    for part in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1):
        within = index[costs[index] <= part * money + 1e-9]
        if len(within):
            yield int(within[np.argmax(means[within])])


def _equal(considered: Considered, best: int, others: Iterable[int], level: float) -> list[int]:
    """Returns the plans whose difference to the best one has an interval that contains nearly 0, the cheapest first."""
    tail = (1 - level) / 2
    equal = set()
    for index in others:
        if considered.plans[index] != considered.plans[best]:
            low, high = np.quantile(considered.draws[:, best] - considered.draws[:, index], [tail, 1 - tail])
            # Laws in which more data always help put every draw above 0, if by nothing that can be measured.
            if low <= NEGLIGIBLE and high >= -NEGLIGIBLE:
                equal.add(index)
    return sorted(equal, key=lambda i: (considered.costs[i], -considered.draws[:, i].mean()))


def _ceiling(forecast: Forecast, level: float) -> tuple[float, float, float] | None:
    """Returns the accuracy with unlimited images of the best source, or None if the pilots' laws do not say it."""
    laws = [fit for fit in forecast.fits.values() if isinstance(fit, Fit)]
    if not (forecast.extrapolates and laws):
        return None
    count = len(forecast.pilots.sources)
    limitless = Exposure.of_single(range(count), [1e15] * count, [1e15] * count)
    # The monotone null has no limit below 1.
    draws = np.concatenate([fit.predict(limitless) for fit in laws])
    best = draws.max(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(best, [tail, 1 - tail])
    return float(np.median(best)), float(low), float(high)


def _require_possible(target: float, ceiling: tuple[float, float, float] | None) -> None:
    if not 0 < target < 1:
        percent = " Accuracies are shares: 90% is 0.9." if 1 < target <= 100 else ""
        raise ValueError(f"Expected a --target between 0 and 1, got {target:g}.{percent}")
    if ceiling is not None and target > ceiling[2]:
        value, low, high = (100 * each for each in ceiling)
        raise ValueError(
            f"A target of {100 * target:.1f}% is above what the laws allow with any number of images of these sources: "
            f"{value:.1f}% ({low:.1f} to {high:.1f}%). Lower the target, or add a nearer source."
        )


def _unlike(plans: Iterable[Plan]) -> list[Plan]:
    """Returns the plans without repetitions, in their order."""
    return list({(*plan.buy.items(), *plan.shares.items(), plan.budget): plan for plan in plans}.values())
