"""The registry of distances for indices, tables and pages.

To add a distance, write one file in this folder that ends in a `Distance` (its title, the fewest images it needs, a caveat for
readers, and `bind`, which takes a key and a pool of features and returns the function), and add one line to `DISTANCES` below.
Flags, tables, the shift index, the calibration and the page of a survey take their distances from there; `beside=True` shows
it beside the index by default. `tests/test_distances.py` tests what all of them promise. A function that people call is
exported by `sslshift.shift`, whose table also names the sketch.
"""

from sslshift.shift._base import Distance, DistanceEstimate, Function
from sslshift.shift.distances.frechet import FRECHET, FRECHET_EXTRAPOLATED
from sslshift.shift.distances.kernel import KERNEL, KERNEL_ROOT
from sslshift.shift.distances.proxy_a import PROXY_A
from sslshift.shift.distances.rbf_mmd import RBF_MMD
from sslshift.shift.distances.sliced_wasserstein import SLICED_WASSERSTEIN
from sslshift.shift.distances.visual_dna import VISUAL_DNA

__all__ = ["DISTANCES", "INDEX_DISTANCES", "Distance", "DistanceEstimate", "Function", "distance_of", "index_distance"]

DISTANCES: dict[str, Distance] = {
    "kernel": KERNEL,
    "kernel_root": KERNEL_ROOT,
    "frechet": FRECHET,
    "frechet_extrapolated": FRECHET_EXTRAPOLATED,
    "rbf_mmd": RBF_MMD,
    "visual_dna": VISUAL_DNA,
    "sliced_wasserstein": SLICED_WASSERSTEIN,
    "proxy_a": PROXY_A,
}


def distance_of(name: str) -> Distance:
    """Returns the distance of this name.

    Raises:
      ValueError: there is no distance of this name.
    """
    if name not in DISTANCES:
        raise ValueError(f"Expected one of {', '.join(DISTANCES)} as the name of a distance, got {name!r}.")
    return DISTANCES[name]


# Names of the distances that a shift index can be formed from.
INDEX_DISTANCES = tuple(name for name, each in DISTANCES.items() if not each.no_index)


def index_distance(name: str) -> Distance:
    """Returns the distance of this name, which a shift index can be formed from.

    Raises:
      ValueError: there is no distance of this name, or no index by this distance.
    """
    found = distance_of(name)
    if found.no_index:
        raise ValueError(f"There is no shift index by {name}: {found.no_index}. Use one of {', '.join(INDEX_DISTANCES)}.")
    return found
