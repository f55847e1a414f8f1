"""Shares over many simulated studies, such as the coverage of an interval, with their Monte-Carlo errors."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from sslshift.simulation.outcomes import outcome
from sslshift.simulation.studies import open_world
from sslshift.simulation.world import World, simulate

# Number of studies in one task of a process, which opens the study anew. A task takes a few seconds.
_AT_ONCE = 50


class Share(NamedTuple):
    """A share over studies.

    Attributes:
      value: mean over studies.
      error: standard error of the mean. If all studies have the same share, it is that of a proportion after two successes
        and two failures more (Agresti and Coull), because 0 would be too certain.
      studies: number of studies.
    """

    value: float
    error: float
    studies: int

    @classmethod
    def of(cls, shares: Sequence[float]) -> "Share":
        """Returns the mean of the shares of independent studies.

        Example:
          >>> found = Share.of([0, 0, 1, 1])
          >>> found.value, round(found.error, 3)
          (0.5, 0.289)
        """
        count = len(shares)
        value = float(np.mean(shares))
        if np.ptp(shares):
            return cls(value, float(np.std(shares, ddof=1) / np.sqrt(count)), count)
        drawn = (value * count + 2) / (count + 4)
        return cls(value, float(np.sqrt(drawn * (1 - drawn) / (count + 4))), count)


def measure(
    world: World,
    studies: int,
    *,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[str, str], Share]:
    """Returns the shares of `outcomes.outcome` over many studies of a world.

    Args:
      world: the world.
      studies: number of studies.
      seed: random seed. Study i depends on the seed and i alone, so that the number of processes changes nothing.
      workers: number of processes.
      on_progress: function that is called with the number of studies done and of all studies.

    Raises:
      ValueError: fewer than two studies.
    """
    if studies < 2:
        raise ValueError(f"Expected at least 2 studies for a share with its error, got {studies}.")
    tasks = [(world, seed, range(start, min(start + _AT_ONCE, studies))) for start in range(0, studies, _AT_ONCE)]
    shares: dict[tuple[str, str], list[float]] = {}
    done = 0
    for outcomes in _mapped(tasks, workers):
        for each in outcomes:
            for name, share in each.items():
                shares.setdefault(name, []).append(share)
        done += len(outcomes)
        on_progress(done, studies)
    return {name: Share.of(each) for name, each in shares.items()}


Outcomes = list[dict[tuple[str, str], float]]


def _mapped(tasks: Sequence[tuple[World, int, range]], workers: int) -> Iterator[Outcomes]:
    if workers == 1:
        yield from map(_outcomes, tasks)
        return
    # The processes are spawned, since a process with threads cannot be forked safely.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_outcomes, tasks)


def _outcomes(task: tuple[World, int, range]) -> Outcomes:
    world, seed, numbers = task
    opened = open_world(world)
    return [outcome(simulate(world, np.random.default_rng([seed, number])), opened) for number in numbers]
