"""Rounds: what was known and predicted when a plan was made, kept to compare it with what came.

A round is a set of pilots with the forecast that was fitted to them. The folder `rounds` has two files of each: `001.json` with
the pilots, the weights and the plan, and `001.npz` with the draws of the laws, from which the round still predicts any training
as it did. A call with the same pilots is the same round.
"""

import dataclasses
import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslshift import storage
from sslshift.planning import null
from sslshift.planning.answer import Outlook
from sslshift.planning.averaging import Forecast, LawResult, interval_of
from sslshift.planning.fitting import Fit
from sslshift.planning.laws import Exposure, Floats, Law, laws
from sslshift.planning.null import Curve, NullFit
from sslshift.planning.pilots import PilotRun, Pilots, SourcePlace, gather
from sslshift.reporting.numbers import listed

FOLDER = "rounds"
_PARTS = ("digest", "question", "plan", "weights", "inflation", "known")
# Intervals that are scored.
LEVELS = (0.5, 0.8, 0.9)
# Change of a weight, and of a predicted accuracy, that is reported.
_WEIGHT = 0.1
_MOVED = 0.01


class ScoredCell(NamedTuple):
    """A pilot that an earlier round had not seen, beside what that round predicted.

    Attributes:
      round: number of the round that predicted it, the last one before it was known.
      source, unique, budget: the pilot.
      seeds: number of runs.
      accuracy: mean accuracy of the runs.
      value: predicted accuracy.
      low, high: ends of the 90% interval of the mean of its runs.
      inside: whether each interval of `LEVELS` contains the mean.
    """

    round: int
    source: str
    unique: int
    budget: int
    seeds: int
    accuracy: float
    value: float
    low: float
    high: float
    inside: tuple[bool, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class KeptRound:
    """A round as it is kept.

    Attributes:
      number: number of the round, from 1.
      forecast: its forecast, with the weights and draws of that time.
      record: content of its JSON file.
    """

    number: int
    forecast: Forecast
    record: Mapping[str, Any]


class History(NamedTuple):
    """Earlier rounds, and what the present one says of them.

    Attributes:
      earlier: rounds before the present one.
      number: number of the present round.
      changes: sentences on what changed since the last round, and why; empty in the first round.
      scores: pilots that earlier rounds predicted.
    """

    earlier: tuple[KeptRound, ...]
    number: int
    changes: tuple[str, ...]
    scores: tuple[ScoredCell, ...]


def read_history(out: Path, outlook: Outlook, flat: Sequence[str]) -> History:
    """Returns the earlier rounds in a folder, and what changed since.

    Raises:
      ValueError: a file is damaged, or the folder keeps rounds of another task, metric, method or encoder.
    """
    forecast = outlook.forecast
    own = _known(forecast.pilots, flat)
    digest = storage.digest(own, 16)
    numbers = sorted(int(file.stem) for file in (out / FOLDER).glob("[0-9]*.json"))
    earlier = []
    present = (numbers[-1] if numbers else 0) + 1
    for number in numbers:
        record = _read(out, number)
        if record["known"]["facts"] != own["facts"]:
            named = [f"{name} {value}" for name, value in record["known"]["facts"].items() if own["facts"].get(name) != value]
            raise ValueError(f"{out / FOLDER} keeps the rounds of another question ({listed(named)}). Give another --out.")
        if record["digest"] == digest:
            present = number
            break
        earlier.append(_restored(out, number, record))
    changes = tuple(_changes(earlier[-1], outlook)) if earlier else ()
    return History(tuple(earlier), present, changes, tuple(_scores(earlier, forecast.pilots)))


def keep_round(out: Path, outlook: Outlook, flat: Sequence[str], number: int, plan: Mapping[str, Any]) -> None:
    """Writes the present round; nothing if it is kept already for the same prices and money.

    Args:
      out: folder of the plan.
      outlook: the plan.
      flat: parameters whose priors are switched off.
      number: number of the round.
      plan: content of `plan.json`.
    """
    forecast = outlook.forecast
    known = _known(forecast.pilots, flat)
    record = {
        "digest": storage.digest(known, 16),
        "question": _question(outlook),
        "plan": {name: plan[name] for name in ("plan", "next_pilot")}
        | {"text": outlook.describe(outlook.decision.chosen.plan)},
        "weights": {law.name: law.weight for law in forecast.results},
        "inflation": forecast.inflation,
        "known": known,
    }
    file = _file(out, number, "json")
    there = _read(out, number) if file.exists() else None
    if there == record:
        return
    if there and there["digest"] != record["digest"]:
        raise RuntimeError(f"another process has written {file} in the meantime; give the same command again.")
    file.parent.mkdir(parents=True, exist_ok=True)
    # The JSON file comes last: a round without it is none.
    with storage.whole_file(_file(out, number, "npz")) as arrays:
        np.savez_compressed(arrays, **{name: value for fit in forecast.fits.items() for name, value in _arrays(*fit)})
    storage.write_json(file, record)


def _file(out: Path, number: int, ending: str) -> Path:
    return out / FOLDER / f"{number:03d}.{ending}"


def _read(out: Path, number: int) -> dict[str, Any]:
    record = storage.read_json(_file(out, number, "json"))
    if missing := [name for name in _PARTS if name not in record]:
        raise ValueError(f"{_file(out, number, 'json')} is no round ({', '.join(missing)} missing). {_cure(number)}")
    return record


def _cure(number: int) -> str:
    return f"Delete {number:03d}.json and {number:03d}.npz in its folder to continue without that round."


def _known(pilots: Pilots, flat: Sequence[str]) -> dict[str, Any]:
    """Returns everything that a forecast depends on, as JSON values."""
    places = zip(pilots.sources, pilots.shift, strict=True)
    return {
        "facts": dict(pilots.facts),
        "flat": sorted(flat),
        "places": {name: list(place) for name, place in places if place.value == place.value},
        "runs": [list(run) for run in pilots.runs],
    }


def _question(outlook: Outlook) -> dict[str, Any]:
    sources = {name: dataclasses.asdict(price) for name, price in outlook.prices.sources.items()}
    prices = {"currency": outlook.prices.currency, "per_sample": outlook.prices.per_sample, "sources": sources}
    return {
        "money": outlook.money,
        "target": outlook.decision.target,
        "level": outlook.decision.level,
        "prices": storage.digest(prices, 16),
    }


def _arrays(name: str, fit: Fit | NullFit) -> Iterator[tuple[str, Floats]]:
    """Yields the arrays of a fit by name; `_fit_of` makes the fit again."""
    if isinstance(fit, Fit):
        yield from ((f"{name}/{part}", getattr(fit, part)) for part in ("theta", "draws"))
        return
    yield from ((f"{name}/{part}", getattr(fit, part)) for part in ("shares", "others"))
    for source, curves in fit.curves.items():
        for curve in curves:
            yield from ((f"{name}/{source}/{curve.budget}/{part}", getattr(curve, part)) for part in ("unique", "accuracy"))


def _fit_of(name: str, arrays: Mapping[str, Floats], every: Mapping[str, Law]) -> Fit | NullFit:
    if name != null.NAME:
        return Fit(every[name], arrays["theta"], arrays["draws"], float("nan"), ())
    curves: dict[int, list[Curve]] = {}
    for key in arrays:
        if key.endswith("/unique"):
            source, budget, _ = key.split("/")
            curve = Curve(float(budget), arrays[key], arrays[f"{source}/{budget}/accuracy"])
            curves.setdefault(int(source), []).append(curve)
    return NullFit({source: tuple(several) for source, several in curves.items()}, arrays["shares"], arrays["others"])


def _restored(out: Path, number: int, record: Mapping[str, Any]) -> KeptRound:
    """Returns a round with the draws that it kept: nothing is fitted again."""
    known = record["known"]
    places = {name: SourcePlace(*values) for name, values in known["places"].items()}
    pilots = gather([PilotRun(*run) for run in known["runs"]], places, known["facts"])
    every = laws(pilots.places, pilots.data.training, known["flat"])
    file = _file(out, number, "npz")
    fits: dict[str, Fit | NullFit] = {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for name, several in itertools.groupby(arrays.files, lambda key: key.partition("/")[0]):
                values = {key.partition("/")[2]: arrays[key] for key in several}
                fits[name] = _fit_of(name, values, every)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} cannot be read ({error}): an earlier version wrote it, or it is damaged. {_cure(number)}"
        ) from error
    results = tuple(LawResult(name, weight, {}, float("nan"), "", ()) for name, weight in record["weights"].items())
    return KeptRound(number, Forecast(pilots, fits, results, tuple(record["inflation"]), ()), record)


def _scores(earlier: Sequence[KeptRound], now: Pilots) -> Iterator[ScoredCell]:
    """Yields the pilots that became known after each round, with what the last round before had predicted."""
    for i, old in enumerate(earlier):
        later = [*(each.forecast.pilots for each in earlier[i + 1 :]), now][0]
        before = {cell for each in earlier[: i + 1] for cell in each.forecast.pilots.cells}
        sources = old.forecast.pilots.sources
        for cell, mean, seeds in zip(later.cells, later.means, later.seeds, strict=True):
            if cell in before or cell[0] not in sources:
                continue
            training = Exposure.of_single([sources.index(cell[0])], [cell[1]], [cell[2]])
            # What the round refused to predict is no miss.
            if old.forecast.extrapolates or old.forecast.outside(training)[0] < 1e-9:
                yield _scored(old, cell, float(mean), int(seeds), training)


def _scored(old: KeptRound, cell: tuple[str, int, int], mean: float, seeds: int, training: Exposure) -> ScoredCell:
    draws = old.forecast.predict(training)
    # The mean of several runs has less noise than one.
    noise = old.forecast.run_noise(len(draws)) / np.sqrt(seeds)
    found = [interval_of(draws, noise, level) for level in LEVELS]
    inside = tuple(bool(each.low[0] <= mean <= each.high[0]) for each in found)
    widest = found[-1]
    return ScoredCell(
        old.number, *cell, seeds, mean, float(widest.value[0]), float(widest.low[0]), float(widest.high[0]), inside
    )


def _changes(last: KeptRound, outlook: Outlook) -> Iterator[str]:
    """Yields what changed since the last round: the plan, then the reasons."""
    old = last.forecast
    new = outlook.forecast
    text = outlook.describe(outlook.decision.chosen.plan)
    if text == last.record["plan"]["text"]:
        yield f"The plan is the same as in round {last.number}."
    else:
        yield f"In round {last.number} the plan was to {last.record['plan']['text']}."
    runs = {run[:4] for run in old.pilots.runs}
    added = [run for run in new.pilots.runs if run[:4] not in runs]
    gone = len(runs - {run[:4] for run in new.pilots.runs})
    if added:
        counts = {name: sum(run.source == name for run in added) for name in new.pilots.sources}
        yield f"New since then: {listed([f'{count} {_runs(count)} of {name}' for name, count in counts.items() if count])}."
    if gone:
        yield f"{gone} {_runs(gone)} of that round {'is' if gone == 1 else 'are'} not in the results any more."
    question = _question(outlook)
    if changed := [name for name, value in question.items() if value != last.record["question"].get(name)]:
        yield f"Not the same as then: {listed(changed)}."
    before = last.record["weights"]
    for law in new.results:
        if abs(law.weight - before.get(law.name, 0.0)) >= _WEIGHT:
            yield f"The weight of the law {law.name} went from {before.get(law.name, 0.0):.0%} to {law.weight:.0%}."
    yield from _moved(last.number, old, new)


def _moved(number: int, old: Forecast, new: Forecast) -> Iterator[str]:
    """Yields the sources that are predicted differently, at their largest pilots of that round."""
    for i, name in enumerate(old.pilots.sources):
        cells = [cell for cell in old.pilots.cells if cell[0] == name]
        if not cells or name not in new.pilots.sources:
            continue
        _, unique, budget = max(cells, key=lambda cell: (cell[2], cell[1]))
        place = new.pilots.sources.index(name)
        before = float(np.median(old.predict(Exposure.of_single([i], [unique], [budget]))))
        after = float(np.median(new.predict(Exposure.of_single([place], [unique], [budget]))))
        if abs(after - before) >= _MOVED:
            yield (
                f"{name} with N = {unique:,} and C = {budget:,} is now predicted at {100 * after:.1f}%, and was at "
                f"{100 * before:.1f}% in round {number}."
            )


def coverage(scores: Sequence[ScoredCell]) -> dict[float, int]:
    """Returns the number of pilots within the predicted interval, by its level.

    Example:
      >>> cell = ScoredCell(1, "near", 100, 400, 3, 0.8, 0.79, 0.77, 0.82, (False, True, True))
      >>> coverage([cell, cell])
      {0.5: 0, 0.8: 2, 0.9: 2}
    """
    return {level: sum(each.inside[i] for each in scores) for i, level in enumerate(LEVELS)}


def round_record(each: KeptRound) -> tuple[int, int, int, str]:
    """Returns number, runs, pilots and plan of a kept round."""
    pilots = each.forecast.pilots
    return each.number, len(pilots.runs), len(pilots.cells), each.record["plan"]["text"]


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"
