"""The format of an imported source: `source.json`, which opening reads, and `manifest.parquet`, of which nothing is held."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.ranges import PixelRange
from sslshift.data.sources.base import Refused

MANIFEST = "manifest.parquet"
SUMMARY = "source.json"
REFUSED = "refused.csv"
PARTS = "parts"
VERSION = 1

# A row of the manifest; `record` is the index in the source. Widths and heights in pixels, `bytes` of the stored record.
SCHEMA = pa.schema(
    [
        pa.field("record", pa.int64()),
        pa.field("shard", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("perceptual_hash", pa.uint64()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("licence", pa.string()),
        pa.field("cost", pa.float64()),
        pa.field("label", pa.int64()),
        pa.field("class", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
    ]
)

# Metadata of the file: the fingerprint of the records that its rows are of.
FINGERPRINT = b"sslshift.fingerprint"

# A further column of multi-label sources, instead of `label` and `class`, which are null: the names of an image's classes.
CLASSES = pa.field("classes", pa.list_(pa.string()))


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file: its name, how many records it holds, and its size in bytes."""

    file: str
    records: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `source.json` says.

    Attributes:
      shards: in the order of the records.
      classes: names of the labels, or None.
      licence: of all images, or the commonest with their counts.
      cost_per_image: mean over the images.
      fingerprint: digest of all stored records in their order.
      refused: how many images were refused.
      hashes: version of the perceptual hashes in the manifest; others are not compared with them.
      made: how the source was made, for people and for a repeated command.
      multi_label: an image may have several of the classes, or none; they stand in the manifest's column `CLASSES`.
      pixel_range: the values of images of more than 8 bits that became 0 and 255; None where there was no such image.
      notes: what was decided where the files left it open.
    """

    shards: tuple[Shard, ...]
    classes: tuple[str, ...] | None
    licence: str
    cost_per_image: float
    fingerprint: str
    refused: int
    hashes: int
    made: dict[str, Any]
    multi_label: bool = False
    pixel_range: PixelRange | None = None
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)


def write_summary(folder: Path, summary: Summary) -> None:
    """Written last of all: a folder with it is whole."""
    part = folder / f"{SUMMARY}.part"
    values = {"version": VERSION, **dataclasses.asdict(summary)}
    for name in ("multi_label", "pixel_range", "notes"):
        # Versions that know nothing of it read all other sources, and refuse these.
        if not values[name]:
            del values[name]
    part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / SUMMARY)


def read_summary(folder: Path, name: str) -> Summary:
    """What `source.json` of a folder says.

    Raises:
      ValueError: it is of another version, or was edited into something else.
    """
    try:
        values = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}; import the images anew")
        values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
        if any(not shard.records > 0 or Path(shard.file).name != shard.file for shard in values["shards"]):
            raise ValueError("a shard has no records, or lies outside of the folder")
        values["classes"] = values["classes"] and tuple(values["classes"])
        values["pixel_range"] = values.get("pixel_range") and PixelRange(*values["pixel_range"])
        values["notes"] = tuple(values.get("notes", ()))
        summary = Summary(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name}: {folder / SUMMARY} cannot be used: {error}") from error
    if not summary.shards:
        raise ValueError(f"{name}: {folder} holds no image: all {summary.refused:,} were refused, see {folder / REFUSED}.")
    return summary


def require_match(summary: Summary, folder: Path, name: str) -> None:
    """Raises ValueError where shards or manifest are not those of the summary."""
    for shard in summary.shards:
        path = folder / shard.file
        size = path.stat().st_size if path.exists() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {shard.bytes:,}"
            raise ValueError(f"{name}: {path} {found}; the folder was copied in part or changed. Copy or import it anew.")
    try:
        metadata = pq.read_metadata(folder / MANIFEST)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{name}: {folder / MANIFEST} cannot be read ({error}); copy or import it anew.") from error
    rows = metadata.num_rows
    if rows != summary.records:
        raise ValueError(
            f"{name}: {MANIFEST} has {rows:,} rows for {summary.records:,} records; they are of different imports. "
            "Copy or import it anew."
        )
    # Manifests of earlier versions do not say.
    if (metadata.metadata or {}).get(FINGERPRINT, summary.fingerprint.encode()) != summary.fingerprint.encode():
        raise ValueError(f"{name}: {folder / MANIFEST} is of another import than {SUMMARY}. Copy or import it anew.")


def read_columns(folder: Path, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """Columns of the manifest, each as long as the source."""
    table = pq.read_table(folder / MANIFEST, columns=list(names))
    return [table.column(name) for name in names]


def write_refused(folder: Path, refused: Sequence[Refused]) -> None:
    """Writes refused.csv."""
    unfinished = folder / f"{REFUSED}.part"
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Refused._fields, *refused])
    unfinished.replace(folder / REFUSED)
