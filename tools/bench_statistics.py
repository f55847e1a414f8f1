r"""Coverage, false claims and power of the statistics of a report, in simulated studies with known truth.

python -m tools.bench --what=statistics --studies=2000 --workers=2
python -m tools.bench --what=statistics --studies=2000 --world="null, seven methods"
"""

import sys
import time
from collections.abc import Callable

from sslshift.shift.distances import INDEX_DISTANCES
from sslshift.simulation import SCENARIOS, measure
from sslshift.simulation.features import index_measurements

# Worlds of image features, instead of one of studies.
INDEX = {f"shift index, {distance}": distance for distance in INDEX_DISTANCES}
WORLDS = "; ".join(["all", *INDEX, *SCENARIOS])


def measure_statistics(show: Callable[..., None], studies: int, workers: int, only: str) -> None:
    """Prints one line for each share, with its Monte-Carlo error.

    Args:
      show: function that prints a line.
      studies: number of simulated studies of each world.
      workers: number of processes.
      only: name of a world, or `all`.

    Raises:
      ValueError: there is no world of this name.
    """
    if only not in ("all", *INDEX, *SCENARIOS):
        raise ValueError(f"--world: expected one of {WORLDS}, got {only!r}.")
    for name, world in SCENARIOS.items():
        if only in ("all", name):
            found = measure(world, studies, workers=workers, on_progress=WorldProgress(name))
            for (what, of), share in found.items():
                show("statistics", world=name, measure=what, of=of, share=share.value, error=share.error, studies=studies)
    for name, distance in INDEX.items():
        for case, coverage in index_measurements(distance, studies) if only in ("all", name) else ():
            show("statistics", **case, **coverage._asdict(), samples=studies)


class WorldProgress:
    """Prints progress and the time left of one world to stderr, at most every ten seconds."""

    def __init__(self, name: str):
        self._name = name
        self._started = time.monotonic()
        self._said = self._started

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now > self._said + 10 and done < total:
            self._said = now
            left = (now - self._started) / done * (total - done)
            print(f"{self._name}: {done:,} of {total:,} studies, {left:,.0f} s left", file=sys.stderr, flush=True)
