"""The next pilot: what a further run would be worth before money is spent on the plan.

A pilot helps if its outcome can change the plan. For each pilot that could be run, nine outcomes are taken from what the forecast
predicts for it, the draws of the forecast are weighted by how well they agree with each outcome, and the best plan under these
weights is chosen with the money that the pilot leaves. The mean accuracy of these plans less that of the best plan now is the
value of the pilot; if it is not positive for any pilot, none pays.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats

from sslshift.planning.averaging import Forecast
from sslshift.planning.laws import Floats, Training
from sslshift.planning.planner import Considered
from sslshift.planning.prices import Prices

_OUTCOMES = (np.arange(9) + 0.5) / 9
# Ratios of a pilot's budget to its unique images.
_EPOCHS = (1, 2, 4, 8, 16, 32, 64, 128)
# Budgets of a pilot as multiples of the largest one so far.
_BUDGETS = (0.25, 1, 4)


class NextPilot(NamedTuple):
    """A pilot that could be run.

    Attributes:
      source: name of the source.
      unique: N.
      budget: C.
      cost: money for training and for images that are not owned.
      value: expected accuracy that it adds to the plan, after its cost, as a share.
      spread: standard deviation of its accuracy in the forecast, with the noise of a run.
    """

    source: str
    unique: int
    budget: int
    cost: float
    value: float
    spread: float


def value_pilots(forecast: Forecast, prices: Prices, considered: Considered, money: float) -> list[NextPilot]:
    """Returns the pilots that could be run with their values, the most valuable first."""
    places = list(_candidates(forecast, prices, money))
    if not places:
        return []
    index = {name: i for i, name in enumerate(forecast.pilots.sources)}
    names, unique, budgets, costs = zip(*places, strict=True)
    outcomes = forecast.predict(Training.of_single([index[name] for name in names], unique, budgets))
    noise = math.sqrt(forecast.pilots.noise.seed + forecast.pilots.noise.run)
    now = considered.draws.mean(axis=0).max()
    # The value of a pilot changes with the plans that are near the best in some draw; the others never win.
    order = np.argsort(considered.costs, kind="stable")
    draws = considered.draws[:, order]
    found = []
    for column, (name, images, budget, cost) in enumerate(places):
        affordable = int(np.searchsorted(considered.costs[order], money - cost, side="right"))
        expected = _expected_best(outcomes[:, column], noise, draws[:, :affordable]) if affordable else 0.0
        spread = math.hypot(float(outcomes[:, column].std()), noise)
        found.append(NextPilot(name, images, budget, cost, float(expected - now), spread))
    return sorted(found, key=lambda pilot: (-pilot.value, pilot.cost, pilot.source, pilot.budget, pilot.unique))


def _candidates(forecast: Forecast, prices: Prices, money: float) -> Iterator[tuple[str, int, int, float]]:
    pilots = forecast.pilots
    done = set(pilots.cells)
    largest = pilots.budgets[-1]
    for name in pilots.sources:
        price = prices.sources[name]
        for multiple in _BUDGETS:
            budget = int(multiple * largest)
            for epochs in _EPOCHS:
                unique = budget // epochs
                if not 1 <= unique <= price.available or (name, unique, budget) in done:
                    continue
                cost = budget * prices.per_sample + price.cost(max(0, unique - price.owned))
                if cost <= money:
                    yield name, unique, budget, cost


def _expected_best(outcome: Floats, noise: float, draws: Floats) -> float:
    """Returns the mean over outcomes of the best plan's accuracy, after the draws are weighted by the outcome."""
    spread = math.hypot(float(outcome.std()), noise)
    levels = np.quantile(outcome, _OUTCOMES) + 0.0
    # Nine equally likely outcomes of a run: quantiles of the prediction, widened by the noise of the run.
    levels = outcome.mean() + (levels - outcome.mean()) * (spread / max(float(outcome.std()), 1e-12))
    weights = stats.norm.pdf((levels[:, None] - outcome) / noise)
    total = weights.sum(axis=1, keepdims=True)
    weights = np.where(total > 0, weights / np.maximum(total, 1e-300), 1 / len(outcome))
    # Weighted over all outcomes, the draws must have their own weights again, or the mean itself would move.
    balance = weights.mean(axis=0) * len(outcome)
    weights = weights / np.maximum(balance, 1e-3)
    weights /= weights.sum(axis=1, keepdims=True)
    return float((weights @ draws).max(axis=1).mean())
