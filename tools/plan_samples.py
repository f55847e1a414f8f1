r"""Shows what a run would see, before anything is trained: N, samples, D, E, licence, cost by stage and source; and audits it.

    python -m tools.plan_samples --budget=100_000 --mixture="near:bundled:mnist@2_000*0.7 + web:synthetic:noise"
    python -m tools.plan_samples --budget=100_000 --csv=plan.csv \
      --mixture="near:folder:/data/parts@all for 30%; near@all + web:arrayrecord:/data/web@50_000<=40% -> web for 70%"

The form of a mixture is described in sslshift/data/mixture_text.py. The audit recounts the plan's rows one by one, without
regard to how they were made. Exit code: 0 as planned, 1 it cannot be (one sentence says why) or the rows differ from the plan.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from sslshift.budget import Budget
from sslshift.command import run_command
from sslshift.data.audit import Seen
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import Declaration, parse_mixture
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import SCHEMES, Source, open_source

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "mixture", None, "Sources, unique samples, shares and stages, in the form of sslshift/data/mixture_text.py.", required=True
)
flags.DEFINE_integer("budget", None, "C, the training samples seen.", required=True)
flags.DEFINE_integer("batch_size", 256, "Images in a training step.")
flags.DEFINE_integer("seed", 0, "Names the order in which samples are seen.")
flags.DEFINE_integer("subset_seed", 0, "Names the draw of each source's N unique samples.")
flags.DEFINE_enum(
    "audit", "auto", ["auto", "true", "false"], "Recount the rows: all of them, none, or (auto) stretches if they are too many."
)
flags.DEFINE_string("csv", "", "File that the table is written to as well.")

# What is recounted in seconds; of a larger budget, so many random stretches of so many samples.
FULL_AUDIT = 20_000_000
STRETCHES = 16
STRETCH = 500_000


class Line(NamedTuple):
    """A line of the table: one source in one stage, or in "all" of them, or the "total" of all sources."""

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


def lines_of(plan: SamplePlan, sources: Mapping[str, Source]) -> list[Line]:
    """What would be seen: sources by stage, then over all stages if there are several, then everything."""
    stages = plan.mixture.stages
    caps = dict(plan.mixture.caps)
    total = plan.budget.samples

    def line(stage: str, name: str, unique: int, samples: int, ends: tuple[float, float]) -> Line:
        seen = Budget(samples)
        source = sources[name]
        figures = seen.diversity(unique), seen.epochs(unique), *ends, samples / total
        # A cap holds over all stages.
        cap = caps.get(name) if stage == "all" or len(stages) == 1 else None
        return Line(stage, name, unique, samples, *figures, cap, source.licence, unique * source.cost_per_image)

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
    cost = sum(one.cost for one in whole.values())
    unique = plan.mixture.unique
    figures = plan.budget.diversity(unique), plan.budget.epochs(unique)
    everything = Line("total", "", unique, total, *figures, 1.0, 1.0, 1.0, None, "", cost)
    return lines + (list(whole.values()) if len(stages) > 1 else []) + [everything]


def show_lines(lines: Sequence[Line], console: Console) -> None:
    names = ("stage", "source", "N", "samples", "D", "E", "share", "of budget", "licence", "cost")
    table = Table(*(_column(name, right=name not in ("stage", "source", "licence")) for name in names))
    for number, line in enumerate(lines):
        ends = _percent(line.share) + (f" -> {_percent(line.end_share)}" if line.end_share != line.share else "")
        of_budget = _percent(line.budget_share) + (f" (cap {_percent(line.cap)})" if line.cap else "")
        table.add_row(
            line.stage,
            escape(line.source),
            f"{line.unique:,}",
            f"{line.samples:,}",
            f"{line.diversity:.3g}",
            f"{line.epochs:,.0f}" if line.epochs >= 1000 else f"{line.epochs:.4g}",
            ends if line.stage.isdigit() else "",
            of_budget,
            escape(line.licence),
            f"{line.cost:,.2f}",
            end_section=number + 1 < len(lines) and lines[number + 1].stage != line.stage,
        )
    console.print(table)


def write_csv(lines: Sequence[Line], uris: Mapping[str, str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Line._fields, "uri"])
        writer.writerows([*line, uris.get(line.source, "")] for line in lines)


def stretches_of(plan: SamplePlan, audit: str) -> list[tuple[int, int]]:
    """Which positions are recounted: all, none, or random stretches of a budget that takes too long."""
    total = plan.budget.samples
    if audit == "false":
        return []
    if audit == "true" or total <= FULL_AUDIT:
        return [(0, total)]
    starts = random.Random(plan.seed).sample(range(total - STRETCH), STRETCHES)
    return [(start, start + STRETCH) for start in sorted(starts)]


def recount(plan: SamplePlan, stretches: Sequence[tuple[int, int]], console: Console) -> list[tuple[Seen, bool]]:
    """What the stretches hold, by stage and source over all of them, and whether each is as planned."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    found: dict[tuple[int, str], tuple[Seen, bool]] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("recounting", total=sum(stop - start for start, stop in stretches))
        for start, stop in stretches:
            for seen in plan.audit(start, stop, lambda samples: bars.advance(bar, samples)):
                known, agrees = found.get(seen[:2], (seen._replace(samples=0), True))
                merged = seen._replace(
                    samples=known.samples + seen.samples,
                    unique=max(known.unique, seen.unique),
                    fewest=min(known.fewest, seen.fewest),
                    most=max(known.most, seen.most),
                )
                found[seen[:2]] = merged, agrees and plan.agrees(seen, start, stop)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], plan.sources.index(key[1])))]


def show_recount(found: Sequence[tuple[Seen, bool]], console: Console) -> None:
    names = ("stage", "source", "samples", "unique", "fewest", "most", "audit")
    table = Table(*(_column(name, right=name not in ("stage", "source", "audit")) for name in names))
    for seen, agrees in found:
        counts = (f"{count:,}" for count in seen[2:])
        table.add_row(str(seen.stage + 1), escape(seen.source), *counts, "as planned" if agrees else "differs")
    console.print(table)


def _column(name: str, right: bool) -> Column:
    return Column(name, justify="right" if right else "left", overflow="fold")


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _opened(declaration: Declaration, console: Console) -> dict[str, Source]:
    sources = {}
    for name, uri in declaration.uris.items():
        sources[name] = source = open_source(uri)
        called = "" if name == uri else f"{name} = "
        refused = f", {len(source.refused):,} files refused, e.g. {': '.join(source.refused[0])}" if source.refused else ""
        console.print(f"{called}{uri}: {len(source):,} images{refused}", highlight=False, soft_wrap=True, markup=False)
        for note in source.notes:
            console.print(f"{called}{uri}: {note}", highlight=False, soft_wrap=True, markup=False)
    return sources


def main() -> None:
    # In a file the table must not be folded to 80 columns.
    console = Console(emoji=False)
    console = console if console.is_terminal else Console(emoji=False, width=140)
    declaration = parse_mixture(FLAGS.mixture, SCHEMES)
    budget = Budget(FLAGS.budget)
    steps = budget.steps(FLAGS.batch_size)
    sources = _opened(declaration, console)
    mixture = resolve(declaration, {name: len(source) for name, source in sources.items()}, budget)
    labels = {name: source.labels for name, source in sources.items() if source.labels is not None}
    plan = SamplePlan(mixture, budget, FLAGS.batch_size, FLAGS.seed, FLAGS.subset_seed, labels)
    rest = budget.samples - steps * FLAGS.batch_size
    left = f" and {rest:,} samples, which training leaves out" if rest else ""
    console.print(f"{declaration}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"{budget.samples:,} samples: {steps:,} steps of {FLAGS.batch_size:,}{left}", highlight=False)
    lines = lines_of(plan, sources)
    show_lines(lines, console)
    if FLAGS.csv:
        write_csv(lines, declaration.uris, Path(FLAGS.csv))
        console.print(f"wrote {FLAGS.csv}", highlight=False, soft_wrap=True, markup=False)
    stretches = stretches_of(plan, FLAGS.audit)
    if len(stretches) > 1:
        part = _percent(STRETCHES * STRETCH / budget.samples)
        console.print(
            f"Recounted: {STRETCHES} random stretches of {STRETCH:,} samples, {part} of the budget (--audit=true: all of it). "
            "Samples are those of all stretches; unique, fewest and most the extremes of a single one.",
            highlight=False,
            soft_wrap=True,
        )
    found = recount(plan, stretches, console)
    if found:
        show_recount(found, console)
    if not all(agrees for _, agrees in found):
        raise RuntimeError("The plan's rows are not what the mixture asks for; this is an error of sslshift: please report it.")


if __name__ == "__main__":
    run_command(main)
