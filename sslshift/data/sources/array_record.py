"""Sources that are sharded ArrayRecord files, each record an encoded image; what `tools.import_images` writes, and others'."""

import bisect
import functools
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sslshift.data.decode import BrokenImageError, Canvas, decode, decode_onto
from sslshift.data.records.manifest import CLASSES, PARTS, SUMMARY, read_columns, read_summary, require_match
from sslshift.data.sources.base import Source, printable
from sslshift.data.sources.labels import indicators
from sslshift.data.sources.walk import is_hidden

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordReader

# Random access needs no readahead, whose buffers would be held for every shard.
_READER_OPTIONS = "readahead_buffer_size:0"


class ArrayRecordSource(Source):
    """Images in ArrayRecord shards, opened when they are first read from: memory and start-up do not grow with the images.

    A folder with a `source.json` (what the import writes) is checked against it. Without one, every shard is opened once to
    count its records.

    Args:
      name: the URI.
      path: a folder of shards, or one file.
      about: licence and cost_per_image where the URI gave them.

    Raises:
      ValueError: there is no shard, one is unreadable, or shards, manifest and summary do not belong together.
    """

    def __init__(self, name: str, path: Path, about: Mapping):
        if not path.exists():
            raise ValueError(f"{name}: there is no folder or file {printable(path)}.")
        self._folder = path
        summary = read_summary(path, name) if (path / SUMMARY).exists() else None
        if summary:
            require_match(summary, path, name)
            self._shards, counts = [path / shard.file for shard in summary.shards], [shard.records for shard in summary.shards]
            about = {"licence": summary.licence, "cost_per_image": summary.cost_per_image} | about
            fingerprint = summary.fingerprint
        else:
            if (path / PARTS).exists():
                raise ValueError(
                    f"{name}: {printable(path)} was stopped half-way while it was made; repeat the command that makes it."
                )
            self._shards = _shards(path, name)
            counts = [_count(shard, name) for shard in self._shards]
            fingerprint = _fingerprint(self._shards, counts)
        super().__init__(name, fingerprint=fingerprint, **about)
        self.classes, self._hashes = (summary.classes, summary.hashes) if summary else (None, None)
        self._multi_label = bool(summary and summary.multi_label)
        # Index after the last of each shard.
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        if self.classes is None:
            return None
        if not self._multi_label:
            (labels,) = read_columns(self._folder, ["label"])
            return labels.to_numpy().astype(np.int64)
        (names,) = read_columns(self._folder, [CLASSES.name])
        names = names.combine_chunks()
        places = pc.index_in(pc.list_flatten(names), value_set=pa.array(self.classes))
        return indicators(pc.list_parent_indices(names).to_numpy(), places.to_numpy(), (len(self), len(self.classes)))

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
            return decode_onto(canvas, content) if canvas else decode(content)
        except BrokenImageError as error:
            raise BrokenImageError(f"{self.origin(index)}: {error}") from error

    def _contents(self, indices: Sequence[int]) -> list[bytes]:
        """The records at these indices; those of a shard in one call, since it reads them in parallel."""
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(bisect.bisect_right(self._ends, index), []).append(place)
        contents = [b""] * len(indices)
        for shard, chosen in places.items():
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

    def stored_identities(self) -> tuple[list[bytes], np.ndarray] | None:
        from sslshift.data.curation.perceptual_hash import VERSION  # Curation reads sources.

        if self._hashes != VERSION:
            return None
        digests, hashes = read_columns(self._folder, ["digest", "perceptual_hash"])
        return [bytes.fromhex(digest) for digest in digests.to_pylist()], hashes.to_numpy()


# Over all sources of a process: systems allow about a thousand open files. Opening one again takes half a millisecond.
@functools.lru_cache(maxsize=400)
def _reader(path: str, fingerprint: str) -> "ArrayRecordReader":
    del fingerprint  # A file that was replaced belongs to another source.
    return open_shard(path)


def open_shard(path: str) -> "ArrayRecordReader":
    """Opens a shard for random access."""
    from array_record.python.array_record_module import ArrayRecordReader

    # The reader says nothing of a file that is not there: it has no records.
    os.stat(path)
    return ArrayRecordReader(path, options=_READER_OPTIONS)


def _shards(path: Path, name: str) -> list[Path]:
    if path.is_file():
        return [path]
    names = (each for each in path.iterdir() if not is_hidden(each.name))
    shards = sorted(each for each in names if ".array_record" in each.name or each.suffix in (".arrayrecord", ".riegeli"))
    if not shards:
        raise ValueError(
            f"{name}: {printable(path)} holds no .array_record file; python -m tools.import_images makes them from images."
        )
    return shards


def _count(shard: Path, name: str) -> int:
    try:
        records = open_shard(str(shard)).num_records()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name}: {printable(shard)} cannot be read: {error}") from error
    if not records:
        raise ValueError(f"{name}: {printable(shard)} holds no record: it is cut short, or no ArrayRecord file.")
    return records


def _fingerprint(shards: Sequence[Path], counts: Sequence[int]) -> str:
    """Of names, sizes, and both ends of each shard: its end is an index of all that lies between."""
    content = hashlib.sha256()
    for shard, count in zip(shards, counts, strict=True):
        size = shard.stat().st_size
        with open(shard, "rb") as file:
            head = file.read(1 << 16)
            file.seek(max(0, size - (1 << 16)))
            content.update(f"{printable(shard.name)}\0{size}\0{count}\n".encode() + head + file.read())
    return content.hexdigest()
