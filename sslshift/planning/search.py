"""Plans that are compared: budgets, images to buy, and shares of the sources, within the money and the caps."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sslshift.planning.averaging import Forecast
from sslshift.planning.laws import Exposure, Floats
from sslshift.planning.prices import Prices

# Budgets beyond this multiple of the largest of the pilots are not planned.
FURTHEST = 16
_BUDGET_STEP = math.sqrt(2)
# Parts of the money left after training that are spent on images.
_SPENT = (0.1, 0.25, 0.5, 1.0)
# Shares of the second source in mixtures of two.
_MIXED = (0.25, 0.5, 0.75)
# Combinations of sources that are tried: all pairs of this number of the most promising ones.
_PAIRED = 6


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
      buy: further images of each source, by name; sources of which none is bought are absent.
      unique: images of each source that the training uses, by name.
      shares: share of the training budget of each source, by name.
      budget: C.
      cost: money for images and training.
    """

    buy: Mapping[str, int]
    unique: Mapping[str, int]
    shares: Mapping[str, float]
    budget: int
    cost: float


def trainings(plans: Sequence[Plan], sources: Sequence[str]) -> Exposure:
    """Returns what the plans train on, for sources in the order of a forecast."""
    index = {name: i for i, name in enumerate(sources)}
    return Exposure.of_rows(
        [[(index[name], plan.unique[name], share * plan.budget) for name, share in plan.shares.items()] for plan in plans]
    )


class PlanSearch:
    """Writes down the plans that are compared."""

    def __init__(self, forecast: Forecast, prices: Prices):
        self.prices = prices
        self.pilots = forecast.pilots
        self.names = self.pilots.sources
        self.worth, self.repetition = _worth(forecast)
        best = int(np.argmax(self.pilots.means))
        name, unique, budget = self.pilots.cells[best]
        self.kept = Plan({}, {name: unique}, {name: 1.0}, budget, 0.0)

    def plans(self, money: float) -> Iterator[Plan]:
        """Yields plans whose cost is at most the money."""
        for budget in self.budgets(money):
            left = money - budget * self.prices.per_sample
            for buy in self.purchases(left, budget):
                owned = {name: self.prices.sources[name].owned + buy.get(name, 0) for name in self.names}
                for shares in self.divisions(owned, budget, buy):
                    unique = {name: int(min(owned[name], math.ceil(share * budget))) for name, share in shares.items()}
                    # Images that the shares leave unused are not bought.
                    used = {name: unique.get(name, 0) - self.prices.sources[name].owned for name in buy}
                    if all(images > 0 for images in used.values()):
                        price = sum(self.prices.sources[name].cost(images) for name, images in used.items())
                        yield Plan(used, unique, shares, budget, budget * self.prices.per_sample + price)

    def budgets(self, money: float) -> list[int]:
        """Returns the budgets that are planned, whose training leaves no debt."""
        levels = self.pilots.budgets
        if len(levels) == 1:
            return [level for level in levels if level * self.prices.per_sample <= money]
        steps = math.floor(math.log(FURTHEST * levels[-1] / levels[0]) / math.log(_BUDGET_STEP) + 1e-9)
        grid = {*levels, *(round(levels[0] * _BUDGET_STEP**i) for i in range(steps + 1))}
        if self.prices.per_sample:
            # All of the money for training, if that is not beyond the grid.
            grid.add(int(min(money / self.prices.per_sample, FURTHEST * levels[-1])))
        return sorted(budget for budget in grid if budget >= levels[0] and budget * self.prices.per_sample <= money)

    def purchases(self, left: float, budget: int) -> Iterator[dict[str, int]]:
        """Yields images to buy: none, of one source, of two, or of the most promising ones together."""
        yield {}
        for part in _SPENT:
            for name in self.names:
                yield from self._bought({name: part * left}, budget)
        promising = sorted(self.names, key=self._promise, reverse=True)
        for first, second in itertools.combinations(promising[:_PAIRED], 2):
            for part in (0.25, 0.5, 0.75):
                yield from self._bought({first: part * left, second: (1 - part) * left}, budget)
        for count in range(3, min(len(promising), _PAIRED) + 1):
            yield from self._bought(dict.fromkeys(promising[:count], left / count), budget)

    def _promise(self, name: str) -> float:
        """Returns how much useful data a unit of money buys."""
        price = self.prices.sources[name]
        return self.worth[self.names.index(name)] / max(price.per_image, 1e-9)

    def _bought(self, money: Mapping[str, float], budget: int) -> Iterator[dict[str, int]]:
        bought = {}
        for name, amount in money.items():
            price = self.prices.sources[name]
            # No training sees more unique images than it has samples.
            images = min(price.affordable(amount), max(0, math.ceil(price.max_share * budget) - price.owned))
            if images:
                bought[name] = images
        if len(bought) == len(money):
            yield bought

    def divisions(self, owned: Mapping[str, int], budget: int, buy: Mapping[str, int]) -> Iterator[dict[str, float]]:
        """Yields shares of the sources in a training budget, within their caps."""
        usable = [name for name in self.names if owned[name]]
        for name in buy or usable:
            yield from self._capped({name: 1.0}, usable)
        yield from self._capped(self._by_worth(usable, owned, budget), usable)
        if len(buy) == 1:
            (bought,) = buy
            nearest = max(
                (name for name in usable if name != bought), key=lambda name: self.worth[self.names.index(name)], default=None
            )
            for part in _MIXED if nearest else ():
                yield from self._capped({bought: part, nearest: 1 - part}, usable)
        elif len(buy) > 1:
            total = sum(owned[name] for name in buy)
            yield from self._capped({name: owned[name] / total for name in buy}, usable)
        elif len(usable) > 1:
            total = sum(owned[name] for name in usable)
            yield from self._capped({name: owned[name] / total for name in usable}, usable)

    def _by_worth(self, usable: Sequence[str], owned: Mapping[str, int], budget: int) -> dict[str, float]:
        """Returns the shares that give the most effective data: the last epoch of each source is worth the same."""
        worth = np.array([self.worth[self.names.index(name)] for name in usable])
        images = np.array([owned[name] for name in usable], float)

        def seen(log_price: float) -> Floats:
            # The first epoch is worth `worth` for each sample, and each further one less by exp(-1 / repetition).
            return images * np.where(
                np.log(worth) >= log_price, 1 + self.repetition * np.maximum(np.log(worth) - log_price, 0), 0
            )

        low = float(np.log(worth.min())) - budget / images.sum() / self.repetition - 1
        high = float(np.log(worth.max()))
        if seen(high).sum() >= budget:
            return {usable[int(np.argmax(worth))]: 1.0}
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if seen(middle).sum() > budget else (low, middle)
        samples = seen(high)
        # What is left goes to the source at the margin, of which only a part is seen.
        margin = np.argmax(np.where(seen(low) > samples, images, -1))
        samples[margin] += max(0.0, budget - samples.sum())
        shares = samples / samples.sum()
        return {name: float(share) for name, share in zip(usable, shares, strict=True) if share > 0.005}

    def _capped(self, shares: Mapping[str, float], usable: Sequence[str]) -> Iterator[dict[str, float]]:
        """Yields the shares with what exceeds a source's cap given to the other usable sources, the most worthy first."""
        total = sum(shares.values())
        capped = {name: min(share / total, self.prices.sources[name].max_share) for name, share in shares.items()}
        left = 1 - sum(capped.values())
        others = sorted(usable, key=lambda name: (name not in shares, -self.worth[self.names.index(name)]))
        for name in others:
            more = min(left, self.prices.sources[name].max_share - capped.get(name, 0.0))
            if more > 1e-9:
                capped[name] = capped.get(name, 0.0) + more
                left -= more
        if left < 1e-6:
            yield {name: share for name, share in capped.items() if share > 0}


def _worth(forecast: Forecast) -> tuple[Floats, float]:
    """Returns the worth of a first-epoch image of each source [sources], and the repetition constant.

    They only suggest shares, which the forecast then evaluates: a law of the form `discount` gives both, or plain guesses do.
    """
    for result in sorted(forecast.results, key=lambda result: -result.weight):
        if result.parameters and "k" in result.parameters:
            own = np.array([result.parameters[f"discount of {name}"] for name in forecast.pilots.sources])
            places = forecast.pilots.places
            places = np.where(np.isfinite(places), places, np.nanmean(places) if np.isfinite(places).any() else 0.0)
            return np.exp(-(result.parameters["k"] * places + own)), result.parameters.get("R", 10.0)
    return np.ones(len(forecast.pilots.sources)), 10.0
