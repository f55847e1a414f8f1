"""Downloads of well-known encoders, each verified by its SHA-256 digest."""

import hashlib
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from sslshift.models.reference.checkpoints import CHECKPOINTS
from sslshift.models.reference.files import LARGEST_FILE

# Names with their sizes and licences, for help texts and errors.
KNOWN = "; ".join(f"{name} ({each.size / 1e6:,.0f} MB, {each.licence})" for name, each in CHECKPOINTS.items())

_BLOCK = 1 << 20
_SCHEMES = ("https", "http", "file")
# Pickles are never fetched: nothing in the project would open one.
_SUFFIXES = (".safetensors", ".npz")
_TIMEOUT_S = 60


class Download(NamedTuple):
    """A file of weights on the network.

    Attributes:
      file: its name on this machine.
      url: its address.
      sha256: the digest that its content must have, in lower-case hexadecimal digits.
      size: size in bytes; None if it is not known.
      licence: licence of the weights; empty if it is not known.
    """

    file: str
    url: str
    sha256: str
    size: int | None = None
    licence: str = ""


def find_download(name: str, url: str = "", sha256: str = "") -> Download:
    """Returns the download of a well-known encoder, or of a file that the caller describes.

    Args:
      name: one of `CHECKPOINTS`, or a new name for the file at `url`.
      url: address of the file; empty: the address that `CHECKPOINTS` has.
      sha256: digest of the file; empty: the digest that `CHECKPOINTS` has.

    Raises:
      ValueError: the name cannot be the name of a file, an unknown name has no address or digest, the address has another
        scheme or file type than expected, or the digest is malformed or not that of a known name.
    """
    # The name becomes a file name: with a path in it, the file would be written to another folder.
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise ValueError(f"Expected the name of an encoder to fetch, got {name!r}. Known names: {KNOWN}.")
    known = CHECKPOINTS.get(name)
    if known is None and not (url and sha256):
        raise ValueError(f"The name {name!r} is not known, so --url and --sha256 are needed. Known names: {KNOWN}.")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"Expected 64 hexadecimal digits for --sha256, got {sha256!r}.")
    if known and sha256 not in ("", known.sha256):
        raise ValueError(f"The digest of {name} is {known.sha256}, got --sha256={sha256}; use another name for another file.")
    url = url or known.url
    place = urllib.parse.urlsplit(url)
    suffix = Path(place.path).suffix
    if place.scheme not in _SCHEMES or suffix not in _SUFFIXES:
        raise ValueError(
            f"Expected a --url that begins with {', '.join(_SCHEMES)} and ends in {' or '.join(_SUFFIXES)}, got {url!r}."
        )
    if known:
        return Download(name + suffix, url, known.sha256, known.size, known.licence)
    return Download(name + suffix, url, sha256)


def fetch(download: Download, target: IO[bytes], on_progress: Callable[[int], None] = lambda done: None) -> None:
    """Writes a download to an open file. If it raises, the caller must discard what was written.

    Args:
      download: the file to fetch. No more bytes than its size are read.
      target: where the content is written; `sslshift.storage.whole_file` keeps it only if nothing is raised.
      on_progress: called with the number of bytes fetched so far.

    Raises:
      ValueError: the content has another digest than expected, or is larger than expected.
      OSError: the address cannot be read, or the file cannot be written.
    """
    content = hashlib.sha256()
    done = 0
    # A server that never stops sending must not fill the disk.
    most = LARGEST_FILE if download.size is None else download.size
    try:
        with urllib.request.urlopen(download.url, timeout=_TIMEOUT_S) as source:
            while block := source.read(_BLOCK):
                done += len(block)
                if done > most:
                    raise ValueError(f"Expected {most:,} bytes at most from {download.url}, got more; nothing was kept.")
                content.update(block)
                target.write(block)
                on_progress(done)
    except urllib.error.URLError as error:
        raise OSError(f"{download.url} cannot be fetched: {error.reason}.") from error
    if content.hexdigest() != download.sha256:
        raise ValueError(
            f"Expected content with the digest {download.sha256} from {download.url}, got {done:,} bytes with the digest "
            f"{content.hexdigest()}; they were deleted."
        )
