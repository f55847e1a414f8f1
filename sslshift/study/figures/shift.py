"""Accuracy, and the trend of accuracy in diversity, against the shift index: the paper's second finding as a picture."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslshift.reporting.figures import MUTED, legend_below, legend_lines, panels, styled
from sslshift.study.compared import kinds, learners
from sslshift.study.figures.diversity import bars, floors
from sslshift.study.figures.style import looks
from sslshift.study.results import Results
from sslshift.study.sampled import sampled
from sslshift.study.trending import trend_change, trends
from sslshift.transfer.inference import Trend
from sslshift.transfer.metrics import METRICS

# Sources nearer to each other on the index than this are shown on the whole of it.
_NARROW = 0.05


def accuracy_vs_shift(results: Results, task: str, width: str) -> Figure | None:
    """For each method on each encoder: the linear probe's accuracy, and how it rises with diversity, against the shift index.

    Args:
      results: of the study, finished or not.
      task: the downstream task's name.
      width: `narrow` or `wide`.

    Returns:
      None where no source has an index.
    """
    if all(math.isnan(shift["value"]) for shift in results.task_shifts[task].values()):
        return None
    named = learners(results)
    steep = any(trends(results, task, learner) for learner in named)
    shown = [(learner, draw) for learner in named for draw in ([_accuracy, _trend] if steep else [_accuracy])]
    with styled():
        count = legend_lines(len(looks(results, task)) + 2 + steep, width)
        drawing, places = panels(len(shown), width, height=2.3, below=count, columns=2, sharex=True)
        for place, (learner, draw) in zip(places, shown, strict=True):
            title = draw(place, results, task, learner)
            place.set_title(f"{' on '.join(learner)}\n{title}" if len(named) > 1 else title)
            place.set_xlabel("shift index (0: downstream images, 1: noise)")
            place.tick_params(labelbottom=True)
        legend_below(drawing, width)
    return drawing


def _accuracy(panel: Axes, results: Results, task: str, learner: tuple[str, str]) -> str:
    """Every number of unique samples: a source's most filled, fewer hollow, on a thin line."""
    numbers = sampled(results, task, "linear")
    styles = looks(results, task)
    for name, style in styles.items():
        shift = results.task_shifts[task][name]
        ladder = [kind for kind in kinds(results) if kind.learner == learner and kind.source == name and kind in numbers.runs]
        if math.isnan(shift["value"]) or not ladder:
            continue
        scores = [numbers.score(kind) for kind in ladder]
        panel.plot([shift["value"]] * len(ladder), [score.value * 100 for score in scores], color=style.colour, linewidth=0.7)
        for number, score in enumerate(scores):
            last = number == len(scores) - 1
            panel.errorbar(
                shift["value"],
                score.value * 100,
                xerr=_sideways(shift),
                yerr=bars([score]) if last else None,
                color=style.colour,
                marker=style.marker,
                markerfacecolor=style.colour if last else "white",
                linestyle="none",
                label=style.label if last else None,
            )
    floors(panel, numbers, learner)
    known = [each["value"] for each in results.task_shifts[task].values() if not math.isnan(each["value"])]
    if np.ptp(known) < _NARROW:
        # A single place has no scale: that of the index is from 0 to 1.
        panel.set_xlim(min(0.0, *known) - 0.05, max(1.0, *known) + 0.05)
    metric = METRICS[next(each.metric for each in results.opened.tasks if each.name == task)]
    panel.set_ylabel(f"test {metric.text} (%)")
    return "linear probe (filled: most images)"


def _trend(panel: Axes, results: Results, task: str, learner: tuple[str, str]) -> str:
    found = [each for each in trends(results, task, learner) if not math.isnan(each.shift)]
    styles = looks(results, task)
    panel.axhline(0, color=MUTED, linewidth=0.8)
    for each in found:
        low, high = (abs(end - each.trend.slope) * 100 for end in (each.trend.low, each.trend.high))
        panel.errorbar(
            each.shift,
            each.trend.slope * 100,
            xerr=_sideways(results.task_shifts[task][each.source]),
            yerr=None if math.isnan(low) else [[low], [high]],
            color=styles[each.source].colour,
            marker=styles[each.source].marker,
            linestyle="none",
        )
    if isinstance(trend_change(results, task, learner), Trend):
        x = np.array([each.shift for each in found])
        line = np.polynomial.Polynomial.fit(x, [each.trend.slope * 100 for each in found], 1)
        panel.plot(np.sort(x), line(np.sort(x)), color=MUTED, linewidth=1, linestyle="-.", label="least squares")
    panel.set_ylabel("points per factor of ten in D")
    return "gain from diversity"


def _sideways(shift: dict) -> list[list[float]]:
    return [[max(0.0, shift["value"] - shift["low"])], [max(0.0, shift["high"] - shift["value"])]]
