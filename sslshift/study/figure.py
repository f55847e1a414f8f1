"""The study's one figure: accuracy against diversity, a line per source."""

import io
import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sslshift.study.intervals import two_digits
from sslshift.study.runner import Results
from sslshift.study.summary import rows
from sslshift.transfer.metrics import METRICS

STYLE = {"svg.hashsalt": "sslshift", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}


def figure(results: Results) -> plt.Figure:
    """Linear-probe and kNN accuracy on the test split against D = N / C, with 95% intervals and both floors."""
    table = rows(results)
    with plt.rc_context(STYLE):
        task = results.opened.task
        shown = [name for name in ("linear", "knn") if name in table[0].scores[task.name]]
        drawing, panels = plt.subplots(1, len(shown), figsize=(10, 4.4), sharex=True, layout="constrained", squeeze=False)
        panels = panels[0]
        for panel, what in zip(panels, shown, strict=True):
            _panel(panel, table, task.name, what)
        panels[0].set_ylabel(f"test {METRICS[task.metric].text} on {task.name} (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return drawing


def _panel(panel, table, task: str, what: str) -> None:
    lines = dict.fromkeys((row.learner, row.source) for row in table if row.unique)
    several = len({learner for learner, _ in lines}) > 1
    for number, (learner, source) in enumerate(lines):
        ladder = [row for row in table if (row.learner, row.source) == (learner, source)]
        scores = [row.scores[task][what] for row in ladder]
        panel.errorbar(
            [row.diversity for row in ladder],
            [score.mean * 100 for score in scores],
            yerr=[0 if math.isnan(score.half) else score.half * 100 for score in scores],
            color=f"C{number}",
            marker="osD^v"[number % 5],
            capsize=3,
            label=f"{f'{learner[0]} on {learner[1]}, ' if several else ''}{source} (shift {two_digits(ladder[0].shift[0])})",
        )
    for row in (row for row in table if not row.unique):
        name = f"{row.source}, {' on '.join(row.learner)}" if several and row.learner else row.source
        panel.axhline(row.scores[task][what].mean * 100, color="0.4", linestyle="--" if row.learner else ":", label=name)
    panel.set_xscale("log")
    panel.set_xlabel("diversity D = unique samples / budget")
    panel.set_title({"linear": "linear probe", "knn": "kNN"}[what])
    panel.grid(alpha=0.25)


def as_svg(drawing: plt.Figure) -> str:
    """The figure as an SVG element to stand inside a page."""
    out = io.StringIO()
    with plt.rc_context(STYLE):
        drawing.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    # What stands before the element, an XML declaration and a DOCTYPE with an address, has no place in a page.
    return text[text.index("<svg") :]
