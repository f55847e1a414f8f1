r"""Laws that give the error of a pretrained encoder on a task from the images that it was trained on.

An error is 1 - accuracy. Every law here has the form

    error = floor + b_0 D^-b + penalty,    D = sum over sources of exp(log amount_i - discount_i) / D_0

where the amount of a source grows with its unique images u and, ever more slowly, with the epochs E over them. D_0 is the
geometric mean of the amounts of the pilots, so that b_0 is the error above the floor of a typical pilot.

| law | amount of u images in E epochs | discount | floor | penalty |
|---|---|---|---|---|
| `discount` | u (1 + R (1 - exp(-(E - 1) / R))) | k s + d | e | 0 |
| `penalty` | as above | k s + d | e | P sqrt(E - 1) |
| `floor` | as above | 0 | e + g s + d | 0 |
| `half_life` | u times the product of (i / (i - 1))^(2^(-(i - 1) / tau)) over epochs i | k s + d | e | 0 |

The amounts of the first three are those of https://arxiv.org/abs/2305.16264, joined to the shift index s of the source; the
floor is the transfer gap of https://arxiv.org/abs/2408.16947; the last law is that of https://arxiv.org/abs/2404.07177.

d is a source's own deviation from what its shift predicts. Its prior is centred on 0, so that it grows only with pilots of the
source itself (partial pooling). tau is a half-life of each source, pooled in the same way. All functions are float64 NumPy.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import exp1

Floats = NDArray[np.float64]

# Standard deviation of a source's own deviation: of a log discount, and of a floor.
OWN_DISCOUNT = 0.7
OWN_FLOOR = 0.03
# The same for a source whose shift is not known: its place is then known from its pilots alone.
_UNKNOWN_DISCOUNT = 2.0
_UNKNOWN_FLOOR = 0.1


class Prior(NamedTuple):
    """Normal prior of a parameter, on the scale on which it is fitted, with hard bounds.

    Attributes:
      name: name of the parameter.
      mean, sd: of the normal distribution; the sd is infinite where the prior is switched off.
      low, high: bounds of the fit.
      log: whether the parameter is fitted as its logarithm; `mean`, `sd`, `low` and `high` are then of the logarithm.
      source: index of the source that the parameter belongs to; None for a parameter of all sources.
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    log: bool = False
    source: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Exposure:
    """Images that trainings see: one row for each training, which has one part for each source that it uses.

    Attributes:
      row: training of each part [parts], from 0 without gaps and ascending.
      source: index of the source of each part [parts].
      unique: unique images of the part that can be seen [parts].
      seen: samples of the part [parts], its share of the budget. Unique images beyond it are not seen.
    """

    row: NDArray[np.int64]
    source: NDArray[np.int64]
    unique: Floats
    seen: Floats

    @classmethod
    def of_single(cls, source: Sequence[int], unique: Sequence[float], budget: Sequence[float]) -> "Exposure":
        """Returns trainings on one source each."""
        return cls(np.arange(len(source)), np.asarray(source, int), np.asarray(unique, float), np.asarray(budget, float))

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[tuple[int, float, float]]]) -> "Exposure":
        """Returns trainings from a list of (source, unique, seen) for each; parts without samples are excluded."""
        parts = [(i, *part) for i, row in enumerate(rows) for part in row if part[2] > 0]
        row, source, unique, seen = (np.array(column) for column in zip(*parts, strict=True))
        return cls(row.astype(int), source.astype(int), unique.astype(float), seen.astype(float))

    def __len__(self) -> int:
        return int(self.row[-1]) + 1 if len(self.row) else 0

    def add(self, parts: Floats) -> Floats:
        """Returns the sums over the parts of each training: [..., parts] -> [..., trainings]."""
        if len(self) == len(self.row):
            return parts
        return np.add.reduceat(parts, np.searchsorted(self.row, np.arange(len(self))), axis=-1)

    @property
    def share(self) -> Floats:
        """Share of each part in its training [parts]."""
        return self.seen / self.add(self.seen)[self.row]

    @property
    def used(self) -> Floats:
        """Unique images that are seen [parts]."""
        return np.minimum(self.unique, self.seen)

    @property
    def epochs(self) -> Floats:
        """Epochs of each part, at least 1 [parts]."""
        return self.seen / self.used

    def take(self, rows: Sequence[int]) -> "Exposure":
        """Returns the given trainings."""
        parts = [np.flatnonzero(self.row == row) for row in rows]
        index = np.concatenate(parts)
        row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return Exposure(row, self.source[index], self.unique[index], self.seen[index])


class Law(NamedTuple):
    """A law.

    Attributes:
      name: name of the law.
      sentence: what the law says, for people.
      priors: priors of its parameters, in the order of the columns of theta.
      error: (theta [draws, parameters], training) -> error [draws, trainings].
      linear: columns of theta in which the error is linear.
      nonlinear: columns that all sources share and that a grid is laid over.
    """

    name: str
    sentence: str
    priors: tuple[Prior, ...]
    error: Callable[[Floats, Exposure], Floats]
    linear: tuple[int, ...]
    nonlinear: tuple[int, ...]

    @property
    def means(self) -> Floats:
        """Means of the priors [parameters]."""
        return np.array([prior.mean for prior in self.priors])

    @property
    def sds(self) -> Floats:
        """Standard deviations of the priors [parameters]."""
        return np.array([prior.sd for prior in self.priors])

    @property
    def low(self) -> Floats:
        """Lower bounds [parameters]."""
        return np.array([prior.low for prior in self.priors])

    @property
    def high(self) -> Floats:
        """Upper bounds [parameters]."""
        return np.array([prior.high for prior in self.priors])


FLOOR = Prior("e", 0.2, 0.15, 0.0, 0.95)
SCALE = Prior("b_0", 0.15, 0.3, 1e-4, 2.0)
EXPONENT = Prior("b", 0.35, 0.25, 0.02, 2.0)
REPETITION = Prior("R", np.log(10), np.log(3.3), np.log(0.1), np.log(2000), log=True)
DISCOUNT = Prior("k", 1.5, 1.5, 0.0, 15.0)
PENALTY = Prior("P", 0.0, 0.02, 0.0, 0.2)
GAP = Prior("g", 0.0, 0.15, 0.0, 0.9)
HALF_LIFE = Prior("tau", np.log(4), np.log(3), np.log(0.1), np.log(200), log=True)
SHARED_PRIORS = {prior.name: prior for prior in (FLOOR, SCALE, EXPONENT, REPETITION, DISCOUNT, PENALTY, GAP, HALF_LIFE)}


def laws(shift: Floats, reference: Exposure, flat: Sequence[str] = ()) -> dict[str, Law]:
    """Returns all laws by name, for sources of the given shifts.

    Args:
      shift: shift index of each source [sources]; NaN where it is not known.
      reference: the pilots, whose amounts define D_0.
      flat: names of parameters whose prior is switched off; the bounds remain.

    Raises:
      ValueError: `flat` names a parameter that no law has.
    """
    if unknown := set(flat) - set(SHARED_PRIORS):
        raise ValueError(f"Expected parameters among {', '.join(SHARED_PRIORS)}, got {', '.join(sorted(unknown))}.")
    known = np.isfinite(shift)
    # A source of unknown shift starts in the middle of those that are known.
    place = np.where(known, shift, np.mean(shift[known]) if known.any() else 0.0)
    errors = _Errors(place, float(np.mean(np.log(_saturating(reference, np.full((1, 1), 10.0))))))
    discounts = _own("discount", np.where(known, OWN_DISCOUNT, _UNKNOWN_DISCOUNT))
    floors = _own("floor", np.where(known, OWN_FLOOR, _UNKNOWN_FLOOR))
    rates = tuple(
        HALF_LIFE._replace(name=f"tau of source {i}", mean=0.0, sd=0.5, low=-3.0, high=3.0, log=False, source=i)
        for i in range(len(shift))
    )
    shared = tuple(
        prior._replace(sd=np.inf) if prior.name in flat else prior
        for prior in (FLOOR, SCALE, EXPONENT, REPETITION, DISCOUNT, PENALTY, GAP, HALF_LIFE)
    )
    e, b_0, b, r, k, p, g, tau = shared
    harms = "shift makes each image worth less, and repetition harms"
    stays = "shift leaves an error that no number of images removes"
    halves = "the value of an image halves with each further half-life of epochs"
    gaps = (0, 1, 4, *range(5, 5 + len(shift)))
    every = (
        Law("discount", "shift makes each image worth less", (e, b_0, b, r, k, *discounts), errors.discount, (0, 1), (2, 3, 4)),
        Law("penalty", harms, (e, b_0, b, r, k, p, *discounts), errors.penalty, (0, 1, 5), (2, 3, 4)),
        Law("floor", stays, (e, b_0, b, r, g, *floors), errors.floor, gaps, (2, 3)),
        Law("half_life", halves, (e, b_0, b, tau, k, *discounts, *rates), errors.half_life, (0, 1), (2, 3, 4)),
    )
    return {law.name: law for law in every}


class _Errors(NamedTuple):
    """Errors of the laws, as functions of theta [draws, parameters] and trainings.

    Attributes:
      place: shift of each source [sources].
      log_reference: logarithm of D_0.
    """

    place: Floats
    log_reference: float

    def discount(self, theta: Floats, training: Exposure) -> Floats:
        return self._discounted(theta, training, np.log(_saturating(training, np.exp(theta[:, [3]]))), 5)

    def penalty(self, theta: Floats, training: Exposure) -> Floats:
        plain = self._discounted(theta, training, np.log(_saturating(training, np.exp(theta[:, [3]]))), 6)
        return plain + theta[:, [5]] * training.add(training.share * np.sqrt(training.epochs - 1))

    def floor(self, theta: Floats, training: Exposure) -> Floats:
        own = theta[:, [4]] * self.place + theta[:, 5 : 5 + len(self.place)]
        gap = training.add(own[:, training.source] * training.share)
        return theta[:, [0]] + gap + self._curve(theta, training, np.log(_saturating(training, np.exp(theta[:, [3]]))))

    def half_life(self, theta: Floats, training: Exposure) -> Floats:
        tau = np.exp(theta[:, [3]] + theta[:, 5 + len(self.place) :])
        return self._discounted(theta, training, _decaying(training, tau[:, training.source]), 5)

    def _discounted(self, theta: Floats, training: Exposure, log_amounts: Floats, first: int) -> Floats:
        discount = theta[:, [4]] * self.place + theta[:, first : first + len(self.place)]
        return theta[:, [0]] + self._curve(theta, training, log_amounts - discount[:, training.source])

    def _curve(self, theta: Floats, training: Exposure, log_amounts: Floats) -> Floats:
        amounts = training.add(np.exp(log_amounts - self.log_reference))
        return theta[:, [1]] * np.maximum(amounts, 1e-12) ** -theta[:, [2]]


def _own(name: str, sds: Floats) -> tuple[Prior, ...]:
    return tuple(Prior(f"{name} of source {i}", 0.0, float(sd), -8 * sd, 8 * sd, source=i) for i, sd in enumerate(sds))


def _saturating(training: Exposure, repetition: Floats) -> Floats:
    """Returns the amounts [draws, parts] if repetition loses its value at the given constant [draws, 1]."""
    return training.used * (1 + repetition * -np.expm1(-(training.epochs - 1) / repetition))


def _decaying(training: Exposure, tau: Floats) -> Floats:
    """Returns the log amounts [draws, parts] if the value of an epoch halves every tau [draws, parts] epochs.

    The sum over epochs i from 2 of 2^(-(i - 1) / tau) log(i / (i - 1)) is taken as the integral of 2^(-(x - 1) / tau) / x over
    x from 1 to E, which also gives it for parts of an epoch: exp(a) (E1(a) - E1(a E)), where a = log 2 / tau.
    """
    rate = np.log(2) / tau
    return np.log(training.used) + np.exp(rate) * (exp1(rate) - exp1(rate * training.epochs))
