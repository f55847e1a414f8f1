"""Pilots: the smallest study from which a plan can say what to collect next, and how much of it.

    python -m experiments.pilots
    python -m experiments.pilots --scale=gpu     # ResNet-18 on one GPU
    python -m experiments.pilots --out=results/my_pilots --image_size=32 --dry_run --prices=prices.toml \\
      --downstream="folder:/data/parts?labels=folder" --sources="near = folder:/data/near; web = folder:/data/web"

These pilots are not in the paper, whose studies have one budget each. One budget cannot identify a law, since fewer unique
images mean more epochs there: pilots have a budget and a fourth of it, three numbers of unique images of each source at each
of them, chosen from the number of its images, and three seeds of all. Each budget is a study in a folder of its own, with its
report; `results.csv` beside them has all runs, from which `tools.plan` plans.

The small scale is 72 runs on images that ship with the package. experiments/README.md has its table and the time it took.
"""

import dataclasses

from sslshift.decision import PilotStudy, dry_run_pilots, report_pilots, run_pilots
from sslshift.study import run_experiment

from .quickstart import GPU as QUICKSTART_GPU
from .quickstart import SMALL, SOURCES


def piloted(study, **changes) -> PilotStudy:
    """Returns a study's settings as those of pilots."""
    return PilotStudy(**dataclasses.asdict(study) | {"untrained_seeds": 3, "seeds": 3} | changes)


PILOTS = piloted(SMALL, sources="; ".join(f"{name} = {uri}" for name, uri in SOURCES.items()), out="results/pilots")

GPU = piloted(QUICKSTART_GPU, sources=PILOTS.sources, out="results/pilots_gpu")

if __name__ == "__main__":
    run_experiment(PILOTS, run_pilots, {"gpu": GPU}, dry_run=dry_run_pilots, report_only=report_pilots, spec=__spec__)
