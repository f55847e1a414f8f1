"""Worlds of sources with prices, whose accuracy for every training is known: what `sslshift.planning` is tried on.

Five families have the forms that the planner fits, the last of them only its null; three have forms that it does not know:

| family | truth |
|---|---|
| `discount`, `penalty`, `floor`, `half_life` | the law of this name, with parameters of its own for each world |
| `monotone` | the error of each source falls with the logarithm of its data, not as a power, and not by its shift |
| `threshold` | data below a threshold help nothing |
| `harm` | beyond a shift of 0.5, more samples of a source make the error larger |
| `complement` | sources that are not the nearest help only beside it |
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from sslshift.planning.laws import Exposure, Floats, Law, laws
from sslshift.planning.pilots import PilotRun, Pilots, SourcePlace, gather
from sslshift.planning.prices import Prices, SourcePrice

FITTED = ("discount", "penalty", "floor", "half_life", "monotone")
UNFITTED = ("threshold", "harm", "complement")
# Standard deviations of seeds and runs, as in the bundled studies, where a run varies by 0.4 to 0.6 points.
SEED_NOISE = 0.002
RUN_NOISE = 0.0045
# Correlation of the image noise of two encoders.
_SHARED = 0.8
_TEST_IMAGES = 3000
# Budgets of the pilots, epochs at each, and seeds of the nearest source and of the others.
BUDGETS = (10_000, 40_000)
_EPOCHS = (1, 4, 16, 64)
_SEEDS = (3, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """A world.

    Attributes:
      family: name of its family.
      shift: shift index of each source, the nearest first.
      prices: prices of the sources, which are named `source 0` and so on.
      money: what may be spent.
      error: training -> true error [trainings].
    """

    family: str
    shift: Floats
    prices: Prices
    money: float
    error: Callable[[Exposure], Floats]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(f"source {i}" for i in range(len(self.shift)))

    def accuracy(self, training: Exposure) -> Floats:
        """Returns the true accuracies [trainings], at least 5% and at most 100%."""
        return 1 - np.clip(self.error(training), 0.0, 0.95)

    def run(self, training: Exposure, random: np.random.Generator) -> Floats:
        """Returns the accuracies of one run of each training with a new seed."""
        spread = math.hypot(SEED_NOISE, RUN_NOISE)
        return self.accuracy(training) + spread * random.standard_normal(len(training))


def draw_collection(family: str, seed: int) -> Collection:
    """Draws a world of a family: 3 to 8 sources, prices over two orders of magnitude, owned images and caps."""
    random = np.random.default_rng([seed, (*FITTED, *UNFITTED).index(family)])
    count = int(random.integers(3, 9))
    shift = np.sort(random.uniform(0, 1, count))
    shift[0] *= 0.3
    prices = []
    for i in range(count):
        owned = round(10 ** random.uniform(3.2, 4.3))
        available = owned + round(10 ** random.uniform(2.5, 5.0))
        # The nearest images are the dear ones more often than not.
        price = 10 ** random.uniform(-2.5, -0.5) if i else 10 ** random.uniform(-1.5, -0.5)
        setup = float(random.choice([0, 0, 20, 100]))
        prices.append(SourcePrice(price, owned, available, setup, float(random.choice([1, 1, 1, 0.5])) if i else 1.0))
    money = 10 ** random.uniform(2.0, 3.5)
    # A budget of four times the dearest pilot costs a tenth of the money to all of it.
    per_sample = money * 10 ** random.uniform(-1.0, 0.0) / (4 * BUDGETS[-1])
    names = [f"source {i}" for i in range(count)]
    return Collection(
        family, shift, Prices("EUR", per_sample, dict(zip(names, prices, strict=True))), money, _truth(family, shift, random)
    )


def train_pilots(world: Collection, seed: int) -> Pilots:
    """Trains pilots: two budgets, up to four numbers of images of each source, three seeds of the nearest one."""
    random = np.random.default_rng([seed, 1])
    cells = []
    for i, name in enumerate(world.names):
        for budget in BUDGETS:
            sizes = {min(budget // epochs, world.prices.sources[name].owned) for epochs in _EPOCHS}
            cells += [(i, unique, budget) for unique in sorted(sizes)]
    truth = world.accuracy(Exposure.of_single(*zip(*cells, strict=True)))
    spread = np.sqrt(truth * (1 - truth) / _TEST_IMAGES)
    images = spread * (
        math.sqrt(_SHARED) * random.standard_normal() + math.sqrt(1 - _SHARED) * random.standard_normal(len(cells))
    )
    of_seed = SEED_NOISE * random.standard_normal(max(_SEEDS))
    runs = []
    for (i, unique, budget), accuracy in zip(cells, truth + images, strict=True):
        for each in range(_SEEDS[0] if i == 0 else _SEEDS[1]):
            measured = float(np.clip(accuracy + of_seed[each] + RUN_NOISE * random.standard_normal(), 0, 1))
            runs.append(PilotRun(world.names[i], unique, budget, str(each), measured, _TEST_IMAGES))
    # The index is known with an error too.
    places = {
        name: SourcePlace(value, value - 0.06, value + 0.06)
        for name, value in zip(world.names, world.shift + 0.03 * random.standard_normal(len(world.shift)), strict=True)
    }
    return gather(runs, places)


def add_pilot(world: Collection, pilots: Pilots, cell: tuple[str, int, int], seed: int) -> Pilots:
    """Returns the pilots with one further run, whose seed is that of the first runs."""
    random = np.random.default_rng([seed, 2])
    name, unique, budget = cell
    training = Exposure.of_single([world.names.index(name)], [unique], [budget])
    accuracy = float(np.clip(world.run(training, random)[0], 0, 1))
    run = PilotRun(name, unique, budget, "further", accuracy, _TEST_IMAGES)
    return gather([*pilots.runs, run], dict(zip(pilots.sources, pilots.shift, strict=True)))


def _truth(family: str, shift: Floats, random: np.random.Generator) -> Callable[[Exposure], Floats]:
    reference = Exposure.of_single([0], [5000], [5000])
    every = laws(shift, reference)
    own = 0.4 * random.standard_normal(len(shift))
    floor = random.uniform(0.08, 0.3)
    exponent = random.uniform(0.2, 0.6)
    # The nearest source gains 2 to 20 points from the smallest pilot to the largest.
    smallest = BUDGETS[0] / _EPOCHS[-1] / 5000
    scale = random.uniform(0.02, 0.2) / (smallest**-exponent - (BUDGETS[1] / 5000) ** -exponent)
    repetition = math.log(12) + 0.6 * random.standard_normal()
    discount = random.uniform(0.5, 3.0)
    base = [floor, scale, exponent, repetition, discount]

    def of(law: Law, theta: list[float]) -> Callable[[Exposure], Floats]:
        row = np.array([theta])
        return lambda training: law.error(row, training)[0]

    plain = of(every["discount"], [*base, *own])
    if family == "discount":
        return plain
    if family == "penalty":
        return of(every["penalty"], [*base, random.uniform(0.001, 0.005), *own])
    if family == "floor":
        return of(every["floor"], [*base[:4], random.uniform(0.03, 0.2), *(0.04 * own)])
    if family == "half_life":
        theta = [
            *base[:3],
            math.log(4) + 0.6 * random.standard_normal(),
            discount,
            *own,
            *(0.4 * random.standard_normal(len(shift))),
        ]
        return of(every["half_life"], theta)
    if family == "monotone":
        return _logarithmic(every["discount"], random, len(shift), repetition)
    if family == "threshold":
        return _threshold(every["discount"], base, own, 10 ** random.uniform(3.0, 4.0))
    if family == "harm":
        return _harm(plain, shift, random.uniform(0.05, 0.2))
    return _complement(every["discount"], base, own, random.uniform(1.0, 2.5))


def _amounts(law: Law, base: list[float], own: Floats, training: Exposure) -> Floats:
    """Returns the effective data of each training, by the law `discount`, in multiples of the reference of 5,000 images."""
    theta = np.array([[0.0, 1.0, 1.0, *base[3:], *own]])
    return 1 / law.error(theta, training)[0]


def _logarithmic(law: Law, random: np.random.Generator, count: int, repetition: float) -> Callable[[Exposure], Floats]:
    worst = random.uniform(0.3, 0.5)
    # Gain of each source with the data of the dearest pilots.
    gains = random.uniform(0.02, 0.12, count)
    turn = 10 ** random.uniform(-1.5, 0.5)
    most = np.log1p(BUDGETS[-1] / 5000 / turn)

    def error(training: Exposure) -> Floats:
        effective = _amounts(law, [0, 1, 1, repetition, 0], np.zeros(count), training)
        gain = training.add(gains[training.source] * training.share)
        return worst - gain * np.log1p(effective / turn) / most

    return error


def _threshold(law: Law, base: list[float], own: Floats, images: float) -> Callable[[Exposure], Floats]:
    def error(training: Exposure) -> Floats:
        above = np.maximum(_amounts(law, base, own, training) - images / 5000, 0)
        return base[0] + base[1] * (1 + above) ** -base[2]

    return error


def _harm(plain: Callable[[Exposure], Floats], shift: Floats, size: float) -> Callable[[Exposure], Floats]:
    def error(training: Exposure) -> Floats:
        harmful = np.maximum(shift[training.source] - 0.5, 0) * training.share
        return plain(training) + size * training.add(harmful * np.log1p(training.seen / 5000))

    return error


def _complement(law: Law, base: list[float], own: Floats, lost: float) -> Callable[[Exposure], Floats]:
    def error(training: Exposure) -> Floats:
        near = training.add(np.where(training.source == 0, training.share, 0.0))
        # Alone, the other sources are worth exp(-lost) of what they are worth beside a tenth of the nearest one.
        alone = np.where(np.arange(len(own)) == 0, 0.0, lost)
        apart, beside = (_amounts(law, base, own + each, training) for each in (alone, 0.0))
        helped = np.clip(near / 0.1, 0, 1)
        return base[0] + base[1] * np.exp(helped * np.log(beside) + (1 - helped) * np.log(apart)) ** -base[2]

    return error
