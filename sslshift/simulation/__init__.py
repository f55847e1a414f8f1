"""Simulated studies whose truth is known, to measure what the package's statistics claim: coverage, false claims and power.

| file | content |
|---|---|
| `world` | `World`: sizes, true effects and variances of a study; `simulate` draws a study, right or wrong for each image |
| `studies` | a drawn study as `Results`, which the package analyses and reports like any other |
| `outcomes` | for one study: which intervals hold the truth, and which claims are false, missed or shown |
| `measurement` | many studies of a world, as shares with their Monte-Carlo errors |
| `features` | worlds of image features with a known shift, and the coverage of the shift index in them |
| `scenarios` | the worlds that `python -m tools.bench --what=statistics` measures |

The population of a world is that of all images, seeds, subsets and draws of labelled images; true numbers are means over it.
"""

from sslshift.simulation.measurement import Share, measure
from sslshift.simulation.scenarios import SCENARIOS
from sslshift.simulation.world import SimulatedStudy, World, simulate

__all__ = ["SCENARIOS", "Share", "SimulatedStudy", "World", "measure", "simulate"]
