"""The whole way from folders of images to a decision: shift, pilots, plan, and one page with the decision on top."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sslshift.data.source_text import parse_given_name, parse_named_sources
from sslshift.data.sources import parse_uri
from sslshift.decision.design import PilotStudy
from sslshift.decision.pilots import OpenedPilots, PilotCost, cost_text, open_pilots, pilot_costs, run_opened_pilots
from sslshift.planning.report import PlanSettings, run_plan
from sslshift.reporting import say
from sslshift.reporting.progress import counting_images, duration
from sslshift.shift import DEFAULT_DISTANCE
from sslshift.shift.index import SEPARATION
from sslshift.shift.survey import SurveySettings, run_survey
from sslshift.study.cli import describe_study
from sslshift.study.declare import SMALL_ENCODER
from sslshift.study.progress import Progress
from sslshift.transfer.declaration import parse_task

# Folders of the parts.
SHIFT = "shift"
PILOTS = "pilots"
# As experiments.quickstart; another encoder has the method's recipe.
SMALL = PilotStudy(**SMALL_ENCODER, untrained_seeds=3)


@dataclasses.dataclass(frozen=True)
class DecisionSettings:
    """Settings of a decision; the fields are the flags of `python -m tools.decide`, whose help describes them."""

    task: str
    source: Sequence[str]
    prices: str
    money: float
    target: float | None
    level: float
    encoder: str
    image_size: int
    budget: int
    shift_encoder: str
    hours: float
    yes: bool
    out: str


def decide_on(settings: DecisionSettings, progress: Progress, command: str = "") -> Path | None:
    """Measures the shift, trains pilots, and plans; returns the page with the decision, or None if the user says no.

    Every part is kept in the folder, and a further call continues where an earlier one stopped.

    Args:
      settings: the settings.
      progress: shows progress, and has the clock and the request to stop of the command.
      command: command line that repeats the decision, for the reports.

    Raises:
      ValueError: a setting or a source is wrong, or the pilots take more hours than allowed and nobody can be asked.
      RuntimeError: a source could not be measured, or pilots failed.
    """
    # All sources, numbers and prices are checked before the first image is compared.
    pilots = open_pilots(pilots_of(settings), progress)
    describe_study(pilots.studies[0], progress)
    costs = pilot_costs(pilots)
    progress.note(f"\n{cost_text(pilots, costs)} Measuring the shift takes a minute or two in addition.\n")
    with progress.clock.part("shift"):
        measure_shift(settings, progress)
    if not may_train(costs, settings.hours, settings.yes):
        progress.note("The pilots are not trained; the same command asks again.")
        return None
    warnings = run_opened_pilots(pilots, progress, command)
    return plan(settings, pilots, warnings, progress)


def pilots_of(settings: DecisionSettings) -> PilotStudy:
    """Returns the pilots of a decision.

    Raises:
      ValueError: a task or source cannot be read.
    """
    # Two sources of one name are reported as tools.shift does.
    parse_named_sources(settings.source)
    texts = []
    for name, uri in (parse_given_name(text, "--source") for text in settings.source):
        if ";" in name:
            raise ValueError(f"--source: expected a name without ';', got {name!r}.")
        # Encoded, since characters of a path such as ';' separate sources in the flag of experiments.
        texts.append(f"{name} = {parse_uri(uri)}" if name else f"{parse_uri(uri)}")
    base = SMALL if settings.encoder == SMALL.encoder else PilotStudy(encoder=settings.encoder, untrained_seeds=3)
    return dataclasses.replace(
        base,
        sources="; ".join(texts),
        downstream=settings.task,
        image_size=settings.image_size,
        budget=settings.budget,
        prices=settings.prices,
        out=str(Path(settings.out) / PILOTS),
    )


def plan(settings: DecisionSettings, pilots: OpenedPilots, warnings: Sequence[str], progress: Progress) -> Path:
    """Plans from the pilots, prints the decision, and returns its page, which links to those of the shift and the pilots."""
    with progress.clock.part("planning"):
        report = run_plan(
            PlanSettings(
                results=[str(pilots.out)],
                prices=settings.prices,
                money=settings.money,
                target=settings.target,
                level=settings.level,
                out=settings.out,
            )
        )
        links = [("How far each source is from the task", f"{SHIFT}/shift.html")]
        for opened in pilots.studies:
            budget = opened.design.budget.samples
            links.append((f"The pilots with C = {budget:,}", f"{PILOTS}/{opened.design.out.name}/report.html"))
        page = report.write(links, warnings)[-1]
        progress.note("")
        report.show(progress.console)
    progress.note(f"\nThe decision, with everything behind it: {page}")
    return page


def measure_shift(settings: DecisionSettings, progress: Progress) -> None:
    """Measures how far each source is from the images of the task, and writes the page OUT/shift/shift.html.

    Raises:
      RuntimeError: a source could not be measured.
    """
    survey = SurveySettings(
        target=parse_task(settings.task).source,
        source=list(settings.source),
        mixture=[],
        encoder=settings.shift_encoder,
        images=2000,
        image_size=0,
        distance=DEFAULT_DISTANCE,
        far_end=SEPARATION,
        distances="none",
        seed=0,
        out=str(Path(settings.out) / SHIFT),
    )
    report = run_survey(survey, functools.partial(counting_images, progress.console), lambda name: None)
    for line in report.answer:
        say(progress.console, line)
    progress.note(f"wrote {report.write(html=True)[-1]}")
    if report.found.failed:
        name, why = next(iter(report.found.failed.items()))
        raise RuntimeError(f"The shift of {name} could not be measured: {why}")


def may_train(
    costs: Sequence[PilotCost], hours: float, yes: bool, ask: Callable[[str], str] = input, asked: bool | None = None
) -> bool:
    """Returns whether pilots may be trained; asks on a terminal if they take more hours than allowed.

    Args:
      costs: what the pilots take.
      hours: hours that may be spent without asking.
      yes: whether everything is allowed.
      ask: function that asks a question.
      asked: whether somebody can be asked; None: whether the command has a terminal.

    Raises:
      ValueError: the pilots take more hours, and nobody can be asked.
    """
    seconds = sum(each.seconds for each in costs)
    if yes or seconds <= hours * 3600:
        return True
    if not ((sys.stdin and sys.stdin.isatty()) if asked is None else asked):
        raise ValueError(
            f"The pilots take about {duration(seconds)}, more than --hours={hours:g}, and there is no terminal to ask on. Give "
            "--yes to train them, or a smaller --budget."
        )
    return ask(f"The pilots take about {duration(seconds)}. Train them now? [y/N] ").strip().lower() in ("y", "yes")
