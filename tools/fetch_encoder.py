r"""Fetches the weights of a well-known encoder, once, and only if their digest is the known one.

    python -m tools.fetch_encoder dinov2-small --out=/data/encoders
    python -m tools.fetch_encoder dinov2-small --out=/data/encoders --url=https://mirror.example/dinov2-small.safetensors
    python -m tools.fetch_encoder dinov2-reg --out=/data/encoders --url=https://... --sha256=...

Nothing else in the project fetches weights. A file whose digest differs is deleted. `--help` lists the names with sizes and
licences; `sslshift.models.reference.load_reference` loads the file, and its card says where it came from.
"""

import hashlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from sslshift.command import run_command
from sslshift.models.reference.checkpoints import CHECKPOINTS
from sslshift.models.reference.files import LARGEST_FILE, sha256

_LIST = "; ".join(f"{name} ({each.size / 1e6:,.0f} MB, {each.licence})" for name, each in CHECKPOINTS.items())
_BLOCK = 1 << 20
_SCHEMES = ("https", "http", "file")
_SUFFIXES = (".safetensors", ".npz")
_TIMEOUT_S = 60

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "name",
    "",
    f"What to fetch, or with --url and --sha256 what to call it; as the first argument it needs no --name=. {_LIST}.",
)
flags.DEFINE_string("out", ".", "Folder to write NAME.safetensors to.")
flags.DEFINE_string("url", "", "Where the file lies, in place of the known place.")
flags.DEFINE_string("sha256", "", "The digest that it must have, for a name that is not known.")


def main() -> None:
    url, digest, size = _wanted(FLAGS.name, FLAGS.url, FLAGS.sha256.lower())
    file = Path(FLAGS.out).expanduser() / f"{FLAGS.name}{Path(urllib.parse.urlsplit(url).path).suffix}"
    console = Console(emoji=False)
    if file.exists():
        if sha256(file) != digest:
            raise ValueError(f"{file} is there with another digest than {digest}; remove it or name another --out.")
        told = "is there already"
    else:
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task(FLAGS.name, total=size)
            fetch(url, digest, file, size, lambda done: bars.update(bar, completed=done))
        told = "fetched"
    licence = f", {CHECKPOINTS[FLAGS.name].licence}" if FLAGS.name in CHECKPOINTS else ""
    console.print(f"{file}: {told}{licence}, sha256 {digest}", highlight=False, soft_wrap=True, markup=False)


def fetch(url: str, digest: str, file: Path, size: int | None, on_progress: Callable[[int], None] = lambda done: None) -> None:
    """Writes what lies at a URL to a file, if it has the digest; otherwise the file is not there afterwards.

    Args:
      url: of scheme https, http or file.
      digest: SHA-256 in small hexadecimal digits.
      file: where it goes; while it comes, under its name and `.part`.
      size: in bytes, if known; no more is read.
      on_progress: is told the bytes so far.

    Raises:
      ValueError: it has another digest or is larger.
      OSError: it cannot be read or written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    content = hashlib.sha256()
    done = 0
    most = LARGEST_FILE if size is None else size
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as source, part.open("wb") as target:
            while block := source.read(_BLOCK):
                done += len(block)
                if done > most:
                    raise ValueError(f"{url} gives more than the {most:,} bytes of what is wanted; nothing was kept.")
                content.update(block)
                target.write(block)
                on_progress(done)
        if content.hexdigest() != digest:
            raise ValueError(f"{url} gave {done:,} bytes of digest {content.hexdigest()}, not {digest}; they were deleted.")
        part.replace(file)
    except urllib.error.URLError as error:
        raise OSError(f"{url} cannot be fetched: {error.reason}.") from error
    finally:
        part.unlink(missing_ok=True)


def _wanted(name: str, url: str, digest: str) -> tuple[str, str, int | None]:
    """URL, digest and size, if it is known, of what the flags ask for."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise ValueError(f"Name what to fetch: {_LIST}; not {name!r}.")
    known = CHECKPOINTS.get(name)
    if known is None and not (url and digest):
        raise ValueError(f"{name!r} is not known, so --url and --sha256 are needed; known are {_LIST}.")
    if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"--sha256 has 64 hexadecimal digits, not {digest!r}.")
    if known and digest not in ("", known.sha256):
        raise ValueError(f"{name} is known by the digest {known.sha256}; give another file another name.")
    url = url or known.url
    place = urllib.parse.urlsplit(url)
    if place.scheme not in _SCHEMES or Path(place.path).suffix not in _SUFFIXES:
        raise ValueError(f"--url begins with {', '.join(_SCHEMES)} and ends in {' or '.join(_SUFFIXES)}, not as {url!r}.")
    return url, known.sha256 if known else digest, known.size if known else None


def _with_name(argv: list[str]) -> list[str]:
    """The arguments, of which the first may be a name alone, as flags."""
    alone = [argument for argument in argv[1:2] if not argument.startswith("-")]
    return [argv[0], *(f"--name={name}" for name in alone), *argv[1 + len(alone) :]]


if __name__ == "__main__":
    sys.argv = _with_name(sys.argv)
    run_command(main)
