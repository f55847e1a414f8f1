"""Tables of a plan."""

import math
from collections.abc import Collection, Mapping

import numpy as np

from sslshift.planning import null
from sslshift.planning.answer import Outlook
from sslshift.planning.laws import OWN_DISCOUNT, OWN_FLOOR, SHARED_PRIORS, laws
from sslshift.planning.planner import NEGLIGIBLE, Judged
from sslshift.planning.rounds import History, round_record
from sslshift.reporting import Table
from sslshift.reporting.numbers import points, two_digits

COMPUTE = "compute alone"
# Pilots that the table of the next pilot shows.
_SHOWN = 10


def option_table(outlook: Outlook) -> Table:
    """Returns the plan, the best plan of each option, and the best pilot, by the expected accuracy."""
    decision = outlook.decision
    rows = {"the plan": decision.chosen, **{name or COMPUTE: each for name, each in decision.options.items()}}
    rows["keep the best pilot"] = decision.kept
    target = decision.target is not None
    head = [
        "option",
        "gain, points",
        "cost",
        "accuracy %",
        "images to buy",
        "C",
        *(["probability of target"] if target else []),
    ]
    lines = [
        [
            name,
            f"{points(each.gain)} [{points(each.gain_low)}, {points(each.gain_high)}]"
            if each.plan != decision.kept.plan
            else "",
            outlook.price(each.plan.cost),
            _accuracy(each),
            ", ".join(f"{images:,} {source}" for source, images in each.plan.buy.items()) or "none",
            f"{each.plan.budget:,}",
            *([f"{each.reaches:.0%}"] if target else []),
        ]
        for name, each in sorted(rows.items(), key=lambda item: (item[0] != "the plan", -item[1].value))
    ]
    note = (
        f"The best plan of each option for {outlook.price(outlook.money)}, with {decision.level:.0%} intervals: of a run, "
        f"and of the gain."
    )
    return Table("options", "What can be done with the money", head, lines, note, more_text=("images to buy", "cost"))


def next_table(outlook: Outlook) -> Table:
    """Returns the most valuable pilots that could be run."""
    lines = [
        [
            pilot.source,
            f"{pilot.unique:,}",
            f"{pilot.budget:,}",
            "not known" if math.isnan(pilot.value) else points(pilot.value),
            outlook.price(pilot.cost),
            f"{100 * pilot.value / pilot.cost:.2g}" if pilot.cost and pilot.value > NEGLIGIBLE else "",
            "" if math.isnan(pilot.spread) else f"{100 * pilot.spread:.1f}",
        ]
        for pilot in outlook.candidates[:_SHOWN]
    ]
    none = "none is needed for the target" if outlook.is_sure else "none pays"
    title = "The next pilot" if outlook.next_pilot else f"The next pilot: {none}"
    note = (
        "Value: the accuracy that the outcome of the pilot adds to the plan by changing it, after its cost, in points. "
        "Spread: standard "
        "deviation of its accuracy in the forecast. A pilot of no value may still be uncertain: its outcome would not change "
        "the plan."
    )
    head = ("source", "N", "C", "value", "cost", "value for each unit of money", "spread")
    return Table("next", title, head, lines, note if lines else "")


def pilot_table(outlook: Outlook) -> Table:
    """Returns each pilot with its accuracy, beside what the laws say of it."""
    pilots = outlook.forecast.pilots
    predicted = np.median(outlook.forecast.predict(pilots.data.training), axis=0)
    errors = 1.96 * np.sqrt(np.diag(pilots.covariance))
    shift = dict(zip(pilots.sources, pilots.shift, strict=True))
    order = sorted(range(len(pilots.cells)), key=lambda i: (_place(shift[pilots.cells[i][0]].value), pilots.cells[i]))
    lines = []
    for i in order:
        name, unique, budget = pilots.cells[i]
        place = shift[name]
        index = (
            f"{two_digits(place.value)} [{two_digits(place.low)}, {two_digits(place.high)}]"
            if math.isfinite(place.value)
            else "none"
        )
        accuracy = f"{100 * pilots.means[i]:.1f} ± {100 * errors[i]:.1f}"
        numbers = [f"{unique:,}", f"{budget:,}", f"{budget / unique:.3g}", f"{pilots.seeds[i]:.0f}"]
        lines.append([name, accuracy, f"{100 * predicted[i]:.1f}", *numbers, index])
    for name in (name for name in pilots.sources if name not in pilots.largest):
        lines.append([name, "no pilots", "", "", "", "", "", two_digits(shift[name].value)])
    head = ("source", f"{outlook.metric} %", "by the laws", "N", "C", "E", "seeds", "shift index")
    noise = 100 * math.sqrt(pilots.noise.seed + pilots.noise.run)
    note = (
        "Means over seeds with 95% intervals over seeds and test images. Two runs that differ in their seed alone differ by "
        f"a standard deviation of {noise:.2f} points."
    )
    return Table("pilots", "What each pilot taught", head, lines, note)


def _place(value: float) -> tuple[bool, float]:
    return not math.isfinite(value), value if math.isfinite(value) else 0.0


def law_table(outlook: Outlook) -> Table:
    """Returns the laws with their weights, errors and parameters."""
    pilots = outlook.forecast.pilots
    sentences = {name: law.sentence for name, law in laws(pilots.places, pilots.data.training).items()}
    sentences[null.NAME] = "more images never hurt; nothing else is assumed"
    lines = [
        [
            law.name,
            "refused" if law.refused else f"{law.weight:.0%}",
            f"{100 * law.held_out_error:.2f}" if math.isfinite(law.held_out_error) else "",
            sentences[law.name],
            ", ".join(f"{name} = {value:.3g}" for name, value in law.parameters.items() if " of " not in name),
        ]
        for law in outlook.forecast.results
    ]
    note = (
        "Held-out error: root of the mean squared error, in points, on the pilots of a source at a budget, predicted from all "
        "others. Predictions average over the laws by their weights. plan.json also has the parameters of single sources."
    )
    head = ("law", "weight", "held-out error", "says", "parameters")
    return Table("laws", "Laws", head, lines, note, more_text=("says", "parameters"))


_MEANINGS = {
    "e": "error that no number of images removes",
    "b_0": "error above e of a typical pilot",
    "b": "exponent with which the error falls with images",
    "R": "epochs after which repetition has lost most of its value",
    "k": "how much shift makes an image worth less",
    "P": "harm by repetition",
    "g": "error that shift adds",
    "tau": "epochs in which the value of an image halves",
}


def prior_table(flat: Collection[str]) -> Table:
    """Returns the priors of the laws' parameters; those in `flat` are switched off."""
    lines = []
    for name, prior in SHARED_PRIORS.items():
        scale = math.exp if prior.log else float
        spread = f", within a factor of {math.exp(prior.sd):.2g}" if prior.log else f" ± {prior.sd:.2g}"
        text = "none (--flat)" if name in flat else f"{scale(prior.mean):.3g}{spread}"
        lines.append((name, _MEANINGS[name], text, f"{scale(prior.low):.4g} to {scale(prior.high):.4g}"))
    note = (
        "Normal distributions, of the logarithm where a factor is given. A source's own deviation from what its shift "
        f"predicts is 0 ± {OWN_DISCOUNT:g} in the log of its discount, and 0 ± {OWN_FLOOR:g} in its floor."
    )
    head = ("parameter", "meaning", "prior", "bounds")
    return Table("priors", "Priors of the laws", head, lines, note, text_columns=2, more_text=("prior",))


def round_table(outlook: Outlook, history: History) -> Table:
    """Returns the rounds with their plans; no rows in the first round."""
    pilots = outlook.forecast.pilots
    own = (history.number, len(pilots.runs), len(pilots.cells), outlook.describe(outlook.decision.chosen.plan))
    rows = [*map(round_record, history.earlier), own] if history.earlier else []
    lines = [(str(number), f"{runs:,}", f"{cells:,}", f"{text[0].upper()}{text[1:]}") for number, runs, cells, text in rows]
    return Table("rounds", "What changed since the last round", ("round", "runs", "pilots", "plan"), lines, more_text=("plan",))


def score_table(history: History) -> Table:
    """Returns the pilots that earlier rounds predicted, beside what they brought."""
    lines = [
        (
            each.source,
            f"{100 * each.accuracy:.1f}",
            f"{100 * each.value:.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]",
            *("hit" if inside else "miss" for inside in each.inside),
            f"{each.unique:,}",
            f"{each.budget:,}",
            str(each.seeds),
            str(each.round),
        )
        for each in history.scores
    ]
    head = ("source", "accuracy %", "predicted [90% interval]", "50%", "80%", "90%", "N", "C", "seeds", "by round")
    return Table("scores", "Earlier predictions and what came", head, lines)


def price_table(outlook: Outlook) -> Table:
    """Returns the prices of all sources."""
    sample = outlook.prices.per_sample
    lines = [
        (
            name,
            f"{price.per_image:g}",
            f"{price.owned:,}",
            f"{price.available:,.0f}" if math.isfinite(price.available) else "no limit",
            f"{price.setup:,.2f}",
            f"{price.max_share:.0%}",
        )
        for name, price in sorted(outlook.prices.sources.items())
    ]
    head = ("source", "an image", "owned", "available", "setup", "largest share")
    unit = f" {outlook.prices.currency}" if outlook.prices.currency else ""
    return Table("prices", "Prices", head, lines, f"A million training samples cost {1e6 * sample:,.2f}{unit}.")


def settings_table(settings: Mapping[str, object]) -> Table:
    """Returns flags with their values."""
    lines = [
        (name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for name, value in settings.items()
    ]
    return Table("settings", "Settings", ("flag", "value"), lines, text_columns=2)


def _accuracy(each: Judged) -> str:
    return f"{100 * each.value:.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]"
