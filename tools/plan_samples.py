r"""Shows the samples of a run before it is trained: N, samples, D, E, licence and cost by stage and source.

    python -m tools.plan_samples --budget=100_000 --mixture="near:bundled:mnist@2_000*0.7 + web:synthetic:noise"
    python -m tools.plan_samples --budget=100_000 --csv=plan.csv \
      --mixture="near:folder:/data/parts@all for 30%; near@all + web:arrayrecord:/data/web@50_000<=40% -> web for 70%"

sslshift/data/mixture_text.py describes the form of a mixture. The audit counts the plan's rows one by one, independently
of their computation. Exit code 0: the rows are as planned; 1: the plan is impossible (one sentence gives the reason), or the
rows differ.
"""

from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sslshift import storage
from sslshift.budget import Budget
from sslshift.command import run_command
from sslshift.data import preview
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import Declaration, parse_mixture
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import SCHEMES, Source, open_source
from sslshift.data.sources.refusals import examples

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "mixture", None, "Sources, unique samples, shares and stages, in the form of sslshift/data/mixture_text.py.", required=True
)
flags.DEFINE_integer("budget", None, "C, the number of training samples.", required=True)
flags.DEFINE_integer("batch_size", 256, "Number of images in a training step.")
flags.DEFINE_integer("seed", 0, "Seed of the order in which samples are seen.")
flags.DEFINE_integer("subset_seed", 0, "Seed of the draw of each source's N unique samples.")
flags.DEFINE_enum("audit", "auto", ["auto", "true", "false"], "Recount all rows, no rows, or (auto) parts of a large plan.")
flags.DEFINE_string("csv", "", "File for a copy of the table; empty: no file.")


def main() -> None:
    # In a file, the table must not be wrapped at 80 columns.
    console = Console(emoji=False)
    console = console if console.is_terminal else Console(emoji=False, width=140)
    declaration = parse_mixture(FLAGS.mixture, SCHEMES)
    budget = Budget(FLAGS.budget)
    steps = budget.steps(FLAGS.batch_size)
    sources = _open_sources(declaration, console)
    mixture = resolve(declaration, {name: len(source) for name, source in sources.items()}, budget)
    labels = {name: source.labels for name, source in sources.items() if source.labels is not None}
    plan = SamplePlan(mixture, budget, FLAGS.batch_size, FLAGS.seed, FLAGS.subset_seed, labels)
    rest = budget.samples - steps * FLAGS.batch_size
    excluded = f" and {rest:,} samples, which training does not use" if rest else ""
    _say(console, f"{declaration}")
    console.print(f"{budget.samples:,} samples: {steps:,} steps of {FLAGS.batch_size:,}{excluded}", highlight=False)
    lines = preview.plan_lines(plan, sources)
    console.print(preview.plan_table(lines))
    if FLAGS.csv:
        Path(FLAGS.csv).parent.mkdir(parents=True, exist_ok=True)
        storage.write(FLAGS.csv, preview.plan_csv(lines, declaration.uris))
        _say(console, f"wrote {FLAGS.csv}")
    _audit(plan, console)


def _open_sources(declaration: Declaration, console: Console) -> dict[str, Source]:
    sources = {}
    for name, uri in declaration.uris.items():
        sources[name] = source = open_source(uri)
        called = "" if name == uri else f"{name} = "
        refused = f", {len(source.refused):,} files refused, e.g. {examples(source.refused)}" if source.refused else ""
        for text in (f"{len(source):,} images{refused}", *source.notes):
            _say(console, f"{called}{uri}: {text}")
    return sources


def _audit(plan: SamplePlan, console: Console) -> None:
    stretches = preview.stretches_to_recount(plan, FLAGS.audit)
    if len(stretches) > 1:
        part = preview.percent(preview.STRETCHES * preview.STRETCH / plan.budget.samples)
        _say(
            console,
            f"Recounted: {preview.STRETCHES} random stretches of {preview.STRETCH:,} samples, {part} of the budget "
            "(--audit=true: all of it). Samples are the sum over stretches; unique, fewest and most are the extremes of single "
            "stretches.",
        )
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("recounting", total=sum(stop - start for start, stop in stretches))
        found = preview.recount(plan, stretches, lambda samples: bars.advance(bar, samples))
    if found:
        console.print(preview.recount_table(found))
    if not all(each.agrees for each in found):
        raise RuntimeError("The plan's rows differ from the mixture. This is an error of sslshift; please report it.")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(main)
