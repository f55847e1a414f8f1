"""Writes stored images shard by shard; whatever stops it, a shard is there whole or not at all, and is not made twice."""

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

from sslshift.data.decode import UnknownRangeError
from sslshift.data.perceptual_hash import VERSION as HASH_VERSION
from sslshift.data.ranges import Levels, PixelRange
from sslshift.data.records.folder import parts_folder
from sslshift.data.sources.array_record import open_shard
from sslshift.data.sources.base import Refused, licence_text
from sslshift.data.sources.labels import sort_classes
from sslshift.data.sources.manifest import CLASSES, FINGERPRINT, MANIFEST, SCHEMA, Shard, Summary, write_refused, write_summary

# Records of one image each, so that any of them is read alone; images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_ROW_GROUP = 1 << 17


class StoredImage(NamedTuple):
    """An image as it is stored, its row of the manifest (columns that are missing are null), and values of more than 8 bits."""

    content: bytes
    row: dict[str, Any]
    levels: Levels | None = None


class FinishedShard(NamedTuple):
    """What is known of a finished shard without opening it; `records` is 0 where all of it was refused."""

    name: str
    records: int
    bytes: int
    content: str
    refused: list[Refused]


def shard_file(name: str) -> str:
    return f"images-{name}.array_record"


def finished_part(folder: Path, name: str) -> FinishedShard | None:
    """The shard of this name if it is written, else None."""
    marker = parts_folder(folder) / f"{name}.json"
    if not marker.exists():
        return None
    values = json.loads(marker.read_text(encoding="utf-8"))
    return FinishedShard(**values | {"refused": [Refused(*each) for each in values["refused"]]})


def write_shard(
    folder: Path, name: str, items: Iterable[StoredImage | Refused], extra: Sequence[pa.Field] = ()
) -> FinishedShard:
    """Writes one shard and its rows, or returns what an earlier call wrote.

    Args:
      folder: the source in the making.
      name: of the shard; shards are put in the order of their names.
      items: images in order.
      extra: columns of the manifest beyond `SCHEMA`.

    Raises:
      OSError: the disk is full, or the folder cannot be written; nothing is left under a final name.
      UnknownRangeError: one of the items raises it; nothing is left either.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    done = finished_part(folder, name)
    if done:
        return done
    parts = parts_folder(folder)
    final = folder / shard_file(name)
    parts.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(final.name + ".part")
    rows = []
    refused = []
    content = hashlib.sha256()
    try:
        writer = ArrayRecordWriter(str(unfinished), _WRITER_OPTIONS)
        for item in items:
            if isinstance(item, Refused):
                refused.append(item)
                continue
            writer.write(item.content)
            content.update(hashlib.sha256(item.content).digest())
            rows.append(item.row | {"shard": final.name, "bytes": len(item.content)})
        writer.close()
        _require_whole(unfinished, len(rows))
        if rows:
            schema = pa.schema([*SCHEMA, *extra])
            table = pa.Table.from_pylist(rows, schema)
            pq.write_table(table, parts / f"{name}.parquet.part")
            (parts / f"{name}.parquet.part").replace(parts / f"{name}.parquet")
            unfinished.replace(final)
        part = FinishedShard(name, len(rows), final.stat().st_size if rows else 0, content.hexdigest(), refused)
        # The marker comes last: with it, all of the rest is there.
        marker = parts / f"{name}.json"
        marker.with_suffix(".part").write_text(json.dumps(part._asdict()), encoding="utf-8")
        marker.with_suffix(".part").replace(marker)
    except UnknownRangeError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(
            f"{final} cannot be written: {error}. Make room, or choose another folder, and repeat the command."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return part


def _require_whole(shard: Path, records: int) -> None:
    """The writer does not always say that a disk was full: what was written is counted again."""
    reader = open_shard(str(shard))
    found = reader.num_records()
    reader.close()
    if found != records:
        raise OSError(f"{found:,} of {records:,} records were kept, as on a full disk")


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
    """Joins finished shards to a source: manifest, refused.csv, and last `source.json`.

    Args:
      folder: the source in the making.
      names: its shards in order, all of them finished.
      licence: of images whose rows name none.
      cost_per_image: of images whose rows name none.
      made: how it was made, kept in the summary.
      refused: what was refused before any shard was written.
      notes: what was decided where the files left it open.

    Raises:
      OSError: the disk is full; the same call may be repeated.
    """
    parts = [finished_part(folder, name) for name in names]
    filled = [part for part in parts if part.records]
    tables = [parts_folder(folder) / f"{part.name}.parquet" for part in filled]
    multi_label = bool(tables) and CLASSES.name in pq.read_schema(tables[0]).names
    classes = _classes(tables, multi_label)
    licences: Counter[str] = Counter()
    fingerprint = hashlib.sha256("".join(part.content for part in filled).encode()).hexdigest()
    cost = _write_manifest(folder, tables, classes, licence, cost_per_image, licences, fingerprint)
    refused = [*refused, *(each for part in parts for each in part.refused)]
    write_refused(folder, refused)
    shards = tuple(Shard(shard_file(part.name), part.records, part.bytes) for part in filled)
    summary = Summary(
        shards=shards,
        classes=classes,
        licence=licence_text(licences, licence),
        cost_per_image=cost,
        fingerprint=fingerprint,
        refused=len(refused),
        hashes=HASH_VERSION,
        made=made,
        multi_label=multi_label and classes is not None,
        pixel_range=pixel_range,
        notes=tuple(notes),
    )
    write_summary(folder, summary)
    shutil.rmtree(parts_folder(folder), ignore_errors=True)
    return summary


def _classes(tables: Sequence[Path], multi_label: bool) -> tuple[str, ...] | None:
    """Names of the classes in order; None unless every image has one, or in a multi-label source any image."""
    name = CLASSES.name if multi_label else "class"
    names: set[str | None] = set()
    for table in tables:
        column = pq.read_table(table, columns=[name]).column(name)
        names.update((pc.list_flatten(column) if multi_label else column).unique().to_pylist())
    return None if None in names or not names else sort_classes(names)


def _write_manifest(folder, tables, classes, licence, cost_per_image, licences, fingerprint) -> float:
    """Joins the rows part by part, counts licences, and returns the mean cost."""
    places = {name: label for label, name in enumerate(classes or ())}
    target = folder / MANIFEST
    records = 0
    total = 0.0
    unfinished = target.with_name(target.name + ".part")
    writer = None
    try:
        for rows in _read(tables):
            own = rows.column("licence").fill_null(licence)
            licences.update(own.to_pylist())
            costs = rows.column("cost").fill_null(cost_per_image)
            total += float(sum(costs.to_pylist()))
            labels = pa.array([places.get(name) for name in rows.column("class").to_pylist()], pa.int64())
            numbers = pa.array(range(records, records + len(rows)), pa.int64())
            for name, column in (("licence", own), ("cost", costs), ("label", labels), ("record", numbers)):
                rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
            writer = writer or pq.ParquetWriter(unfinished, rows.schema.with_metadata({FINGERPRINT: fingerprint}))
            writer.write_table(rows)
            records += len(rows)
        if writer is None:
            pq.write_table(pa.Table.from_pylist([], SCHEMA), unfinished)
    finally:
        if writer is not None:
            writer.close()
    unfinished.replace(target)
    return total / records if records else cost_per_image


def _read(tables: Sequence[Path]) -> Iterator[pa.Table]:
    """The rows of the tables, many at a time: the manifest's own index would be large with a row group for each shard."""
    gathered: list[pa.Table] = []
    for table in tables:
        gathered.append(pq.read_table(table))
        if sum(map(len, gathered)) >= _ROW_GROUP:
            yield pa.concat_tables(gathered)
            gathered = []
    if gathered:
        yield pa.concat_tables(gathered)
