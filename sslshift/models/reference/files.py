"""Tensors out of files that may hold anything: safetensors and npz, never pickles."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from safetensors import SafetensorError, safe_open

# Several times the largest encoder that is read; a file of more is another thing, or hostile.
LARGEST_FILE = 8 << 30
_MOST_TENSORS = 20_000
_LONGEST_NAME = 1000
_LONGEST_HEAD = 100 << 20
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar")
# Checkpoints of training hold the weights under names of their own, at any depth, beside an optimiser's state and arguments.
_CONVERSION = (
    "import argparse, sys, torch; from safetensors.torch import save_file; "
    "torch.serialization.add_safe_globals([argparse.Namespace]); "
    "flat = lambda d, at='': {k: v for n, x in d.items() if not str(n).startswith('optim') for k, v in "
    "(flat(x, f'{at}{n}.') if isinstance(x, dict) else {f'{at}{n}': x} if torch.is_tensor(x) else {}).items()}; "
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in flat(d).items()}, sys.argv[2])"
)


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """All tensors of a `.safetensors` or `.npz` file by name.

    Raises:
      ValueError: there is no such file, it is of another kind (how to convert it is said), too large, or damaged.
    """
    if file.suffix.lower() in _PICKLES:
        raise ValueError(_pickle(file))
    if file.suffix.lower() not in _READERS:
        raise ValueError(f"Weights are read from .safetensors and .npz files, not from {file}.")
    if not file.is_file():
        raise ValueError(f"There is no file {file}; python -m tools.fetch_encoder fetches the best-known ones.")
    if file.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{file} has {file.stat().st_size / 2**30:,.1f} GiB, more than any encoder that can be read.")
    try:
        # The readers tell of a file that may not be read that it is not there.
        file.open("rb").close()
        return _READERS[file.suffix.lower()](file)
    except PermissionError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    except (SafetensorError, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(_explained(file, error)) from error


def read_metadata(file: Path) -> dict[str, str]:
    """Text that a `.safetensors` file says about its tensors, by name; empty for one that can be read and says nothing."""
    if file.suffix.lower() != ".safetensors":
        return {}
    with safe_open(file, framework="numpy") as opened:
        return dict(opened.metadata() or {})


def _pickle(file: Path) -> str:
    safe = file.with_suffix(".safetensors") if file.suffix != ".safetensors" else file.with_stem(f"{file.stem}-converted")
    command = f'python -c "{_CONVERSION}" {file.name} {safe.name}'
    return (
        f"{file} is a pickle, which could run any code and is not opened; make a safetensors file of it, with PyTorch: "
        f"{command}"
    )


def _explained(file: Path, error: Exception) -> str:
    """Returns a sentence on a file that cannot be read, which names the mistake if it is a common one."""
    with file.open("rb") as opened:
        start = opened.read(256)
    size = file.stat().st_size
    # A pickle of protocol 2 or later begins with this byte.
    if start[:1] == b"\x80" or (zipfile.is_zipfile(file) and _holds_pickle(file)):
        return _pickle(file)
    if start.startswith(b"version https://git-lfs"):
        return f"{file} is a pointer of Git LFS, not the weights themselves: `git lfs pull` fetches them."
    if start.lstrip()[:1] == b"<":
        return f"{file} is a web page, not weights: what was downloaded is the page of an error or of a login."
    whole = _whole_size(file, start) if file.suffix.lower() == ".safetensors" else 0
    if size < whole:
        return f"{file} is cut short, it has {size:,} of {whole:,} bytes: fetch or copy it again."
    # An archive has its list of contents at its end, so that one without a list is cut short.
    if not size or (start[:2] == b"PK" and not zipfile.is_zipfile(file)):
        return f"{file} is {'cut short' if size else 'empty'}: fetch or copy it again."
    return f"{file} cannot be read as tensors: {error}."


def _holds_pickle(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        # The member of an archive of torch.save that holds the objects.
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _whole_size(file: Path, start: bytes) -> int:
    """Bytes that a safetensors file's head announces; 0: it announces none."""
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
    """A file's digest."""
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
        # A member never unpacks to more than its entry says, so the sum bounds the memory.
        if sum(member.file_size for member in members) > LARGEST_FILE:
            raise ValueError("its arrays are larger than any encoder's")
        tensors = {}
        for member in members:
            with archive.open(member) as opened:
                tensors[member.filename.removesuffix(".npy")] = _array(opened)
        return tensors


def _array(opened: IO[bytes]) -> np.ndarray:
    """An array of NumPy's format. NumPy's own reader would allocate what the header says before it reads a byte."""
    version = np.lib.format.read_magic(opened)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of NumPy's format is not read")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(opened)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickles")
    return np.frombuffer(opened.read(), dtype).reshape(shape, order="F" if by_columns else "C")


def _require_few(names: Collection[str]) -> None:
    if len(names) > _MOST_TENSORS:
        raise ValueError(f"its {len(names):,} tensors are more than any encoder has")
    longest = max(map(len, names), default=0)
    if longest > _LONGEST_NAME:
        raise ValueError(f"the name of a tensor has {longest:,} characters, more than any encoder's")


_READERS = {".safetensors": _from_safetensors, ".npz": _from_npz}
