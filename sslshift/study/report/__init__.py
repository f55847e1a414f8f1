"""Report of a study: sentences, tables and figures, on one page, as files and on a terminal.

* `sentences` has the answer, the findings and the notes.
* `tables` has every table, `figures` every figure; each is one function, which returns a `Table` or a matplotlib `Figure`.
* `page` and its template `page.html` make `report.html`; headings and the order of its parts are in the template.
* `write` writes all files, `scores.csv` among them, and prints the summary on a terminal.
* `text` turns numbers and names into words for all of them.

The report computes nothing: its numbers come from the analysis of the study. Forms of tables, the frame of the page and the
style of figures are those of `sslshift.reporting`.

To change:
  a sentence: `sentences.py`; a heading of the page: `page.html`; the note of a table or a figure: beside its function.
  add a table: a function in `tables.py` and its name in `all_tables`, which writes its files; a line in `page.html` shows it.
  add a figure: a function in `figures.py` and an entry of `_FIGURES`, which draws, saves and shows it.
"""

from sslshift.study.report.write import print_report, write_report

__all__ = ["print_report", "write_report"]
