"""Pilots: one study for each budget, run one after the other, with what they cost and one table of all of them."""

import contextlib
import dataclasses
import math
import shlex
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sslshift import cluster
from sslshift.clock import Clock
from sslshift.decision.design import PilotStudy, pilot_studies, without_levels
from sslshift.planning.prices import Prices, read_prices
from sslshift.reporting import Table, print_table
from sslshift.reporting.ledger import CSV, LedgerRow, append
from sslshift.reporting.progress import duration
from sslshift.shards import editing, occupied
from sslshift.stopping import Stop
from sslshift.storage import NotStoredError, write
from sslshift.study.cli import console, describe_study, open_same, report_opened, run_opened
from sslshift.study.cost import learner_costs, reference_cost
from sslshift.study.evaluate import untrained_encoder
from sslshift.study.ledger import run_rows
from sslshift.study.opened import Opened, open_again
from sslshift.study.progress import Progress
from sslshift.study.results import Results
from sslshift.study.runner import read_results
from sslshift.transfer.protocol import evaluate

_TABLE = "table.md"


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedPilots:
    """Pilots with everything that they name, checked and built.

    Attributes:
      declared: the declaration.
      studies: the studies at the larger and at the smaller budget.
    """

    declared: PilotStudy
    studies: tuple[Opened, Opened]

    @property
    def out(self) -> Path:
        """Folder of all studies."""
        return Path(self.declared.out)

    @property
    def used(self) -> dict[str, int]:
        """Largest number of unique samples of each source in any pilot, by name."""
        used: dict[str, int] = defaultdict(int)
        for opened in self.studies:
            for candidate in opened.candidates:
                name = opened.names[candidate.name]
                used[name] = max(used[name], candidate.unique)
        return dict(used)


def open_pilots(study: PilotStudy, progress: Progress) -> OpenedPilots:
    """Opens the sources and tasks of pilots, and reports every mistake before anything is trained.

    Raises:
      ValueError: the declaration is wrong, two sources are the same images, a source has too few, or the prices do not fit.
    """
    base = open_same(without_levels(study), progress)
    _require_different(base)
    sizes = {uri: len(source) for uri, source in base.sources.items()}
    larger, smaller = (open_again(base, each) for each in pilot_studies(study, sizes))
    pilots = OpenedPilots(study, (larger, smaller))
    if study.prices:
        # The speed is measured later; the prices of the sources are checked now.
        read_prices(Path(study.prices), pilots.used, 1.0)
    return pilots


def run_pilots(study: PilotStudy, *, command: str = "", clock: Clock | None = None, stop: Stop | None = None) -> None:
    """Runs pilots to their end, joins their tables, and says what to do next; continues where an earlier call stopped.

    Args:
      study: the declaration.
      command, clock, stop: see `sslshift.study.cli.run`.

    Raises:
      RuntimeError: some runs failed (raised after all others are done and joined), or another process uses the folder.
      ValueError: the declaration is wrong, or the folder holds other pilots.
    """
    with contextlib.nullcontext(clock) if clock else Clock().running() as clock:
        progress = Progress(console(), clock, stop)
        pilots = open_pilots(study, progress)
        describe_study(pilots.studies[0], progress)
        run_opened_pilots(pilots, progress, command)


def run_opened_pilots(pilots: OpenedPilots, progress: Progress, command: str = "") -> list[str]:
    """Runs opened pilots, see `run_pilots`; returns warnings for who plans from them."""
    failures = []
    shard = pilots.studies[0].design.shard
    with occupied(pilots.out, shard):
        since = None
        # The cheaper study comes first, so that whatever is wrong shows early.
        for opened in reversed(pilots.studies):
            progress.note(f"\npilots at a budget of {opened.design.budget.samples:,} samples, in {opened.design.out}/")
            try:
                run_opened(opened, progress, command, since)
            except RuntimeError as error:
                failures.append(error)
            since = progress.clock.timing()
        warnings = join(pilots, progress) if cluster.is_first() else []
    if failures:
        raise failures[0]
    return warnings


def dry_run_pilots(study: PilotStudy, *, clock: Clock | None = None) -> None:
    """Prints what pilots would take in runs, hours and money; trains nothing and writes nothing."""
    progress = Progress(console(), clock)
    pilots = open_pilots(study, progress)
    describe_study(pilots.studies[0], progress)
    show_cost(pilots, pilot_costs(pilots), progress)


def report_pilots(study: PilotStudy, *, command: str = "", clock: Clock | None = None) -> None:
    """Reports the results of pilots and joins their tables; trains and evaluates nothing.

    Raises:
      NotStoredError: no run is finished.
    """
    progress = Progress(console(), clock)
    pilots = open_pilots(study, progress)
    for opened in reversed(pilots.studies):
        try:
            report_opened(opened, progress, command)
        except NotStoredError as error:
            progress.note(str(error))
    if cluster.is_first():
        join(pilots, progress)


class PilotCost(NamedTuple):
    """Cost of the pilots at one budget.

    Attributes:
      budget: C.
      runs: number of runs.
      missing: number of runs that are not trained yet.
      samples: training samples of what is missing, those of the encoders behind the shift index among them.
      training: seconds of the training that is missing.
      evaluating: seconds of the evaluations that are missing, by the time of one.
    """

    budget: int
    runs: int
    missing: int
    samples: int
    training: float
    evaluating: float

    @property
    def seconds(self) -> float:
        """Seconds of training and evaluation."""
        return self.training + self.evaluating


def pilot_costs(pilots: OpenedPilots) -> list[PilotCost]:
    """Returns the cost of what is missing at each budget; measures a training step and an evaluation, and writes nothing."""
    found = []
    evaluation = None
    for opened in pilots.studies:
        costs = learner_costs(opened)
        missing = sum(each.missing for each in costs)
        if missing and evaluation is None:
            evaluation = _evaluation_seconds(opened)
        references = reference_cost(opened, costs)
        costs += [references] if references else []
        samples = sum(each.missing * each.learner.budget.samples for each in costs)
        # Untrained encoders are evaluated too, and raw pixels.
        baselines = opened.design.untrained_seeds * len(opened.learners) + 1
        evaluated = (missing + baselines) * (evaluation or 0.0) if missing else 0.0
        runs = len(opened.own)
        found.append(
            PilotCost(opened.design.budget.samples, runs, missing, samples, sum(each.seconds for each in costs), evaluated)
        )
    return found


def _evaluation_seconds(opened: Opened) -> float:
    """Returns the seconds of an evaluation on all tasks, measured with an untrained encoder after compilation."""
    encoder = untrained_encoder(opened, opened.learners[0], 0)
    seconds = math.nan
    for _ in range(2):
        started = time.monotonic()
        for task in opened.tasks:
            evaluate(encoder, task, opened.design.evaluations)
        seconds = time.monotonic() - started
    return seconds


def show_cost(pilots: OpenedPilots, costs: Sequence[PilotCost], progress: Progress) -> None:
    """Prints what pilots would take, with the price of the training if prices are known."""
    head = ("budget", "runs", "missing", "samples", "training", "evaluation")
    lines = [
        (
            f"{each.budget:,}",
            f"{each.runs:,}",
            f"{each.missing:,}",
            f"{each.samples:,}",
            duration(each.training),
            duration(each.evaluating),
        )
        for each in reversed(costs)
    ]
    print_table(Table("cost", "Cost of the pilots", head, lines), progress.console)
    progress.note(cost_text(pilots, costs))


def cost_text(pilots: OpenedPilots, costs: Sequence[PilotCost]) -> str:
    """Returns what is missing of pilots, in hours and money, in one sentence."""
    runs = sum(each.missing for each in costs)
    if not runs:
        return "All pilots are trained."
    seconds = sum(each.seconds for each in costs)
    prices = pilot_prices(pilots, costs)
    declared = pilots.declared
    if prices and prices.per_sample:
        money = prices.per_sample * sum(each.samples for each in costs)
        price = f" The training costs about {money:,.2f} {prices.currency}".rstrip() + "."
    elif declared.price_per_hour:
        price = f" They cost about {seconds / 3600 * declared.price_per_hour:,.2f} at {declared.price_per_hour:g} an hour."
    else:
        price = "" if prices else " --prices=FILE shows what the training costs."
    return f"The pilots that are missing, {runs:,} runs, take about {duration(seconds)} here.{price}"


def pilot_prices(pilots: OpenedPilots, costs: Sequence[PilotCost]) -> Prices | None:
    """Returns the prices that were given, with the measured speed if the file has none; None without a file."""
    if not pilots.declared.prices:
        return None
    seconds = sum(each.training for each in costs)
    speed = sum(each.samples for each in costs) / seconds if seconds else 1.0
    return read_prices(Path(pilots.declared.prices), pilots.used, speed)


def join(pilots: OpenedPilots, progress: Progress) -> list[str]:
    """Writes OUT/results.csv and OUT/table.md with the finished runs of all budgets, and prints the table and the next command.

    Returns:
      Warnings for who plans from the pilots.

    Raises:
      NotStoredError: no run is finished.
    """
    results = []
    for opened in pilots.studies:
        # One of the studies may have failed before its first run.
        with contextlib.suppress(NotStoredError):
            results.append(read_results(opened))
    rows = joined_rows(results)
    if not rows:
        raise NotStoredError(f"{pilots.out} has no finished pilot yet.")
    table = pilot_table(rows)
    out = pilots.out
    with editing(out):
        append([], rows, out)
        write(out / _TABLE, table.markdown)
    print_table(table, progress.console)
    warnings = list(filter(None, [weak_note(results)]))
    for warning in warnings:
        progress.note(f"Warning: {warning}")
    for path in (out / CSV, out / _TABLE):
        progress.note(f"wrote {path}")
    if not any(each.missing or each.failed for each in results):
        prices = pilots.declared.prices or "prices.toml"
        parts = [f"--results={out}", f"--prices={prices}", "--money=1000", f"--out={out / 'plan'}"]
        progress.note(f"Next, what to collect for your money: python -m tools.plan {' '.join(map(shlex.quote, parts))}")
    return warnings


def joined_rows(results: Sequence[Results]) -> list[LedgerRow]:
    """Returns the rows of all finished runs, the smallest budget first, with sources by name.

    All have the shift index of the first of the results that measured one.
    """
    measured = next((each for each in results if each.opened.design.shift.images), None)
    rows = []
    for each in sorted(results, key=lambda each: each.opened.design.budget):
        shifts = measured.task_shifts if measured else each.task_shifts
        for finished in each.runs:
            untrained = each.untrained[*finished.run.learner, finished.run.seed]
            for row in run_rows(each.opened, finished, untrained, shifts, each.initial):
                known = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
                rows.append(known | {"source": each.opened.names[finished.run.source]})
    return rows


def weak_note(results: Sequence[Results]) -> str:
    """Returns a sentence if no pilots are better than raw pixels on the first task; else no text."""
    scores: dict[tuple, list[float]] = defaultdict(list)
    for each in results:
        task = each.opened.task.name
        for finished in each.runs:
            run = finished.run
            cell = (*run.learner, run.source, run.unique, each.opened.design.budget)
            scores[cell].append(finished.evaluated.scores[task].linear)
    best = max(sum(values) / len(values) for values in scores.values())
    pixels = results[0].pixels.scores[results[0].opened.task.name].linear
    if best > pixels:
        return ""
    return (
        f"The best pilots reach {best:.1%}, and raw pixels {pixels:.1%}. These pilots learn little that the task "
        "needs, and a better encoder may rank the sources differently: raise --budget, or choose another --encoder."
    )


def pilot_table(rows: Sequence[LedgerRow]) -> Table:
    """Returns the mean accuracy of each source at each budget and number of unique samples."""
    cells: dict[tuple, list[float]] = defaultdict(list)
    keys = ("task", "method", "encoder", "source", "budget", "unique")
    for row in rows:
        cells[tuple(row[key] for key in keys)].append(row["linear"])
    # The table has the columns of words that vary.
    several = [place for place in range(3) if len({key[place] for key in cells}) > 1]
    lines = [
        (
            *(key[place] for place in (*several, 3)),
            *(f"{number:,}" for number in key[4:]),
            f"{key[4] / key[5]:.3g}",
            str(len(values)),
            f"{sum(values) / len(values) * 100:.1f}",
        )
        for key, values in sorted(cells.items())
    ]
    head = (*(keys[place] for place in (*several, 3)), "budget C", "unique N", "epochs E", "seeds", "linear %")
    return Table("pilots", "Pilots: mean accuracy of the linear probe", head, lines, text_columns=len(several) + 1)


def _require_different(opened: Opened) -> None:
    """Raises ValueError if two sources are the same images, which would count twice."""
    found: dict[str, str] = {}
    for uri, source in opened.sources.items():
        other = found.setdefault(source.fingerprint, uri)
        if other != uri:
            raise ValueError(f"--sources: {opened.names[other]} and {opened.names[uri]} are the same images. Give one of them.")
