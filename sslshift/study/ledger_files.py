"""A results table's rows in a CSV and in a Parquet file, so that a cell of either says the same."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.command import remedy

Row = dict[str, Any]

# Before and after the columns of the evaluations, whose names depend on what encoders are judged by.
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
_TEXT = ("kind", "method", "encoder", "source", "task", "metric", "licence", "fingerprint", "digest")


class LedgerError(ValueError):
    """A results table was edited, or belongs to something else."""


def _columns(rows: Sequence[Row]) -> list[str]:
    middle = dict.fromkeys(name for row in rows for name in row if name not in (*_FIRST, *_LAST))
    return [*_FIRST, *middle, *_LAST]


def text_of(value: Any) -> str:
    """A cell: the same of a number whether it was kept whole or floating."""
    if value is None or isinstance(value, str):
        return value or ""
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


def as_csv(rows: Sequence[Row]) -> str:
    """The table as text."""
    out = io.StringIO()
    columns = _columns(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *([text_of(row.get(name)) for name in columns] for row in rows)])
    return out.getvalue()


def read_csv(path: Path) -> Iterable[tuple[str, Row]]:
    """Rows, each with the line on which it ends."""
    try:
        # Spreadsheets put a mark in front of UTF-8.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "digest" not in (reader.fieldnames or ()):
                raise LedgerError(f"{path} is no results table of this version (it has no digests); move it elsewhere.")
            for cells in reader:
                yield f"line {reader.line_num}", {name: _value(name, text) for name, text in cells.items() if name and text}
    except (UnicodeDecodeError, csv.Error) as error:
        raise LedgerError(f"{path} cannot be read ({error}); delete it, and the same command writes it again.") from error


def read_parquet(path: Path) -> Iterable[tuple[str, Row]]:
    """Rows, each with its number from 1 on."""
    try:
        cells = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        advice = remedy(error) or "Delete it, and the same command writes it again."
        raise LedgerError(f"{path} cannot be read ({error}). {advice}") from error
    if cells and "digest" not in cells[0]:
        raise LedgerError(f"{path} is no results table of this version (it has no digests); move it elsewhere.")
    for number, row in enumerate(cells, 1):
        yield f"row {number}", {name: value for name, value in row.items() if value is not None}


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Writes a file that is either the old one or the whole new one; a column is whole, floating or text by its values."""
    arrays = {}
    for name in _columns(rows):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {int} and name not in _TEXT:
            arrays[name] = pa.array(values, pa.int64())
        elif kinds <= {int, float} and name not in _TEXT:
            arrays[name] = pa.array([None if value is None else float(value) for value in values], pa.float64())
        else:
            arrays[name] = pa.array([None if value is None else text_of(value) for value in values], pa.string())
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.table(arrays), part)
    part.replace(path)
