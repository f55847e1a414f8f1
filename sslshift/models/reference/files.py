"""Reading of tensors from untrusted files: safetensors and npz, never pickles."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from safetensors import SafetensorError, safe_open

# Several times the largest supported encoder; a larger file holds something else, or is hostile.
LARGEST_FILE = 8 << 30
_MOST_TENSORS = 20_000
_LONGEST_NAME = 1000
_LONGEST_HEAD = 100 << 20
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar")
# Checkpoints of training hold the weights in nested dictionaries with any keys, beside an optimiser's state and arguments.
_CONVERSION = (
    "import argparse, sys, torch; from safetensors.torch import save_file; "
    "torch.serialization.add_safe_globals([argparse.Namespace]); "
    "flat = lambda d, at='': {k: v for n, x in d.items() if not str(n).startswith('optim') for k, v in "
    "(flat(x, f'{at}{n}.') if isinstance(x, dict) else {f'{at}{n}': x} if torch.is_tensor(x) else {}).items()}; "
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in flat(d).items()}, sys.argv[2])"
)


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Returns all tensors of a `.safetensors` or `.npz` file by name.

    Raises:
      ValueError: there is no such file, or the file is too large, damaged or of another kind (the message then shows how to
        convert it).
    """
    if file.suffix.lower() in _PICKLES:
        raise ValueError(_pickle(file))
    if file.suffix.lower() not in _READERS:
        raise ValueError(f"Expected a .safetensors or .npz file of weights, got {file}.")
    if not file.is_file():
        raise ValueError(f"There is no file {file}; python -m tools.fetch_encoder fetches the best-known ones.")
    if file.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{file} has {file.stat().st_size / 2**30:,.1f} GiB, more than any supported encoder.")
    try:
        # For a file without read permission, the readers would report that the file does not exist.
        file.open("rb").close()
        return _READERS[file.suffix.lower()](file)
    except PermissionError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    except (SafetensorError, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(_explained(file, error)) from error


def read_metadata(file: Path) -> dict[str, str]:
    """Returns the metadata of a `.safetensors` file, text by name; empty for files without metadata."""
    if file.suffix.lower() != ".safetensors":
        return {}
    with safe_open(file, framework="numpy") as opened:
        return dict(opened.metadata() or {})


def _pickle(file: Path) -> str:
    safe = file.with_suffix(".safetensors") if file.suffix != ".safetensors" else file.with_stem(f"{file.stem}-converted")
    command = f'python -c "{_CONVERSION}" {file.name} {safe.name}'
    return (
        f"{file} is a pickle, which could run any code and is not opened; convert it to a safetensors file with PyTorch: "
        f"{command}"
    )


def _explained(file: Path, error: Exception) -> str:
    """Returns a sentence about a file that cannot be read; it names the cause if the cause is a common one."""
    with file.open("rb") as opened:
        start = opened.read(256)
    size = file.stat().st_size
    # A pickle of protocol 2 or later begins with this byte.
    if start[:1] == b"\x80" or (zipfile.is_zipfile(file) and _holds_pickle(file)):
        return _pickle(file)
    if start.startswith(b"version https://git-lfs"):
        return f"{file} is a pointer of Git LFS, not the weights themselves: `git lfs pull` fetches them."
    if start.lstrip()[:1] == b"<":
        return f"{file} is a web page, not weights: the server sent an error page or a login page in place of the file."
    whole = _whole_size(file, start) if file.suffix.lower() == ".safetensors" else 0
    if size < whole:
        return f"{file} is incomplete, it has {size:,} of {whole:,} bytes: fetch or copy it again."
    # An archive has its list of contents at its end: an archive without a list is incomplete.
    if not size or (start[:2] == b"PK" and not zipfile.is_zipfile(file)):
        return f"{file} is {'incomplete' if size else 'empty'}: fetch or copy it again."
    return f"{file} cannot be read as tensors: {error}."


def _holds_pickle(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        # The member of an archive of torch.save that holds the objects.
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _whole_size(file: Path, start: bytes) -> int:
    """Returns the file size in bytes that the header of a safetensors file implies; 0 if it has no valid header."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > _LONGEST_HEAD:
        return 0
    with file.open("rb") as opened:
        opened.seek(8)
        try:
            head = json.loads(opened.read(length))
            return 8 + length + max(entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__")
        except (ValueError, LookupError, TypeError, AttributeError):
            return 8 + length


def sha256(file: Path) -> str:
    """Returns the digest of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _from_safetensors(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, framework="numpy") as opened:
        names = opened.keys()
        _require_few(names)
        return {name: opened.get_tensor(name) for name in names}


def _from_npz(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _require_few([member.filename for member in members])
        # The unpacked size of a member never exceeds the size in its entry, so the sum bounds the memory.
        if sum(member.file_size for member in members) > LARGEST_FILE:
            raise ValueError("its arrays are larger than those of any supported encoder")
        tensors = {}
        for member in members:
            with archive.open(member) as opened:
                tensors[member.filename.removesuffix(".npy")] = _array(opened)
        return tensors


def _array(opened: IO[bytes]) -> np.ndarray:
    """Reads an array of NumPy's format. NumPy's own reader would allocate the size in the header before it reads any data."""
    version = np.lib.format.read_magic(opened)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of NumPy's format is not supported")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(opened)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickles")
    return np.frombuffer(opened.read(), dtype).reshape(shape, order="F" if by_columns else "C")


def _require_few(names: Collection[str]) -> None:
    if len(names) > _MOST_TENSORS:
        raise ValueError(f"its {len(names):,} tensors are more than any supported encoder has")
    longest = max(map(len, names), default=0)
    if longest > _LONGEST_NAME:
        raise ValueError(f"the name of a tensor has {longest:,} characters, more than in any supported encoder")


_READERS = {".safetensors": _from_safetensors, ".npz": _from_npz}
