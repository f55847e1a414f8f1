"""How all figures look: sizes of a paper's columns, text that stays text, colours that colour-blind readers can tell apart."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sslshift.study.compared import shift_order
from sslshift.study.intervals import two_digits
from sslshift.study.results import Results

# Inches. A phone shows the narrow form, and a paper of two columns prints it in one of them.
WIDTHS = {"narrow": 3.35, "wide": 7.0}
# Okabe & Ito's, https://jfly.uni-koeln.de/color/, without the yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"
MUTED = "#5a6270"
_STYLE = {
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "errorbar.capsize": 2,
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    # TrueType, which journals take and readers can select.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


class Look(NamedTuple):
    """How a source is drawn, in every figure alike."""

    colour: str
    marker: str
    label: str


@contextlib.contextmanager
def styled() -> Iterator[None]:
    with plt.rc_context(_STYLE):
        yield


def looks(results: Results, task: str) -> dict[str, Look]:
    """Of each candidate, those near the study's first task first; labels have the shift index to this task."""
    names = sorted(results.shifts, key=lambda name: (shift_order(results.shifts[name]), name))
    return {
        name: Look(
            COLOURS[number % len(COLOURS)],
            MARKERS[number % len(MARKERS)],
            f"{shortened(name)} (shift {two_digits(results.task_shifts[task][name]['value'])})",
        )
        for number, name in enumerate(names)
    }


def shortened(name: str, most: int = 36) -> str:
    """A name that fits into a column, its middle left out if it must be.

    Example:
      >>> shortened("folder:/a/very/long/path/to/some/photographs/of/parts")
      'folder:/a/very/lon…tographs/of/parts'
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: half + 1]}…{name[-half:]}"


def panels(count: int, width: str, *, height: float, below: int, columns: int = 3, **options) -> tuple[Figure, list[plt.Axes]]:
    """A figure with so many panels, one below the other where it is narrow.

    Args:
      count: of panels.
      width: of `WIDTHS`.
      height: of a panel, in inches.
      below: lines of a legend below them.
      columns: side by side where it is wide.
      **options: of `matplotlib.pyplot.subplots`.
    """
    columns = 1 if width == "narrow" else min(columns, count)
    rows = -(-count // columns)
    size = (WIDTHS[width], rows * height + 0.17 * below + 0.15)
    drawing, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    flat = list(grid.flat)
    for unused in flat[count:]:
        unused.remove()
    return drawing, flat[:count]


def legend_below(drawing: Figure, width: str) -> None:
    """One legend for all panels, sources before floors, where it covers nothing."""
    entries: dict[str, Any] = {}
    for panel in drawing.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # Points with intervals are containers; floors are mere lines.
    entries = dict(sorted(entries.items(), key=lambda entry: isinstance(entry[1], Line2D)))
    drawing.legend(entries.values(), entries, loc="outside lower left", ncols=1 if width == "narrow" else 2)


def legend_lines(entries: int, width: str) -> int:
    return entries if width == "narrow" else -(-entries // 2)


def save(drawing: Figure, folder: Path, name: str) -> list[Path]:
    """PNG, PDF and SVG files of a figure, for papers and slides."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without dates, so that equal results make equal files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with plt.rc_context(_STYLE | {"svg.hashsalt": name}):
        drawing.draw_without_rendering()
        # What is laid out once need not be laid out for each file.
        drawing.set_layout_engine("none")
        for kind, about in metadata.items():
            drawing.savefig(folder / f"{name}.{kind}", dpi=300, metadata=about)
    return [folder / f"{name}.{kind}" for kind in metadata]


def svg_element(text: str, name: str, label: str) -> str:
    """An SVG file of a figure as an element to stand inside a page beside others.

    Args:
      text: of the file.
      name: of letters, unique on the page: the ids of all its parts begin with it.
      label: what it shows, for those who hear the page.
    """
    # What stands before the element, an XML declaration and a DOCTYPE with an address, has no place in a page.
    text = text[text.index("<svg") :]
    # Nor have addresses of vocabularies.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
