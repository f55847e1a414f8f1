"""From runs to rows and sentences."""

import csv
import dataclasses
import io
import math

from sslshift.study.intervals import Interval, interval, two_digits
from sslshift.study.runner import Results


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: one source and number of unique samples, or a floor.

    Attributes:
      source: URI, or the floor's name.
      unique, diversity, epochs: N, D, E; None for a floor.
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
        shift = results.shifts[source]
        table.append(
            Row(
                source,
                unique,
                budget.diversity(unique),
                budget.epochs(unique),
                (shift["value"], shift["low"], shift["high"]),
                interval([result["knn"] for _, result in chosen]),
                interval([result["linear"] for _, result in chosen]),
                interval([result["linear"] - results.untrained[seed]["linear"] for seed, result in chosen]),
            )
        )
    for name, scores in (("untrained encoder", results.untrained), ("raw pixels", (results.pixels,))):
        knn, linear = (interval([score[what] for score in scores]) for what in ("knn", "linear"))
        table.append(Row(name, None, None, None, None, knn, linear, None))
    return table


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
        if first.unique != last.unique:
            step = _paired(results, source, first.unique, last.unique)
            shown = f"more diversity is {step.verdict}" if step.verdict in ("better", "worse") else step.verdict
            sentences.append(
                f"{place}: from {first.unique:,} to {last.unique:,} different images at the same budget "
                f"(D {first.diversity:.2g} to {last.diversity:.2g}): {step.points}: {shown}."
            )
    return sentences


def _paired(results: Results, source: str, fewer: int, more: int) -> Interval:
    """Linear accuracy with more unique samples less that with fewer, seed by seed."""
    linear = {(run.unique, run.seed): result["linear"] for run, result in results.runs if run.source == source}
    return interval([linear[more, seed] - linear[fewer, seed] for seed in range(results.opened.study.seeds)])


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
        shift = results.shifts[run.source]
        own = {
            "kind": "run",
            "source": run.source,
            "unique": run.unique,
            "seed": run.seed,
            "diversity": round(budget.diversity(run.unique), 6),
            "epochs": round(budget.epochs(run.unique), 6),
            "shift_index": shift["value"],
            "shift_low": shift["low"],
            "shift_high": shift["high"],
            "linear_gain_over_untrained": round(result["linear"] - results.untrained[run.seed]["linear"], 6),
            "licence": results.opened.sources[run.source].licence,
        }
        writer.writerow(shared | own | result)
    for seed, result in enumerate(results.untrained):
        writer.writerow({"kind": "floor", "source": "untrained encoder", "encoder": study.encoder, "seed": seed} | result)
    writer.writerow({"kind": "floor", "source": "raw pixels"} | results.pixels)
    return out.getvalue()
