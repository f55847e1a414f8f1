"""Cost of a study: runs, samples, FLOPs, hours and money before it runs, and seconds by part afterwards."""

import contextlib
import dataclasses
import datetime
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from sslshift.clock import REPORTING, Clock, Timing
from sslshift.reporting import Table, environment, print_table
from sslshift.reporting.progress import duration
from sslshift.shards import editing
from sslshift.storage import LockedError, Store, read_json, write_json
from sslshift.study.evaluate import INITIAL, UNTRAINED
from sslshift.study.learners import Learner
from sslshift.study.opened import Opened
from sslshift.study.results import FinishedRun, run_folder, run_record
from sslshift.study.shifts import reference_folder, reference_record
from sslshift.training.programs import measured_images, seconds_per_step
from sslshift.transfer.claims import power_text, shared_comparisons
from sslshift.transfer.inference import PlannedTable
from sslshift.transfer.protocol import count_outcomes

# File of a study's folder with the seconds of each call by part, the latest call last.
TIMING = "timing.json"
# Number of calls that the file keeps.
_CALLS = 100


@dataclasses.dataclass(frozen=True)
class LearnerCost:
    """Cost of the runs of one learner, or of the reference encoders of the shift index.

    Attributes:
      name: names of method and encoder in the table.
      learner: method and encoder.
      runs: number of runs.
      missing: number of runs that are not trained yet.
      samples: number of training samples of all runs.
      flops: FLOPs of the training of all runs.
      step_seconds: measured time of one step; None if no run is missing.
      images: number of images of the batches that were measured.
      seconds: estimated time to train the missing runs.
    """

    name: tuple[str, str]
    learner: Learner
    runs: int
    missing: int
    samples: int
    flops: float
    step_seconds: float | None
    images: int
    seconds: float


def learner_costs(opened: Opened) -> list[LearnerCost]:
    """Returns the cost of each learner; measures a training step of every learner with missing runs, and writes nothing."""
    store = Store(read_only=True)
    found = []
    for learner in opened.learners:
        runs = [run for run in opened.own if run.learner == learner.key]
        missing = [run for run in runs if store.recalled(run_folder(opened, run), run_record(opened, run)) is None]
        step = None
        images = _images(learner)
        # A step is measured on real batches of a missing run, so that its time includes reading and decoding.
        if missing:
            first = missing[0]
            reader = opened.reader(opened.candidate(first).mixture, first.seed, first.draw)
            step = seconds_per_step(learner.training, reader, images=images)
        flops = learner.flops * learner.steps * len(runs)
        seconds = (step or 0.0) * learner.steps * len(missing)
        samples = opened.design.budget.samples * len(runs)
        found.append(LearnerCost(learner.key, learner, len(runs), len(missing), samples, flops, step, images, seconds))
    return found


def _images(learner: Learner) -> int:
    """Returns the number of images of a batch with which a step is measured."""
    if jax.default_backend() != "cpu":
        return learner.batch_size
    return measured_images(learner.flops, learner.batch_size, jax.device_count() * learner.training.accumulate)


def reference_cost(opened: Opened, known: Sequence[LearnerCost] = ()) -> LearnerCost | None:
    """Returns the cost of the reference encoders of the shift index, which are trained like runs; None if there are none.

    Args:
      opened: the study.
      known: costs of learners; a reference encoder that is trained as one of them takes the same time for a step.
    """
    count = opened.design.shift.seeds if opened.design.shift.images else 0
    if not count:
        return None
    store = Store(read_only=True)
    learner = opened.reference
    places = [(reference_folder(opened, seed), reference_record(opened, seed)) for seed in range(count)]
    missing = sum(store.recalled(*place) is None for place in places)
    images = _images(learner)
    alike = (each.step_seconds for each in known if each.learner.training == learner.training and each.step_seconds)
    step = next(alike, None) if missing else None
    if missing and step is None:
        reader = opened.reader(opened.equal_shares, 0, 0, learner.budget)
        step = seconds_per_step(learner.training, reader, images=images)
    samples = learner.budget.samples * count
    flops = learner.flops * learner.steps * count
    name = ("shift index", f"reference {learner.settings.encoder}")
    return LearnerCost(name, learner, count, missing, samples, flops, step, images, (step or 0.0) * learner.steps * missing)


def image_costs(opened: Opened) -> dict[str, tuple[int, float]]:
    """Returns for each source its largest number of unique samples in any candidate, and the cost of these images."""
    # Subsets are nested, so that the largest subset contains all images that must be bought.
    most: dict[str, int] = {}
    for candidate in opened.candidates:
        for uri, unique in candidate.mixture.largest.items():
            most[uri] = max(most.get(uri, 0), unique)
    return {uri: (unique, unique * opened.sources[uri].cost_per_image) for uri, unique in most.items()}


class KindCost(NamedTuple):
    """Money that pretraining as in the runs of a kind takes.

    Attributes:
      images: cost of the unique samples.
      training: price of the training of one run, by the mean time of the finished ones; 0 without a price.
    """

    images: float
    training: float

    @property
    def total(self) -> float:
        """The cost of images and training."""
        return self.images + self.training


def kind_cost(opened: Opened, runs: Sequence[FinishedRun]) -> KindCost:
    """Returns the cost of one run, from the finished runs of its kind."""
    seconds = [each.trained.seconds for each in runs if each.trained.seconds is not None]
    hours = sum(seconds) / len(seconds) / 3600 if seconds else 0.0
    return KindCost(opened.cost(opened.candidate(runs[0].run)), hours * opened.design.price_per_hour)


# Variances of gains over the untrained encoder before anything is measured: those of quickstart, rounded.
_SEED_DEVIATION = 0.005
_DISAGREEMENT = 0.04


def planned_table(opened: Opened) -> PlannedTable:
    """Returns the sizes of the table of gains that a study plans, with variances that are assumed."""
    design = opened.design
    names = [candidate.name for candidate in opened.candidates]
    ladders = sum(count > 1 for count in Counter(names).values())
    mixtures = any(candidate.text for candidate in opened.candidates)
    # Gains, differences from the nearest source if there are mixtures, trends, and the change with the shift.
    tests = len(names) + mixtures * (len(set(names)) - 1) + ladders + (ladders > 2)
    # Each evaluation has all of them; the curvature is tested by the linear probe alone.
    tests = tests * count_outcomes(design.evaluations) + (max(Counter(names).values()) > 2)
    images = len(opened.task.test.indices)
    comparisons = shared_comparisons(tests * len(opened.learners))
    return PlannedTable(design.seeds, images, _SEED_DEVIATION, _DISAGREEMENT, len(names), comparisons, design.untrained_seeds)


def show_cost(opened: Opened, console: Console, measured: PlannedTable | None = None) -> None:
    """Prints what a study would cost and what it could show; trains nothing and writes nothing.

    Args:
      opened: the study.
      console: console that the text is printed on.
      measured: sizes and variances of the gains that are finished; None if there are none.
    """
    found = learner_costs(opened)
    references = reference_cost(opened, found)
    found += [references] if references else []
    price = opened.design.price_per_hour
    head = ["method", "encoder", "runs", "missing", "samples", "training FLOPs", "ms a step", "time for missing"]
    lines = []
    for each in found:
        step = "" if each.step_seconds is None else f"{each.step_seconds * 1e3:,.3g}"
        lines.append([*each.name, *_numbers([each], step, price)])
    if len(found) > 1:
        lines.append(["all", "", *_numbers(found, "", price)])
    print_table(Table("cost", "Cost of the study", [*head, *(["cost"] if price else [])], lines, text_columns=2), console, "")
    # The estimate excludes evaluations, whose time depends on images and probes, not on steps.
    steps = sum(each.learner.steps * each.missing for each in found)
    left = sum(each.seconds for each in found)
    notes = [
        f"Training the missing runs takes about {duration(left)} here ({steps:,} steps; {_measured_text(found)}). "
        "Evaluating encoders and baselines, and measuring distances, take time in addition.",
        _memory_note(opened),
        *_image_notes(opened),
    ]
    if not price:
        notes.append("Set --price_per_hour to see the price of the training.")
    planned = planned_table(opened)
    if measured:
        planned = planned._replace(seed_deviation=measured.seed_deviation, disagreement=measured.disagreement)
    source = f"measured on the runs in {opened.design.out}" if measured else "assumed, as in quickstart"
    baseline = INITIAL if opened.design.declared.init else UNTRAINED
    notes.append(power_text(planned, opened.design.wanted_difference, source, baseline))
    for note in notes:
        console.print(f"- {note}", highlight=False, soft_wrap=True, markup=False)


def _measured_text(found: Sequence[LearnerCost]) -> str:
    """Returns how the time of a step was measured."""
    part = min((each.images for each in found if each.images < each.learner.batch_size), default=0)
    on = f" on {part} of its {found[0].learner.batch_size} images" if part else ""
    return f"one was measured after compilation{on}"


# FLOPs that a core of a CPU computes in a second of training, measured with ResNets on x86-64 cores with AVX-512.
_CORE = 4e10
# Parameters of encoders that no CPU trains in minutes; the FLOPs of smaller ones are not counted, which takes seconds.
_LARGE = 4e6


def slow_note(opened: Opened) -> str:
    """Returns a sentence about a study that would take a CPU more than an hour, and about what would not; else no text."""
    large = [each for each in opened.learners if each.parameters > _LARGE]
    if jax.default_backend() != "cpu" or not large:
        return ""
    runs = Counter(run.learner for run in opened.own)
    seconds = sum(each.flops * each.steps * runs[each.key] for each in large) / (_CORE * (os.cpu_count() or 1))
    if seconds < 3600:
        return ""
    names = " and ".join(dict.fromkeys(each.settings.encoder for each in large))
    return (
        f"Training {names} takes about {duration(seconds)} on this CPU, by its number of FLOPs. --encoder=patch_mlp or "
        "--encoder=vit_nano4 takes minutes, as does a GPU; --dry_run measures the time of a step."
    )


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


def _memory_note(opened: Opened) -> str:
    parts = ", ".join(f"{learner.state_bytes / 2**20:,.1f} MiB for {learner}" for learner in opened.learners)
    how = f"--sharding={opened.learners[0].settings.sharding} on {environment.devices()}"
    return f"Training state (parameters, target, optimiser) on each device: {parts} ({how}); activations add to it."


def _image_notes(opened: Opened) -> list[str]:
    costs = {uri: each for uri, each in image_costs(opened).items() if each[1]}
    if not costs:
        return []
    parts = ", ".join(f"{unique:,} of {opened.names[uri]} at {cost:,.2f}" for uri, (unique, cost) in costs.items())
    total = sum(cost for _, cost in costs.values())
    return [f"Images cost {total:,.2f}, for the largest subset of each source: {parts}."]


@contextlib.contextmanager
def keep_timing(out: Path, clock: Clock, since: Timing | None = None) -> Iterator[Callable[[], list[Timing]]]:
    """Adds the seconds of a call by part to `timing.json` when the block ends, with or without an error.

    Args:
      out: folder of the study.
      clock: clock of the command.
      since: timing of the command before its work on this study; None: all of its seconds are counted.

    Yields:
      A function for the report. It keeps the seconds up to now, and returns the timings of all calls that the folder keeps.
      What follows in this call counts as `reporting`.
    """
    reported: list[Timing] = []
    kept: list[dict[str, Any]] = []

    def keep(timing: Timing) -> None:
        # Seconds are not worth hiding an error of the block, such as a full disk.
        with contextlib.suppress(OSError, LockedError), editing(out):
            # Shards add their calls at any time.
            others = [each for each in _calls(out) if each not in kept]
            kept[:] = [_as_json(timing)]
            write_json(out / TIMING, {"calls": [*others[1 - _CALLS :], *kept]})

    def timing() -> Timing:
        return clock.timing().since(since) if since else clock.timing()

    def report() -> list[Timing]:
        reported.append(timing())
        keep(reported[-1])
        return read_timings(out)

    try:
        yield report
    finally:
        whole = timing()
        # The parts that the report shows stay as they are, so that the same command later writes the same report.
        last = reported[-1] if reported else whole
        keep(last._replace(parts=last.parts | {REPORTING: whole.seconds - last.seconds}))


def read_timings(out: Path) -> list[Timing]:
    """Returns the timing of each call that a study's folder keeps; damaged entries are ignored."""
    return [timing for timing in map(_of_json, _calls(out)) if timing]


def timing_table(timings: Sequence[Timing]) -> Table:
    """Returns the seconds by part of all calls that trained runs; of the latest call if none did. No rows without calls."""
    # A call that finds everything finished says nothing about the cost of the study.
    counted = [each for each in timings if each.samples] or timings[-1:]
    both = [sum((Counter(getattr(each, name)) for each in counted), Counter()) for name in ("parts", "overlapped")]
    # The report is not written yet when it states the seconds.
    del both[0][REPORTING]
    total = Timing(*both, *(sum(getattr(each, name) for each in counted) for name in Timing._fields[2:]))
    rows = [(name, seconds) for name, seconds in total.ordered()]
    rows += [("all", total.seconds)] if rows else []
    lines = [(name, f"{seconds:,.1f}", f"{seconds / total.seconds * 100:.1f}") for name, seconds in rows]
    calls = f"of the {len(counted)} calls that trained runs" if len(counted) > 1 else "of the call that did the work"
    notes = [f"Seconds {calls}, without those of writing reports"]
    notes += [f"Beside these parts, on other threads: {name} {seconds:,.1f} s" for name, seconds in total.overlapped.items()]
    notes.append(f"{total.compiled:,} programs were compiled and {total.from_cache:,} were read from the compilation cache")
    if total.samples_per_second:
        peak = f", {total.share_of_peak:.0%} of the peak of {environment.devices()}" if total.share_of_peak else ""
        notes.append(f"Training: {total.samples_per_second:,.0f} samples/s{peak}, {total.efficiency:.0%} of all seconds")
    note = "".join(f"{each}. " for each in notes)
    return Table("timing", "Where the time went", ("part", "seconds", "%"), lines, note.rstrip())


def _calls(out: Path) -> list[dict[str, Any]]:
    try:
        return list(read_json(out / TIMING)["calls"])
    except (OSError, ValueError, KeyError, TypeError):
        # The file is a by-product: a damaged one must not stop a study.
        return []


def _as_json(timing: Timing) -> dict[str, Any]:
    rounded = {
        "seconds": timing.seconds,
        "efficiency": timing.efficiency,
        "samples_per_second": timing.samples_per_second,
        "share_of_peak": timing.share_of_peak,
        "parts": dict(timing.ordered()),
        "overlapped": timing.overlapped,
    }
    exact = {"compiled": timing.compiled, "from_cache": timing.from_cache, "samples": timing.samples}
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    about = {"ended": now, "devices": environment.devices()}
    return about | _rounded(rounded) | exact | {"at_peak": timing.at_peak}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return None if value is None else round(value, 3)


def _of_json(call: dict[str, Any]) -> Timing | None:
    try:
        parts = {name: float(seconds) for name, seconds in call["parts"].items()}
        overlapped = {name: float(seconds) for name, seconds in call["overlapped"].items()}
        counts = (int(call[name]) for name in ("compiled", "from_cache", "samples"))
        return Timing(parts, overlapped, *counts, float(call["at_peak"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
