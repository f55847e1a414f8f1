"""Studies: declared as data, run by one runner, shown as a table, a CSV file, a figure and a page.

`declare.Study` is the declaration, `flags` makes it a command line, `learners` and `build` make of it what is trained, `runner`
trains and judges every run into folders that remember, `summary` turns runs into rows with intervals, `report` and `figure`
show them. `commands` has what an experiment's `main` runs.
"""

from sslshift.study.commands import run
from sslshift.study.declare import Study
from sslshift.study.flags import run_experiment

__all__ = ["Study", "run", "run_experiment"]
