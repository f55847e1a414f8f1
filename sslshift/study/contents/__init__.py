"""A study's tables, each as lines of text: on the page, on a terminal, and as files."""

from sslshift.reporting import Table
from sslshift.study.contents.comparisons import order_table, pair_table, trend_table
from sslshift.study.contents.data import mixture_table, shift_table
from sslshift.study.contents.runs import main_table, run_table, task_table
from sslshift.study.contents.text import called, percent
from sslshift.study.results import Results

__all__ = ["all_tables", "called", "main_table", "percent", "task_table"]


def all_tables(results: Results) -> list[Table]:
    """Every table that the results have something for, the main one first."""
    tables = [main_table(results)]
    if len(results.opened.tasks) > 1:
        tables.append(task_table(results))
    tables += [trend_table(results), pair_table(results), order_table(results), shift_table(results), mixture_table(results)]
    tables += [run_table(results)]
    return [table for table in tables if table.lines]
