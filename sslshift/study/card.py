"""The card that travels with a run's encoder: how it was trained, on what, how far that was, and whose the images are."""

from typing import Any

from sslshift.study.candidates import Candidate
from sslshift.study.environment import versions
from sslshift.study.opened import Opened, Run


def encoder_card(opened: Opened, candidate: Candidate, run: Run, shift: dict, trained: dict) -> dict[str, Any]:
    """What is known of a trained encoder, as JSON values.

    Args:
      opened: the study.
      candidate: what the budget was spent on.
      run: the run.
      shift: fields of the candidate's `ShiftIndex`, or `why` there is none.
      trained: what training gave: losses, and how many images could be read.
    """
    used = candidate.mixture.largest
    sources = {
        uri: {
            "licence": source.licence,
            "cost_per_image": source.cost_per_image,
            "unique": used[uri],
            "images": len(source),
            "fingerprint": source.fingerprint,
        }
        for uri, source in opened.sources.items()
        if uri in used
    }
    learner = opened.learner(run)
    record = learner.record
    unique = trained["unique_read"]
    return {
        "method": {"name": record["method"], "options": record["method_options"]},
        "encoder": {"name": record["encoder"], "parameters": learner.parameters, "dtype": record["dtype"]},
        "optimiser": record["optimiser"],
        "views": record["views"],
        "mixture": candidate.text or candidate.name,
        "budget": opened.budget.samples,
        "batch_size": record["batch_size"],
        "unique": unique,
        "diversity": opened.budget.diversity(unique),
        "epochs": opened.budget.epochs(unique),
        "seed": run.seed,
        "draw": run.draw,
        "sources": sources,
        "shift": {"to": opened.task.name, **_finite(shift)},
        "training": _finite(trained),
        "versions": versions(),
    }


def _finite(values: dict) -> dict:
    """Without what is no number: JSON has no nan."""
    return {name: value for name, value in values.items() if value == value}
