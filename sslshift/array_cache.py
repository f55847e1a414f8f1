"""Arrays that take long to compute, kept in files for all later commands of the user, up to a number of bytes."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslshift.cache import prune
from sslshift.storage import digest, write


class ArrayCache:
    """Files with arrays that take long to compute. The cache never stops a command: what it does not hold is computed.

    A damaged file is written anew, and a folder that cannot be written is reported once. The files are NumPy's npz without
    pickle, so that none of them can run code.

    Example:
      >>> import tempfile, numpy as np
      >>> cache = ArrayCache(Path(tempfile.mkdtemp()) / "sums", 1 << 20, print)
      >>> cache.remembered(["a", 1], lambda: {"sum": np.array(3)})["sum"].item()
      3
      >>> cache.remembered(["a", 1], lambda: 1 / 0)["sum"].item()
      3

    Args:
      folder: folder of the files; it is made when the first file is written.
      most_bytes: size of all files; beyond it, the files that were not used for longest are deleted.
      note: called at most once, with a sentence about a folder that cannot be written.
    """

    def __init__(self, folder: Path, most_bytes: int, note: Callable[[str], None]):
        self._folder = folder
        self._most_bytes = most_bytes
        self._note: Callable[[str], None] | None = note

    def remembered(self, key: Sequence[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the arrays kept by a key, by name; computes and keeps them if there are none.

        Args:
          key: everything that the arrays depend on, as JSON values.
          compute: function that returns the arrays.
        """
        path = self._folder / f"{digest(key, 32)}.npz"
        known = _read_arrays(path)
        if known is not None:
            return known
        arrays = compute()
        try:
            self._write(path, arrays)
        except OSError as error:
            if self._note:
                self._note(
                    f"{self._folder} cannot be written ({error.strerror or error}): later commands compute its content anew."
                )
            self._note = None
        return arrays

    def _write(self, path: Path, arrays: Mapping[str, Any]) -> None:
        import numpy as np

        self._folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **arrays)
        # An array that would displace all others is not kept.
        if content.tell() > self._most_bytes:
            return
        write(path, content.getvalue())
        prune(self._folder, self._most_bytes)


def _read_arrays(path: Path) -> dict[str, Any] | None:
    """Returns the arrays in an npz file; None if there is no file or it is damaged."""
    import numpy as np

    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None


def array_digest(array: np.ndarray) -> str:
    """Returns a digest of an array's shape, dtype and values.

    Example:
      >>> import numpy as np
      >>> array_digest(np.arange(3)) == array_digest(np.arange(3)[::1]) != array_digest(np.arange(3.0))
      True
    """
    array = np.ascontiguousarray(array)
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()[:32]
