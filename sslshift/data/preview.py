"""Preview of a sample plan: the images that a run would see, as a table, and a recount of the plan's rows.

`python -m tools.plan_samples` prints both before anything is trained.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Column, Table

from sslshift.budget import Budget
from sslshift.data.plan import SamplePlan, Seen
from sslshift.data.sources import Source
from sslshift.reporting import csv_text

# Largest budget that is recounted completely, which takes seconds. Only random stretches of a larger budget are recounted.
FULL_AUDIT = 20_000_000
STRETCHES = 16
STRETCH = 500_000


class PlanLine(NamedTuple):
    """Line of the table: one source in one stage, one source in "all" stages, or the "total" of all sources.

    Attributes:
      stage: number of the stage, "all" or "total".
      source: name of the source; empty for the total.
      unique: N.
      samples: training samples.
      diversity: D = N / samples.
      epochs: E = samples / N.
      share: part of the stage's samples at its start.
      end_share: part of the stage's samples at its end.
      budget_share: part of the whole budget.
      cap: largest part of the budget that the source may take, if any.
      licence: licence of the source.
      cost: cost of the unique images.
    """

    stage: str
    source: str
    unique: int
    samples: int
    diversity: float
    epochs: float
    share: float
    end_share: float
    budget_share: float
    cap: float | None
    licence: str
    cost: float


def plan_lines(plan: SamplePlan, sources: Mapping[str, Source]) -> list[PlanLine]:
    """Returns a line for each source by stage, then for each source over all stages if there are several, then the total."""
    stages = plan.mixture.stages
    caps = dict(plan.mixture.caps)
    total = plan.budget.samples

    def line(stage: str, name: str, unique: int, samples: int, ends: tuple[float, float]) -> PlanLine:
        seen = Budget(samples)
        source = sources[name]
        figures = seen.diversity(unique), seen.epochs(unique), *ends, samples / total
        # A cap holds over all stages, so it is shown where the line covers all of them.
        cap = caps.get(name) if stage == "all" or len(stages) == 1 else None
        return PlanLine(stage, name, unique, samples, *figures, cap, source.licence, unique * source.cost_per_image)

    lines = [
        line(str(number), component.source, component.unique, samples, component.ends)
        for number, (stage, counts) in enumerate(zip(stages, plan.counts, strict=True), 1)
        for component, samples in zip(stage.components, counts, strict=True)
    ]
    samples_of = {name: sum(one.samples for one in lines if one.source == name) for name in plan.sources}
    whole = {
        name: line("all", name, plan.mixture.largest[name], samples, (samples / total,) * 2)
        for name, samples in samples_of.items()
    }
    # Subsets of one source are nested, so the cost of an image counts once and not once per stage.
    cost = sum(one.cost for one in whole.values())
    unique = plan.mixture.unique
    figures = plan.budget.diversity(unique), plan.budget.epochs(unique)
    everything = PlanLine("total", "", unique, total, *figures, 1.0, 1.0, 1.0, None, "", cost)
    return lines + (list(whole.values()) if len(stages) > 1 else []) + [everything]


def plan_table(lines: Sequence[PlanLine]) -> Table:
    """Returns the lines as a table for a terminal."""
    names = ("stage", "source", "N", "samples", "D", "E", "share", "of budget", "licence", "cost")
    table = Table(*(_column(name, right=name not in ("stage", "source", "licence")) for name in names))
    for number, line in enumerate(lines):
        ends = percent(line.share) + (f" -> {percent(line.end_share)}" if line.end_share != line.share else "")
        of_budget = percent(line.budget_share) + (f" (cap {percent(line.cap)})" if line.cap else "")
        table.add_row(
            line.stage,
            escape(line.source),
            f"{line.unique:,}",
            f"{line.samples:,}",
            f"{line.diversity:.3g}",
            f"{line.epochs:,.0f}" if line.epochs >= 1000 else f"{line.epochs:.4g}",
            # A share is a share of one stage.
            ends if line.stage.isdigit() else "",
            of_budget,
            escape(line.licence),
            f"{line.cost:,.2f}",
            end_section=number + 1 < len(lines) and lines[number + 1].stage != line.stage,
        )
    return table


def plan_csv(lines: Sequence[PlanLine], uris: Mapping[str, str]) -> str:
    """Returns the lines as CSV, with the URI of each source."""
    return csv_text([*PlanLine._fields, "uri"], [[*line, uris.get(line.source, "")] for line in lines])


def stretches_to_recount(plan: SamplePlan, audit: str) -> list[tuple[int, int]]:
    """Returns the positions that a recount covers, as pairs of first and one after the last.

    Args:
      plan: the sample plan.
      audit: "true": all positions; "false": none; "auto": all, or random stretches of a budget above `FULL_AUDIT`.
    """
    total = plan.budget.samples
    if audit == "false":
        return []
    if audit == "true" or total <= FULL_AUDIT:
        return [(0, total)]
    # Seeded, so that the same plan is always recounted in the same places.
    starts = random.Random(plan.seed).sample(range(total - STRETCH), STRETCHES)
    return [(start, start + STRETCH) for start in sorted(starts)]


class Recounted(NamedTuple):
    """Counts of one source in one stage over all stretches; `agrees` is True if every stretch agrees with the mixture."""

    seen: Seen
    agrees: bool


def recount(
    plan: SamplePlan, stretches: Sequence[tuple[int, int]], on_progress: Callable[[int], object] = lambda samples: None
) -> list[Recounted]:
    """Recounts the plan's rows, independently of how the plan made them, and compares the counts with the mixture.

    Args:
      plan: the sample plan.
      stretches: positions to recount.
      on_progress: called with the number of samples counted since the last call.

    Returns:
      Counts by stage and source. `samples` is the sum over all stretches; the other counts are extremes over stretches.
    """
    found: dict[tuple[int, str], Recounted] = {}
    for start, stop in stretches:
        for seen in plan.audit(start, stop, on_progress):
            key = seen.stage, seen.source
            known, agrees = found.get(key, Recounted(seen._replace(samples=0), True))
            merged = seen._replace(
                samples=known.samples + seen.samples,
                unique=max(known.unique, seen.unique),
                fewest=min(known.fewest, seen.fewest),
                most=max(known.most, seen.most),
            )
            found[key] = Recounted(merged, agrees and plan.agrees(seen, start, stop))
    return [found[key] for key in sorted(found, key=lambda key: (key[0], plan.sources.index(key[1])))]


def recount_table(found: Sequence[Recounted]) -> Table:
    """Returns the counts as a table for a terminal."""
    names = ("stage", "source", "samples", "unique", "fewest", "most", "audit")
    table = Table(*(_column(name, right=name not in ("stage", "source", "audit")) for name in names))
    for seen, agrees in found:
        counts = (f"{count:,}" for count in (seen.samples, seen.unique, seen.fewest, seen.most))
        table.add_row(str(seen.stage + 1), escape(seen.source), *counts, "as planned" if agrees else "differs")
    return table


def percent(share: float) -> str:
    """Returns a share as text, such as "12.5%"."""
    return f"{100 * share:.4g}%"


def _column(name: str, right: bool) -> Column:
    return Column(name, justify="right" if right else "left", overflow="fold")
