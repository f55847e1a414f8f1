"""Evaluates plans in worlds whose truth is known: coverage of intervals, and regret beside that of simple rules.

Regret is the difference in true accuracy between the best plan that the money allows and the chosen one, in points. The best
plan is searched among all that the planner considers and those of the rules.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from sslshift.planning.averaging import Forecast, forecast
from sslshift.planning.laws import Exposure
from sslshift.planning.next_pilot import NextPilot, value_pilots
from sslshift.planning.pilots import Pilots
from sslshift.planning.planner import Considered, choose, consider
from sslshift.planning.search import FURTHEST, Plan, trainings
from sslshift.simulation.collecting import BUDGETS, Collection, add_pilot, draw_collection, train_pilots

LEVELS = (0.5, 0.8, 0.9, 0.95)
# Budgets of predictions that are compared with the truth, as multiples of the dearest pilots'.
_FURTHER = {"inside": 1, "4 times": 4, "16 times": 16}
# Labelled images of the rule "5 times more unlabelled".
_LABELLED = 2000


class Judgement(NamedTuple):
    """Outcome of one world.

    Attributes:
      coverage: share of intervals that hold the accuracy of a new run, by place and level.
      regret: regret in points of the planner, under the name "planner", and of each rule.
      pilots: regret in points after one further pilot, by the way it was chosen; empty if none was tried.
    """

    coverage: Mapping[tuple[str, float], float]
    regret: Mapping[str, float]
    pilots: Mapping[str, float]


def judge(family: str, seed: int, with_pilots: bool = True) -> Judgement:
    """Plans in one world and compares the plan with the truth."""
    world = draw_collection(family, seed)
    pilots = train_pilots(world, seed)
    fitted = forecast(pilots)
    considered = consider(fitted, world.prices, world.money)
    rules = {name: plan for name, plan in _rules(world, pilots) if plan is not None}
    plans = [*considered.plans, *rules.values()]
    truth = world.accuracy(trainings(plans, world.names))
    regret = {name: 100 * float(truth.max() - truth[len(considered.plans) + i]) for i, name in enumerate(rules)}
    regret["planner"] = _regret_of(world, fitted, considered, world.money, truth.max())
    tried = _regret_of_pilots(world, pilots, fitted, considered, truth.max(), seed) if with_pilots else {}
    return Judgement(_coverage(world, fitted, seed), regret, tried)


def _regret_of(world: Collection, fitted: Forecast, considered: Considered, money: float, best: float) -> float:
    chosen = choose(fitted, considered, money, None, 0.9, None).chosen.plan
    return 100 * float(best - world.accuracy(trainings([chosen], world.names))[0])


def _coverage(world: Collection, fitted: Forecast, seed: int) -> dict[tuple[str, float], float]:
    random = np.random.default_rng([seed, 3])
    covered = {}
    for place, multiple in _FURTHER.items():
        budgets = np.array([BUDGETS[-1] * multiple] * 16, float)
        source = random.integers(0, len(world.names), len(budgets))
        owned = np.array([world.prices.sources[name].owned for name in world.names])[source]
        # At a further budget, as many more images as the budget is larger, at most.
        most = np.minimum(budgets, np.minimum(owned, BUDGETS[-1]) * multiple)
        unique = np.exp(random.uniform(np.log(most / 64), np.log(most)))
        training = Exposure.of_single(source, np.round(unique), budgets)
        measured = world.run(training, random)
        for level in LEVELS:
            found = fitted.interval(training, level)
            covered[place, level] = float(np.mean((found.low <= measured) & (measured <= found.high)))
    return covered


def _rules(world: Collection, pilots: Pilots) -> Iterator[tuple[str, Plan | None]]:
    """Yields the plans of simple rules, which spend half of the money on training and the rest on images."""
    budget = int(min(world.money / 2 / world.prices.per_sample, FURTHEST * BUDGETS[-1]))
    left = world.money - budget * world.prices.per_sample
    names = world.names
    price = world.prices.sources
    cheapest = sorted(names, key=lambda name: price[name].per_image)
    yield "all near", _spend(world, {names[0]: left}, budget)
    yield "all external", _spend(world, dict.fromkeys(names[1:], left / (len(names) - 1)), budget)
    yield "equal split", _spend(world, dict.fromkeys(names, left / len(names)), budget)
    sizes = {name: price[name].available for name in names}
    yield (
        "proportional to size",
        _spend(world, {name: left * size / sum(sizes.values()) for name, size in sizes.items()}, budget),
    )
    yield "cheapest first", _in_order(world, cheapest, left, budget)
    yield "nearest first", _in_order(world, names, left, budget)
    yield "5 times more unlabelled", _in_order(world, names, left, budget, 5 * _LABELLED)
    yield "single-size ranking", _spend(world, {_best_pilot(pilots): left}, budget)


def _spend(world: Collection, money: Mapping[str, float], budget: int) -> Plan:
    bought = {name: world.prices.sources[name].affordable(amount) for name, amount in money.items()}
    return _plan(world, money, bought, budget)


def _in_order(world: Collection, order: Sequence[str], left: float, budget: int, most: float = math.inf) -> Plan:
    bought = {}
    used = []
    for name in order:
        price = world.prices.sources[name]
        images = int(min(price.affordable(left), max(0.0, most - price.owned)))
        bought[name] = images
        used.append(name)
        left -= price.cost(images)
        most -= price.owned + images
        if images < price.available - price.owned or most <= 0:
            break
    return _plan(world, used, bought, budget)


def _plan(world: Collection, used: Mapping[str, float] | Sequence[str], bought: Mapping[str, int], budget: int) -> Plan:
    """Returns a plan that trains on all images of the sources that it uses, in proportion to their numbers."""
    unique = {name: world.prices.sources[name].owned + bought.get(name, 0) for name in used}
    total = sum(unique.values())
    buy = {name: images for name, images in bought.items() if images}
    cost = budget * world.prices.per_sample + sum(world.prices.sources[name].cost(images) for name, images in buy.items())
    return Plan(buy, unique, {name: count / total for name, count in unique.items()}, budget, cost)


def _best_pilot(pilots: Pilots) -> str:
    """Returns the source with the best mean at the one size that all sources have, as near to it as they come."""
    dearest = pilots.budgets[-1]
    common = min(pilots.largest.values())
    best: dict[str, tuple[float, float]] = {}
    for (name, unique, budget), mean in zip(pilots.cells, pilots.means, strict=True):
        if budget == dearest:
            distance = abs(math.log(unique / common))
            best[name] = min(best.get(name, (math.inf, 0.0)), (distance, -float(mean)))
    return min(best, key=lambda name: best[name][1])


def _regret_of_pilots(
    world: Collection, pilots: Pilots, fitted: Forecast, considered: Considered, best: float, seed: int
) -> dict[str, float]:
    """Returns the regret after one further pilot of each rule, whose cost the plan has to do without."""
    found = value_pilots(fitted, world.prices, considered, world.money)
    if not found:
        return {}
    random = np.random.default_rng([seed, 4])
    cheapest = min(found, key=lambda pilot: pilot.cost)
    chosen: dict[str, NextPilot | None] = {
        "value of information": found[0] if found[0].value > 0 else None,
        "always the most valuable": found[0],
        "random": found[int(random.integers(len(found)))],
        "cheapest": cheapest,
        "highest variance": max(found, key=lambda pilot: pilot.spread),
        "no pilot": None,
    }
    regrets = {}
    for name, pilot in chosen.items():
        money = world.money
        again = fitted
        plans = considered
        if pilot is not None:
            money -= pilot.cost
            again = forecast(add_pilot(world, pilots, (pilot.source, pilot.unique, pilot.budget), seed))
            plans = consider(again, world.prices, money)
        regrets[name] = _regret_of(world, again, plans, money, best)
    return regrets


def judge_many(
    family: str,
    worlds: int,
    *,
    with_pilots: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Judgement]:
    """Plans in many worlds of a family.

    Args:
      family: name of the family.
      worlds: number of worlds. World i depends on its family and i alone.
      with_pilots: number of worlds in which further pilots are tried too, which takes six times as long.
      workers: number of processes, which changes no number.
      on_progress: function that is called with the number of worlds done and of all worlds.
    """
    tasks = [(family, i, i < with_pilots) for i in range(worlds)]
    found = []
    # Spawned, since a process with threads cannot be forked safely; each of them has one thread, so that they do not compete.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for judgement in pool.map(_judge_with_one_thread, tasks, chunksize=2):
            found.append(judgement)
            on_progress(len(found), worlds)
    return found


def _judge_with_one_thread(task: tuple[str, int, bool]) -> Judgement:
    with threadpool_limits(1):
        return judge(*task)
