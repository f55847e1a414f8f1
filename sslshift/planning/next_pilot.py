"""The next pilot: what a further run would be worth before money is spent on the plan.

A pilot helps if its outcome can change the plan. For each pilot that could be run, nine outcomes are taken from what the
forecast predicts for it, the draws of the forecast are weighted by how well they agree with each outcome, and the best plan
under these weights is chosen with the money that the pilot leaves. The mean accuracy of these plans less that of the best plan
now is the value of the pilot; if it is not positive for any pilot, none pays.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sslshift.planning.averaging import Forecast
from sslshift.planning.laws import Exposure, Floats
from sslshift.planning.planner import Considered
from sslshift.planning.prices import Prices

_OUTCOMES = (np.arange(9) + 0.5) / 9
# Number of computations with outcomes that say nothing.
_BLIND = 4
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
    names, unique, budgets, _ = zip(*places, strict=True)
    outcomes = forecast.predict(Exposure.of_single([index[name] for name in names], unique, budgets))
    noise = math.sqrt(forecast.pilots.noise.seed + forecast.pilots.noise.run)
    means = considered.draws.mean(axis=0)
    # Plans that are the best in no draw are the best after no outcome.
    hopeful = np.unique(considered.draws.argmax(axis=1))
    found = []
    for column, (name, images, budget, cost) in enumerate(places):
        affordable = considered.costs <= money - cost
        best = int(np.argmax(np.where(affordable, means, -np.inf)))
        left = hopeful[affordable[hopeful]]
        gain = _expected_gain(outcomes[:, column], noise, considered.draws[:, left] - considered.draws[:, [best]])
        lost = means.max() - means[best]
        spread = math.hypot(float(outcomes[:, column].std()), noise)
        found.append(NextPilot(name, images, budget, cost, gain - float(lost), spread))
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


def _expected_gain(outcome: Floats, noise: float, differences: Floats) -> float:
    """Returns how much better the best plan is in the mean once the outcome is known, with the same money.

    The maximum over plans of a mean of few draws is too high by itself. The same computation with outcomes that belong to other
    draws, which say nothing, measures by how much, and is subtracted.

    Args:
      outcome: mean accuracy of the pilot in each draw [draws].
      noise: standard deviation of a run.
      differences: accuracies of plans less that of the plan that is the best without the pilot [draws, plans].
    """
    random = np.random.default_rng(0)
    blind = np.mean([_expected_best(random.permutation(outcome), noise, differences) for _ in range(_BLIND)])
    return _expected_best(outcome, noise, differences) - float(blind)


def _expected_best(outcome: Floats, noise: float, differences: Floats) -> float:
    """Returns the mean over nine outcomes of the best plan's difference, after the draws are weighted by the outcome."""
    spread = max(float(outcome.std()), 1e-12)
    # Equally likely outcomes of a run: quantiles of the prediction, widened by the noise of the run.
    widened = math.hypot(spread, noise) / spread
    levels = outcome.mean() + (np.quantile(outcome, _OUTCOMES) - outcome.mean()) * widened
    weights = np.exp(-0.5 * ((levels[:, None] - outcome) / noise) ** 2) + 1e-300
    weights /= weights.sum(axis=1, keepdims=True)
    return float(np.maximum((weights @ differences).max(axis=1, initial=0.0), 0.0).mean())
