"""`plan.json`: the plan for programs.

    {"currency", "money",
     "plan": {"action": "collect" | "train" | "pilot" | "nothing", "buy": {name: images}, "unique": {name: images in all},
              "stages": [{"part": of the budget, "shares": {name: share of the stage}}], "budget", "cost",
              "accuracy": {"value", "low", "high"}, "level", "probability_of_target"},
     "indistinguishable": [plans], "options": [{"source", ... as a plan, "gain", "gain_per_money"}],
     "next_pilot": {"source", "unique", "budget", "cost", "value"} | null,
     "laws": [{"name", "weight", "parameters", "held_out_error", "refused", "notes"}], "warnings": [text]}

`probability_of_target` is null without a target, `source` is null for compute alone, `gain_per_money` is null for what costs
nothing, `held_out_error` is null where too few pilots can be held out, and `refused` is empty for a law with a weight. If the
action is "pilot", `plan` is the best one without the pilot. Accuracies and gains are shares, and so is the `value` of a pilot,
which is null for a pilot without which nothing beyond the pilots is predicted.
"""

import math
from collections.abc import Sequence
from typing import Any

from sslshift.planning.answer import Outlook
from sslshift.planning.planner import Judged


def plan_record(outlook: Outlook, warnings: Sequence[str]) -> dict[str, Any]:
    """Returns the content of `plan.json`."""
    decision = outlook.decision
    pilot = outlook.next_pilot
    return {
        "currency": outlook.prices.currency,
        "money": outlook.money,
        "plan": _plan(outlook, decision.chosen) | {"action": outlook.action},
        "indistinguishable": [_plan(outlook, each) for each in decision.indistinguishable],
        "options": [
            {"source": name or None}
            | _plan(outlook, each)
            | {
                "gain": rounded(each.gain),
                "gain_per_money": _significant(each.gain / each.plan.cost) if each.plan.cost else None,
            }
            for name, each in decision.options.items()
        ],
        "next_pilot": pilot
        and {
            "source": pilot.source,
            "unique": pilot.unique,
            "budget": pilot.budget,
            "cost": rounded(pilot.cost),
            "value": rounded(pilot.value),
        },
        "laws": [
            {
                "name": law.name,
                "weight": rounded(law.weight),
                "parameters": {name: _significant(value) for name, value in law.parameters.items()},
                "held_out_error": rounded(law.held_out_error),
                "refused": law.refused,
                "notes": list(law.notes),
            }
            for law in outlook.forecast.results
        ],
        "warnings": list(warnings),
    }


def _plan(outlook: Outlook, evaluated: Judged) -> dict[str, Any]:
    plan = evaluated.plan
    return {
        "action": outlook.action_of(plan),
        "buy": dict(plan.buy),
        "unique": dict(plan.unique),
        "stages": [{"part": 1.0, "shares": {name: rounded(share) for name, share in plan.shares.items()}}],
        "budget": plan.budget,
        "cost": rounded(plan.cost),
        "accuracy": {name: rounded(getattr(evaluated, name)) for name in ("value", "low", "high")},
        "level": outlook.decision.level,
        "probability_of_target": rounded(evaluated.reaches),
    }


def rounded(value: float | None) -> float | None:
    """Returns a number with six decimals, so that files do not depend on rounding errors; None for NaN, which JSON lacks."""
    # Adding 0.0 turns -0.0 into 0.0.
    return None if value is None or not math.isfinite(value) else round(float(value), 6) + 0.0


def _significant(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
