"""Style of all figures: column widths of a paper, selectable text, and colours that colour-blind readers can distinguish.

Figures are made without `matplotlib.pyplot`, and the style applies only within `styled`. Backend, settings and open figures of
a notebook therefore do not change.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sslshift import storage

# Inches. A phone shows the narrow form, and a two-column paper prints it in one column.
WIDTHS = {"narrow": 3.35, "wide": 7.0}
# Palette of Okabe and Ito, https://jfly.uni-koeln.de/color/, without its yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Beyond the palette, its colours come back darker and then lighter: mixed with this share of black or of white.
_SHADES = ((0.0, 0.45), (1.0, 0.4))
# Markers distinguish sources too, for prints in grey.
MARKERS = "osD^vPX*"
# Colour of baselines and of lines at zero.
MUTED = "#5a6270"
_CANVASES = {"png": FigureCanvasAgg, "pdf": FigureCanvasPdf, "svg": FigureCanvasSVG}
# Classes of the page's style sheet, which shows one form on a phone and the other on a large screen.
_CLASSES = {"narrow": "narrow", "wide": "wide-form"}
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
    # TrueType fonts: journals reject Type 3 fonts, and text stays selectable.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


class Look(NamedTuple):
    """Colour and marker of one source, the same in every figure."""

    colour: str
    marker: str


def look(number: int) -> Look:
    """Returns the look of the source with this number, counted from 0.

    Colours repeat after 21 sources, and combinations of a colour and a marker after 168.

    Example:
      >>> look(0), look(7)
      (Look(colour='#0072B2', marker='o'), Look(colour='#003F62', marker='*'))
    """
    shade, colour = divmod(number % (len(COLOURS) * (1 + len(_SHADES))), len(COLOURS))
    marker = MARKERS[number % len(MARKERS)]
    if not shade:
        return Look(COLOURS[colour], marker)
    towards, share = _SHADES[shade - 1]
    parts = np.array([int(COLOURS[colour][place : place + 2], 16) for place in (1, 3, 5)])
    # Black has no darker form, so that its first form is a grey.
    mixed = np.full(3, 140) + 40 * (shade - 1) if not parts.any() else np.rint((1 - share) * parts + share * 255 * towards)
    return Look("#{:02X}{:02X}{:02X}".format(*mixed.astype(int)), marker)


def styled() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which new figures have the style of this project."""
    return matplotlib.rc_context(_STYLE)


def panels(count: int, width: str, *, height: float, below: int, columns: int = 3, **options: Any) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its panels; a narrow figure has one column of panels.

    Args:
      count: number of panels.
      width: key of `WIDTHS`.
      height: height of a panel, in inches.
      below: number of lines of a legend below the panels.
      columns: largest number of panels side by side in a wide figure.
      **options: options of `matplotlib.figure.Figure.subplots`.
    """
    columns = 1 if width == "narrow" else min(columns, count)
    rows = -(-count // columns)
    # A line of a legend is 0.17 inches high in the style's font.
    drawing = Figure(figsize=(WIDTHS[width], rows * height + 0.17 * below + 0.15), layout="constrained")
    grid = list(drawing.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in grid[count:]:
        unused.remove()
    return drawing, grid[:count]


def legend_below(drawing: Figure, width: str) -> None:
    """Adds one legend below all panels; it lists sources first, then baselines."""
    entries: dict[str, Any] = {}
    for panel in drawing.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # Points with intervals are containers; baselines are plain lines.
    entries = dict(sorted(entries.items(), key=lambda entry: isinstance(entry[1], Line2D)))
    drawing.legend(entries.values(), entries, loc="outside lower left", ncols=1 if width == "narrow" else 2)


def legend_lines(entries: int, width: str) -> int:
    """Returns the number of lines of a legend by `legend_below`, for the argument `below` of `panels`."""
    return entries if width == "narrow" else -(-entries // 2)


def shortened(name: str, most: int = 36) -> str:
    """Returns a name of at most `most` characters, with an ellipsis in the middle of a longer name.

    Example:
      >>> shortened("folder:/a/very/long/path/to/some/photographs/of/parts")
      'folder:/a/very/lon…tographs/of/parts'
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: half + 1]}…{name[-half:]}"


def power_of_ten(value: float) -> str:
    """Returns a power of ten without a superscript, because superscripts are too small on a phone.

    Example:
      >>> [power_of_ten(value) for value in (1.0, 0.01, 1e-5)]
      ['1', '0.01', '1e-5']
    """
    return f"{value:g}".replace("e-0", "e-")


class Forms(NamedTuple):
    """Both forms of a figure.

    Attributes:
      svg: SVG elements for a page, see the macro `drawing`; empty if there was nothing to draw.
      files: paths of all files.
    """

    svg: tuple[Markup, ...]
    files: tuple[Path, ...]


def draw_forms(draw: Callable[[str], Figure | None], folder: Path, name: str, *, element: str, label: str) -> Forms:
    """Draws a figure in both widths and saves it as `NAME` and `NAME-wide`, each as PNG, PDF and SVG.

    Args:
      draw: function from a width in `WIDTHS` to the figure, or to None if there is nothing to draw.
      folder: folder of the files; it is made if it does not exist.
      name: name of the files, without an ending.
      element: unique name of letters and hyphens; the ids of all parts of the elements begin with it.
      label: description of the figure for screen readers.
    """
    svg = []
    files = []
    for width in WIDTHS:
        drawing = draw(width)
        # If there is nothing to draw in the narrow form, there is nothing in the wide form either.
        if drawing is None:
            break
        saved = save(drawing, folder, name if width == "narrow" else f"{name}-{width}")
        svg.append(svg_element(saved[-1].read_text(encoding="utf-8"), f"{element}-{width}", label, _CLASSES[width]))
        files += saved
    return Forms(tuple(svg), tuple(files))


def save(drawing: Figure, folder: Path, name: str) -> list[Path]:
    """Saves a figure as PNG, PDF and SVG and returns the paths in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without dates, equal results give equal files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    # Ids in an SVG file are random unless they are derived from a salt.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        # The layout is computed once for all three files: it takes longer than writing them.
        drawing.get_layout_engine().execute(drawing)
        drawing.set_layout_engine("none")
        drawing.set_dpi(300)
        for kind, about in metadata.items():
            # `savefig` would draw twice for each file: once more for a layout engine.
            write = getattr(_CANVASES[kind](drawing), f"print_{kind}")
            with storage.whole_file(folder / f"{name}.{kind}") as file:
                write(file, metadata=about)
    return [folder / f"{name}.{kind}" for kind in metadata]


def chart(name: str, label: str, draw: Callable[[], Figure]) -> Markup:
    """Returns a figure of one form as an element of a page, with the class `chart`; no files are saved.

    Args:
      name: unique name of letters and hyphens; the ids of all parts begin with it.
      label: description of the figure for screen readers.
      draw: function that returns the figure.
    """
    text = io.StringIO()
    # Ids in an SVG file are random unless they are derived from a salt; without a date, equal results make equal pages.
    with warnings.catch_warnings(), styled(), matplotlib.rc_context({"svg.hashsalt": name}):
        # The browser has fonts for names of sources that matplotlib has no glyphs for.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        draw().savefig(text, format="svg", metadata={"Date": None})
    return svg_element(text.getvalue(), name, label, "chart")


def svg_element(text: str, name: str, label: str, css_class: str = "") -> Markup:
    """Returns an SVG file of matplotlib as an element for a page that has several of them.

    Args:
      text: content of the file.
      name: unique name of letters and hyphens; the ids of all parts begin with it.
      label: description of the figure for screen readers.
      css_class: class of the element, if any.
    """
    # An element must not contain the XML declaration and the DOCTYPE of a file; the DOCTYPE also names a URL.
    text = text[text.index("<svg") :]
    # The metadata names URLs of vocabularies, and a page must not name any.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Two figures of one page would otherwise share ids, and clip or mark each other's parts.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    about = f'class="{escape(css_class)}" ' if css_class else ""
    return Markup(text.replace("<svg", f'<svg {about}role="img" aria-label="{escape(label)}"', 1))
