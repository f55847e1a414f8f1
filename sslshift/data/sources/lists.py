"""Lists of image files in CSV or Parquet, with one row per image. A whole list is checked before any image is read."""

import csv
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.sources.base import printable
from sslshift.data.sources.labels import SEPARATOR, cell_text, gather_spellings, is_missing, label_names, split_labels
from sslshift.data.sources.recognise import START, recognise

# Other common names of the columns.
_ALIASES = {"license": "licence", "cost_per_image": "cost"}
_COLUMNS = ("path", "label", "licence", "cost", "group")


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The content of a list, with one value per row.

    Attributes:
      paths: paths relative to the list's folder, each file once.
      labels: the name of each image's class, or for `multi_label` a list of names; None if the list has no labels.
      multi_label: True if an image may have several of the classes, or none.
      licences, costs: licence and cost of each image; None if the list does not state it.
      spellings: the spellings of each class in the list, see `labels.gather_spellings`.
      groups: the group of each image, such as its video, object or patient; None if the list has no groups.
    """

    paths: list[str]
    labels: list[str] | list[list[str]] | None
    multi_label: bool
    licences: list[str | None]
    costs: list[float | None]
    spellings: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    groups: list[str] | None = None


def read_list(file: Path, name: str, labels: str | None = None) -> ImageList:
    """Reads a CSV or Parquet list.

    The column `path` is required. The columns `label`, `group`, `licence` (or `license`) and `cost` (or `cost_per_image`) are
    optional, and other columns are ignored. A missing path, label or group is refused; a missing licence or cost means that
    none is stated. See `labels.is_missing`.

    Args:
      file: the list.
      name: name of the source, for messages.
      labels: "multi": the column `label` holds any number of classes per image, as `split_labels` reads them; "single": it
        holds one class per image; None: a Parquet column of lists is multi-label, and any other column is not.

    Raises:
      ValueError: the list cannot be read, has no column `path` or no row, has two columns with the same meaning or a row with
        more or fewer cells than its header, names an image twice, or has a value that its column cannot hold.
    """
    # The URI of a list holds its path already.
    where = name if printable(file) in name else f"{name}: {printable(file)}"
    if not file.is_file():
        raise ValueError(f"{name}: there is no file {printable(file)}{' (it is a folder)' if file.is_dir() else ''}.")
    try:
        header, columns = _read(file)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        # Messages of pyarrow end in a line break.
        raise ValueError(f"{where} cannot be read as a list of images: {' '.join(str(error).split())}") from error
    if "path" not in columns or not columns["path"]:
        what = "lists no image" if "path" in columns else "has no column 'path'"
        commas = " (commas separate columns)" if len(header) == 1 and set(header[0]) & set(";\t|") else ""
        # The header of a file that is not a list may have any characters and any length.
        columns = [column if column.isprintable() else ascii(column) for column in header[:20]]
        raise ValueError(f"{where} {what}; its columns are {', '.join(each[:60] for each in columns) or 'none'}{commas}.")
    if labels == "multi" and "label" not in columns:
        raise ValueError(f"{name}: labels=multi expects a column 'label', got the columns {', '.join(columns)}; add it.")
    # Only Parquet has lists as values.
    listed = any(isinstance(value, list) for value in columns.get("label", ()))
    if listed and labels == "single":
        raise ValueError(f"{name}: the column 'label' holds lists, and labels=single expects one label; remove the option.")
    multi_label = listed or labels == "multi"
    nothing = [None] * len(columns["path"])
    return ImageList(
        _paths(columns["path"], file.parent, where),
        (split_labels if multi_label else label_names)(columns["label"], where) if "label" in columns else None,
        multi_label,
        _optional(cell_text, columns.get("licence", nothing), "licence", where),
        _optional(_cost, columns.get("cost", nothing), "cost", where),
        gather_spellings(_texts(columns.get("label", ()), multi_label)),
        _groups(columns["group"], where) if "group" in columns else None,
    )


def _texts(labels: Sequence, multi_label: bool) -> Iterator[str]:
    """Yields the names of classes as the list spells them."""
    for value in labels:
        parts = value.split(SEPARATOR) if multi_label and isinstance(value, str) else value
        yield from (part for part in (parts if isinstance(parts, list) else [parts]) if isinstance(part, str) and part.strip())


def _read(file: Path) -> tuple[list[str], dict[str, list]]:
    """Returns the names of all columns, and the values of the columns in `_COLUMNS`."""
    with open(file, "rb") as content:
        start = content.read(START)
    # The content decides, since names of lists are often wrong.
    if start.startswith(b"PAR1"):
        return _parquet_columns(file)
    known = recognise(start)
    if known:
        raise ValueError(f"it is {known}.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("its text is UTF-16; save it as UTF-8.")
    if file.suffix.lower() == ".parquet":
        raise ValueError("its name ends in .parquet, but it is not a Parquet file.")
    return _csv_columns(file)


def _choose(header: Sequence[str]) -> dict[str, int]:
    """Returns the positions, in a list's header, of the columns in `_COLUMNS`."""
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
    # Excel writes a byte order mark. Paths may have bytes that are not UTF-8, which are read as surrogates.
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        # `strict` refuses a quotation mark that is never closed. Otherwise the rest of the file would silently be one cell.
        reader = csv.reader(lines, strict=True)
        header = next((cells for cells in reader if cells), [])
        chosen = _choose(header)
        columns: dict[str, list] = {short: [] for short in chosen}
        for row, cells in enumerate((cells for cells in reader if cells), 1):
            # A row that is shifted by one cell would give its image the value of another column.
            if len(cells) != len(header):
                raise ValueError(
                    f"row {row:,} (up to line {reader.line_num:,}) has {len(cells)} cells, and the header has {len(header)}; "
                    "write a text that contains a comma in quotation marks."
                )
            # The order is ignored: joined lists may have their columns in another order, which would exchange the values.
            if sorted(cells) == sorted(header):
                raise ValueError(f"row {row:,} repeats the header, as in lists joined by cat; keep only the first header.")
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
                f"its column {encoded!r} holds whole image files, as in datasets of Hugging Face; write each image as a file, "
                "and name the files in a column 'path'."
            )
        return header, {}
    # Other columns may hold gigabytes of images or embeddings.
    table = pq.read_table(file, columns=list(chosen.values()))
    return header, {short: table[name].to_pylist() for short, name in chosen.items()}


def _holds_files(kind: pa.DataType) -> bool:
    """Returns whether a Parquet column holds bytes, alone or as the field `bytes` of a struct."""
    is_struct = pa.types.is_struct(kind)
    kinds = [kind.field("bytes").type] if is_struct and kind.get_field_index("bytes") >= 0 else [kind]
    return any(is_binary(each) for each in kinds for is_binary in (pa.types.is_binary, pa.types.is_large_binary))


def _paths(values: Sequence, folder: Path, where: str) -> list[str]:
    """Returns the paths as texts, after a check that no two of them lead to one file."""
    paths: list[str] = []
    rows: dict[str, int] = {}
    # The images of a list are in few folders: if these are cached, each image takes only one system call.
    real_folder = functools.lru_cache(maxsize=1024)(os.path.realpath)
    for row, value in enumerate(values, 1):
        path = os.fsdecode(value) if isinstance(value, bytes) else value
        if is_missing(path):
            raise ValueError(f"{where}: row {row:,} has no path.")
        if not isinstance(path, str) or any(sign in path for sign in "\0\n\r"):
            raise ValueError(f"{where}: row {row:,} has {path!r} as its path; expected a text of one line.")
        # ./a.png and a.png are one file, and so are a link and its target.
        inner, name = os.path.split(path)
        file = os.path.normpath(os.path.join(real_folder(os.path.join(folder, inner)), name))
        first = rows.setdefault(os.path.realpath(file) if os.path.islink(file) else file, row)
        if first != row:
            also = f" (the first time as {printable(paths[first - 1])})" if paths[first - 1] != path else ""
            raise ValueError(
                f"{where} names {printable(path)} twice, in rows {first:,} and {row:,}{also}; list each image once, since N "
                "counts different images."
            )
        paths.append(path)
    return paths


def _groups(values: Sequence, where: str) -> list[str]:
    """Returns the name of each image's group; 1.0 and 1 are one name, as some programs write whole numbers."""
    for row, name in enumerate(_optional(cell_text, values, "group", where), 1):
        # An image without a group could belong to any of them.
        if name is None:
            raise ValueError(
                f"{where}: row {row:,} has no group; give every image its group (an image alone: a group of its own), or "
                "rename the column 'group' if it means something else."
            )
    return [re.sub(r"^(-?\d+)\.0+$", r"\1", cell_text(value)) for value in values]


def _optional(read: Callable[[Any], Any], values: Sequence, column: str, where: str) -> list:
    """Returns the values of a column, None for missing ones."""
    found = []
    for row, value in enumerate(values, 1):
        try:
            found.append(None if is_missing(value) else read(value))
        except ValueError as error:
            raise ValueError(f"{where}: row {row:,}, column {column!r}, {error}.") from error
    return found


def _cost(value: Any) -> float:
    try:
        cost = float(value)
    except (TypeError, ValueError):
        cost = -1.0
    if not 0 <= cost < float("inf"):
        raise ValueError(f"holds {value!r}; expected a number of at least 0")
    return cost
