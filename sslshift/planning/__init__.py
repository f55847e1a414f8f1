"""Planning: laws fitted to pilots, and a planner that counts money.

| file | what it holds |
|---|---|
| `pilots` | results of studies, read, checked and averaged over seeds; `folders` reads what stands beside the tables |
| `noise` | how far runs vary, and how far they vary together |
| `laws` | accuracy as a function of images, epochs and shift, with priors; `null` is the law that assumes least |
| `fitting` | fits of a law, draws of its parameters, and what the pilots do not identify |
| `averaging` | the forecast: laws averaged by how well they predict pilots that they have not seen |
| `prices` | what images and training cost |
| `search`, `planner` | all plans that the money allows, and the best one |
| `next_pilot` | what a further pilot would be worth |
| `answer` | the answer in three sentences, and what qualifies it |
| `record`, `grid` | `plan.json`, and predictions for a table, for programs |
| `rounds` | what earlier plans predicted, and what came |
| `tables`, `page` | the page for people |
| `report` | all of it, for `python -m tools.plan` |

Example:
  >>> from sslshift.planning import PilotRun, Exposure, forecast, gather
  >>> truth = lambda unique, budget: 0.9 - 0.3 * (unique * (budget / unique) ** 0.5 / 1000) ** -0.4
  >>> cells = [(unique, budget) for budget in (4000, 16000) for unique in (250, 500, 1000, 2000, 4000)]
  >>> noise = {"0": -0.002, "1": 0.0, "2": 0.002}
  >>> runs = [PilotRun("near", n, c, seed, truth(n, c) + e, 5000) for n, c in cells for seed, e in noise.items()]
  >>> fitted = forecast(gather(runs))
  >>> interval = fitted.interval(Exposure.of_single([0], [8000], [32000]))
  >>> bool(interval.low[0] < truth(8000, 32000) < interval.high[0])
  True

Accuracies are shares, N is `unique` and C is `budget` everywhere. All functions are pure: the same results give the same plan.
"""

from sslshift.extras import needs_study

with needs_study(__name__):
    from sslshift.planning.averaging import Forecast, forecast
    from sslshift.planning.laws import Exposure
    from sslshift.planning.next_pilot import value_pilots
    from sslshift.planning.pilots import PilotRun, Pilots, SourcePlace, gather, read_pilots
    from sslshift.planning.planner import Decision, consider, decide
    from sslshift.planning.prices import Prices, SourcePrice, read_prices
    from sslshift.planning.report import PlanReport, PlanSettings, run_plan
    from sslshift.planning.search import Plan

__all__ = [
    "Decision",
    "Exposure",
    "Forecast",
    "PilotRun",
    "Pilots",
    "Plan",
    "PlanReport",
    "PlanSettings",
    "Prices",
    "SourcePlace",
    "SourcePrice",
    "consider",
    "decide",
    "forecast",
    "gather",
    "read_pilots",
    "read_prices",
    "run_plan",
    "value_pilots",
]
