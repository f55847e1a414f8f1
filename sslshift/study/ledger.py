"""The results table: `results.parquet` and `results.csv`, to which rows are added and in which no row is ever changed.

Every row ends in two marks. `fingerprint` is the digest of everything that the row depends on; the same fingerprint is never
written twice. `digest` is that of the row's own values: a row that somebody edited is told by it, in either file.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sslshift.study.ledger_files import LedgerError, Row, as_csv, read_csv, read_parquet, text_of, write_parquet
from sslshift.study.records import write_atomically

__all__ = [
    "CSV",
    "PARQUET",
    "LedgerError",
    "Row",
    "append",
    "as_csv",
    "fingerprint",
    "read_ledger",
    "require_budget",
    "row_name",
]

PARQUET = "results.parquet"
CSV = "results.csv"


def fingerprint(configuration: dict[str, Any]) -> str:
    """Of everything that a row depends on."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:32]


def read_ledger(out: Path) -> list[Row]:
    """The rows of a study's results table, each checked against its digest; those of both files, if one lacks some.

    Example:
      >>> read_ledger(Path("no/such/study"))
      []

    Raises:
      LedgerError: a row was edited, or a file is none of ours; the message names file, row and run.
    """
    rows: dict[str, Row] = {}
    for path, read in ((out / PARQUET, read_parquet), (out / CSV, read_csv)):
        edited = []
        for place, row in read(path) if path.exists() else ():
            if row.get("digest") != _digest(row):
                edited.append(f"{place} ({row_name(row)})")
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


def require_budget(rows: Iterable[Row], budget: int, out: Path) -> None:
    """Raises LedgerError where a table holds runs of another budget: only runs of one budget are compared."""
    others = sorted({row["budget"] for row in rows if row.get("budget") not in (None, budget)})
    if others:
        raise LedgerError(
            f"{out} holds results at a budget of C = {others[0]:,} samples, and this study has C = {budget:,}: runs are "
            "compared at one budget only. Give another --out."
        )


def append(rows: Sequence[Row], new: Iterable[Row], out: Path) -> list[Row]:
    """Adds rows to a study's results table and writes both files; rows that are there already are left as they are.

    Args:
      rows: of `read_ledger`, or what this returned before.
      new: rows with their `fingerprint`; None and missing values are empty cells.
      out: folder of the study.

    Returns:
      All rows.

    Raises:
      LedgerError: a row is there with other values.
    """
    known = {row["fingerprint"]: row for row in rows}
    for row in new:
        # Numbers of other libraries are not JSON's, nor Parquet's.
        row = {name: value.item() if hasattr(value, "item") else value for name, value in row.items() if value is not None}
        row["digest"] = _digest(row)
        there = known.setdefault(row["fingerprint"], row)
        if there["digest"] != row["digest"]:
            differing = [
                name for name in there | row if text_of(there.get(name)) != text_of(row.get(name)) and name != "digest"
            ]
            raise LedgerError(
                f"{out / CSV} holds other values of {row_name(row)} than its folder gives now ({', '.join(differing[:3])}): "
                f"the run was changed or made again since. Delete that row and {PARQUET}, and the same command writes it again."
            )
    grown = list(known.values())
    text = as_csv(grown)
    # Another program may watch these files: what has not changed is not touched.
    if len(grown) > len(rows) or not (out / PARQUET).exists():
        write_parquet(grown, out / PARQUET)
    if not (out / CSV).exists() or (out / CSV).read_text(encoding="utf-8") != text:
        write_atomically(out / CSV, text)
    return grown


def row_name(row: Row) -> str:
    """Which run a row is of, in words."""
    learner = " on ".join(str(row[name]) for name in ("method", "encoder") if row.get(name))
    numbers = [f"{word} {row[name]}" for name, word in (("unique", "N ="), ("seed", "seed"), ("draw", "draw")) if name in row]
    return ", ".join(filter(None, [learner, str(row.get("source", "")), *numbers, f"task {row.get('task', '')}"]))


def _digest(row: Row) -> str:
    """Of a row's values as text; empty cells do not count, so that columns can be added."""
    texts = {name: text_of(value) for name, value in row.items() if name != "digest"}
    kept = sorted((name, text) for name, text in texts.items() if text)
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]
