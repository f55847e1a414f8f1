"""Pilots: the results of studies, read, checked and averaged over seeds."""

import csv
import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.planning.fitting import Data
from sslshift.planning.folders import Folders
from sslshift.planning.laws import Exposure, Floats
from sslshift.planning.noise import Noise, covariance_of_means, estimate_noise

REQUIRED = ("source", "unique", "budget", "seed", "task", "metric", "test_images", "linear")
# Columns of which a plan takes one value each.
CHOICES = ("task", "metric", "method", "encoder")
_TABLE = "results.csv"
# Rows of these kinds are no runs: raw pixels, untrained encoders, the encoder that training continues from.
_NO_RUN = "floor"
_FEWEST_SEEDS = 3
_NOTHING = Folders()


class PilotRun(NamedTuple):
    """A row of a table of results.

    Attributes:
      source: name of the source.
      unique: N.
      budget: C.
      seed: seed and draw, as one name.
      accuracy: of the linear probe, as a share.
      test_images: number of test images.
    """

    source: str
    unique: int
    budget: int
    seed: str
    accuracy: float
    test_images: int


class SourcePlace(NamedTuple):
    """Shift index of a source with its 95% interval; NaN where it is not known."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Pilots:
    """Results of pilots.

    Attributes:
      sources: names of the sources.
      shift: shift index of each source.
      runs: all runs.
      cells: (source, unique, budget) of each mean, ascending.
      means: mean accuracy of each cell [cells].
      seeds: number of runs of each cell [cells].
      noise: variance components of a run.
      covariance: covariance of the means [cells, cells].
      facts: the task, metric, method and encoder.
    """

    sources: tuple[str, ...]
    shift: tuple[SourcePlace, ...]
    runs: tuple[PilotRun, ...]
    cells: tuple[tuple[str, int, int], ...]
    means: Floats
    seeds: Floats
    noise: Noise
    covariance: Floats
    facts: Mapping[str, str]

    @property
    def data(self) -> Data:
        """The means as a law is fitted to them."""
        index = {name: i for i, name in enumerate(self.sources)}
        names, unique, budget = zip(*self.cells, strict=True)
        training = Exposure.of_single([index[name] for name in names], unique, budget)
        return Data(training, self.means, self.covariance, self.noise.degrees)

    @property
    def budgets(self) -> list[int]:
        """Budgets of the pilots, ascending."""
        return sorted({budget for _, _, budget in self.cells})

    @property
    def largest(self) -> dict[str, int]:
        """Largest N of each source that has pilots."""
        largest: dict[str, int] = defaultdict(int)
        for name, unique, _ in self.cells:
            largest[name] = max(largest[name], unique)
        return dict(largest)

    @property
    def places(self) -> Floats:
        """Shift index of each source [sources]."""
        return np.array([place.value for place in self.shift])


def read_pilots(
    paths: Sequence[Path], choices: Mapping[str, str] | None = None, ignored: Sequence[str] = (), folders: Folders = _NOTHING
) -> Pilots:
    """Reads results of studies.

    Args:
      paths: folders of studies, or CSV files with at least the columns of `REQUIRED`.
      choices: the task, metric, method or encoder to take, where the tables have several.
      ignored: names or URIs of sources to exclude.
      folders: what the folders say of names and mixtures; mixtures are excluded.

    Raises:
      FileNotFoundError: a path does not exist, or a folder has no results.
      ValueError: the table is not one of results, or its results cannot be planned from.
    """
    rows = [row for path in paths for row in _read_rows(path) if row["source"] not in folders.mixtures]
    rows = [row | {"source": folders.names.get(row["source"], row["source"])} for row in rows]
    ignored = [folders.names.get(name, name) for name in ignored]
    if unknown := sorted(set(ignored) - {row["source"] for row in rows}):
        raise ValueError(f"--ignore names {', '.join(unknown)}, which the results do not have.")
    facts = _choose(rows, choices or {})
    rows = [row for row in rows if all(row.get(name, "") in ("", value) for name, value in facts.items())]
    rows = [row for row in rows if row["source"] not in ignored]
    runs = [_run(row) for row in rows if row["linear"] and row["unique"]]
    if not runs:
        raise ValueError("Expected results of runs, found none: no row has both `unique` and `linear`.")
    places = _places(rows)
    known = {run.source for run in runs} | set(places)
    if lost := sorted({row["source"] for row in rows if not row["linear"] and row.get("kind") != _NO_RUN} - known):
        raise ValueError(
            f"{', '.join(lost)}: neither pilots nor a shift index. Train pilots on it, measure its shift, or exclude it with "
            "--ignore."
        )
    return gather(runs, places, facts)


def gather(
    runs: Iterable[PilotRun], places: Mapping[str, SourcePlace] | None = None, facts: Mapping[str, str] | None = None
) -> Pilots:
    """Averages runs over seeds and estimates their noise.

    Args:
      runs: at least one cell of them with three seeds.
      places: shift index of sources by name; a source without runs needs one.
      facts: task, metric, method and encoder of the runs.

    Raises:
      ValueError: two runs have the same source, N, C and seed, or no cell has three runs.
    """
    runs = sorted(runs)
    places = dict(places or {})
    _require_different(runs)
    cells = sorted({(run.source, run.unique, run.budget) for run in runs})
    of_cell = np.array([cells.index((run.source, run.unique, run.budget)) for run in runs])
    counts = np.bincount(of_cell)
    if counts.max() < _FEWEST_SEEDS:
        name, unique, budget = cells[int(counts.argmax())]
        raise ValueError(
            f"Expected one source, N and C with {_FEWEST_SEEDS} seeds or more, got at most {counts.max()}: without repeats, "
            f"the noise of a run is not known, and no law can be fitted. For example, train {name} with N = {unique:,} and "
            f"C = {budget:,} with {_FEWEST_SEEDS - counts.max()} more seeds."
        )
    names = sorted({run.seed for run in runs})
    seed = np.array([names.index(run.seed) for run in runs])
    accuracy = np.array([run.accuracy for run in runs])
    means = np.bincount(of_cell, accuracy) / counts
    noise = estimate_noise(of_cell, seed, accuracy)
    test_images = np.bincount(of_cell, [run.test_images for run in runs]) / counts
    covariance = covariance_of_means(noise, of_cell, seed, means, test_images)
    sources = tuple(sorted({run.source for run in runs} | set(places)))
    shift = tuple(places.get(name, SourcePlace()) for name in sources)
    return Pilots(sources, shift, tuple(runs), tuple(cells), means, counts.astype(float), noise, covariance, dict(facts or {}))


def _read_rows(path: Path) -> list[dict[str, str]]:
    file = path / _TABLE if path.is_dir() else path
    if not file.exists():
        what = f"has no {_TABLE}: it is no folder of a study" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}. Expected a study's folder or a CSV file with its columns.")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{file}: expected the columns {', '.join(REQUIRED)}; missing: {', '.join(missing)}.")
        rows = [row | {"where": f"{file}, line {reader.line_num}"} for row in reader]
    if short := [row["where"] for row in rows if None in row.values() or None in row]:
        raise ValueError(f"{short[0]}: the row has another number of columns than the head.")
    rows = [{name: value.strip() for name, value in row.items()} for row in rows]
    # A study that measures the shift anew adds rows of runs that it has; the last row of a run has the latest index.
    return list({_identity(row, i): row for i, row in enumerate(rows)}.values())


def _identity(row: Mapping[str, str], place: int) -> tuple[str, ...]:
    """Returns the cells that equal rows of a study's table agree in; rows of other tables differ by their places."""
    columns = (*REQUIRED, *CHOICES, "kind", "draw")
    return tuple(row.get(name, "") for name in columns) if row.get("fingerprint") else (str(place),)


def _choose(rows: Sequence[Mapping[str, str]], choices: Mapping[str, str]) -> dict[str, str]:
    """Returns the one task, metric, method and encoder of the runs."""
    facts = {}
    left = [row for row in rows if row.get("kind") != _NO_RUN and row["unique"]]
    for column in CHOICES:
        values = sorted({row.get(column, "") for row in left} - {""})
        wanted = choices.get(column, "")
        if wanted and wanted not in values:
            raise ValueError(f"Expected one of {', '.join(values) or 'none'} for --{column}, got {wanted!r}.")
        if not wanted and len(values) > 1:
            raise ValueError(f"The results have several values of {column}: {', '.join(values)}. Choose one with --{column}.")
        if values:
            facts[column] = wanted or values[0]
            left = [row for row in left if row.get(column, "") in ("", facts[column])]
    return facts


def _run(row: Mapping[str, str]) -> PilotRun:
    accuracy = _number(row, "linear")
    if accuracy > 1 or accuracy < 0:
        percent = " It looks like a percentage: divide the column by 100." if 1 < accuracy <= 100 else ""
        raise ValueError(f"{row['where']}: expected an accuracy between 0 and 1 in `linear`, got {row['linear']}.{percent}")
    unique, budget, test_images = (_count(row, name) for name in ("unique", "budget", "test_images"))
    if unique > budget:
        raise ValueError(f"{row['where']}: {unique:,} unique images cannot be seen with a budget of {budget:,} samples.")
    # With --draws, a seed has several runs, which share its initial weights but not its images.
    return PilotRun(row["source"], unique, budget, row["seed"] + _draw(row), accuracy, test_images)


def _draw(row: Mapping[str, str]) -> str:
    draw = row.get("draw", "")
    return f"/{draw}" if draw and draw != row["seed"] else ""


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{row['where']}: expected a number in `{name}`, got {row[name]!r}.")
    return value


def _count(row: Mapping[str, str], name: str) -> int:
    value = _number(row, name)
    if value < 1 or value != int(value):
        raise ValueError(f"{row['where']}: expected a whole number of at least 1 in `{name}`, got {row[name]!r}.")
    return int(value)


def _places(rows: Iterable[Mapping[str, str]]) -> dict[str, SourcePlace]:
    places = {}
    for row in rows:
        # A study without an index, such as one with --shift_images=0, writes "nan".
        if row.get("shift_index", "").lower() not in ("", "nan") and row.get("kind") != _NO_RUN:
            value = _number(row, "shift_index")
            bounds = [_number(row, name) if row.get(name) else value for name in ("shift_low", "shift_high")]
            place = SourcePlace(value, *bounds)
            if places.setdefault(row["source"], place) != place:
                # Studies of several budgets measure the index anew only if its settings differ.
                raise ValueError(
                    f"{row['where']}: the shift index of {row['source']} is {value:.3g} here and "
                    f"{places[row['source']].value:.3g} in an earlier row. Plan from studies with the same index."
                )
    return places


def _require_different(runs: Sequence[PilotRun]) -> None:
    seen: set[tuple] = set()
    for run in runs:
        key = run[:4]
        if key in seen:
            raise ValueError(
                f"Two rows have the same source {run.source}, N = {run.unique:,}, C = {run.budget:,} and seed {run.seed}: "
                "a run must stand in one row."
            )
        seen.add(key)
