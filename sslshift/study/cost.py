"""Cost of a study: runs, samples, FLOPs, hours and money, before anything is trained."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console

from sslshift.reporting import Table, print_table
from sslshift.storage import Store
from sslshift.study.learners import Learner
from sslshift.study.opened import Opened
from sslshift.study.progress import duration
from sslshift.study.results import run_folder, run_record
from sslshift.training.programs import seconds_per_step


@dataclasses.dataclass(frozen=True)
class LearnerCost:
    """Cost of the runs of one learner.

    Attributes:
      learner: method and encoder.
      runs: number of runs.
      missing: number of runs that are not trained yet.
      samples: number of training samples of all runs.
      flops: FLOPs of the training of all runs.
      step_seconds: measured time of one step; None if no run is missing.
      seconds: estimated time to train the missing runs.
    """

    learner: Learner
    runs: int
    missing: int
    samples: int
    flops: float
    step_seconds: float | None
    seconds: float


def learner_costs(opened: Opened) -> list[LearnerCost]:
    """Returns the cost of each learner; measures a training step of every learner with missing runs, and writes nothing."""
    store = Store(read_only=True)
    found = []
    for learner in opened.learners:
        runs = [run for run in opened.runs if run.learner == learner.key]
        missing = [run for run in runs if store.recalled(run_folder(opened, run), run_record(opened, run)) is None]
        step = None
        # A step is measured on real batches of a missing run, so that its time includes reading and decoding.
        if missing:
            first = missing[0]
            step = seconds_per_step(learner.training, opened.reader(opened.candidate(first).mixture, first.seed, first.draw))
        flops = learner.flops * learner.steps * len(runs)
        seconds = (step or 0.0) * learner.steps * len(missing)
        samples = opened.design.budget.samples * len(runs)
        found.append(LearnerCost(learner, len(runs), len(missing), samples, flops, step, seconds))
    return found


def image_costs(opened: Opened) -> dict[str, tuple[int, float]]:
    """Returns for each source its largest number of unique samples in any candidate, and the cost of these images."""
    # Subsets are nested, so that the largest subset contains all images that must be bought.
    most: dict[str, int] = {}
    for candidate in opened.candidates:
        for uri, unique in candidate.mixture.largest.items():
            most[uri] = max(most.get(uri, 0), unique)
    return {uri: (unique, unique * opened.sources[uri].cost_per_image) for uri, unique in most.items()}


def show_cost(opened: Opened, console: Console) -> None:
    """Prints what a study would cost; trains nothing and writes nothing."""
    found = learner_costs(opened)
    price = opened.design.price_per_hour
    head = ["method", "encoder", "runs", "missing", "samples", "training FLOPs", "ms a step", "time for missing"]
    lines = []
    for each in found:
        step = "" if each.step_seconds is None else f"{each.step_seconds * 1e3:,.3g}"
        lines.append([*each.learner.key, *_numbers([each], step, price)])
    if len(found) > 1:
        lines.append(["all", "", *_numbers(found, "", price)])
    print_table(Table("cost", "Cost of the study", [*head, *(["cost"] if price else [])], lines, text_columns=2), console, "")
    # The estimate excludes evaluations, whose time depends on images and probes, not on steps.
    steps = sum(each.learner.steps * each.missing for each in found)
    left = sum(each.seconds for each in found)
    notes = [
        f"Training the missing runs takes about {duration(left)} here ({steps:,} steps; one was measured after compilation). "
        "Evaluating encoders and baselines, and measuring distances, take time in addition.",
        *_image_notes(opened),
    ]
    if opened.design.shift.images and not list((opened.design.out / "shift").glob("reference*/encoder.safetensors")):
        notes.append("The shift index adds one run: its reference encoder, trained on an equal share of every source.")
    if not price:
        notes.append("Set --price_per_hour to see the price of the training.")
    for note in notes:
        console.print(f"- {note}", highlight=False, soft_wrap=True, markup=False)


def _numbers(several: Sequence[LearnerCost], step: str, price: float) -> list[str]:
    seconds = sum(each.seconds for each in several)
    return [
        f"{sum(each.runs for each in several):,}",
        f"{sum(each.missing for each in several):,}",
        f"{sum(each.samples for each in several):,}",
        f"{sum(each.flops for each in several):.3g}",
        step,
        duration(seconds),
        *([f"{seconds / 3600 * price:,.2f}"] if price else []),
    ]


def _image_notes(opened: Opened) -> list[str]:
    costs = {uri: each for uri, each in image_costs(opened).items() if each[1]}
    if not costs:
        return []
    parts = ", ".join(f"{unique:,} of {uri} at {cost:,.2f}" for uri, (unique, cost) in costs.items())
    total = sum(cost for _, cost in costs.values())
    return [f"Images cost {total:,.2f}, for the largest subset of each source: {parts}."]
