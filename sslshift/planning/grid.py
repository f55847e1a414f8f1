"""Predictions for a table of trainings."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslshift.planning.averaging import Forecast
from sslshift.planning.laws import Exposure
from sslshift.reporting import csv_text

_COLUMNS = ("source", "unique", "budget")
_PREDICTED = ("value", "low", "high")


def predict_grid(path: Path, forecast: Forecast, level: float, names: Mapping[str, str]) -> str:
    """Returns the rows of a CSV file with the predicted accuracy of a run, and the ends of its interval, as CSV.

    Args:
      path: a CSV file with the columns source, unique and budget. Further columns are kept.
      forecast: fitted laws.
      level: probability of the intervals.
      names: name of each source by its URI; the file may have either.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a row is not a training, or the pilots do not allow its prediction; the message names its line.
    """
    if not path.exists():
        raise FileNotFoundError(f"--predict={path} does not exist. Expected a CSV file with the columns {', '.join(_COLUMNS)}.")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        head = [name for name in reader.fieldnames or () if name not in _PREDICTED]
        if missing := [name for name in _COLUMNS if name not in head]:
            raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}; missing: {', '.join(missing)}.")
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    if not rows:
        raise ValueError(f"{path} has no rows below its head.")
    places = [_place(where, row, forecast, names) for where, row in rows]
    training = Exposure.of_single(*(list(column) for column in zip(*places, strict=True)))
    if not forecast.extrapolates:
        beyond = np.flatnonzero(forecast.outside(training) > 1e-9)
        if len(beyond):
            where, row = rows[int(beyond[0])]
            raise ValueError(f"{where}: {_refusal(row, forecast)}")
    predicted = forecast.interval(training, level)
    numbers = zip(predicted.value, predicted.low, predicted.high, strict=True)
    return csv_text(
        [*head, *_PREDICTED],
        [
            [*(row[name] for name in head), *(f"{number:.6f}" for number in found)]
            for (_, row), found in zip(rows, numbers, strict=True)
        ],
    )


def _place(where: str, row: Mapping[str, str], forecast: Forecast, names: Mapping[str, str]) -> tuple[int, int, int]:
    """Returns the source's index, N and C of a row."""
    sources = forecast.pilots.sources
    name = names.get(row["source"], row["source"])
    if name not in sources:
        raise ValueError(f"{where}: expected one of {', '.join(sources)} for source, got {row['source']!r}.")
    unique, budget = (_count(where, row, column) for column in ("unique", "budget"))
    if unique > budget:
        raise ValueError(f"{where}: {unique:,} unique images cannot be seen with a budget of {budget:,} samples.")
    return sources.index(name), unique, budget


def _count(where: str, row: Mapping[str, str], column: str) -> int:
    text = row[column] or ""
    # Only digits: int() would also accept 1_0.
    if not text.strip().isdecimal() or not int(text):
        raise ValueError(f"{where}: expected a whole number of at least 1 for {column}, got {text!r}.")
    return int(text)


def _refusal(row: Mapping[str, str], forecast: Forecast) -> str:
    pilots = forecast.pilots
    budgets = pilots.budgets
    within = f"C = {budgets[0]:,}" + (f" to {budgets[-1]:,}" if len(budgets) > 1 else "")
    images = ", ".join(f"{name} up to {unique:,}" for name, unique in pilots.largest.items())
    why = "pilots of one budget do not show what another one gives" if len(budgets) == 1 else "no law could be fitted"
    return (
        f"N = {int(row['unique']):,} and C = {int(row['budget']):,} of {row['source']} lie beyond the pilots ({within}; N: "
        f"{images}), and "
        f"{why}. Remove the row, or add pilots."
    )
