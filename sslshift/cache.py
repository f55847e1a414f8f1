"""Caches below the user's cache folder: a bound on their size, and the compiled programs that commands keep for the next call.

On Linux the folder is `$XDG_CACHE_HOME/sslshift`, by default `~/.cache/sslshift`. Everything in it can be deleted at any time.
`compilation` has programs; `identities` has hashes of images and leaks, see `sslshift.transfer.leaks` (environment variable
SSLSHIFT_IDENTITIES: another folder, or empty for none).
"""

import contextlib
import glob
import hashlib
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

# Compiled programs are kept up to this size. A program takes 2 KB to a few MB, a study of one method about 1 MB.
_MOST_BYTES = 2 << 30
# Set by users who keep JAX's programs elsewhere.
_JAX_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# Fields of /proc/cpuinfo that decide which instructions a program may use, on x86 and on ARM.
_CPU_FIELDS = frozenset(
    ["vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU architecture", "CPU part", "Features"]
)


def cache_folder(name: str) -> Path:
    """Returns the folder of one kind of cached files, which may not exist yet."""
    # The package is imported here, because it is part of the extra `study`.
    import platformdirs

    return platformdirs.user_cache_path("sslshift", appauthor=False) / name


def prune(folder: Path, most_bytes: int) -> None:
    """Deletes the files of a folder that were not used for longest, until at most `most_bytes` remain.

    Other processes may use the folder at the same time: a file that vanishes is a file that is not cached.
    """
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found = path.stat()
            if path.is_file():
                # Many systems note the first use of a day, and some none: a file counts as used when it was written.
                files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    excess = sum(size for _, size, _ in files) - most_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= size


@contextlib.contextmanager
def kept_programs(folder: str | None, note: Callable[[str], None]) -> Iterator[None]:
    """Keeps the programs that JAX compiles during the block, and loads those that earlier calls have kept.

    A program that is loaded gives the same bits as one that is compiled. Programs of other versions of JAX and of other CPUs
    are in other subfolders, because a program may contain instructions that another CPU does not have. A cache that cannot be
    read or written never stops a command.

    Args:
      folder: folder of the programs; empty: programs are not kept; None: the folder in the environment variable
        JAX_COMPILATION_CACHE_DIR with JAX's own settings, or else a folder below the user's cache folder.
      note: called at most once, with a sentence about a problem.
    """
    # Imported here, because this takes longer than the --help of a command.
    import jax

    if folder == "" or (folder is None and os.environ.get(_JAX_VARIABLE) is not None):
        yield
        return
    place = (Path(folder).expanduser() if folder else cache_folder("compilation")) / _subfolder()
    try:
        # Programs are machine code, which no other user should be able to replace.
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        note(_problem(place, error.strerror or str(error)))
        yield
        return
    prune(place, _MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(place))
    # JAX by default keeps only programs that took a second. Loading a small one takes a tenth of compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with _problems_noted(place, note):
        yield


def _subfolder() -> str:
    cpu = hashlib.sha256(_cpu().encode()).hexdigest()[:8]
    return f"jax-{version('jax')}-{version('jaxlib')}-{sys.platform}-{platform.machine()}-{cpu}"


def _cpu() -> str:
    """Returns a text that differs between CPUs with different instructions."""
    try:
        # The first processor is described up to an empty line.
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.partition(":")[0].strip() in _CPU_FIELDS)


@contextlib.contextmanager
def _problems_noted(place: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Replaces JAX's warnings on single programs by one note; deletes damaged programs, so that JAX writes them again."""
    begin = "Error (?P<what>reading|writing) persistent compilation cache entry for '(?P<program>.*?)': (?P<reason>.*)"
    noted = []

    def show(message, category, filename, lineno, file=None, line=None):
        found = re.match(begin, str(message), re.DOTALL)
        if not found:
            return shown(message, category, filename, lineno, file, line)
        if found["what"] == "reading":
            for path in place.glob(f"{glob.escape(found['program'])}-*"):
                with contextlib.suppress(OSError):
                    path.unlink()
        if not noted:
            noted.append(found)
            note(_problem(place, found["reason"]))
        return None

    with warnings.catch_warnings():
        warnings.filterwarnings("always", begin)
        shown = warnings.showwarning
        warnings.showwarning = show
        yield


def _problem(place: Path, reason: str) -> str:
    return (
        f"Compiled programs cannot be kept in or read from {place} ({reason}): the command compiles them. Name another folder "
        "with --compilation_cache=DIR, or none with --compilation_cache= to keep no programs."
    )
