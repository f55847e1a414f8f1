"""Sources of sharded ArrayRecord files whose records are encoded images, written by `tools.import_images` or by others."""

import bisect
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sslshift.data.decode import BrokenImageError, Canvas, UnknownRangeError, decode, decode_onto
from sslshift.data.perceptual_hash import VERSION as HASH_VERSION
from sslshift.data.ranges import PixelRange, describe_unread, with_range
from sslshift.data.sources.base import Source, StoredIdentities, Terms, printable, written_at
from sslshift.data.sources.labels import class_name, indicators, sort_classes
from sslshift.data.sources.manifest import (
    CLASSES,
    GROUP,
    MANIFEST,
    PARTS,
    SUMMARY,
    has_groups,
    read_columns,
    read_summary,
    require_match,
)
from sslshift.data.sources.recognise import recognise_file, recognise_folder, recognise_record
from sslshift.data.sources.walk import is_hidden

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordReader

# Random access needs no readahead, whose buffers would be held for every shard.
_READER_OPTIONS = "readahead_buffer_size:0"


class ArrayRecordSource(Source):
    """Images in ArrayRecord shards.

    A shard is opened at the first read from it, so that memory and start-up time do not grow with the number of images. A
    folder with a `source.json`, which an import writes, is checked against it. Without that file, every shard is opened once to
    count its records.

    Args:
      name: the URI.
      path: a folder of shards, or one file.
      terms: licence and cost per image that the URI states.
      stated_range: the pixel range of images of more than 8 bits; None: such images are refused when they are read. Images that
        an import wrote have 8 bits.

    Raises:
      ValueError: there is no shard, a shard cannot be read, the shards, the manifest and the summary do not belong together, or
        a range is stated for an import.
    """

    def __init__(self, name: str, path: Path, terms: Terms, stated_range: PixelRange | None = None):
        if not path.exists():
            raise ValueError(f"{name}: there is no folder or file {printable(path)}.")
        self._folder = path
        summary = read_summary(path, name) if (path / SUMMARY).exists() else None
        if summary:
            # Only sizes and the fingerprint are checked: reading all images would take hours.
            require_match(summary, path, name)
            self._shards = [path / shard.file for shard in summary.shards]
            counts = [shard.records for shard in summary.shards]
            terms = terms.over(Terms(summary.licence, summary.cost_per_image))
            fingerprint = summary.fingerprint
            if stated_range:
                raise ValueError(
                    f"{name}: an import stores images of 8 bits; state the range with --range when the images are imported."
                )
        else:
            # The shards of a stopped import look complete, but hold only a part of the images.
            if (path / PARTS).exists():
                raise ValueError(
                    f"{name}: {printable(path)} is unfinished: the command that writes it was stopped; repeat that command."
                )
            self._shards = _shards(path, name)
            counts = [_count(shard, name) for shard in self._shards]
            fingerprint = with_range(_fingerprint(self._shards, counts), stated_range)
        super().__init__(name, fingerprint=fingerprint, **terms._asdict())
        self._stated_range = stated_range
        self.pixel_range = stated_range
        self.notes = describe_unread(stated_range)
        # An import stores its range, and its images have 8 bits.
        if summary:
            self.pixel_range = summary.pixel_range
            self.notes = summary.notes
        self._stored_classes = summary.classes if summary else None
        self._hash_version = summary.hashes if summary else None
        # Imports of earlier versions may hold several spellings of one class.
        self.classes = self._stored_classes and sort_classes(map(class_name, self._stored_classes))
        self._multi_label = bool(summary and summary.multi_label)
        # For each shard the index after its last image.
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        if self.classes is None:
            return None
        if not self._multi_label:
            labels, names = self._columns("label", "class")
            # Labels are stored twice, as numbers and as names. A program that sorted or edited one of them is noticed here.
            places = pc.index_in(names, value_set=pa.array(self._stored_classes))
            if places.null_count or not labels.equals(places.cast(pa.int64())):
                raise ValueError(self._changed_manifest("labels that do not match the classes"))
            return self._places()[labels.to_numpy().astype(np.int64)]
        (names,) = self._columns(CLASSES.name)
        names = names.combine_chunks()
        places = pc.index_in(pc.list_flatten(names), value_set=pa.array(self._stored_classes))
        if names.null_count or places.null_count:
            raise ValueError(self._changed_manifest("names that do not match the classes"))
        shape = len(self), len(self.classes)
        return indicators(pc.list_parent_indices(names).to_numpy(), self._places()[places.to_numpy()], shape)

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        # Shards of other programs have no manifest.
        if self._hash_version is None or not has_groups(self._folder):
            return None
        (names,) = self._columns(GROUP.name)
        if names.null_count:
            raise ValueError(self._changed_manifest("images without a group"))
        return np.array(names.to_pylist(), str)

    def _places(self) -> np.ndarray:
        """Returns the position of each stored class among `classes`."""
        return np.array([self.classes.index(class_name(name)) for name in self._stored_classes], np.int64)

    def _columns(self, *names: str) -> list[pa.ChunkedArray]:
        """Returns columns of the manifest, after a check that its rows are in the order of the records."""
        records, *columns = read_columns(self._folder, ["record", *names])
        # Another order of rows would give every image the label of another one.
        if not np.array_equal(records.to_numpy(), np.arange(len(self))):
            raise ValueError(self._changed_manifest("rows that are not in the order of the records"))
        return columns

    def _changed_manifest(self, fault: str) -> str:
        return f"{self.name}: {printable(self._folder / MANIFEST)} was changed: it has {fault}. Copy or import it again."

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        (content,) = self._contents([index])
        return self._decoded(index, content, canvas)

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        indices = np.asarray(indices).tolist()
        images = np.empty((len(indices), *canvas), np.uint8)
        for place, (index, content) in enumerate(zip(indices, self._contents(indices), strict=True)):
            images[place] = self._decoded(index, content, canvas)
        return images

    def _decoded(self, index: int, content: bytes, canvas: Canvas | None) -> np.ndarray:
        try:
            return decode_onto(canvas, content, self._stated_range) if canvas else decode(content, self._stated_range)
        # This comes first, since it is also a BrokenImageError, and only for this fault can the user state a range.
        except UnknownRangeError as error:
            raise BrokenImageError(f"{self.origin(index)}: {error}; state it with ?range=LOW..HIGH") from error
        except BrokenImageError as error:
            raise BrokenImageError(f"{self.origin(index)}: {error}") from error

    def _contents(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the records at these indices, with one call for each shard, which reads many records in parallel."""
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(bisect.bisect_right(self._ends, index), []).append(place)
        contents = [b""] * len(indices)
        for shard, chosen in places.items():
            # Shards count their records from 0.
            first = self._ends[shard - 1] if shard else 0
            try:
                reader = _reader(str(self._shards[shard]), self.fingerprint)
                records = reader.read([indices[place] - first for place in chosen])
            except (OSError, RuntimeError, ValueError, IndexError) as error:
                raise BrokenImageError(f"{printable(self._shards[shard])} cannot be read: {error}") from error
            for place, record in zip(chosen, records, strict=True):
                contents[place] = record
        return contents

    def origin(self, index: int) -> str:
        shard = bisect.bisect_right(self._ends, index)
        return f"{printable(self._shards[shard])}, record {index - (self._ends[shard - 1] if shard else 0)}"

    def stored_identities(self) -> StoredIdentities | None:
        # Hashes of different versions cannot be compared.
        if self._hash_version != HASH_VERSION:
            return None
        digests, hashes = self._columns("digest", "perceptual_hash")
        return StoredIdentities([bytes.fromhex(digest) for digest in digests.to_pylist()], hashes.to_numpy())

    def content_key(self) -> str | None:
        # Of large shards the fingerprint holds both ends and the size only.
        return f"{self.fingerprint} {written_at(self._shards)}"


# All sources of a process share the limit: systems allow about a thousand open files. Reopening one takes 0.5 milliseconds.
@functools.lru_cache(maxsize=400)
def _reader(path: str, fingerprint: str) -> "ArrayRecordReader":
    # The fingerprint is part of the cache's key: a file that was replaced must not be read through its old reader.
    del fingerprint
    return open_shard(path)


def open_shard(path: str) -> "ArrayRecordReader":
    """Opens a shard for random access."""
    from array_record.python.array_record_module import ArrayRecordReader

    # A reader of a missing file reports no error, only zero records; stat raises.
    os.stat(path)
    return ArrayRecordReader(path, options=_READER_OPTIONS)


def _shards(path: Path, name: str) -> list[Path]:
    if path.is_file():
        # The user names one shard, so the other shards need not exist.
        return [path]
    # Any program may have written the shards: the usual spellings of their names are accepted.
    names = (each for each in path.iterdir() if not is_hidden(each.name))
    # Sorted, since folders list files in any order, and an index must mean the same image everywhere.
    shards = sorted(each for each in names if ".array_record" in each.name or each.suffix in (".arrayrecord", ".riegeli"))
    if not shards:
        raise ValueError(
            f"{name}: {printable(path)} holds no .array_record file; python -m tools.import_images writes such files."
            + recognise_folder(path)
        )
    _require_complete([shard.name for shard in shards], path, name)
    return shards


def _require_complete(files: Sequence[str], folder: Path, name: str) -> None:
    """Raises ValueError if shards are missing whose total number is in their names, as in a-00000-of-00002."""
    numbers: dict[tuple[str, ...], set[int]] = {}
    for file in files:
        match = re.fullmatch(r"(.*?)-(\d+)-of-(\d+)(.*)", file)
        if match:
            # A folder may hold several sets of shards; each set must be complete.
            numbers.setdefault(match.group(1, 3, 4), set()).add(int(match[2]))
    for (start, total, end), found in numbers.items():
        if len(found) != int(total):
            raise ValueError(
                f"{name}: {printable(folder)} holds {len(found):,} of the {int(total):,} shards {start}-*-of-{total}{end}; "
                "copy the missing shards there, or name one file."
            )


def _count(shard: Path, name: str) -> int:
    """Returns the number of records in a shard; raises ValueError if there is no record, or if none of a few is an image."""
    fault = "it is truncated, or not an ArrayRecord file"
    try:
        reader = open_shard(str(shard))
        records = reader.num_records()
    except (OSError, RuntimeError, ValueError) as error:
        records = 0
        fault = str(error)
    if not records:
        known = recognise_file(shard)
        fault = f"it is {known}" if known else fault
        raise ValueError(f"{name}: {printable(shard)} holds no record that can be read: {fault}.")
    kinds = []
    # Three records are sampled: one broken image does not mean that the others are broken.
    for place in sorted({0, records // 2, records - 1}):
        try:
            (content,) = reader.read([place])
        except (OSError, RuntimeError, ValueError, IndexError):
            # A damaged record may have been an image; the error appears when it is read.
            return records
        kind = recognise_record(content, shard)
        if not kind:
            return records
        kinds.append(kind)
    raise ValueError(f"{name}: expected encoded images as the records of {printable(shard)}; the first record is {kinds[0]}.")


def _fingerprint(shards: Sequence[Path], counts: Sequence[int]) -> str:
    """Returns a digest of the names, sizes, record counts and both ends of the shards.

    A shard ends in an index of everything before it, so that a change anywhere changes the digest.
    """
    content = hashlib.sha256()
    for shard, count in zip(shards, counts, strict=True):
        size = shard.stat().st_size
        with open(shard, "rb") as file:
            head = file.read(1 << 16)
            file.seek(max(0, size - (1 << 16)))
            # Only 64 KiB of each end are hashed: hashing a whole large collection would take hours.
            content.update(f"{printable(shard.name)}\0{size}\0{count}\n".encode() + head + file.read())
    return content.hexdigest()
