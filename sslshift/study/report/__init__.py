"""Report of a study: sentences, tables and figures on one page, in files and on a terminal.

* `decision` has the first sentences: what to collect, what hurts, or how much more it takes to know.
* `sentences` has the answers to the study's questions, and the findings.
* `tables` has every table, `figures` every figure; each is one function, which returns a `Table` or a matplotlib `Figure`.
* `page` and its template `page.html` make `report.html`; headings and the order of its parts are in the template.
* `write` writes all files, `scores.csv` among them, and prints the summary on a terminal.
* `text` formats numbers and names for all of these modules.

The report computes nothing: its numbers come from the analysis of the study. `sslshift.reporting` has the forms of tables,
the base of the page and the style of figures.

To change the report:
  edit sentences in `sentences.py`, headings in `page.html`, and the note of a table or figure beside its function.
  add a table as a function in `tables.py`, name it in `all_tables` for its files, and in `page.html` to show it.
  add a figure as a function in `figures.py` and an entry of `_FIGURES`; it is then drawn, saved and shown.
"""

from sslshift.study.report.write import print_report, write_report

__all__ = ["print_report", "write_report"]
