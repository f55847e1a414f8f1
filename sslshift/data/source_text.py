"""Sources as text for a flag that takes several: `URI` or `NAME = URI`, each with a name that tables can show."""

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from sslshift.data.sources import SCHEMES
from sslshift.data.sources.base import printable
from sslshift.data.sources.uri import parse_uri, spelled

# Length of the longest name that is made from a URI, so that it fits into a column of a table.
_LONGEST_NAME = 40


class NamedUri(NamedTuple):
    """The URI of a source, and the name of the source in tables."""

    name: str
    uri: str


def parse_source(text: str, flag: str = "--source") -> NamedUri:
    """Reads `URI` or `NAME = URI`; without a name, the last part of the URI's path becomes the name.

    Example:
      >>> parse_source("folder:/data/web"), parse_source("shop = csv:list.csv?labels=multi").name
      (NamedUri(name='web', uri='folder:/data/web'), 'shop')

    Args:
      text: the source.
      flag: the flag that the text was given to, for messages.

    Raises:
      ValueError: the text has another form.
    """
    given, uri = _parts(text, flag)
    return NamedUri(printable(given or _short(uri)), uri)


def parse_named_sources(texts: Sequence[str], reserved: Collection[str] = ()) -> list[NamedUri]:
    """Reads sources that have different names; unnamed sources with equal short names are named by their whole URIs.

    Args:
      texts: the sources.
      reserved: names that tables use for something else.

    Raises:
      ValueError: two sources have one name, or a name is reserved.
    """
    parts = [_parts(text) for text in texts]
    # Two folders called `train` would be one name in every table.
    short = [parse_source(text).name for text in texts]
    names = [
        name if given or short.count(name) == 1 else printable(uri) for (given, uri), name in zip(parts, short, strict=True)
    ]
    taken = next((name for name in names if name in reserved), None)
    if taken:
        raise ValueError(f"--source: tables use the name {taken!r} for something else; give the source another name.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--source: two sources are called {twice}; write 'NAME = URI' to name them differently.")
    return [NamedUri(name, uri) for name, (_, uri) in zip(names, parts, strict=True)]


def _parts(text: str, flag: str = "--source") -> tuple[str, str]:
    """Returns the name, which may be empty, and the URI."""
    match = re.fullmatch(rf"(?:(?P<name>[^=:?]+?)\s*=\s*)?(?P<uri>(?:{'|'.join(SCHEMES)}):.*)", text.strip(), re.DOTALL)
    if not match:
        schemes = ", ".join(f"{scheme}:" for scheme in SCHEMES)
        raise ValueError(
            f"{flag}: expected 'URI' or 'NAME = URI', where the URI begins with one of {schemes}; got {text!r}.{_hint(text)}"
        )
    return " ".join((match["name"] or "").split()), spelled(match["uri"])


def _hint(text: str) -> str:
    """Returns a sentence with the text that was probably meant, or an empty text."""
    name, equals, uri = text.rpartition("=")
    uri = uri.strip().strip("'\"")
    scheme, colon, rest = uri.partition(":")
    if equals and scheme in SCHEMES:
        return f" The name {name.strip()!r} cannot be used: a name contains no '=', ':' or '?'."
    before = f"{name.strip()} = " if equals and not re.search("[:?=]", name) else ""
    # Most mistakes are a missing or a misspelt scheme: the corrected text can be copied.
    near = difflib.get_close_matches(scheme.lower(), SCHEMES, 1) if colon else []
    if near:
        return f" Did you mean {f'{before}{near[0]}:{rest}'!r}?"
    return f" Did you mean {f'{before}folder:{uri}'!r}?" if uri and Path(uri).expanduser().is_dir() else ""


def _short(uri: str) -> str:
    """Returns the last part of a URI's path, or the URI without its options if it names no path."""
    parsed = parse_uri(uri)
    rest = parsed.path
    named = Path(rest).name if SCHEMES[parsed.scheme].files else rest
    name = " ".join(printable(named or uri).split())
    # The beginning and the end distinguish more sources than the beginning alone.
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 16]}…{name[-15:]}"
