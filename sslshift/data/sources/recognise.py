"""Recognises files and records that a reader cannot use, and names the command or source that can."""

import json
import re
from pathlib import Path

from sslshift.data.formats import open_image
from sslshift.data.sources.base import printable
from sslshift.data.sources.walk import is_image

_IMPORT = "python -m tools.import_images imports it under a name that ends in"
_FILES = "write its images as files into a folder, and folder: opens that"
# For each kind of file: a pattern of its first bytes, its name, and a remedy. The patterns are too long to match by chance.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (
        rb"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f",
        "a file of ArrayRecord or other Riegeli records",
        "arrayrecord: opens it if it is whole",
    ),
    (rb"PAR1", "a Parquet file", "parquet: opens one with a column 'path' of image files"),
    (rb".{257}ustar", "a tar archive", f"{_IMPORT} .tar"),
    # The name of a zip archive's first member follows 30 bytes; the members of an .npz file end in .npy.
    (rb"PK\x03\x04.{26}[^/]*\.npy", "an .npz file of NumPy", _FILES),
    (rb"PK\x03\x04", "a zip archive", f"{_IMPORT} .zip"),
    (rb"\x1f\x8b\x08", "compressed by gzip", f"unpack it; if it is a tar archive, {_IMPORT} .tar.gz"),
    (rb"BZh[1-9]1AY&SY", "compressed by bzip2", f"unpack it; if it is a tar archive, {_IMPORT} .tar.bz2"),
    (rb"\xfd7zXZ\0", "compressed by xz", f"unpack it; if it is a tar archive, {_IMPORT} .tar.xz"),
    (rb"\x28\xb5\x2f\xfd", "compressed by Zstandard", "unpack it"),
    (rb"\x93NUMPY", "an array of NumPy", _FILES),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _FILES),
    (rb".{16}\xde\xc0\xef\xbe", "an LMDB database", _FILES),
    (rb"SQLite format 3\0", "an SQLite database", _FILES),
    (rb"ARROW1\0\0", "an Arrow file", _FILES),
    (rb"\x0a\x23\xd7\xce", "a RecordIO file of MXNet", _FILES),
    (rb"\x80[\x02-\x05][\x95}\]c]", "a pickle, which may run code and is never opened", _FILES),
    (rb"[\x81-\x8f][\xa1-\xbf\xd9]|\xde..[\xa1-\xbf\xd9]", "a MessagePack map", _FILES),
    (rb"\s*(\{\s*\"|\[\s*[\[{\"])", "JSON", _FILES),
)
# Bytes at the start of a file that show its kind; photographs may begin with a thumbnail of this size.
START = 1 << 17
_LOOKED_AT = 20

_TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_ZIP = re.compile(r"\.zip$", re.IGNORECASE)
# Archives that the standard library cannot open, among them parts of split archives.
_OTHER = re.compile(
    r"\.(7z|rar|cab|cpio|iso|zst|lz4|tzst|z\d\d|tar\.(lzma|lz|z|br)|(zip|tgz|tar(\.\w+)?)\.(\d{2,}|part\w+|a[a-z]))$",
    re.IGNORECASE,
)
_LIST = re.compile(r"\.(csv|parquet)$", re.IGNORECASE)


def recognise_folder(folder: Path) -> str:
    """Returns a space and a sentence about the first file of a known kind in a folder; empty if none of a few is known."""
    for file in sorted(folder.iterdir())[:_LOOKED_AT]:
        try:
            known = recognise_file(file) if file.is_file() else ""
        except OSError:
            continue
        if known and is_image(file):
            # The message before this sentence already explains what to do with images.
            continue
        if known.startswith("an image"):
            known = "an image, but its name does not have an image's extension; rename it"
        if known:
            return f" It holds {printable(file.name)}, which is {known}."
    return ""


def recognise_file(file: Path) -> str:
    """Returns the kind of a file and what to do with it, to follow the words "it is"; empty if the kind is unknown."""
    with open(file, "rb") as content:
        return recognise(content.read(START))


def recognise(start: bytes) -> str:
    """Returns the kind of a file with this beginning, as `recognise_file` does.

    Example:
      >>> recognise(b"PAR1")
      "a Parquet file; parquet: opens one with a column 'path' of image files"
    """
    if _is_image(start):
        return "an image; folder: opens the folder that holds it"
    if _is_tfrecord(start):
        return f"a TFRecord file; tfds: reads datasets that TFDS prepared in ArrayRecord format, and for others {_FILES}"
    # The order of the table matters: an .npz file is a zip archive as well.
    # DOTALL is needed, since the bytes that a pattern skips may be line breaks.
    found = next(((what, remedy) for pattern, what, remedy in _KINDS if re.match(pattern, start, re.DOTALL)), None)
    return "; ".join(found) if found else ""


def recognise_record(content: bytes, shard: Path) -> str:
    """Returns the kind of a record and what to do with it, to follow the words "it is"; empty if it is an encoded image.

    Args:
      content: the record.
      shard: the file that holds the record.
    """
    if _is_image(content):
        return ""
    features = _example_features(content)
    if features:
        return f"a serialised tf.train.Example (features {', '.join(features)}), as TFDS writes; {_prepared(shard)}"
    known = recognise(content[:START])
    if known:
        return f"{known.partition(';')[0]}; write the encoded image of each record as a record of its own"
    return f"no image of a known format (it begins with {content[:12]!r}); write an encoded image as each record"


def _is_image(start: bytes) -> bool:
    # Pillow refuses such files if only their metadata are damaged, but they are images.
    if start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return True
    try:
        # Pillow reads the header only; nothing is decoded.
        with open_image(start):
            return True
    except Exception:  # Pillow raises almost anything on hostile input.
        return False


def _example_features(content: bytes) -> list[str]:
    """Returns the names of the features of a serialised tf.train.Example or SequenceExample; empty for other content."""
    # Both begin with the tag of one of their two fields. For other content, the import of half a second is avoided.
    if content[:1] not in (b"\x0a", b"\x12"):
        return []
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        # Both have the same encoding: the features of an Example are read as the context of a SequenceExample.
        example = tf_example_pb2.SequenceExample.FromString(content)
    except DecodeError:
        return []
    return sorted([*example.context.feature, *example.feature_lists.feature_list])


def _prepared(shard: Path) -> str:
    """Returns a clause with the URI that reads a shard of TFDS, or with its form if the folder does not reveal the dataset."""
    try:
        about = json.loads((shard.parent / "dataset_info.json").read_text(encoding="utf-8"))
        name = about["name"]
        config = about.get("configName", "")
        split = re.fullmatch(rf"{re.escape(name)}-([\w-]+)\.array_record-.*", shard.name)[1]
        # TFDS's folders are DATA_DIR/NAME/VERSION, or DATA_DIR/NAME/CONFIG/VERSION.
        data_dir = shard.parent.absolute().parents[2 if config else 1]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return "tfds:NAME/SPLIT?data_dir=PATH reads datasets that TFDS prepared; other records must be encoded images"
    dataset = f"{name}/{config}" if config else name
    return f"tfds:{dataset}/{split}?data_dir={printable(data_dir)} reads them"


def _is_tfrecord(start: bytes) -> bool:
    """Returns whether a file begins with a length and its masked CRC-32C."""
    if len(start) < 16:
        return False
    # Computed here, since zlib's CRC-32 has another polynomial than CRC-32C.
    crc = 0xFFFFFFFF
    for byte in start[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    # The TFRecord format defines this mask.
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return int.from_bytes(start[8:12], "little") == masked


def kind_of(name: str) -> str:
    """Returns the kind of container that a file's name indicates: "tar", "zip" or "list"; empty for other names."""
    return next((kind for kind, pattern in (("tar", _TAR), ("zip", _ZIP), ("list", _LIST)) if pattern.search(name)), "")


def is_other_archive(name: str) -> bool:
    """Returns whether a file's name indicates an archive that cannot be opened."""
    return bool(_OTHER.search(name))
