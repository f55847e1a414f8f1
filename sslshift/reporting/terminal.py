"""Tables and sentences on a terminal."""

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from sslshift.reporting.table import Table

# Smallest width of a column of words, in characters, on a terminal of any width.
_NAME = 12


def print_table(table: Table, console: Console, title: str | None = None) -> None:
    """Prints a table; on a narrow terminal columns of words are wrapped, and columns of numbers are not.

    Args:
      table: the table.
      console: the terminal.
      title: text above the table; None selects the table's own title, and an empty text prints no title.
    """
    title = table.title if title is None else title
    heading = Text(title) if title else None
    shown = Grid(title=heading, title_justify="left", title_style="", box=None, pad_edge=False)
    for number, name in enumerate(table.head):
        # Text objects, because rich would read square brackets in plain strings as markup.
        if table.is_text(number):
            shown.add_column(Text(name), overflow="fold", min_width=_NAME)
        else:
            shown.add_column(Text(name), justify="right", no_wrap=True)
    for line in table.lines:
        shown.add_row(*map(Text, line))
    console.print(shown)


def say(console: Console, text: str, style: str = "") -> None:
    """Prints a sentence as it is; a log gets it in one line."""
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal, style=style)
