"""Selection of a source's images in a file, which the option `?keep=FILE` of a URI applies.

The file is Parquet with one column `index`, int64, ascending. Its metadata hold JSON under the key `sslshift.kept`: the version
of this format, and the name, fingerprint and number of images of the source that the file was made for.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sslshift.data.sources.base import Source
from sslshift.storage import whole_file

VERSION = 1
_KEY = b"sslshift.kept"


def save_kept(path: Path, indices: np.ndarray, source: Source) -> None:
    """Writes the indices of the images of a source to keep; the file is written completely or not at all.

    Args:
      path: path of the file.
      indices: int64 `[n]`, ascending.
      source: source of the images.

    Raises:
      ValueError: the indices are not of this source, or not ascending.
    """
    indices = np.asarray(indices, np.int64)
    if not _ascending(indices, len(source)):
        raise ValueError(f"Expected ascending indices of the {len(source):,} images of {source.name} to keep.")
    about = {"version": VERSION, "source": source.name, "fingerprint": source.fingerprint, "images": len(source)}
    schema = pa.schema([pa.field("index", pa.int64())], metadata={_KEY: json.dumps(about).encode()})
    with whole_file(path) as file:
        pq.write_table(pa.table({"index": indices}, schema=schema), file)


def load_kept(path: Path, source: Source) -> np.ndarray:
    """Returns the ascending indices, int64 `[n]`, of the images of a source to keep.

    Raises:
      ValueError: the file cannot be read, or was made for another source, or for this one before it changed.
    """
    anew = "python -m tools.find_duplicates writes such a file."
    if not path.is_file():
        raise ValueError(f"There is no file {path} with the images of {source.name} to keep; {anew}")
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[_KEY])
        version = about["version"]
        images = about["images"]
        fingerprint = about["fingerprint"]
        indices = table.column("index").to_numpy().astype(np.int64)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        # A Parquet file from another program lacks the metadata or the column.
        raise ValueError(f"{path} is not a file of images to keep ({type(error).__name__}: {error}); {anew}") from error
    if version != VERSION:
        raise ValueError(f"{path} has version {version} of its format, expected version {VERSION}; {anew}")
    # Indices mean other images as soon as the source changes.
    if (fingerprint, images) != (source.fingerprint, len(source)):
        raise ValueError(
            f"{path} was made for {about.get('source')} with {images:,} images; {source.name} with {len(source):,} images is "
            f"another source, or has changed since; {anew}"
        )
    if not _ascending(indices, len(source)):
        raise ValueError(f"{path} holds indices that are not ascending or exceed the images of {source.name}; {anew}")
    return indices


def _ascending(indices: np.ndarray, count: int) -> bool:
    inside = len(indices) > 0 and indices[0] >= 0 and indices[-1] < count
    # Strictly ascending: an index that occurs twice would make N count one image twice.
    return bool(inside and (np.diff(indices) > 0).all())
