"""Lists of image files: CSV or Parquet, a row of each image, read whole and checked before an image is."""

import csv
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.sources.base import printable
from sslshift.data.sources.labels import SEPARATOR, cell_text, gather_spellings, is_missing, label_names, split_labels
from sslshift.data.sources.recognise import START, recognise

# Other people's names of the columns.
_ALIASES = {"license": "licence", "cost_per_image": "cost"}
_COLUMNS = ("path", "label", "licence", "cost")


@dataclasses.dataclass(frozen=True)
class ImageList:
    """What a list says of each image, in the order of its rows.

    Attributes:
      paths: relative to the list's folder, each file once.
      labels: name of the class of each image, or where `multi_label` a list of names; None: the list has no labels.
      multi_label: an image may have several of the classes, or none.
      licences, costs: None of an image of which nothing is said.
      spellings: how the list spells each class, see `labels.gather_spellings`.
    """

    paths: list[str]
    labels: list[str] | list[list[str]] | None
    multi_label: bool
    licences: list[str | None]
    costs: list[float | None]
    spellings: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def read_list(file: Path, name: str, labels: str | None = None) -> ImageList:
    """Reads a CSV or Parquet list.

    Column `path` is needed; `label`, `licence` (or `license`) and `cost` (or `cost_per_image`) are optional, and others are
    left alone. A missing path or label is refused; a missing licence or cost says nothing. See `labels.is_missing`.

    Args:
      file: the list.
      name: of the source, for messages.
      labels: "multi": column `label` holds any number of classes of each image, as `split_labels` reads them; "single": one;
        None: a Parquet column of lists is multi-label, another column is not.

    Raises:
      ValueError: the list cannot be read, has no column `path` or no row, two columns for one thing, a row of another length
        than its header, names an image twice, or a value is not what its column should hold.
    """
    where = name if printable(file) in name else f"{name}: {printable(file)}"
    if not file.is_file():
        raise ValueError(f"{name}: there is no file {printable(file)}{' (it is a folder)' if file.is_dir() else ''}.")
    try:
        header, columns = _read(file)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        # Parquet's messages end in a line break.
        raise ValueError(f"{where} cannot be read as a list of images: {' '.join(str(error).split())}") from error
    if "path" not in columns or not columns["path"]:
        what = "lists no image" if "path" in columns else "has no column 'path'"
        commas = " (commas separate columns)" if len(header) == 1 and set(header[0]) & set(";\t|") else ""
        # What is no list at all may have a header of any signs and length.
        columns = [column if column.isprintable() else ascii(column) for column in header[:20]]
        raise ValueError(f"{where} {what}; its columns are {', '.join(each[:60] for each in columns) or 'none'}{commas}.")
    if labels == "multi" and "label" not in columns:
        raise ValueError(f"{name}: labels=multi needs a column 'label', and the list has {', '.join(columns)}; add it.")
    listed = any(isinstance(value, list) for value in columns.get("label", ()))
    if listed and labels == "single":
        raise ValueError(f"{name}: column 'label' holds lists, of which labels=single cannot take one; leave the option out.")
    multi_label = listed or labels == "multi"
    nothing = [None] * len(columns["path"])
    return ImageList(
        _paths(columns["path"], file.parent, where),
        (split_labels if multi_label else label_names)(columns["label"], where) if "label" in columns else None,
        multi_label,
        _said(cell_text, columns.get("licence", nothing), "licence", where),
        _said(_cost, columns.get("cost", nothing), "cost", where),
        gather_spellings(_texts(columns.get("label", ()), multi_label)),
    )


def _texts(labels: Sequence, multi_label: bool) -> Iterator[str]:
    """The names of classes as a list spells them."""
    for value in labels:
        parts = value.split(SEPARATOR) if multi_label and isinstance(value, str) else value
        yield from (part for part in (parts if isinstance(parts, list) else [parts]) if isinstance(part, str) and part.strip())


def _read(file: Path) -> tuple[list[str], dict[str, list]]:
    """The names of all columns, and the values of ours that are there."""
    with open(file, "rb") as content:
        start = content.read(START)
    if start.startswith(b"PAR1"):
        return _parquet_columns(file)
    known = recognise(start)
    if known:
        raise ValueError(f"it is {known}.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("its text is UTF-16; save it as UTF-8.")
    if file.suffix.lower() == ".parquet":
        raise ValueError("it is called .parquet and does not begin as a Parquet file.")
    return _csv_columns(file)


def _choose(header: Sequence[str]) -> dict[str, int]:
    """Positions of our columns among those of a list."""
    chosen: dict[str, int] = {}
    for position, name in enumerate(header):
        short = name.strip("\ufeff \t\r\n").lower()
        short = _ALIASES.get(short, short)
        if short in chosen:
            raise ValueError(f"its columns {header[chosen[short]]!r} and {name!r} both mean {short!r}; keep one of them.")
        if short in _COLUMNS:
            chosen[short] = position
    return chosen


def _csv_columns(file: Path) -> tuple[list[str], dict[str, list]]:
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        reader = csv.reader(lines, strict=True)
        header = next((cells for cells in reader if cells), [])
        chosen = _choose(header)
        columns: dict[str, list] = {short: [] for short in chosen}
        for row, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(header):
                raise ValueError(
                    f"row {row:,} (up to line {reader.line_num:,}) has {len(cells)} cells, and the header has {len(header)}; a "
                    "text that contains a comma is written in quotation marks."
                )
            if sorted(cells) == sorted(header):
                raise ValueError(f"row {row:,} repeats the header, as in lists joined by cat; join them with one header.")
            for short, position in chosen.items():
                columns[short].append(cells[position])
    return header, columns


def _parquet_columns(file: Path) -> tuple[list[str], dict[str, list]]:
    schema = pq.read_schema(file)
    header = schema.names
    chosen = {short: header[position] for short, position in _choose(header).items()}
    if "path" not in chosen:
        encoded = next((field.name for field in schema if _holds_files(field.type)), None)
        if encoded:
            raise ValueError(
                f"its column {encoded!r} holds whole image files, as data sets of Hugging Face do; write each as a file, and "
                "name the files in a column 'path'."
            )
        return header, {}
    table = pq.read_table(file, columns=list(chosen.values()))
    return header, {short: table[name].to_pylist() for short, name in chosen.items()}


def _holds_files(kind: pa.DataType) -> bool:
    is_struct = pa.types.is_struct(kind)
    kinds = [kind.field("bytes").type] if is_struct and kind.get_field_index("bytes") >= 0 else [kind]
    return any(is_binary(each) for each in kinds for is_binary in (pa.types.is_binary, pa.types.is_large_binary))


def _paths(values: Sequence, folder: Path, where: str) -> list[str]:
    paths: list[str] = []
    rows: dict[str, int] = {}
    # Most images of a list share few folders: one look at each file is left.
    real_folder = functools.lru_cache(maxsize=1024)(os.path.realpath)
    for row, value in enumerate(values, 1):
        path = os.fsdecode(value) if isinstance(value, bytes) else value
        if is_missing(path):
            raise ValueError(f"{where}: row {row:,} has no path.")
        if not isinstance(path, str) or any(sign in path for sign in "\0\n\r"):
            raise ValueError(f"{where}: row {row:,} has {path!r} as its path; expected a text of one line.")
        # ./a.png and a.png are one file, and so are a link and what it leads to.
        inner, name = os.path.split(path)
        file = os.path.normpath(os.path.join(real_folder(os.path.join(folder, inner)), name))
        first = rows.setdefault(os.path.realpath(file) if os.path.islink(file) else file, row)
        if first != row:
            also = f" (the first time as {printable(paths[first - 1])})" if paths[first - 1] != path else ""
            raise ValueError(
                f"{where} names {printable(path)} twice, in rows {first:,} and {row:,}{also}; N counts different images: "
                "list each once."
            )
        paths.append(path)
    return paths


def _said(read: Callable[[Any], Any], values: Sequence, column: str, where: str) -> list:
    """The values of a column that may be missing."""
    said = []
    for row, value in enumerate(values, 1):
        try:
            said.append(None if is_missing(value) else read(value))
        except ValueError as error:
            raise ValueError(f"{where}: row {row:,}, column {column!r}, {error}.") from error
    return said


def _cost(value: Any) -> float:
    try:
        cost = float(value)
    except (TypeError, ValueError):
        cost = -1.0
    if not 0 <= cost < float("inf"):
        raise ValueError(f"holds {value!r}; a cost is a number of at least 0")
    return cost
