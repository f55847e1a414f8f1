"""A choice of a source's images as a file, which `?keep=FILE` opens the source with.

The file is Parquet: one column `index`, int64, ascending, and in its metadata under `sslshift.kept` as JSON the version of this
format and the name, fingerprint and number of images of the source that it was made for.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.sources import Source

VERSION = 1
_KEY = b"sslshift.kept"


def save_kept(path: Path, indices: np.ndarray, source: Source) -> None:
    """Writes which images of a source to keep, whole or not at all.

    Args:
      path: of the file.
      indices: int64 `[n]`, ascending.
      source: that they are of.

    Raises:
      ValueError: the indices are not of this source, or not ascending.
    """
    indices = np.asarray(indices, np.int64)
    if not _ascending(indices, len(source)):
        raise ValueError(f"Images to keep must be ascending indices of the {len(source):,} of {source.name}.")
    about = {"version": VERSION, "source": source.name, "fingerprint": source.fingerprint, "images": len(source)}
    schema = pa.schema([pa.field("index", pa.int64())], metadata={_KEY: json.dumps(about).encode()})
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.table({"index": indices}, schema=schema), part)
    part.replace(path)


def load_kept(path: Path, source: Source) -> np.ndarray:
    """Which images of a source to keep: ascending indices, int64 `[n]`.

    Raises:
      ValueError: the file cannot be read, or was made for another source, or for this one before it changed.
    """
    anew = "python -m tools.find_duplicates writes it."
    if not path.is_file():
        raise ValueError(f"There is no file {path} that says which images of {source.name} to keep; {anew}")
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[_KEY])
        version = about["version"]
        images = about["images"]
        fingerprint = about["fingerprint"]
        indices = table.column("index").to_numpy().astype(np.int64)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{path} is no file of images to keep ({type(error).__name__}: {error}); {anew}") from error
    if version != VERSION:
        raise ValueError(f"{path} is of version {version} of its format, not {VERSION}; {anew}")
    if (fingerprint, images) != (source.fingerprint, len(source)):
        raise ValueError(
            f"{path} was made for {about.get('source')} with {images:,} images; {source.name} with {len(source):,} is another "
            f"source, or has changed since; {anew}"
        )
    if not _ascending(indices, len(source)):
        raise ValueError(f"{path} holds indices that are not ascending, or not of {source.name}; {anew}")
    return indices


def _ascending(indices: np.ndarray, count: int) -> bool:
    inside = len(indices) > 0 and indices[0] >= 0 and indices[-1] < count
    return bool(inside and (np.diff(indices) > 0).all())
