"""Table of text cells, with its forms HTML, Markdown, LaTeX and CSV.

Only this module escapes text for these forms. To give all tables of the project another form, add a property here.
"""

import csv
import dataclasses
import io
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from markupsafe import Markup


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text cells under a header.

    Example:
      >>> table = Table("runs", "All runs", ("source", "accuracy %"), (("a_b", "1.5 ± 0.2"),))
      >>> print(table.markdown, end="")
      | source | accuracy % |
      | --- | ---: |
      | a_b | 1.5 ± 0.2 |

    Attributes:
      name: name of the table's files, without an ending.
      title: heading above the table.
      head: names of the columns. The first `text_columns` of them identify the row.
      lines: cells of each row; an empty string where there is nothing to report.
      note: what a reader must know to understand the table.
      text_columns: number of columns, counted from the left, that hold words. The other columns hold numbers.
      more_text: names of further columns that hold words.

    Raises:
      ValueError: a row has more or fewer cells than the header.
    """

    name: str
    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str = ""
    text_columns: int = 1
    more_text: Collection[str] = ()

    def __post_init__(self):
        for number, line in enumerate(self.lines, 1):
            if len(line) != len(self.head):
                raise ValueError(
                    f"Table {self.name}: expected {len(self.head)} cells in every row, as in the header, got {len(line)} in "
                    f"row {number}."
                )

    def is_text(self, column: int) -> bool:
        """Returns whether the column of this number, counted from 0, holds words and is aligned to the left."""
        return column < self.text_columns or self.head[column] in self.more_text

    @property
    def html(self) -> Markup:
        """Returns a `figure` element with the table; the script of the page makes it sortable."""
        classes = [Markup(' class="text"') if self.is_text(column) else "" for column in range(len(self.head))]
        head = _joined(Markup('<th scope="col"{}>{}</th>').format(*each) for each in zip(classes, self.head, strict=True))
        lines = Markup("\n").join(
            Markup("<tr>{}</tr>").format(
                _joined(
                    Markup("<td{}>{}</td>").format(kind, _breakable(cell)) for kind, cell in zip(classes, line, strict=True)
                )
            )
            for line in self.lines
        )
        note = Markup("<figcaption>{}</figcaption>").format(self.note) if self.note else ""
        # The region can be focused, so that a keyboard can scroll a table that is wider than the screen.
        return Markup(
            '<figure class="table">{}<div class="wide" role="region" aria-label="{}" tabindex="0">'
            '<table class="sortable" data-name="{}"><thead><tr>{}</tr></thead>'
            "<tbody>\n{}\n</tbody></table></div></figure>"
        ).format(note, self.title, self.name, head, lines)

    @property
    def markdown(self) -> str:
        """Returns a table of GitHub-flavoured Markdown."""
        # The rule also aligns the columns where Markdown is rendered.
        rule = ["---" if self.is_text(column) else "---:" for column in range(len(self.head))]
        lines = [map(_markdown, self.head), rule, *(map(_markdown, line) for line in self.lines)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    @property
    def latex(self) -> str:
        r"""Returns a `tabular` for the package booktabs; `\input` it inside a `table`."""
        columns = "".join("l" if self.is_text(column) else "r" for column in range(len(self.head)))
        rows = [" & ".join(map(_latex, line)) + r" \\" for line in (self.head, *self.lines)]
        body = ["\\toprule", rows[0], "\\midrule", *rows[1:], "\\bottomrule"]
        return "\n".join(["% Needs \\usepackage{booktabs}.", f"\\begin{{tabular}}{{{columns}}}", *body, "\\end{tabular}", ""])

    @property
    def csv(self) -> str:
        """Returns the header and the rows as CSV."""
        return csv_text(self.head, self.lines)


def csv_text(head: Sequence[str], lines: Iterable[Sequence]) -> str:
    r"""Returns CSV with `\n` at the end of every line, on every system.

    Example:
      >>> csv_text(("source", "value"), [("a, b", 1.5)])
      'source,value\n"a, b",1.5\n'
    """
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *lines])
    return out.getvalue()


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _breakable(cell: str) -> Markup:
    # A long URI is broken only after a separator; a reader would take any other break for a space.
    return Markup("<wbr>").join(re.split(r"(?<=[:/?=&])(?=\w)", cell))


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
    # At the beginning of a row, LaTeX would read these as options of the preceding line break.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "→": r"$\to$",
    "×": r"$\times$",
    "…": r"\dots{}",
    "−": r"$-$",
} | {character: f"\\{character}" for character in "_%&#${}"}


# Characters beyond ASCII that pdfLaTeX prints in its default encoding: most Latin letters and a few signs.
_PRINTED_BY_PDFLATEX = set(map(chr, range(0xA0, 0x180))) - set("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ") | set("–—‘’“”•€™")


def _latex(cell: str) -> str:
    cell = "".join(_visible(character) for character in cell)
    # A hyphen before a number is a minus sign.
    cell = re.sub(r"(?<![\w.])-(?=\d)", "−", cell)
    parts = [
        "".join(_LATEX.get(character, character) for character in part) if printed else _for_unicode_engines("".join(part))
        for printed, part in itertools.groupby(cell, _is_printed)
    ]
    # LaTeX would turn two hyphens into a dash.
    return re.sub("-(?=-)", "-{}", "".join(parts))


def _is_printed(character: str) -> bool:
    return character.isascii() or character in _LATEX or character in _PRINTED_BY_PDFLATEX


def _visible(character: str) -> str:
    """Returns a space for characters that end a line, nothing for invisible characters, and others unchanged."""
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return "" if category in ("Cf", "Cs", "Co", "Cn") else character


def _for_unicode_engines(text: str) -> str:
    """Returns LaTeX that prints the text under XeLaTeX and LuaLaTeX, and its code points under pdfLaTeX."""
    return rf"{{\ifdefined\Umathchar {text}\else {' '.join(f'U+{ord(each):04X}' for each in text)}\fi}}"
