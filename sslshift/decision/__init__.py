"""The way from folders of images to a decision: pilots at several budgets, the shift before them, and the plan after them.

| file | content |
|---|---|
| `design` | `PilotStudy`, and the studies at two budgets that a law can be identified from |
| `pilots` | runs these studies, says what they cost, and joins their tables |
| `walk` | the whole way of `python -m tools.decide` |

A study has one budget, since only runs of one budget can be compared. A law needs several: the pilots are one study for each
budget, in folders of their own, with the same sources, tasks and settings. `results.csv` beside these folders has the runs of
all budgets, each source by its name and with one shift index, that of the largest budget; `python -m tools.plan` reads it.
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.decision.design import PilotStudy
    from sslshift.decision.pilots import dry_run_pilots, report_pilots, run_pilots

__all__ = ["PilotStudy", "dry_run_pilots", "report_pilots", "run_pilots"]
