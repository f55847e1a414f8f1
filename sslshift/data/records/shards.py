"""Writes stored images shard by shard, and joins finished shards into a source.

If a process is killed, every shard is complete or absent, and no shard is made twice.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sslshift import storage
from sslshift.command import remedy
from sslshift.data.decode import UnknownRangeError
from sslshift.data.perceptual_hash import VERSION as HASH_VERSION
from sslshift.data.ranges import PixelRange
from sslshift.data.records.encode import StoredImage
from sslshift.data.records.folder import parts_folder
from sslshift.data.sources.array_record import open_shard
from sslshift.data.sources.base import Refused, Terms, licence_text
from sslshift.data.sources.labels import sort_classes
from sslshift.data.sources.manifest import CLASSES, FINGERPRINT, MANIFEST, SCHEMA, Shard, Summary, write_summary
from sslshift.data.sources.refusals import write_refused

# One image per group, so that any image can be read alone. Images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# Rows in a row group of the manifest. With one row group per shard, the file's index of its row groups would be large.
_ROW_GROUP = 1 << 17


class FinishedShard(NamedTuple):
    """The facts about a finished shard that are known without opening it.

    Attributes:
      name: name of the shard.
      records: number of records in the shard; 0 if all of its images were refused.
      bytes: size of the shard.
      content: digest of the records.
      refused: the images that were refused.
    """

    name: str
    records: int
    bytes: int
    content: str
    refused: list[Refused]


def shard_file(name: str) -> str:
    """Returns the name of a shard's file."""
    return f"images-{name}.array_record"


def finished_shard(folder: Path, name: str) -> FinishedShard | None:
    """Returns the shard of this name if it is complete, else None."""
    marker = parts_folder(folder) / f"{name}.json"
    if not marker.exists():
        return None
    values = json.loads(marker.read_text(encoding="utf-8"))
    return FinishedShard(**values | {"refused": [Refused(*each) for each in values["refused"]]})


def write_shard(
    folder: Path, name: str, items: Iterable[StoredImage | Refused], extra: Sequence[pa.Field] = ()
) -> FinishedShard:
    """Writes one shard and its rows of the manifest, or returns the shard that an earlier call wrote.

    Args:
      folder: folder of the source.
      name: name of the shard; shards are joined in the order of their names.
      items: images in order.
      extra: columns of the manifest in addition to `SCHEMA`.

    Raises:
      OSError: the disk is full, or the folder cannot be written; no file with a final name remains.
      UnknownRangeError: one of the items raised it; no file with a final name remains.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    done = finished_shard(folder, name)
    if done:
        return done
    parts = parts_folder(folder)
    parts.mkdir(parents=True, exist_ok=True)
    final = folder / shard_file(name)
    # Not `storage.whole_file`: the writer opens the file itself.
    unfinished = final.with_name(final.name + ".part")
    rows: list[dict[str, Any]] = []
    refused: list[Refused] = []
    content = hashlib.sha256()
    try:
        writer = ArrayRecordWriter(str(unfinished), _WRITER_OPTIONS)
        for item in items:
            if isinstance(item, Refused):
                refused.append(item)
                continue
            writer.write(item.content)
            content.update(hashlib.sha256(item.content).digest())
            rows.append(item.row(final.name))
        writer.close()
        # This is checked before the file gets its final name, and before the rows are written.
        _require_complete(unfinished, len(rows))
        if rows:
            with storage.whole_file(_rows_file(folder, name)) as file:
                pq.write_table(pa.Table.from_pylist(rows, pa.schema([*SCHEMA, *extra])), file)
            unfinished.replace(final)
        shard = FinishedShard(name, len(rows), final.stat().st_size if rows else 0, content.hexdigest(), refused)
        # The marker is written last: if it exists, everything else exists.
        storage.write(parts / f"{name}.json", json.dumps(shard._asdict()))
    except UnknownRangeError:
        # It is also a ValueError, but the disk is not its cause.
        raise
    except (OSError, RuntimeError, ValueError) as error:
        advice = remedy(error) or "Free some space, or name another folder, and give the same command again."
        raise OSError(f"{final} cannot be written: {getattr(error, 'strerror', None) or error}. {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return shard


def _rows_file(folder: Path, name: str) -> Path:
    """Returns the file with a shard's rows of the manifest."""
    return parts_folder(folder) / f"{name}.parquet"


def _require_complete(shard: Path, records: int) -> None:
    """Raises OSError if a shard lacks records: the writer does not always report a full disk."""
    reader = open_shard(str(shard))
    found = reader.num_records()
    reader.close()
    if found != records:
        raise OSError(f"only {found:,} of {records:,} records were written; the disk may be full")


def finish(
    folder: Path,
    names: Sequence[str],
    *,
    licence: str,
    cost_per_image: float,
    made: dict[str, Any],
    refused: Sequence[Refused] = (),
    pixel_range: PixelRange | None = None,
    notes: Sequence[str] = (),
) -> Summary:
    """Joins finished shards into a source: writes the manifest and `refused.csv`, and then `source.json`.

    Args:
      folder: folder of the source.
      names: names of its shards in order, all of them finished.
      licence: licence of images whose rows state no licence.
      cost_per_image: cost of images whose rows state no cost.
      made: the settings that made the source, for the summary.
      refused: images that were refused before any shard was written.
      pixel_range: the values of images of more than 8 bits that became 0 and 255.
      notes: decisions that the files left open.

    Raises:
      OSError: the disk is full; repeat the call.
    """
    shards = [finished_shard(folder, name) for name in names]
    filled = [shard for shard in shards if shard.records]
    tables = [_rows_file(folder, shard.name) for shard in filled]
    # A multi-label list is the only container of its import, so one table decides for all tables.
    multi_label = bool(tables) and CLASSES.name in pq.read_schema(tables[0]).names
    # Labels can be numbered only now: the classes of all shards must be known.
    classes = _classes(tables, multi_label)
    # The fingerprint is a digest of the shards' digests, so no record is read again.
    fingerprint = hashlib.sha256("".join(shard.content for shard in filled).encode()).hexdigest()
    totals = _write_manifest(folder / MANIFEST, tables, classes, fingerprint, Terms(licence, cost_per_image))
    refused = [*refused, *(each for shard in shards for each in shard.refused)]
    write_refused(folder, refused)
    summary = Summary(
        shards=tuple(Shard(shard_file(shard.name), shard.records, shard.bytes) for shard in filled),
        classes=classes,
        licence=licence_text(totals.licences, licence),
        cost_per_image=totals.cost_per_image,
        fingerprint=fingerprint,
        refused=len(refused),
        hashes=HASH_VERSION,
        made=made,
        multi_label=multi_label and classes is not None,
        pixel_range=pixel_range,
        notes=tuple(notes),
    )
    # Everything else exists now; a folder with a summary is complete.
    write_summary(folder, summary)
    shutil.rmtree(parts_folder(folder), ignore_errors=True)
    return summary


def _classes(tables: Sequence[Path], multi_label: bool) -> tuple[str, ...] | None:
    """Returns the sorted names of the classes.

    Returns None if an image has no class; for a multi-label source, only if no image has a class.
    """
    name = CLASSES.name if multi_label else "class"
    names: set[str | None] = set()
    for table in tables:
        column = pq.read_table(table, columns=[name]).column(name)
        names.update((pc.list_flatten(column) if multi_label else column).unique().to_pylist())
    return None if None in names or not names else sort_classes(names)


class _Totals(NamedTuple):
    """Numbers of images by licence, and the mean cost of an image."""

    licences: Counter[str]
    cost_per_image: float


def _write_manifest(
    target: Path, tables: Sequence[Path], classes: Sequence[str] | None, fingerprint: str, default: Terms
) -> _Totals:
    """Joins the rows of the shards into the manifest; `default` has the terms of images whose rows state none."""
    labels = {name: label for label, name in enumerate(classes or ())}
    licences: Counter[str] = Counter()
    records = 0
    total = 0.0
    with storage.whole_file(target) as file:
        writer = None
        try:
            for rows in _read(tables):
                own = rows.column("licence").fill_null(default.licence)
                # Rows are written in batches: the rows of millions of images do not fit into memory.
                licences.update(own.to_pylist())
                costs = rows.column("cost").fill_null(default.cost_per_image)
                total += float(sum(costs.to_pylist()))
                columns = {
                    "licence": own,
                    "cost": costs,
                    "label": pa.array([labels.get(name) for name in rows.column("class").to_pylist()], pa.int64()),
                    "record": pa.array(range(records, records + len(rows)), pa.int64()),
                }
                for name, column in columns.items():
                    rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
                writer = writer or pq.ParquetWriter(file, rows.schema.with_metadata({FINGERPRINT: fingerprint}))
                writer.write_table(rows)
                records += len(rows)
            if writer is None:
                pq.write_table(pa.Table.from_pylist([], SCHEMA), file)
        finally:
            if writer is not None:
                writer.close()
    return _Totals(licences, total / records if records else default.cost_per_image)


def _read(tables: Sequence[Path]) -> Iterator[pa.Table]:
    """Yields the rows of the tables, about `_ROW_GROUP` at a time."""
    gathered: list[pa.Table] = []
    for table in tables:
        gathered.append(pq.read_table(table))
        if sum(map(len, gathered)) >= _ROW_GROUP:
            yield pa.concat_tables(gathered)
            gathered = []
    if gathered:
        yield pa.concat_tables(gathered)
