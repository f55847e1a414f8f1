"""A study's figures: each narrow (a phone, a column of a paper) and wide, inside the page and as PNG, PDF and SVG files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from sslshift.reporting.figures import WIDTHS, save, svg_element
from sslshift.study.figures.diversity import accuracy_vs_diversity
from sslshift.study.figures.order import order_comparison
from sslshift.study.figures.shift import accuracy_vs_shift
from sslshift.study.judged import slug
from sslshift.study.results import Results

__all__ = ["Drawn", "draw_all"]

_FIGURES: dict[str, tuple[str, Callable[[Results, str, str], Figure | None]]] = {
    "accuracy_vs_diversity": ("Accuracy against diversity", accuracy_vs_diversity),
    "accuracy_vs_shift": ("Accuracy against shift", accuracy_vs_shift),
    "order_comparison": ("Which order, which mixture", order_comparison),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure for the page.

    Attributes:
      kind: which of the figures.
      task: what it is about.
      title: its heading.
      svg: elements by width.
    """

    kind: str
    task: str
    title: str
    svg: dict[str, str]


def draw_all(results: Results, folder: Path) -> tuple[list[Drawn], list[Path]]:
    """Draws every figure that the results have something for, and writes its files.

    Args:
      results: of the study, finished or not.
      folder: where the files go: `NAME.png`, `.pdf` and `.svg` for a column, `NAME-wide.*` for a page.

    Returns:
      The figures as SVG elements, and the files.
    """
    drawn = []
    paths = []
    if not results.runs:
        return drawn, paths
    for number, task in enumerate(results.opened.tasks):
        for kind, (title, draw) in _FIGURES.items():
            # The first task is what the study is about: its files have plain names.
            name = kind if not number else f"{kind}-{slug(task.name)}"
            svg = {}
            for width in WIDTHS:
                drawing = draw(results, task.name, width)
                if drawing is None:
                    break
                files = save(drawing, folder, name if width == "narrow" else f"{name}-wide")
                text = files[-1].read_text(encoding="utf-8")
                label = f"{title} on {task.name}"
                svg[width] = svg_element(text, f"{kind.replace('_', '-')}-{number}-{width}", label)
                paths += files
            if svg:
                drawn.append(Drawn(kind, task.name, title, svg))
    return drawn, paths
