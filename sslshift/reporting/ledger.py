"""The results table of a study: `results.parquet` and `results.csv`. Rows are only added and never changed.

Every row ends with two digests. `fingerprint` hashes everything that the row depends on, and is unique in the table.
`digest` hashes the row's own values, so that an edited row is detected in either file. Both files have the same cells.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.command import remedy
from sslshift.storage import digest, whole_file, write

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
    "linear_gain_over_initial",
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
# Columns of studies that continue from an encoder; other tables do not have them.
_OPTIONAL = ("linear_gain_over_initial",)
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


def append(
    rows: Sequence[LedgerRow], new: Iterable[LedgerRow], out: Path, order: Mapping[str, int] = MappingProxyType({})
) -> list[LedgerRow]:
    """Adds rows to a study's results table and writes both files; existing rows do not change.

    Args:
      rows: result of `read_ledger` or of an earlier call.
      new: rows with their `fingerprint`; None and missing values become empty cells.
      out: folder of the study.
      order: places of rows by fingerprint. A new row stands before the rows at the end of the table that have later places; a
        row without a place is added at the end.

    Returns:
      All rows.

    Raises:
      LedgerError: the table has the same row with other values.
    """
    known = {row["fingerprint"]: row for row in rows}
    grown = list(rows)
    for row in new:
        # JSON and Parquet do not accept the number types of other libraries.
        row = {name: value.item() if hasattr(value, "item") else value for name, value in row.items() if value is not None}
        row["digest"] = _digest(row)
        there = known.setdefault(row["fingerprint"], row)
        if there is row:
            _insert(row, grown, order)
        if there["digest"] != row["digest"]:
            differing = [
                name for name in there | row if _text_of(there.get(name)) != _text_of(row.get(name)) and name != "digest"
            ]
            raise LedgerError(
                f"The row of {_row_name(row)} in {out / CSV} differs from its run folder ({', '.join(differing[:3])}): the run "
                f"was changed or repeated since. Delete that row and {PARQUET}, and the same command writes it again."
            )
    text = _as_csv(grown)
    # An unchanged file is not written again, because another program may watch it.
    if len(grown) > len(rows) or not (out / PARQUET).exists():
        _write_parquet(grown, out / PARQUET)
    if not (out / CSV).exists() or (out / CSV).read_text(encoding="utf-8") != text:
        write(out / CSV, text)
    return grown


def _insert(row: LedgerRow, rows: list[LedgerRow], order: Mapping[str, int]) -> None:
    place = order.get(row["fingerprint"], math.inf)
    index = len(rows)
    while index and order.get(rows[index - 1]["fingerprint"], -1) > place:
        index -= 1
    rows.insert(index, row)


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
    last = [name for name in _LAST if name not in _OPTIONAL or any(name in row for row in rows)]
    return [*_FIRST, *middle, *last]


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
