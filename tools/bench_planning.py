r"""Evaluates plans in simulated worlds with known truth: coverage of intervals, and regret beside that of simple rules.

python -m tools.bench --what=planning --studies=200 --workers=2
python -m tools.bench --what=planning --studies=200 --world=threshold
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from sslshift.simulation.collecting import FITTED, UNFITTED
from sslshift.simulation.decisions import Judgement, judge_many
from sslshift.simulation.measurement import Share

from .bench_statistics import WorldProgress

# Worlds in which further pilots are tried: one in this number.
_WITH_PILOTS = 6
PLANNER = "planner"
FAMILIES = ", ".join(("all", *FITTED, *UNFITTED))


def measure_planning(show: Callable[..., None], worlds: int, workers: int, only: str) -> None:
    """Prints the coverage of intervals and the regret of the planner and of each rule, for each family of worlds.

    Args:
      show: function that prints a line.
      worlds: number of worlds of each family.
      workers: number of processes.
      only: name of a family, or `all`.

    Raises:
      ValueError: there is no family of this name.
    """
    if only not in ("all", *FITTED, *UNFITTED):
        raise ValueError(f"--world: expected one of {FAMILIES}, got {only!r}.")
    for family in (*FITTED, *UNFITTED):
        if only in ("all", family):
            progress = WorldProgress(family)
            found = judge_many(family, worlds, with_pilots=worlds // _WITH_PILOTS, workers=workers, on_progress=progress)
            _show(show, family, found)


def _show(show: Callable[..., None], family: str, found: Sequence[Judgement]) -> None:
    for place, level in found[0].coverage:
        share = Share.of([each.coverage[place, level] for each in found])
        show("planning", world=family, measure="coverage", of=place, level=level, share=share.value, error=share.error)
    for measure, regrets in (
        ("regret", [each.regret for each in found]),
        ("regret after a pilot", [each.pilots for each in found]),
    ):
        regrets = [each for each in regrets if each]
        for name in regrets[0] if regrets else ():
            values = np.array([each[name] for each in regrets])
            error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            tail = np.quantile(values, 0.9)
            show(
                "planning",
                world=family,
                measure=measure,
                of=name,
                points=values.mean(),
                error=error,
                ninth_decile=tail,
                worlds=len(values),
            )
    lost = [
        min(value for name, value in each.regret.items() if name != PLANNER) < each.regret[PLANNER] - 0.05 for each in found
    ]
    show("planning", world=family, measure="worlds lost to the best rule by 0.05 points or more", share=float(np.mean(lost)))
