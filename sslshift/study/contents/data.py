"""Tables of what is trained on: how far it is, and what mixtures show of it."""

import math

from sslshift.reporting import Table
from sslshift.study.candidates import sample_plan
from sslshift.study.intervals import two_digits
from sslshift.study.results import Results


def shift_table(results: Results) -> Table:
    """How far each candidate is from the downstream images of each task."""
    lines = []
    for task, shifts in results.task_shifts.items():
        for name, shift in sorted(shifts.items(), key=lambda item: (math.isnan(item[1]["value"]), item[1]["value"])):
            values = (
                f"{shift[each]:.3g}" if shift[each] == shift[each] else "n/a" for each in ("distance", "floor", "ceiling")
            )
            span = f"{two_digits(shift['low'])} to {two_digits(shift['high'])}"
            size = f"{shift['sample_size']:,.0f}" if shift["sample_size"] == shift["sample_size"] else "n/a"
            lines.append((task, name, two_digits(shift["value"]), span, *values, size))
    head = (
        "task",
        "source",
        "shift index",
        "95% interval",
        "distance",
        "floor (other half)",
        "ceiling (noise)",
        "images a side",
    )
    several = len(results.task_shifts) > 1
    lines, head = (lines, head) if several else ([line[1:] for line in lines], head[1:])
    return Table("shift", "How far each source is from the downstream images", head, lines, text_columns=1 + several)


def mixture_table(results: Results) -> Table:
    """What each mixture shows, stage by stage; no lines where there are none."""
    opened = results.opened
    lines = []
    for candidate in (each for each in opened.candidates if each.text):
        plan = sample_plan(candidate.mixture, opened.budget, opened.study.batch_size, opened.sources, seed=0, draw=0)
        for number, (stage, counts) in enumerate(zip(candidate.mixture.stages, plan.counts, strict=True), 1):
            for part, count in zip(stage.components, counts, strict=True):
                share = " to ".join(dict.fromkeys(f"{end:.0%}" for end in part.ends))
                epochs = f"{count / part.unique:.3g}"
                cost = f"{part.unique * opened.sources[part.source].cost_per_image:,.6g}"
                lines.append((candidate.name, part.source, str(number), f"{part.unique:,}", f"{count:,}", share, epochs, cost))
    head = ("mixture", "source", "stage", "N", "samples", "share", "E", "cost")
    return Table("mixtures", "What the mixtures show", head, lines, text_columns=2)
