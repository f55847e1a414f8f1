"""The results table: rows are added, none is changed, and an edited file is refused."""

import pytest

from sslshift.reporting.ledger import LedgerError, append, fingerprint, read_ledger, require_budget


def test_a_table_that_a_spreadsheet_saved_is_read_or_refused_whole(tmp_path):
    names = ("a", "b", "c")
    rows = [{"source": name, "seed": 0, "linear": 0.5, "fingerprint": fingerprint({"a": name})} for name in names]
    rows = append([], rows, tmp_path)
    (tmp_path / "results.parquet").unlink()
    saved = (tmp_path / "results.csv").read_bytes()
    (tmp_path / "results.csv").write_bytes(b"\xef\xbb\xbf" + saved.replace(b"\n", b"\r\n"))
    assert [row["source"] for row in read_ledger(tmp_path)] == list(names)
    (tmp_path / "results.csv").write_bytes(saved.replace(b"0.5", b"0,50"))
    with pytest.raises(LedgerError, match=r"line 2 \(a, .* and 2 more rows were edited: .* Delete that file"):
        read_ledger(tmp_path)


def test_a_table_adds_rows_and_changes_none(tmp_path):
    first = {"kind": "run", "source": "a", "budget": 10, "seed": 0, "linear": 0.5, "fingerprint": fingerprint({"a": 1})}
    rows = append([], [first], tmp_path)
    assert append(rows, [first | {"linear": 0.5}], tmp_path) == rows
    with pytest.raises(LedgerError, match=r"The row of a, seed 0, .* differs from its run folder \(linear\)"):
        append(rows, [first | {"linear": 0.6}], tmp_path)
    # A column that was whole becomes floating, and one is new; nan is a value.
    second = first | {"seed": 1, "linear": 1, "budget": 10.5, "knn": float("nan"), "fingerprint": fingerprint({"a": 2})}
    rows = append(rows, [second], tmp_path)
    assert len(read_ledger(tmp_path)) == 2
    with pytest.raises(LedgerError, match=r"C = 10 samples, and this study has C = 12"):
        require_budget(rows, 12, tmp_path)
    (tmp_path / "results.parquet").write_bytes(b"no parquet")
    with pytest.raises(LedgerError, match="cannot be read"):
        read_ledger(tmp_path)
    (tmp_path / "results.parquet").unlink()
    (tmp_path / "results.csv").write_bytes("source,licence\na,é\n".encode("latin-1"))
    with pytest.raises(LedgerError, match="cannot be read"):
        read_ledger(tmp_path)
    (tmp_path / "results.csv").write_text("source,linear\na,0.5\n")
    with pytest.raises(LedgerError, match="no results table of this version"):
        read_ledger(tmp_path)
