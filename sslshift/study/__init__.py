"""Studies: grids of runs at one budget, declared as data, run by one runner, analysed and reported.

An experiment declares a `Study` and hands it to `run_experiment`, which makes a command of it. From Python, `run(Study(...))`
does the same. Data moves through the files of this room in one direction:

| file | what it holds |
|---|---|
| `declare` | `Study`: text and numbers, as flags give them |
| `design` | `parse_study`: the declaration parsed once, into typed objects |
| `learners`, `candidates`, `downstream` | methods on encoders, ways to spend the budget, and tasks, each opened and checked |
| `opened` | `open_study`: everything that a design names, and the grid of runs |
| `leaks`, `shifts`, `evaluate` | leaked test images, shift indices, and scores of runs and baselines, kept in folders |
| `runner` | `run_study` and `read_results`; `results` has what they return, `ledger` the table `results.csv` |
| `analysis` | `Analysis(results)`: gains, comparisons and trends with intervals and verdicts |
| `report/` | sentences, tables, figures and the page |
| `cli` | flags, `run`, `--dry_run` and `--report_only`; `cost` and `progress` print |
| `calibration` | the study of the shift index itself |

N is corrected for broken images in `runner.train_run`: `unique_read` is N without the images in the run's `broken.csv`.

To add an experiment, write one module in `experiments/`: a docstring, a `Study`, and a call of `run_experiment`. To add a flag,
add a field to `Study` and read it in `design.parse_study` or `learners`. To add a number to the report, compute it in
`analysis` and show it in `report/`.

The tests: `test_study` (commands in processes of their own), `test_runner` (resumption, failures, the results table),
`test_analysis`, `test_report*`, `test_study_shifts`, `test_flags`, `test_calibration`.
"""

from sslshift.study.cli import run, run_experiment
from sslshift.study.declare import Study

__all__ = ["Study", "run", "run_experiment"]
