"""A plan from start to finish: reads results and prices, plans, compares with earlier rounds, and writes the folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sslshift import storage
from sslshift.planning.answer import Outlook, answer, missing_pilots, warnings
from sslshift.planning.averaging import Forecast, forecast
from sslshift.planning.folders import Folders, read_folders
from sslshift.planning.grid import predict_grid
from sslshift.planning.next_pilot import value_pilots
from sslshift.planning.pilots import CHOICES, read_pilots
from sslshift.planning.planner import consider, decide
from sslshift.planning.prices import read_prices
from sslshift.planning.record import plan_record
from sslshift.planning.rounds import History, coverage, keep_round, read_history
from sslshift.planning.tables import next_table, option_table
from sslshift.reporting import print_table, say

PAGE = "plan.html"
RECORD = "plan.json"
PREDICTIONS = "predictions.csv"


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Settings of a plan; the fields are the flags of `python -m tools.plan`, whose help describes them."""

    results: Sequence[str]
    prices: str = ""
    money: float | None = None
    target: float | None = None
    level: float = 0.9
    task: str = ""
    metric: str = ""
    method: str = ""
    encoder: str = ""
    ignore: Sequence[str] = ()
    flat: Sequence[str] = ()
    predict: str = ""
    out: str = "results/plan"

    @property
    def choices(self) -> dict[str, str]:
        """The task, metric, method and encoder that were chosen."""
        return {name: getattr(self, name) for name in CHOICES}


@dataclasses.dataclass(frozen=True, eq=False)
class PlanReport:
    """Result of a plan, for people and programs.

    Attributes:
      settings: the settings.
      outlook: the plan; None if only predictions were asked for.
      history: earlier rounds.
      predictions: content of `predictions.csv`; empty if none were asked for.
    """

    settings: PlanSettings
    outlook: Outlook | None
    history: History | None
    predictions: str

    @property
    def answer(self) -> list[str]:
        """The three sentences of the answer; empty if only predictions were asked for."""
        return answer(self.outlook) if self.outlook else []

    @property
    def record(self) -> dict[str, Any]:
        """The content of `plan.json`."""
        return plan_record(self.outlook, warnings(self.outlook)) if self.outlook else {}

    @property
    def hits(self) -> list[str]:
        """A sentence on the intervals of earlier rounds; empty if no pilot came after a round."""
        scores = self.history.scores if self.history else ()
        if not scores:
            return []
        found = ", ".join(f"{level:.0%} intervals contained {count}" for level, count in coverage(scores).items())
        what = "pilots" if len(scores) > 1 else "pilot"
        return [f"Of {len(scores)} {what} that earlier rounds had predicted, {found}."]

    def show(self, console: Console) -> None:
        """Prints the answer, the options, the next pilot, and what changed."""
        if not self.outlook or not self.history:
            return
        for sentence in self.answer:
            say(console, sentence)
        for table in (option_table(self.outlook), next_table(self.outlook) if self.outlook.next_pilot else None):
            if table:
                print_table(table, console)
        for sentence in [*self.history.changes, *self.hits, *warnings(self.outlook)]:
            say(console, f"- {sentence}")

    def write(self, links: Sequence[tuple[str, str]] = (), remarks: Sequence[str] = ()) -> list[Path]:
        """Writes `plan.json`, `plan.html`, `predictions.csv` and the round, and returns the paths of the first three.

        Args:
          links: labels and addresses of pages that the page links to.
          remarks: further warnings of the page.
        """
        out = Path(self.settings.out).expanduser()
        out.mkdir(parents=True, exist_ok=True)
        files = []
        if self.predictions:
            storage.write(out / PREDICTIONS, self.predictions)
            files.append(out / PREDICTIONS)
        if self.outlook and self.history:
            # Imported here with matplotlib, so that a command does not wait for it at its start.
            from sslshift.planning.page import page

            record = self.record
            # The round comes first: whoever finds a plan finds what it predicted.
            keep_round(out, self.outlook, self.settings.flat, self.history.number, record)
            storage.write_json(out / RECORD, record)
            text = page(
                self.outlook,
                self.history,
                answer=self.answer,
                warnings=[*remarks, *warnings(self.outlook)],
                hits=self.hits,
                settings=_shown(self.settings),
                links=links,
            )
            storage.write(out / PAGE, text)
            files += [out / RECORD, out / PAGE]
        return files


def _shown(settings: PlanSettings) -> dict[str, object]:
    """Returns the settings for the page; the folder of results does not change the results."""
    return {f"--{name}": value for name, value in dataclasses.asdict(settings).items() if name != "out"}


def run_plan(settings: PlanSettings) -> PlanReport:
    """Plans from results and prices, or predicts the rows of a table, or both. Writes nothing.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file or a setting is wrong, or the results cannot be planned from.
    """
    if not settings.predict and not (settings.prices and settings.money is not None):
        raise ValueError("Expected --prices and --money for a plan, or --predict for predictions alone.")
    if settings.money is not None and not settings.prices:
        raise ValueError("--money is given without --prices, the file of prices.")
    if not 0 < settings.level < 1:
        raise ValueError(f"Expected a --level between 0 and 1, such as 0.9, got {settings.level:g}.")
    out = Path(settings.out).expanduser()
    _require_own(out)
    paths = [Path(each).expanduser() for each in settings.results]
    folders = read_folders(paths)
    pilots = read_pilots(paths, settings.choices, settings.ignore, folders)
    fitted = forecast(pilots, settings.flat)
    outlook = history = None
    if settings.money is not None:
        outlook = _outlook(settings, fitted, folders)
        history = read_history(out, outlook, settings.flat)
    predictions = ""
    if settings.predict:
        predictions = predict_grid(Path(settings.predict).expanduser(), fitted, settings.level, folders.names)
    return PlanReport(settings, outlook, history, predictions)


def _require_own(out: Path) -> None:
    """Raises ValueError if the folder belongs to a study, which keeps what it planned in a file of the same name."""
    if (out / RECORD).exists() and "plan" not in storage.read_json(out / RECORD):
        raise ValueError(f"--out={out} is the folder of a study, whose {RECORD} would be overwritten. Give another folder.")


def _outlook(settings: PlanSettings, fitted: Forecast, folders: Folders) -> Outlook:
    pilots = fitted.pilots
    used = {name: pilots.largest.get(name, 0) for name in pilots.sources}
    prices = read_prices(Path(settings.prices).expanduser(), used, folders.samples_per_second, folders.names)
    considered = consider(fitted, prices, settings.money)
    decision = decide(fitted, prices, settings.money, settings.target, settings.level, considered)
    # Without a law, what a pilot is worth is not known either.
    candidates = (
        value_pilots(fitted, prices, considered, settings.money) if fitted.extrapolates else missing_pilots(fitted, prices)
    )
    return Outlook(fitted, prices, settings.money, decision, tuple(candidates), folders.mixtures)
