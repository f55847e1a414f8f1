"""Sources and planned mixtures of `tools.shift` out of what was typed."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sslshift.data.sources import SCHEMES
from sslshift.data.sources.base import printable
from sslshift.data.sources.uri import parse_uri, spelled

# What tables call the images that all others are compared with.
TARGET = "the target"
# Of a name that nobody gave: what a table's column can hold.
_LONGEST_NAME = 40
_SHARE = r"(\d*\.?\d+(?:e-?\d+)?)(%?)"


class Declared(NamedTuple):
    """A source that somebody typed."""

    name: str
    uri: str


class Planned(NamedTuple):
    """A mixture of named sources by share."""

    name: str
    shares: dict[str, float]


def parse_source(text: str, flag: str = "--source") -> Declared:
    """`URI` or `NAME = URI`.

    Example:
      >>> parse_source("folder:/data/web"), parse_source("shop = csv:list.csv?labels=multi").name
      (Declared(name='web', uri='folder:/data/web'), 'shop')

    Raises:
      ValueError: it is neither.
    """
    given, uri = _parts(text, flag)
    return Declared(printable(given or _short(uri)), uri)


def _parts(text: str, flag: str = "--source") -> tuple[str, str]:
    match = re.fullmatch(rf"(?:(?P<name>[^=:?]+?)\s*=\s*)?(?P<uri>(?:{'|'.join(SCHEMES)}):.*)", text.strip(), re.DOTALL)
    if not match:
        schemes = ", ".join(f"{scheme}:" for scheme in SCHEMES)
        raise ValueError(
            f"{flag}: a source is written 'URI' or 'NAME = URI', and a URI begins with {schemes}; got {text!r}.{_hint(text)}"
        )
    return " ".join((match["name"] or "").split()), spelled(match["uri"])


def _hint(text: str) -> str:
    """What was probably meant; empty if nobody knows."""
    name, equals, uri = text.rpartition("=")
    uri = uri.strip().strip("'\"")
    scheme, colon, rest = uri.partition(":")
    if equals and scheme in SCHEMES:
        return f" The name {name.strip()!r} cannot be given: a name holds no '=', ':' or '?'."
    before = f"{name.strip()} = " if equals and not re.search("[:?=]", name) else ""
    near = difflib.get_close_matches(scheme.lower(), SCHEMES, 1) if colon else []
    if near:
        return f" Did you mean {f'{before}{near[0]}:{rest}'!r}?"
    return f" Did you mean {f'{before}folder:{uri}'!r}?" if uri and Path(uri).expanduser().is_dir() else ""


def _short(uri: str) -> str:
    """The last part of a path; what is no path, without its options."""
    parsed = parse_uri(uri)
    rest = parsed.path
    named = Path(rest).name if parsed.scheme in ("folder", "csv", "parquet", "arrayrecord") else rest
    name = " ".join(printable(named or uri).split())
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 16]}…{name[-15:]}"


def parse_sources(texts: Sequence[str]) -> list[Declared]:
    """Sources with different names: of those that were not named and would be called alike, the whole URI.

    Raises:
      ValueError: two have one name.
    """
    parts = [_parts(text) for text in texts]
    short = [parse_source(text).name for text in texts]
    # Whole URIs tell those apart that nobody named and whose folders are called alike.
    names = [
        name if given or short.count(name) == 1 else printable(uri) for (given, uri), name in zip(parts, short, strict=True)
    ]
    if TARGET in names:
        raise ValueError(f"--source: tables call your own images {TARGET}; give the source another name.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--source: two sources are called {twice}; write 'NAME = URI' to tell them apart.")
    return [Declared(name, uri) for name, (_, uri) in zip(names, parts, strict=True)]


def parse_mixture(text: str, names: Sequence[str]) -> Planned:
    """`NAME = 0.7*near + 0.3*web`; percentages do as well, and the shares sum to 1.

    Example:
      >>> parse_mixture("more = 70%*near + 0.3*web", ["near", "web"])
      Planned(name='more', shares={'near': 0.7, 'web': 0.3})

    Raises:
      ValueError: it is not written so, a source is unknown, or shares do not sum to 1.
    """
    match = re.fullmatch(r"(?:(?P<name>[^=*]+?)\s*=\s*)?(?P<parts>.*)", text.strip())
    name = match["name"] or text.strip()
    parts = match["parts"]
    shares: dict[str, float] = {}
    for part in (piece.strip() for piece in re.split(r"\+(?=\s*[\d.]+%?\s*\*)", parts)):
        match = re.fullmatch(rf"{_SHARE}\s*\*\s*(?P<source>.+)", part)
        if not match:
            raise ValueError(f"--mixture: {text!r}: {part!r} is no share; write 'NAME = 0.7*near + 0.3*web'.")
        source = match["source"].strip()
        if source not in names:
            raise ValueError(f"--mixture: {text!r} names {source!r}, which is no --source; there is {', '.join(names)}.")
        if source in shares:
            raise ValueError(f"--mixture: {text!r} names {source} twice.")
        shares[source] = float(match[1]) / (100 if match[2] else 1)
    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"--mixture: the shares of {text!r} are above 0 and sum to 1, not to {sum(shares.values()):g}.")
    return Planned(name, shares)


def parse_mixtures(texts: Sequence[str], names: Sequence[str]) -> list[Planned]:
    """Mixtures with names of their own.

    Raises:
      ValueError: as `parse_mixture`, or a name is taken.
    """
    found = [parse_mixture(text, names) for text in texts]
    taken = [*names, *(each.name for each in found)]
    twice = next((each.name for each in found if taken.count(each.name) > 1), None)
    if twice:
        raise ValueError(f"--mixture: {twice} is the name of something else already; give the mixture another.")
    return found
