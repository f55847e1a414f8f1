"""Sources as text for a flag: `URI` or `NAME = URI`, each with a name that tables can show."""

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
    return NamedUri(printable(given) if given else short_names([uri])[0], uri)


def parse_given_name(text: str, flag: str) -> NamedUri:
    """Reads `URI` or `NAME = URI`; without a name, the name is empty.

    Raises:
      ValueError: the text has another form.
    """
    given, uri = _parts(text, flag)
    return NamedUri(printable(given), uri)


def short_names(uris: Sequence[str]) -> list[str]:
    """Returns a name of each URI for tables: the last part of its path, or as much more as distinguishes it from the others.

    Example:
      >>> short_names(["folder:/data/apple/train?labels=folder", "folder:/data/google/train", "bundled:mnist"])
      ['apple/train', 'google/train', 'mnist']
      >>> short_names(["synthetic:noise?seed=1", "synthetic:noise?seed=2"])
      ['noise (seed=1)', 'noise (seed=2)']
    """
    forms = [_forms(uri) for uri in uris]
    names = [each[0] for each in forms]
    while len(set(names)) < len(names):
        # All sources of one name become longer, so that none of them looks like the main one.
        longer = [
            each[1:] if names.count(name) > 1 and len(each) > 1 else each for name, each in zip(names, forms, strict=True)
        ]
        if longer == forms:
            break
        forms = longer
        names = [each[0] for each in forms]
    return names


def parse_named_sources(texts: Sequence[str], reserved: Collection[str] = ()) -> list[NamedUri]:
    """Reads sources that have different names; sources without a name get one by `short_names`.

    Args:
      texts: the sources.
      reserved: names that tables use for something else.

    Raises:
      ValueError: two sources have one name, or a name is reserved.
    """
    parts = [_parts(text) for text in texts]
    short = short_names([uri for _, uri in parts])
    names = [printable(given) if given else name for (given, _), name in zip(parts, short, strict=True)]
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
    if colon and re.fullmatch(rf"({'|'.join(SCHEMES)}):.*", rest, re.DOTALL):
        return f" Did you mean {f'{scheme} = {rest}'!r}?"
    near = difflib.get_close_matches(scheme.lower(), SCHEMES, 1) if colon else []
    if near:
        return f" Did you mean {f'{before}{near[0]}:{rest}'!r}?"
    return f" Did you mean {f'{before}folder:{uri}'!r}?" if uri and Path(uri).expanduser().is_dir() else ""


def _forms(uri: str) -> list[str]:
    """Returns names of a URI, from the last part of its path to the whole URI."""
    parsed = parse_uri(uri)
    parts = Path(parsed.path).parts if parsed.scheme in SCHEMES and SCHEMES[parsed.scheme].files else [parsed.path]
    forms = [str(Path(*parts[-count:])) for count in range(1, len(parts) + 1)] if any(parts) else []
    # Terms of use do not distinguish images.
    options = ", ".join(
        f"{name}={value}" for name, value in parsed.options.items() if name not in ("licence", "cost_per_image")
    )
    last = forms[0] if forms else ""
    forms += [f"{last} ({options})"] if last and options else []
    shown = [_cut(" ".join(printable(form).split())) for form in forms]
    return [*filter(None, shown), printable(uri)]


def _cut(name: str) -> str:
    # The beginning and the end distinguish more sources than the beginning alone.
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 16]}…{name[-15:]}"
