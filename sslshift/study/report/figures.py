"""All figures of a study's report.

Each function draws one figure for one task. A new figure needs a function here and a line in `_FIGURES`; it then appears on the
page and as files. Style, sizes and file formats are those of `sslshift.reporting.figures`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslshift.reporting.figures import (
    MUTED,
    Forms,
    draw_forms,
    legend_below,
    legend_lines,
    look,
    panels,
    power_of_ten,
    shortened,
    styled,
)
from sslshift.reporting.numbers import two_digits
from sslshift.storage import slug
from sslshift.study.analysis import Analysis, TaskAnalysis
from sslshift.study.evaluate import INITIAL, UNTRAINED
from sslshift.study.learner_analysis import RAW_PIXELS, Kind, LearnerAnalysis
from sslshift.study.shifts import MeasuredShift
from sslshift.transfer.claims import Claim
from sslshift.transfer.inference import Estimate
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import PairedScores

# Panels of a study of one method, by evaluation.
_TITLES = {"linear": "linear probe", "knn": "kNN"}
# If all indices are within this range, the axis shows the whole index, because so small a range would give no useful scale.
_NARROW_RANGE = 0.05


class SourceLook(NamedTuple):
    """Colour, marker and label of a source, the same in every figure of a task."""

    colour: str
    marker: str
    label: str


class DrawnFigure(NamedTuple):
    """Figure for the page.

    Attributes:
      kind: name in `_FIGURES`.
      task: name of the task.
      title: heading above the figure.
      note: caption below the figure.
      forms: narrow and wide form of the figure.
    """

    kind: str
    task: str
    title: str
    note: str
    forms: Forms


def draw_all(analysis: Analysis, folder: Path) -> list[DrawnFigure]:
    """Draws every figure for which there are results, for every task, and saves its files in a folder."""
    drawn = []
    # Without a finished run there are only baselines, which have no position on the axes.
    for number, task in enumerate(analysis.tasks.values() if analysis.runs else ()):
        for kind, (title, draw, note) in _FIGURES.items():
            # The files of the first task, which is the main one, have no task in their names.
            name = kind if not number else f"{kind}-{slug(task.name)}"
            element = f"{kind.replace('_', '-')}-{number}"
            label = f"{title} on {task.name}"
            forms = draw_forms(partial(draw, task), folder, name, element=element, label=label)
            if forms.svg:
                drawn.append(DrawnFigure(kind, task.name, title, note, forms))
    return drawn


def accuracy_vs_diversity(task: TaskAnalysis, width: str) -> Figure:
    """Returns panels of accuracy against diversity: linear probe and kNN, or the linear probe of each of several methods."""
    shown = _evaluations_shown(task)
    with styled():
        count = legend_lines(len(_looks(task)) + 2, width)
        drawing, places = panels(len(shown), width, height=2.3, below=count, sharex=True, sharey=True)
        narrow_panels = width == "wide" and len(shown) > 2
        for place, (title, learner, evaluation) in zip(places, shown, strict=True):
            _diversity_panel(place, task, task.paired(evaluation), learner)
            place.set_title(title)
            place.set_ylabel(_metric_label(task))
            place.label_outer()
        for place in places:
            # `label_outer` keeps labels only in the last row; in an incomplete grid, a column can end in another row.
            place.set_xlabel("diversity D" if narrow_panels else "diversity D = unique samples / budget")
            place.tick_params(labelbottom=True)
        legend_below(drawing, width)
    return drawing


def _evaluations_shown(task: TaskAnalysis) -> list[tuple[str, tuple[str, str], str]]:
    """Returns title, learner and evaluation of each panel."""
    named = task.analysis.learners
    if len(named) > 1:
        # Two evaluations of every method would be too many panels for a page.
        return [(" on ".join(learner), learner, "linear") for learner in named]
    known = task.analysis.results.pixels.evaluations(task.name)
    return [(_TITLES[name], learner, name) for learner in named for name in _TITLES if name in known]


def accuracy_vs_money(task: TaskAnalysis, width: str) -> Figure | None:
    """Returns panels of accuracy against the cost of images and training; None if nothing has a cost."""
    costs = task.analysis.costs
    if not costs:
        return None
    shown = _evaluations_shown(task)
    amounts = [cost.total for cost in costs.values()]
    with styled():
        drawing, places = panels(len(shown), width, height=2.3, below=legend_lines(len(_looks(task)) + 2, width), sharey=True)
        for place, (title, learner, evaluation) in zip(places, shown, strict=True):
            _kinds_panel(place, task, task.paired(evaluation), learner, lambda kind: costs[kind].total)
            if min(amounts) > 0:
                _logarithmic(place)
            place.set_title(title)
            place.set_ylabel(_metric_label(task))
            place.set_xlabel("cost of images and training")
        legend_below(drawing, width)
    return drawing


def _diversity_panel(panel: Axes, task: TaskAnalysis, numbers: PairedScores, learner: tuple[str, str]) -> None:
    _kinds_panel(panel, task, numbers, learner, task.analysis.diversity)
    _logarithmic(panel)


def _logarithmic(panel: Axes) -> None:
    """Makes the horizontal axis logarithmic, with at least two labels."""
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    if math.floor(math.log10(high)) <= math.ceil(math.log10(low)):
        # A logarithmic axis labels only powers of ten; an axis with fewer than two labels could not be read.
        panel.set_xlim(10 ** math.floor(math.log10(low)) / 1.1, 10 ** math.ceil(math.log10(high)) * 1.1)
    panel.xaxis.set_major_formatter(lambda value, _: power_of_ten(value))
    panel.xaxis.set_minor_formatter(lambda value, _: "")


def _kinds_panel(
    panel: Axes, task: TaskAnalysis, numbers: PairedScores, learner: tuple[str, str], position: Callable[[Kind], float]
) -> None:
    """Draws the accuracies of a learner's kinds at positions on the horizontal axis, and its baselines."""
    everything = task.analysis.of_learner(learner)
    styles = _looks(task)
    present = [name for name in styles if any(kind.source == name for kind in everything)]
    for number, name in enumerate(present):
        # A kind lacks this evaluation if it failed.
        levels = [kind for kind in everything if kind.source == name and kind in numbers.scores]
        scores = [numbers.score(kind) for kind in levels]
        # Points are shifted slightly, so that intervals at the same position do not overlap.
        aside = 10 ** (0.025 * (number - (len(present) - 1) / 2))
        panel.errorbar(
            [position(kind) * aside for kind in levels],
            [score.value * 100 for score in scores],
            yerr=_error_bars(scores),
            color=styles[name].colour,
            marker=styles[name].marker,
            label=styles[name].label,
        )
    _baselines(panel, numbers, learner)


def accuracy_vs_shift(task: TaskAnalysis, width: str) -> Figure | None:
    """Returns panels of accuracy, and of the effect of diversity, against the shift index; None if no source has an index."""
    if all(math.isnan(shift.value) for shift in task.shifts.values()):
        return None
    named = list(task.learners.values())
    has_trends = any(learner.trends for learner in named)
    shown = [(learner, draw) for learner in named for draw in ([_shift_panel, _trend_panel] if has_trends else [_shift_panel])]
    with styled():
        count = legend_lines(len(_looks(task)) + 2 + has_trends, width)
        drawing, places = panels(len(shown), width, height=2.3, below=count, columns=2, sharex=True)
        for place, (learner, draw) in zip(places, shown, strict=True):
            title = draw(place, learner)
            place.set_title(f"{' on '.join(learner.learner)}\n{title}" if len(named) > 1 else title)
            place.set_xlabel(f"shift index (0: downstream images, 1: {learner.analysis.opened.design.shift.far_end})")
            place.tick_params(labelbottom=True)
        legend_below(drawing, width)
    return drawing


def _shift_panel(panel: Axes, learner: LearnerAnalysis) -> str:
    """Draws every number of unique samples, the largest with filled markers, and returns the panel's title."""
    numbers = learner.scores
    everything = learner.analysis.of_learner(learner.learner)
    for name, style in _looks(learner.task).items():
        shift = learner.task.shifts[name]
        levels = [kind for kind in everything if kind.source == name and kind in numbers.scores]
        if math.isnan(shift.value) or not levels:
            continue
        scores = [numbers.score(kind) for kind in levels]
        panel.plot([shift.value] * len(levels), [score.value * 100 for score in scores], color=style.colour, linewidth=0.7)
        for number, score in enumerate(scores):
            last = number == len(scores) - 1
            panel.errorbar(
                shift.value,
                score.value * 100,
                xerr=_shift_bars(shift),
                yerr=_error_bars([score]) if last else None,
                color=style.colour,
                marker=style.marker,
                markerfacecolor=style.colour if last else "white",
                linestyle="none",
                label=style.label if last else None,
            )
    _baselines(panel, numbers, learner.learner)
    known = [each.value for each in learner.task.shifts.values() if not math.isnan(each.value)]
    if np.ptp(known) < _NARROW_RANGE:
        panel.set_xlim(min(0.0, *known) - 0.05, max(1.0, *known) + 0.05)
    panel.set_ylabel(_metric_label(learner.task))
    return "linear probe (filled: most images)"


def _trend_panel(panel: Axes, learner: LearnerAnalysis) -> str:
    """Draws the effect of diversity for each source, and returns the panel's title."""
    found = [each for each in learner.trends if not math.isnan(each.shift)]
    styles = _looks(learner.task)
    panel.axhline(0, color=MUTED, linewidth=0.8)
    for each in found:
        low, high = (abs(end - each.trend.value) * 100 for end in (each.trend.low, each.trend.high))
        panel.errorbar(
            each.shift,
            each.trend.value * 100,
            xerr=_shift_bars(learner.task.shifts[each.source]),
            yerr=None if math.isnan(low) else [[low], [high]],
            color=styles[each.source].colour,
            marker=styles[each.source].marker,
            linestyle="none",
        )
    # The line is drawn only if the sentences report its slope.
    if isinstance(learner.change, Claim):
        x = np.array([each.shift for each in found])
        line = np.polynomial.Polynomial.fit(x, [each.trend.value * 100 for each in found], 1)
        panel.plot(np.sort(x), line(np.sort(x)), color=MUTED, linewidth=1, linestyle="-.", label="least squares")
    panel.set_ylabel("points per factor of ten in D")
    return "gain from diversity"


def order_comparison(task: TaskAnalysis, width: str) -> Figure | None:
    """Returns panels of differences from the nearest source, or None if there is no mixture or nothing to compare it with."""
    mixtures = task.analysis.mixtures
    named = [learner for learner in task.learners.values() if learner.against_reference]
    if not named or not any(kind.source in mixtures for learner in named for kind in learner.largest):
        return None
    with styled():
        # All panels have the height of the panel with the most candidates.
        most = max(len(learner.against_reference) for learner in named)
        drawing, places = panels(len(named), width, height=0.32 * most + 0.85, below=0, columns=2, sharex=True)
        for place, learner in zip(places, named, strict=True):
            _order_panel(place, learner)
            reference = learner.reference
            title = f"compared with {shortened(reference.source)}, N = {reference.unique:,}"
            place.set_title(f"{' on '.join(learner.learner)},\n{title}" if len(named) > 1 else title)
            place.set_xlabel("difference in points (filled: shown after correction)")
            place.tick_params(labelbottom=True)
    return drawing


def _order_panel(panel: Axes, learner: LearnerAnalysis) -> None:
    """Draws the difference of each candidate from the reference."""
    styles = _looks(learner.task)
    differences = learner.against_reference
    panel.axvline(0, color=MUTED, linewidth=0.8)
    for number, (kind, found) in enumerate(differences.items()):
        style = styles[kind.source]
        panel.errorbar(
            found.value * 100,
            number,
            xerr=None if math.isnan(found.half_width) else found.half_width * 100,
            color=style.colour,
            marker=style.marker,
            markerfacecolor=style.colour if found.verdict in ("better", "worse") else "white",
        )
        # The name is above the bar, because beside it there is no room on a phone.
        panel.annotate(
            f"{shortened(kind.source)}, N = {kind.unique:,}",
            (0, number),
            xycoords=("axes fraction", "data"),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=7.5,
        )
    # The first candidate is at the top, with room for its name.
    panel.set_ylim(len(differences) - 0.5, -0.9)
    panel.set_yticks([])
    panel.grid(axis="y", visible=False)
    panel.spines["left"].set_visible(False)


def _looks(task: TaskAnalysis) -> dict[str, SourceLook]:
    """Returns the look of each candidate, the nearest to the study's first task first; the label gives its index for a task."""
    nearest = task.analysis.results.shifts
    names = sorted(nearest, key=lambda name: (nearest[name].order, name))
    return {
        name: SourceLook(*look(number), f"{shortened(name)} (shift {two_digits(task.shifts[name].value)})")
        for number, name in enumerate(names)
    }


def _metric_label(task: TaskAnalysis) -> str:
    metric = METRICS[next(each.metric for each in task.analysis.opened.tasks if each.name == task.name)]
    return f"test {metric.text} (%)"


def _baselines(panel: Axes, numbers: PairedScores, learner: tuple[str, str]) -> None:
    """Draws lines at the scores of baselines, and the interval of the untrained encoder as a band."""
    baselines = ((Kind(learner, INITIAL, None), "-."), (Kind(learner, UNTRAINED, None), "--"), (RAW_PIXELS, ":"))
    for kind, line in baselines:
        score = numbers.score(kind)
        # A baseline may be missing, or lack an evaluation: raw pixels cannot be fine-tuned.
        if score is None:
            continue
        panel.axhline(score.value * 100, color=MUTED, linestyle=line, linewidth=1, label=kind.source)
        if kind.source == UNTRAINED:
            panel.axhspan(score.low * 100, score.high * 100, color=MUTED, alpha=0.1, linewidth=0)


def _error_bars(scores: Sequence[Estimate]) -> list[list[float]]:
    """Returns the argument `yerr` of `errorbar`, in percent."""
    # For one seed, the bootstrap's interval can exclude its value by rounding, and `errorbar` rejects negative lengths.
    below = [max(0.0, score.value - score.low) * 100 for score in scores]
    return [below, [max(0.0, score.high - score.value) * 100 for score in scores]]


def _shift_bars(shift: MeasuredShift) -> list[list[float]]:
    return [[max(0.0, shift.value - shift.index.low)], [max(0.0, shift.index.high - shift.value)]]


# By name of the files: heading, function, and caption on the page.
_FIGURES: dict[str, tuple[str, Callable[[TaskAnalysis, str], Figure | None], str]] = {
    "accuracy_vs_diversity": (
        "Accuracy against diversity",
        accuracy_vs_diversity,
        "Means with 95% intervals over test images and seeds (for one seed: over test images alone). The grey band is the "
        "interval of the untrained encoder. Points at the same diversity are shifted slightly so that they do not overlap.",
    ),
    "accuracy_vs_money": (
        "Accuracy against money",
        accuracy_vs_money,
        "Means with 95% intervals, against the cost of the unique samples and of the training of one run. Points at the same "
        "cost are shifted slightly so that they do not overlap.",
    ),
    "accuracy_vs_shift": (
        "Accuracy against shift",
        accuracy_vs_shift,
        "95% intervals of the accuracy, of the slope and of the shift index. The grey band is the interval of the untrained "
        "encoder.",
    ),
    "order_comparison": (
        "Orders and mixtures",
        order_comparison,
        "Paired differences with the 95% interval of each pair (none for one seed). A filled marker is a difference that is "
        "shown after the correction for all tests.",
    ),
}
