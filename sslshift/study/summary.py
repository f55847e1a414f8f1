"""From runs to rows and sentences."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np

from sslshift.study.intervals import Interval, crossed, interval, two_digits
from sslshift.study.leaks import told
from sslshift.study.runner import Results


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: one source and number of unique samples, or a floor.

    Attributes:
      source: URI, or the floor's name.
      unique, diversity, epochs: N, D, E, of what could be read (the mean over draws, rounded); None for a floor.
      shift: the source's shift index as (value, low, high); None for a floor.
      knn, linear: test accuracy over seeds.
      gain: linear accuracy less that of the same seed's untrained encoder; None for a floor.
    """

    source: str
    unique: int | None
    diversity: float | None
    epochs: float | None
    shift: tuple[float, float, float] | None
    knn: Interval
    linear: Interval
    gain: Interval | None


def rows(results: Results) -> list[Row]:
    """The table's lines, sources in the order of their shift, then unique samples, floors last."""
    budget = results.opened.budget
    kinds = sorted(
        {(run.source, run.unique) for run, _ in results.runs}, key=lambda kind: (shift_order(results.shifts[kind[0]]), kind)
    )
    table = []
    for source, unique in kinds:
        chosen = [(run.seed, result) for run, result in results.runs if (run.source, run.unique) == (source, unique)]
        read = round(sum(result["unique_read"] for _, result in chosen) / len(chosen))
        shift = results.shifts[source]
        table.append(
            Row(
                source,
                read,
                budget.diversity(read),
                budget.epochs(read),
                (shift["value"], shift["low"], shift["high"]),
                over_runs(results, [result["knn"] for _, result in chosen]),
                over_runs(results, [result["linear"] for _, result in chosen]),
                over_runs(results, [result["linear"] - results.untrained[seed]["linear"] for seed, result in chosen]),
            )
        )
    for name, scores in (("untrained encoder", results.untrained), ("raw pixels", (results.pixels,))):
        knn, linear = (interval([score[what] for score in scores]) for what in ("knn", "linear"))
        table.append(Row(name, None, None, None, None, knn, linear, None))
    return table


def over_runs(results: Results, values: Sequence[float]) -> Interval:
    """Mean and interval over the runs of one kind, in their order: seeds, or every draw with every seed."""
    study = results.opened.study
    return crossed(np.reshape(values, (study.draws, study.seeds))).mean if study.draws else interval(values)


def shift_order(shift: dict) -> float:
    """Sort key of a shift: near sources first, those without an index last."""
    return math.inf if math.isnan(shift["value"]) else shift["value"]


def findings(results: Results) -> list[str]:
    """What the study shows, in sentences that claim no more than the intervals do."""
    table = [row for row in rows(results) if row.unique is not None]
    sentences = []
    for source in dict.fromkeys(row.source for row in table):
        ladder = [row for row in table if row.source == source]
        first, last = ladder[0], ladder[-1]
        place = f"{source} (shift index {two_digits(first.shift[0])})"
        sentences.append(
            f"{place}: pretrained on {last.unique:,} different images, the encoder's linear probe is "
            f"{last.gain.points} from the untrained encoder's: {last.gain.verdict}."
        )
        numbers = [run.unique for run, _ in results.runs if run.source == source]
        if min(numbers) != max(numbers):
            step = _paired(results, source, min(numbers), max(numbers))
            shown = f"more diversity is {step.verdict}" if step.verdict in ("better", "worse") else step.verdict
            sentences.append(
                f"{place}: from {first.unique:,} to {last.unique:,} different images at the same budget "
                f"(D {first.diversity:.2g} to {last.diversity:.2g}): {step.points}: {shown}."
            )
    leaked = [
        f"Warning: {told(uri, leaks, results.opened)}; accuracies after pretraining on it may be too high."
        for uri, leaks in results.leaks.items()
        if leaks.get("count")
    ]
    return sentences + _scatter(results) + leaked


def _paired(results: Results, source: str, fewer: int, more: int) -> Interval:
    """Linear accuracy with more unique samples less that with fewer, run by run of the same seed and draw."""
    linear = {(run.unique, run.draw, run.seed): result["linear"] for run, result in results.runs if run.source == source}
    pairs = [(run.draw, run.seed) for run, _ in results.runs if (run.source, run.unique) == (source, more)]
    return over_runs(results, [linear[more, *pair] - linear[fewer, *pair] for pair in pairs])


def _scatter(results: Results) -> list[str]:
    """How much of the differences between runs comes from the draw of the subset, and how much from the training seed."""
    study = results.opened.study
    if min(study.draws, study.seeds) < 2:
        return []
    kinds = dict.fromkeys((run.source, run.unique) for run, _ in results.runs)
    parts = []
    for kind in kinds:
        values = [result["linear"] for run, result in results.runs if (run.source, run.unique) == kind]
        parts.append(crossed(np.reshape(values, (study.draws, study.seeds))))
    draws, seeds = (100 * np.sqrt(np.mean([getattr(part, what) ** 2 for part in parts])) for what in ("draws", "seeds"))
    return [
        f"Runs of one kind differ by {draws:.2f} points between draws of the subset and by {seeds:.2f} points between training "
        f"seeds (standard deviations of linear accuracy; {study.draws} draws x {study.seeds} seeds)."
    ]


def results_csv(results: Results) -> str:
    """One line per run and floor, as CSV; accuracies in [0, 1]."""
    study, budget = results.opened.study, results.opened.budget
    columns = [
        "kind",
        "source",
        "unique",
        "diversity",
        "epochs",
        "budget",
        "batch_size",
        "method",
        "encoder",
        "seed",
        "draw",
        "broken",
        "cost",
        "shift_index",
        "shift_low",
        "shift_high",
        "knn",
        "linear",
        "linear_gain_over_untrained",
        "knn_validation",
        "knn_neighbours",
        "knn_temperature",
        "linear_validation",
        "linear_strength",
        "effective_rank",
        "loss_first",
        "loss_last",
        "licence",
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    shared = {"budget": budget.samples, "batch_size": study.batch_size, "method": study.method, "encoder": study.encoder}
    for run, result in results.runs:
        shift, facts = results.shifts[run.source], results.opened.facts(results.opened.candidate(run))
        own = {
            "kind": "run",
            "source": run.source,
            "unique": run.unique,
            "seed": run.seed,
            "draw": run.draw,
            "cost": round(results.opened.cost(results.opened.candidate(run)), 6),
            "diversity": round(budget.diversity(result["unique_read"]), 6),
            "epochs": round(budget.epochs(result["unique_read"]), 6),
            "shift_index": shift["value"],
            "shift_low": shift["low"],
            "shift_high": shift["high"],
            "linear_gain_over_untrained": round(result["linear"] - results.untrained[run.seed]["linear"], 6),
            "licence": "; ".join(dict.fromkeys(fact["licence"] for fact in facts.values())),
        }
        scores = {name: value for name, value in result.items() if name in columns}
        writer.writerow(shared | own | scores | {"unique": result["unique_read"]})
    for seed, result in enumerate(results.untrained):
        writer.writerow({"kind": "floor", "source": "untrained encoder", "encoder": study.encoder, "seed": seed} | result)
    writer.writerow({"kind": "floor", "source": "raw pixels"} | results.pixels)
    return out.getvalue()
