"""What a study would take: runs, samples, FLOPs, hours and money, before anything is trained."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sslshift.study.learners import Learner
from sslshift.study.opened import Opened
from sslshift.study.places import run_folder, run_record
from sslshift.study.progress import duration
from sslshift.study.records import recalled
from sslshift.training.programs import seconds_per_step


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the runs of one learner take.

    Attributes:
      learner: method and encoder.
      runs: of the study.
      missing: those that are not trained yet.
      samples: of all runs.
      flops: of the training of all runs.
      step_seconds: of one step, measured here; None if no run is missing.
      seconds: of the training of missing runs.
    """

    learner: Learner
    runs: int
    missing: int
    samples: int
    flops: float
    step_seconds: float | None
    seconds: float


def estimate(opened: Opened) -> list[Estimate]:
    """Counts a study's runs and measures a training step of each learner that is not done; writes nothing."""
    found = []
    for learner in opened.learners:
        runs = [run for run in opened.runs if (run.method, run.encoder) == learner.key]
        missing = [run for run in runs if recalled(run_folder(opened, run), run_record(opened, run)) is None]
        step = None
        if missing:
            first = missing[0]
            step = seconds_per_step(learner.training, opened.reader(opened.candidate(first).mixture, first.seed, first.draw))
        flops = learner.flops * learner.steps * len(runs)
        seconds = (step or 0.0) * learner.steps * len(missing)
        found.append(Estimate(learner, len(runs), len(missing), opened.budget.samples * len(runs), flops, step, seconds))
    return found


def image_costs(opened: Opened) -> dict[str, tuple[int, float]]:
    """By source: its largest number of unique samples in any candidate, and what so many images cost."""
    most: dict[str, int] = {}
    for candidate in opened.candidates:
        for uri, unique in candidate.mixture.largest.items():
            most[uri] = max(most.get(uri, 0), unique)
    return {uri: (unique, unique * opened.sources[uri].cost_per_image) for uri, unique in most.items()}


def show_estimate(opened: Opened, console: Console) -> None:
    """Prints what a study would take; nothing is trained or written."""
    found = estimate(opened)
    price = opened.study.price_per_hour
    head = ["method", "encoder", "runs", "missing", "samples", "training FLOPs", "ms a step", "time for missing"]
    table = Table(*head, *(["cost"] if price else []), box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
        column.no_wrap = True
    for each in found:
        step = "" if each.step_seconds is None else f"{each.step_seconds * 1e3:,.3g}"
        table.add_row(*each.learner.key, *_numbers([each], step, price))
    if len(found) > 1:
        table.add_row("all", "", *_numbers(found, "", price))
    console.print(table)
    steps = sum(each.learner.steps * each.missing for each in found)
    left = sum(each.seconds for each in found)
    notes = [
        f"Training of what is missing takes about {duration(left)} here ({steps:,} steps; one was measured after compilation). "
        "Judging encoders, floors and distances come on top.",
        *_image_notes(opened),
    ]
    if opened.study.shift_images and not list((Path(opened.study.out) / "shift").glob("reference*/encoder.safetensors")):
        notes.append("The shift index adds one run: its reference encoder, trained on an equal share of every source.")
    if not price:
        notes.append("--price_per_hour puts a price on the hours.")
    for note in notes:
        console.print(f"- {note}", highlight=False, soft_wrap=True, markup=False)


def _numbers(several: Sequence[Estimate], step: str, price: float) -> list[str]:
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
    return [f"Images cost {total:,.2f}, each source's largest number once: {parts}."]
