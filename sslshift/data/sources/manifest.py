"""The format of an imported source: `source.json`, `manifest.parquet` and `refused.csv`.

Opening reads `source.json` alone. The manifest has a row per image and can be large, so that its columns are read at the first
access to labels or identities.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslshift import storage
from sslshift.data.ranges import PixelRange
from sslshift.data.sources.refusals import REFUSED

MANIFEST = "manifest.parquet"
SUMMARY = "source.json"
PARTS = "parts"
VERSION = 1

# A row of the manifest. `record` is the index in the source; sizes are in pixels; `bytes` is the size of the record.
SCHEMA = pa.schema(
    [
        # The index of the row itself, so that a reader notices rows that were sorted.
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
        # The label as a number and as a name, so that a reader notices if only one of them was changed.
        pa.field("label", pa.int64()),
        pa.field("class", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
    ]
)

# Key in the file's metadata for the fingerprint of the records that its rows describe.
FINGERPRINT = b"sslshift.fingerprint"

# An additional column of multi-label sources, with the names of an image's classes; `label` and `class` are null there.
CLASSES = pa.field("classes", pa.list_(pa.string()))

# An additional column of sources whose images are in groups.
GROUP = pa.field("group", pa.string())


@dataclasses.dataclass(frozen=True)
class ImageDescription:
    """The facts about an image in addition to its pixels. None means that a fact is not stated.

    Attributes:
      origin: path of the image in the input, for people.
      class_name: name of its class.
      classes: names of its classes, in a multi-label source.
      group: name of its group, such as its video.
      licence, cost, caption, url: values that its sidecars or its row of a list state.
      extra: values of further columns of the manifest.
    """

    origin: str
    class_name: str | None = None
    classes: list[str] | None = None
    group: str | None = None
    licence: str | None = None
    cost: float | None = None
    caption: str | None = None
    url: str | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """Returns the values by the names of their columns in the manifest."""
        own = {"origin": self.origin, "class": self.class_name, CLASSES.name: self.classes, GROUP.name: self.group}
        return {**own, "licence": self.licence, "cost": self.cost, "caption": self.caption, "url": self.url, **self.extra}


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file: its name, its number of records, and its size in bytes."""

    file: str
    records: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The content of `source.json`.

    Attributes:
      shards: the shards, in the order of their records.
      classes: names of the labels, or None.
      licence: the licence of all images, or the commonest licences with their counts.
      cost_per_image: the mean over the images.
      fingerprint: digest of all stored records in their order.
      refused: the number of images that were refused.
      hashes: version of the perceptual hashes in the manifest; hashes of other versions are not compared with them.
      made: the settings that made the source, for people and for a repeated command.
      multi_label: True if an image may have several of the classes, or none; they are in the manifest's column `CLASSES`.
      pixel_range: the values of images of more than 8 bits that became 0 and 255; None if there was no such image.
      notes: decisions that the files left open.
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
    """Writes `source.json`. It must be written last: a folder with it is complete."""
    values = {"version": VERSION, **dataclasses.asdict(summary)}
    for name in ("multi_label", "pixel_range", "notes"):
        # Earlier versions of the package refuse unknown fields, so these are written only for sources that need them.
        if not values[name]:
            del values[name]
    storage.write_json(folder / SUMMARY, values, indent=1)


def read_summary(folder: Path, name: str) -> Summary:
    """Returns the content of `source.json` in a folder.

    Raises:
      ValueError: the file is damaged or of another version, or there is no image.
    """
    try:
        values = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            raise ValueError(f"expected version {VERSION}; import the images again")
        values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
        # A name with a path could make the reader open any file of the machine.
        if any(not shard.records > 0 or Path(shard.file).name != shard.file for shard in values["shards"]):
            raise ValueError("a shard has no records, or is outside of the folder")
        values["classes"] = values["classes"] and tuple(values["classes"])
        # Summaries of earlier versions lack these fields.
        values["pixel_range"] = values.get("pixel_range") and PixelRange(*values["pixel_range"])
        values["notes"] = tuple(values.get("notes", ()))
        summary = Summary(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name}: {folder / SUMMARY} cannot be used: {error}") from error
    if not summary.shards:
        raise ValueError(f"{name}: {folder} has no image: all {summary.refused:,} were refused, see {folder / REFUSED}.")
    return summary


def require_match(summary: Summary, folder: Path, name: str) -> None:
    """Raises ValueError if the shards or the manifest differ from the summary's description."""
    for shard in summary.shards:
        path = folder / shard.file
        size = path.stat().st_size if path.exists() else None
        # Sizes are compared, not content: opening must not read all shards.
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {shard.bytes:,}"
            raise ValueError(
                f"{name}: {path} {found}; the folder was changed or copied in part. Copy it again, or import it again."
            )
    try:
        metadata = pq.read_metadata(folder / MANIFEST)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{name}: {folder / MANIFEST} cannot be read ({error}). Copy it again, or import it again.") from error
    # The metadata are at the end of the file: no row is read.
    rows = metadata.num_rows
    if rows != summary.records:
        raise ValueError(
            f"{name}: {MANIFEST} has {rows:,} rows for {summary.records:,} records; they belong to different imports. "
            "Copy the folder again, or import it again."
        )
    # Manifests of earlier versions have no fingerprint.
    if (metadata.metadata or {}).get(FINGERPRINT, summary.fingerprint.encode()) != summary.fingerprint.encode():
        raise ValueError(f"{name}: {folder / MANIFEST} belongs to another import than {SUMMARY}. Copy or import it again.")


def read_columns(folder: Path, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """Returns columns of the manifest, each as long as the source."""
    table = pq.read_table(folder / MANIFEST, columns=list(names))
    return [table.column(name) for name in names]


def has_groups(folder: Path) -> bool:
    """Returns whether the manifest has the groups of images."""
    return GROUP.name in pq.read_schema(folder / MANIFEST).names
