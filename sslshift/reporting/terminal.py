"""Tables on a terminal."""

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from sslshift.reporting.table import Table

# Characters of a word column that stay on one line at least, however narrow the terminal is.
_NAME = 12


def print_table(table: Table, console: Console, title: str | None = None) -> None:
    """Prints a table; columns of words are wrapped where the terminal is narrow, columns of numbers are not.

    Args:
      table: the table.
      console: the terminal.
      title: text above the table in place of its own title; an empty text for none.
    """
    title = table.title if title is None else title
    heading = Text(title) if title else None
    shown = Grid(title=heading, title_justify="left", title_style="", box=None, pad_edge=False)
    for number, name in enumerate(table.head):
        # Text objects: rich would read square brackets in plain strings as its markup.
        if table.is_text(number):
            shown.add_column(Text(name), overflow="fold", min_width=_NAME)
        else:
            shown.add_column(Text(name), justify="right", no_wrap=True)
    for line in table.lines:
        shown.add_row(*map(Text, line))
    console.print(shown)
