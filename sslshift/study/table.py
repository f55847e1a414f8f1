"""A table of text, and the forms in which it is given away: HTML, Markdown, LaTeX and CSV."""

import csv
import dataclasses
import html
import io
import itertools
import re
import unicodedata
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """Lines of text under a head.

    Example:
      >>> table = Table("runs", "All runs", ("source", "accuracy %"), (("a_b", "1.5 ± 0.2"),))
      >>> print(table.markdown, end="")
      | source | accuracy % |
      | --- | ---: |
      | a_b | 1.5 ± 0.2 |

    Attributes:
      name: of its files, without an ending.
      title: its heading.
      head: of the columns; the first ones say what a line is about, see `text_columns`.
      lines: cells of each line; an empty one where there is nothing to say.
      note: what a reader must know to read it.
      text_columns: how many columns, from the left, are words rather than numbers.
    """

    name: str
    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str = ""
    text_columns: int = 1

    def __post_init__(self):
        if any(len(line) != len(self.head) for line in self.lines):
            raise ValueError(f"{self.name}: every line needs {len(self.head)} cells, as the head has.")

    @property
    def html(self) -> str:
        """A `figure` with the table, which the page's script makes sortable."""
        head = "".join(f'<th scope="col"{self._class(i)}>{html.escape(cell)}</th>' for i, cell in enumerate(self.head))
        lines = "\n".join(
            "<tr>" + "".join(f"<td{self._class(i)}>{_cell(cell)}</td>" for i, cell in enumerate(line)) + "</tr>"
            for line in self.lines
        )
        note = f"<figcaption>{html.escape(self.note)}</figcaption>" if self.note else ""
        name = html.escape(self.title, quote=True)
        return (
            f'<figure class="table">{note}<div class="wide" role="region" aria-label="{name}" tabindex="0">'
            f'<table class="sortable" data-name="{self.name}"><thead><tr>{head}</tr></thead>'
            f"<tbody>\n{lines}\n</tbody></table></div></figure>"
        )

    def _class(self, column: int) -> str:
        return ' class="text"' if column < self.text_columns else ""

    @property
    def markdown(self) -> str:
        rule = ["---"] * self.text_columns + ["---:"] * (len(self.head) - self.text_columns)
        lines = [map(_markdown, self.head), rule, *(map(_markdown, line) for line in self.lines)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    @property
    def latex(self) -> str:
        r"""A `tabular` for the package booktabs; `\input` it inside a `table`."""
        columns = "l" * self.text_columns + "r" * (len(self.head) - self.text_columns)
        rows = [" & ".join(map(_latex, line)) + r" \\" for line in (self.head, *self.lines)]
        body = ["\\toprule", rows[0], "\\midrule", *rows[1:], "\\bottomrule"]
        return "\n".join(["% Needs \\usepackage{booktabs}.", f"\\begin{{tabular}}{{{columns}}}", *body, "\\end{tabular}", ""])

    @property
    def csv(self) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.lines])
        return out.getvalue()


def _cell(cell: str) -> str:
    # Long names may be broken where a reader would break them.
    return "<wbr>".join(map(html.escape, re.split(r"(?<=[:/?=&])(?=\w)", cell)))


def _markdown(cell: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", cell.replace("\n", " "))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "`": "{`}",
    # At the beginning of a row these would belong to the end of the one before it.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "→": r"$\to$",
    "×": r"$\times$",
    "…": r"\dots{}",
    "−": r"$-$",
} | {character: f"\\{character}" for character in "_%&#${}"}


# What pdfLaTeX prints in the encoding that it starts with, beside ASCII: Latin letters without some of them.
_KNOWN = set(map(chr, range(0xA0, 0x180))) - set("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ") | set("–—‘’“”•€™")


def _latex(cell: str) -> str:
    cell = "".join(_kept(character) for character in cell)
    # A sign before a number is a minus, not a hyphen.
    cell = re.sub(r"(?<![\w.])-(?=\d)", "−", cell)
    parts = [
        "".join(_LATEX.get(character, character) for character in part) if known else _unknown("".join(part))
        for known, part in itertools.groupby(cell, _is_known)
    ]
    # Two hyphens would be made a dash.
    return re.sub("-(?=-)", "-{}", "".join(parts))


def _is_known(character: str) -> bool:
    return character.isascii() or character in _LATEX or character in _KNOWN


def _kept(character: str) -> str:
    """Nothing of what is not seen, a blank for what ends a line."""
    kind = unicodedata.category(character)
    return " " if kind in ("Cc", "Zl", "Zp") else "" if kind in ("Cf", "Cs", "Co", "Cn") else character


def _unknown(text: str) -> str:
    """As it is where XeLaTeX or LuaLaTeX reads it; pdfLaTeX gets its numbers."""
    return rf"{{\ifdefined\Umathchar {text}\else {' '.join(f'U+{ord(each):04X}' for each in text)}\fi}}"
