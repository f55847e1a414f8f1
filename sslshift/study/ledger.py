"""The results table: `results.parquet` and `results.csv`. Rows are only added and never changed.

Every row ends with two digests. `fingerprint` hashes everything that the row depends on, and is unique in the table.
`digest` hashes the row's own values, so that an edited row is detected in either file. Both files have the same cells.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.command import remedy
from sslshift.storage import digest, whole_file, write
from sslshift.study.evaluate import baseline_record
from sslshift.study.opened import Opened
from sslshift.study.results import FinishedRun, run_record
from sslshift.study.shifts import DRAWN, TaskShifts
from sslshift.transfer.scores import EvaluatedEncoder
from sslshift.transfer.tasks import Task

PARQUET = "results.parquet"
CSV = "results.csv"

# Values by the names of their columns; the evaluations of a study determine the columns.
LedgerRow = dict[str, Any]

# Columns before and after those of the evaluations, whose names depend on the study.
_FIRST = (
    "kind",
    "method",
    "encoder",
    "source",
    "unique",
    "diversity",
    "epochs",
    "budget",
    "batch_size",
    "seed",
    "draw",
    "task",
    "metric",
    "test_images",
)
_LAST = (
    "linear_gain_over_untrained",
    "effective_rank",
    "shift_index",
    "shift_low",
    "shift_high",
    "broken",
    "cost",
    "loss_first",
    "loss_last",
    "licence",
    "fingerprint",
    "digest",
)
# Columns that distinguish the runs of a study; a run has a row for each task.
_RUN = ("method", "encoder", "source", "unique", "seed", "draw")
_TEXT = ("kind", "method", "encoder", "source", "task", "metric", "licence", "fingerprint", "digest")


class LedgerError(ValueError):
    """A results table was edited, or belongs to another study."""


def fingerprint(configuration: dict[str, Any]) -> str:
    """Returns the digest of everything that a row depends on."""
    return digest(configuration, 32)


def read_ledger(out: Path) -> list[LedgerRow]:
    """Returns the rows of a study's results table, from both files; checks each row against its digest.

    Example:
      >>> read_ledger(Path("no/such/study"))
      []

    Raises:
      LedgerError: a row was edited, or a file is not a results table; the message names file, row and run.
    """
    # Parquet comes first, because it keeps the type of each number; the CSV file only adds missing rows.
    rows: dict[str, LedgerRow] = {}
    for path, read in ((out / PARQUET, _read_parquet), (out / CSV, _read_csv)):
        edited = []
        for place, row in read(path) if path.exists() else ():
            if row.get("digest") != _digest(row):
                edited.append(f"{place} ({_row_name(row)})")
            else:
                rows.setdefault(row["fingerprint"], row)
        if edited:
            several = len(edited) > 1
            more = f" and {len(edited) - 1} more row{'s' if len(edited) > 2 else ''} were" if several else " was"
            cure = "that row" if path.name == CSV and not several else "that file"
            raise LedgerError(
                f"{path}, {edited[0]}{more} edited: the values do not fit their digest. Delete {cure}, and the same command "
                "writes it again; to change figures, copy the file elsewhere."
            )
    return list(rows.values())


def require_budget(rows: Iterable[LedgerRow], budget: int, out: Path) -> None:
    """Raises LedgerError if a table has runs of another budget, because only runs of equal budget can be compared."""
    others = sorted({row["budget"] for row in rows if row.get("budget") not in (None, budget)})
    if others:
        raise LedgerError(
            f"{out} holds results at a budget of C = {others[0]:,} samples, and this study has C = {budget:,}: runs are "
            "compared at one budget only. Give another --out."
        )


def append(rows: Sequence[LedgerRow], new: Iterable[LedgerRow], out: Path) -> list[LedgerRow]:
    """Adds rows to a study's results table and writes both files; existing rows do not change.

    Args:
      rows: result of `read_ledger` or of an earlier call.
      new: rows with their `fingerprint`; None and missing values become empty cells.
      out: folder of the study.

    Returns:
      All rows.

    Raises:
      LedgerError: the table has the same row with other values.
    """
    known = {row["fingerprint"]: row for row in rows}
    for row in new:
        # JSON and Parquet do not accept the number types of other libraries.
        row = {name: value.item() if hasattr(value, "item") else value for name, value in row.items() if value is not None}
        row["digest"] = _digest(row)
        there = known.setdefault(row["fingerprint"], row)
        if there["digest"] != row["digest"]:
            differing = [
                name for name in there | row if _text_of(there.get(name)) != _text_of(row.get(name)) and name != "digest"
            ]
            raise LedgerError(
                f"The row of {_row_name(row)} in {out / CSV} differs from its run folder ({', '.join(differing[:3])}): the run "
                f"was changed or repeated since. Delete that row and {PARQUET}, and the same command writes it again."
            )
    grown = list(known.values())
    text = _as_csv(grown)
    # An unchanged file is not written again, because another program may watch it.
    if len(grown) > len(rows) or not (out / PARQUET).exists():
        _write_parquet(grown, out / PARQUET)
    if not (out / CSV).exists() or (out / CSV).read_text(encoding="utf-8") != text:
        write(out / CSV, text)
    return grown


class Ledger:
    """The results table of a running study; every new row is written to disk at once.

    Args:
      out: folder of the study.
      budget: C of the study.

    Raises:
      LedgerError: the table was edited, or has another budget.
    """

    def __init__(self, out: Path, budget: int):
        self._out = out
        self._rows = read_ledger(out)
        require_budget(self._rows, budget, out)

    @property
    def runs(self) -> int:
        """The number of runs in the table."""
        return len(self._runs())

    @property
    def complete_seeds(self) -> int:
        """The number of training seeds in the table; 0 if not every kind of runs has all of them."""
        runs = self._runs()
        # The last two columns are seed and draw.
        replicates = {run[-2:] for run in runs}
        kinds = {run[:-2] for run in runs}
        return len({seed for seed, _ in replicates}) if len(runs) == len(replicates) * len(kinds) else 0

    def _runs(self) -> set[tuple]:
        return {tuple(map(row.get, _RUN)) for row in self._rows if row["kind"] == "run"}

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Adds rows, see `append`."""
        self._out.mkdir(parents=True, exist_ok=True)
        self._rows = append(self._rows, rows, self._out)


def _row_name(row: LedgerRow) -> str:
    """Returns the run that a row belongs to, in words."""
    learner = " on ".join(str(row[name]) for name in ("method", "encoder") if row.get(name))
    numbers = [f"{word} {row[name]}" for name, word in (("unique", "N ="), ("seed", "seed"), ("draw", "draw")) if name in row]
    return ", ".join(filter(None, [learner, str(row.get("source", "")), *numbers, f"task {row.get('task', '')}"]))


def _digest(row: LedgerRow) -> str:
    """Returns the digest of a row's values as text; empty cells are ignored, so that columns can be added."""
    # The digest uses text, so that a spreadsheet can save an unchanged row without changing its digest.
    texts = {name: _text_of(value) for name, value in row.items() if name != "digest"}
    kept = sorted((name, text) for name, text in texts.items() if text)
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def _columns(rows: Sequence[LedgerRow]) -> list[str]:
    middle = dict.fromkeys(name for row in rows for name in row if name not in (*_FIRST, *_LAST))
    return [*_FIRST, *middle, *_LAST]


def _text_of(value: Any) -> str:
    """Returns a cell's text, the same for a number whether it was kept as an integer or as a float."""
    if value is None or isinstance(value, str):
        return value or ""
    # Whole numbers up to 2^53 are exact floats; the text of larger ones would change in a round trip.
    number = float(value)
    return str(int(number)) if math.isfinite(number) and number.is_integer() and abs(number) < 2**53 else repr(number)


def _value(name: str, text: str) -> Any:
    if name in _TEXT:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _as_csv(rows: Sequence[LedgerRow]) -> str:
    """Returns the table as CSV text."""
    out = io.StringIO()
    columns = _columns(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *([_text_of(row.get(name)) for name in columns] for row in rows)])
    return out.getvalue()


def _read_csv(path: Path) -> Iterable[tuple[str, LedgerRow]]:
    """Yields rows, each with the number of its last line."""
    try:
        # Spreadsheets write a byte-order mark before UTF-8 text.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "digest" not in (reader.fieldnames or ()):
                raise LedgerError(f"{path} is no results table of this version (it has no digests); move it elsewhere.")
            for cells in reader:
                yield f"line {reader.line_num}", {name: _value(name, text) for name, text in cells.items() if name and text}
    except (UnicodeDecodeError, csv.Error) as error:
        raise LedgerError(f"{path} cannot be read ({error}); delete it, and the same command writes it again.") from error


def _read_parquet(path: Path) -> Iterable[tuple[str, LedgerRow]]:
    """Yields rows, each with its number, counted from 1."""
    try:
        cells = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        advice = remedy(error) or "Delete it, and the same command writes it again."
        raise LedgerError(f"{path} cannot be read ({error}). {advice}") from error
    if cells and "digest" not in cells[0]:
        raise LedgerError(f"{path} is no results table of this version (it has no digests); move it elsewhere.")
    for number, row in enumerate(cells, 1):
        yield f"row {number}", {name: value for name, value in row.items() if value is not None}


def _write_parquet(rows: Sequence[LedgerRow], path: Path) -> None:
    """Writes the table as Parquet; the values of a column determine whether it has integers, floats or text."""
    arrays = {}
    for name in _columns(rows):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {int} and name not in _TEXT:
            arrays[name] = pa.array(values, pa.int64())
        elif kinds <= {int, float} and name not in _TEXT:
            arrays[name] = pa.array([None if value is None else float(value) for value in values], pa.float64())
        else:
            arrays[name] = pa.array([None if value is None else _text_of(value) for value in values], pa.string())
    with whole_file(path) as file:
        pq.write_table(pa.table(arrays), file)


def run_rows(opened: Opened, finished: FinishedRun, untrained: EvaluatedEncoder, task_shifts: TaskShifts) -> list[LedgerRow]:
    """Returns one row for each task of a finished run.

    Args:
      opened: the study.
      finished: the run with its scores.
      untrained: scores of the untrained encoder.
      task_shifts: shifts by task and candidate.
    """
    budget = opened.design.budget
    run = finished.run
    trained = finished.trained
    candidate = opened.candidate(run)
    licences = dict.fromkeys(opened.sources[uri].licence for uri in candidate.mixture.largest)
    own = {
        "kind": "run",
        **dataclasses.asdict(run),
        "unique": trained.unique_read,
        "diversity": round(budget.diversity(trained.unique_read), 6),
        "epochs": round(budget.epochs(trained.unique_read), 6),
        "budget": budget.samples,
        "batch_size": opened.design.batch_size,
        "cost": round(opened.cost(candidate), 6),
        "licence": "; ".join(licences),
        "broken": trained.broken,
        "loss_first": trained.loss_first,
        "loss_last": trained.loss_last,
    }
    depends = {"run": run_record(opened, run), "shift": _shift_record(opened)} | baseline_record(opened.learner(run))
    rows = []
    for task in opened.tasks:
        index = task_shifts[task.name][run.source].index
        # Rounded, because the last bits of a difference may vary between equal runs.
        gain = finished.evaluated.scores[task.name].linear - untrained.scores[task.name].linear
        row = own | {
            "shift_index": index.value,
            "shift_low": index.low,
            "shift_high": index.high,
            "linear_gain_over_untrained": round(gain, 6),
        }
        rows.append(row | _task_cells(opened, task, finished.evaluated, depends))
    return rows


def baseline_rows(opened: Opened, evaluated: EvaluatedEncoder, name: str, start: Mapping[str, Any]) -> list[LedgerRow]:
    """Returns one row for each task of a baseline.

    Args:
      opened: the study.
      evaluated: scores of the baseline.
      name: name of the baseline.
      start: record of an untrained encoder, with method, encoder and seed; empty for raw pixels.
    """
    # Tables of earlier versions have this kind, so it is kept.
    own = {"kind": "floor", "source": name} | {key: start[key] for key in ("method", "encoder", "seed") if key in start}
    return [own | _task_cells(opened, task, evaluated, {"floor": name, "start": start}) for task in opened.tasks]


def _task_cells(opened: Opened, task: Task, evaluated: EvaluatedEncoder, depends: Mapping[str, Any]) -> LedgerRow:
    """Returns the scores on a task, and the fingerprint of everything that they depend on."""
    evaluations = {name: dataclasses.asdict(evaluation) for name, evaluation in opened.design.evaluations.items()}
    everything = {**depends, "task": task.facts, "evaluations": evaluations, "features": opened.design.features}
    cells = evaluated.scores[task.name].columns()
    plain = {name: json.dumps(value) if isinstance(value, list | tuple | dict) else value for name, value in cells.items()}
    return {"task": task.name} | plain | {"fingerprint": fingerprint(everything)}


def _shift_record(opened: Opened) -> dict[str, Any]:
    """Returns everything that a shift index depends on apart from its source and task.

    Reference encoders are trained on all sources of the study, so a further source changes every index.
    """
    settings = opened.design.shift
    drawn = {"drawn": DRAWN} if settings.images else {}
    return drawn | {
        "by": settings.distance,
        "features": settings.encoder,
        "images": settings.images,
        "reference": opened.reference.record | {"seeds": settings.seeds},
        "sources": {uri: source.fingerprint for uri, source in opened.sources.items()},
    }
