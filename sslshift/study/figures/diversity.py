"""Accuracy against diversity: a line per source, intervals, and the floors that no pretraining should stay under."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslshift.reporting.figures import MUTED, legend_below, legend_lines, panels, styled
from sslshift.study.compared import diversity, kinds, learners
from sslshift.study.figures.style import looks
from sslshift.study.results import Results
from sslshift.study.sampled import PIXELS, UNTRAINED, Kind, Sampled, sampled
from sslshift.transfer.inference import Estimate
from sslshift.transfer.metrics import METRICS

TITLES = {"linear": "linear probe", "knn": "kNN"}


def accuracy_vs_diversity(results: Results, task: str, width: str) -> Figure:
    """A panel for linear probe and kNN each; with several methods or encoders a panel of the linear probe for each of those.

    Args:
      results: of the study, finished or not.
      task: the downstream task's name.
      width: `narrow` or `wide`.
    """
    shown = _panels(results, task)
    with styled():
        count = legend_lines(len(looks(results, task)) + 2, width)
        drawing, places = panels(len(shown), width, height=2.3, below=count, sharex=True, sharey=True)
        narrow_panels = width == "wide" and len(shown) > 2
        metric = METRICS[next(each.metric for each in results.opened.tasks if each.name == task)]
        for place, (title, learner, evaluation) in zip(places, shown, strict=True):
            _panel(place, results, task, sampled(results, task, evaluation), learner)
            place.set_title(title)
            place.set_ylabel(f"test {metric.text} (%)")
            place.label_outer()
        for place in places:
            # In a grid that is not full the last panel of a column stands above a gap.
            place.set_xlabel("diversity D" if narrow_panels else "diversity D = unique samples / budget")
            place.tick_params(labelbottom=True)
        legend_below(drawing, width)
    return drawing


def _panels(results: Results, task: str) -> list[tuple[str, tuple[str, str], str]]:
    """Title, learner and evaluation of each panel."""
    named = learners(results)
    if len(named) > 1:
        return [(" on ".join(learner), learner, "linear") for learner in named]
    known = results.pixels.evaluations(task)
    return [(TITLES[name], learner, name) for learner in named for name in TITLES if name in known]


def _panel(panel: Axes, results: Results, task: str, numbers: Sampled, learner: tuple[str, str]) -> None:
    everything = [kind for kind in kinds(results) if kind.learner == learner]
    styles = looks(results, task)
    present = [name for name in styles if any(kind.source == name for kind in everything)]
    for number, name in enumerate(present):
        ladder = [kind for kind in everything if kind.source == name and kind in numbers.runs]
        scores = [numbers.score(kind) for kind in ladder]
        # A little aside, so that intervals at one diversity do not hide each other.
        aside = 10 ** (0.025 * (number - (len(present) - 1) / 2))
        panel.errorbar(
            [diversity(results, kind) * aside for kind in ladder],
            [score.value * 100 for score in scores],
            yerr=bars(scores),
            color=styles[name].colour,
            marker=styles[name].marker,
            label=styles[name].label,
        )
    floors(panel, numbers, learner)
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    if math.floor(math.log10(high)) <= math.ceil(math.log10(low)):
        # Two powers of ten at least: else the axis could not be read.
        panel.set_xlim(10 ** math.floor(math.log10(low)) / 1.1, 10 ** math.ceil(math.log10(high)) * 1.1)
    panel.xaxis.set_major_formatter(lambda value, _: plain(value))
    panel.xaxis.set_minor_formatter(lambda value, _: "")


def floors(panel: Axes, numbers: Sampled, learner: tuple[str, str]) -> None:
    """Lines at what the untrained encoder and raw pixels get, and the interval of the former."""
    for kind, line in ((Kind(learner, UNTRAINED, None), "--"), (Kind(None, PIXELS, None), ":")):
        score = numbers.score(kind)
        if score is None:
            continue
        panel.axhline(score.value * 100, color=MUTED, linestyle=line, linewidth=1, label=kind.source)
        if kind.learner:
            panel.axhspan(score.low * 100, score.high * 100, color=MUTED, alpha=0.1, linewidth=0)


def bars(scores: Sequence[Estimate]) -> list[list[float]]:
    """What `errorbar` wants, in percent."""
    # Of one seed a percentile bootstrap may be off its value by rounding.
    below = [max(0.0, score.value - score.low) * 100 for score in scores]
    return [below, [max(0.0, score.high - score.value) * 100 for score in scores]]


def plain(value: float) -> str:
    """A power of ten without a superscript, which a phone shows too small.

    Example:
      >>> [plain(value) for value in (1.0, 0.01, 1e-5)]
      ['1', '0.01', '1e-5']
    """
    return f"{value:g}".replace("e-0", "e-")
