"""In which order to show near and far images: every mixture and every single source against the nearest source alone."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslshift.reporting.figures import MUTED, panels, shortened, styled
from sslshift.study.compared import against, largest, learners
from sslshift.study.figures.style import looks
from sslshift.study.results import Results


def order_comparison(results: Results, task: str, width: str) -> Figure | None:
    """Paired differences of the linear probe's accuracy with their intervals, a line for each candidate.

    Args:
      results: of the study, finished or not.
      task: the downstream task's name.
      width: `narrow` or `wide`.

    Returns:
      None where the study has no mixture, or nothing to compare it with.
    """
    mixed = {candidate.name for candidate in results.opened.candidates if candidate.text}
    named = [each for each in learners(results) if against(results, task, each)[1]]
    if not named or not any(kind.source in mixed for learner in named for kind in largest(results, learner)):
        return None
    with styled():
        most = max(len(against(results, task, learner)[1]) for learner in named)
        drawing, places = panels(len(named), width, height=0.32 * most + 0.85, below=0, columns=2, sharex=True)
        for place, learner in zip(places, named, strict=True):
            reference = _panel(place, results, task, learner)
            title = f"against {shortened(reference.source)}, N = {reference.unique:,}"
            place.set_title(f"{' on '.join(learner)},\n{title}" if len(named) > 1 else title)
            place.set_xlabel("difference in points (filled: shown)")
            place.tick_params(labelbottom=True)
    return drawing


def _panel(panel: Axes, results: Results, task: str, learner: tuple[str, str]):
    styles = looks(results, task)
    reference, differences = against(results, task, learner)
    panel.axvline(0, color=MUTED, linewidth=0.8)
    for number, (kind, found) in enumerate(differences.items()):
        style = styles[kind.source]
        panel.errorbar(
            found.mean * 100,
            number,
            xerr=None if math.isnan(found.half) else found.half * 100,
            color=style.colour,
            marker=style.marker,
            markerfacecolor=style.colour if found.verdict in ("better", "worse") else "white",
        )
        # Above its bar: names beside it would leave a phone no room for the bars.
        panel.annotate(
            f"{shortened(kind.source)}, N = {kind.unique:,}",
            (0, number),
            xycoords=("axes fraction", "data"),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=7.5,
        )
    panel.set_ylim(len(differences) - 0.5, -0.9)
    panel.set_yticks([])
    panel.grid(axis="y", visible=False)
    panel.spines["left"].set_visible(False)
    return reference
