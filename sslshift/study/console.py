"""What a person sees on the terminal when a study ends."""

import dataclasses

from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from sslshift.reporting import Table
from sslshift.study.contents import main_table, task_table
from sslshift.study.findings import answer, findings
from sslshift.study.notes import caption
from sslshift.study.results import Results

# Letters of a name on one line, at least.
_NAME = 12


def print_results(results: Results, console: Console) -> None:
    """The main table, one of all tasks where there are several, the answer, and what else there is to say."""
    table = main_table(results)
    # Verdicts stand in the sentences below: a terminal is narrow.
    _print(
        dataclasses.replace(table, head=table.head[:-1], lines=[line[:-1] for line in table.lines]), caption(results), console
    )
    if len(results.opened.tasks) > 1:
        table = task_table(results)
        _print(table, f"{table.title}. {table.note}", console)
    for sentence in answer(results):
        console.print(sentence, highlight=False, soft_wrap=not console.is_terminal, markup=False)
    for sentence in findings(results):
        console.print(f"- {sentence}", highlight=False, soft_wrap=not console.is_terminal, markup=False)


def _print(table: Table, title: str, console: Console) -> None:
    shown = Shown(*table.head, title=Text(title), title_justify="left", title_style="", box=None, pad_edge=False)
    for number, column in enumerate(shown.columns):
        if number < table.text_columns:
            column.overflow = "fold"
            column.min_width = _NAME
        else:
            column.justify = "right"
            column.no_wrap = True
    for cells in table.lines:
        shown.add_row(*(Text(cell) for cell in cells))
    console.print(shown)
