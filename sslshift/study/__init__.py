"""Studies: declared as data, run by one runner, shown as tables, figures and a page.

`declare.Study` is the declaration, `flags` makes it a command line, `learners` and `build` make of it what is trained, `runner`
trains and judges every run into folders that remember. `sampled` and `statistics` make intervals of the runs, `compared` says
what they say of each other, `findings` says it in sentences, `contents` in tables, `figures` in pictures; `report` writes all
of it, and `page` is for people. `commands` has what an experiment's `main` runs.
"""

from sslshift.study.cli import run, run_experiment
from sslshift.study.declare import Study

__all__ = ["Study", "run", "run_experiment"]
