"""The HTML page of a plan. Its sentences are in `page.html`, its tables in `tables.py`, its charts here."""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslshift.planning.answer import Outlook
from sslshift.planning.planner import Judged
from sslshift.planning.rounds import History
from sslshift.planning.tables import (
    COMPUTE,
    law_table,
    next_table,
    option_table,
    pilot_table,
    price_table,
    prior_table,
    round_table,
    score_table,
    settings_table,
)
from sslshift.reporting import figures, render_page

# Inches: a telephone and a column of a paper can both show it.
_WIDTH = 4.4


def page(
    outlook: Outlook,
    history: History,
    *,
    answer: Sequence[str],
    warnings: Sequence[str],
    hits: Sequence[str],
    settings: Mapping[str, object],
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns the page as text.

    Args:
      outlook: the plan.
      history: earlier rounds.
      answer: the three sentences that begin the page.
      warnings: what qualifies them.
      hits: sentences on the intervals of earlier rounds.
      settings: flags and their values.
      links: labels and addresses of pages that belong to this one.
    """
    decision = outlook.decision
    returns = {name: several for name, several in decision.returns.items() if several}
    # An option has the same colour in all charts; compute alone comes last.
    order = sorted(returns, key=lambda name: (not name, name))
    looks = {name: figures.look(number) for number, name in enumerate(order)}
    # Without a shift index, order is by name: charts of two rounds agree.
    has_target = decision.target is not None
    return render_page(
        __package__,
        "page.html",
        about=_about(outlook),
        answer=answer,
        warnings=warnings,
        links=links,
        level=f"{decision.level:.0%}",
        target=f"{100 * decision.target:g}%" if has_target else "",
        options=option_table(outlook),
        returns_chart=figures.chart("returns", "gain of each option against money", lambda: _returns(outlook, looks))
        if returns
        else "",
        accuracy_chart=figures.chart("accuracy", "accuracy against money", lambda: _accuracy(outlook)) if returns else "",
        target_chart=_target_chart(outlook, looks) if has_target and returns else "",
        next=next_table(outlook),
        pilots=pilot_table(outlook),
        laws=law_table(outlook),
        reasons=_reasons(outlook),
        rounds=round_table(outlook, history),
        changes=history.changes,
        scores=score_table(history),
        hits=hits,
        notes=_notes(outlook),
        prices=price_table(outlook),
        priors=prior_table(settings["--flat"]),
        settings=settings_table(settings),
    )


def _about(outlook: Outlook) -> list[str]:
    pilots = outlook.forecast.pilots
    facts = [f"{name} {value}" for name, value in pilots.facts.items()]
    return [
        *([", ".join(facts)] if facts else []),
        f"{len(pilots.runs):,} runs of {len(pilots.cells):,} pilots on {len(pilots.largest):,} sources; "
        f"{outlook.price(outlook.money)} to spend",
    ]


def _reasons(outlook: Outlook) -> list[str]:
    """Returns why laws were refused, and what the pilots do not identify."""
    results = outlook.forecast.results
    refused = [f"{law.name} is refused: {law.refused}." for law in results if law.refused]
    return [*refused, *dict.fromkeys(note for law in results if law.weight for note in law.notes)]


def _notes(outlook: Outlook) -> list[str]:
    decision = outlook.decision
    ceiling = decision.ceiling
    notes = [
        "N is the number of different images that a training sees, C the number of samples that it sees in all, and E = C / N "
        "the number of epochs.",
        f"The interval of an accuracy contains a single run with a probability of {decision.level:.0%}: it includes the "
        "parameters of the laws, the choice among the laws, and the noise of a run. The interval of a gain is of the "
        "difference of the two expected accuracies. In simulated worlds, 90% intervals held a new "
        "run in 86 to 96% inside the pilots' range and in 88 to 97% at four times their budget (experiments/README.md).",
        "Plans are compared in the same draws of the laws. Two plans are indistinguishable if the interval of their "
        "difference contains 0.",
        "All prices are those of the file of prices; images that are owned are paid.",
    ]
    if ceiling:
        value, low, high = (100 * each for each in ceiling)
        notes.append(
            f"With any number of images of these sources and any budget, the laws allow {value:.1f}% ({decision.level:.0%} "
            f"interval: {low:.1f} to {high:.1f}%)."
        )
    return notes


def _target_chart(outlook: Outlook, looks: Mapping[str, figures.Look]) -> Markup:
    def draw() -> Figure:
        drawing, axes = _panel()
        for name, several, look in _options(outlook, looks):
            axes.plot(
                _costs(several),
                [100 * each.reaches for each in several],
                f"{look.marker}-",
                color=look.colour,
                label=_label(name),
            )
        axes.set_ylim(-3, 103)
        axes.set_ylabel("probability, %")
        return _finished(drawing, axes, outlook)

    return figures.chart("target", "probability of reaching the target against money", draw)


def _returns(outlook: Outlook, looks: Mapping[str, figures.Look]) -> Figure:
    drawing, axes = _panel()
    axes.axhline(0, color=figures.MUTED, linewidth=0.8)
    for name, several, look in _options(outlook, looks):
        costs = _costs(several)
        axes.fill_between(
            costs,
            [100 * each.gain_low for each in several],
            [100 * each.gain_high for each in several],
            color=look.colour,
            alpha=0.1,
            linewidth=0,
        )
        axes.plot(costs, [100 * each.gain for each in several], f"{look.marker}-", color=look.colour, label=_label(name))
    axes.set_ylabel("gain, points")
    return _finished(drawing, axes, outlook)


def _accuracy(outlook: Outlook) -> Figure:
    decision = outlook.decision
    drawing, axes = _panel()
    everything = sorted(
        (each for several in (*decision.returns.values(), [decision.chosen]) for each in several),
        key=lambda each: each.plan.cost,
    )
    best: list[Judged] = []
    for each in everything:
        # What costs nothing has no place on a logarithmic axis; the line of the best pilot shows it.
        if each.plan.cost > 0 and (not best or each.value > best[-1].value):
            best.append(each)
    values = [100 * each.value for each in best]
    # A mean can lie outside of its interval by rounding, and `errorbar` rejects negative lengths.
    bars = [
        [max(0.0, 100 * (each.value - each.low)) for each in best],
        [max(0.0, 100 * (each.high - each.value)) for each in best],
    ]
    axes.errorbar(_costs(best), values, yerr=bars, marker="o", color=figures.COLOURS[0], label=" best plan")
    if decision.chosen.plan.cost > 0:
        ring = {"color": "black", "fillstyle": "none", "markersize": 9, "label": " the plan"}
        axes.plot([decision.chosen.plan.cost], [100 * decision.chosen.value], "o", **ring)
    axes.axhline(100 * decision.kept.value, color=figures.MUTED, linestyle="--", linewidth=1, label=" the best pilot")
    if decision.target is not None:
        axes.axhline(100 * decision.target, color=figures.COLOURS[1], linestyle=":", linewidth=1, label=" the target")
    axes.set_ylabel(f"{outlook.metric}, %")
    return _finished(drawing, axes, outlook)


def _options(outlook: Outlook, looks: Mapping[str, figures.Look]) -> list[tuple[str, Sequence[Judged], figures.Look]]:
    return [
        (name, sorted(outlook.decision.returns[name], key=lambda each: each.plan.cost), look) for name, look in looks.items()
    ]


def _costs(several: Sequence[Judged]) -> list[float]:
    return [each.plan.cost for each in several]


def _label(name: str) -> str:
    # matplotlib leaves labels that begin with an underscore out of a legend.
    return f" {figures.shortened(name, 40)}" if name else f" {COMPUTE}"


def _panel() -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
    return drawing, drawing.subplots()


def _finished(drawing: Figure, axes: Axes, outlook: Outlook) -> Figure:
    currency = outlook.prices.currency
    axes.set_xlabel(f"money{f', {currency}' if currency else ''}", parse_math=False)
    costs = [each.plan.cost for several in outlook.decision.returns.values() for each in several]
    if min(costs) > 0 and max(costs) > 10 * min(costs):
        axes.set_xscale("log")
        number: Callable[[float, object], str] = lambda value, _: f"{value:,.15g}"  # noqa: E731
        axes.xaxis.set_major_formatter(number)
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    handles, labels = axes.get_legend_handles_labels()
    # A line of the legend is 0.17 inches high.
    drawing.set_figheight(3.0 + 0.17 * math.ceil(len(labels) / 2))
    legend = drawing.legend(handles, labels, loc="outside lower left", ncols=2)
    for text in legend.get_texts():
        # Names may contain dollar signs, which begin no formula here.
        text.set_parse_math(False)
    return drawing
