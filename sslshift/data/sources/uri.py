"""The grammar of URIs: `SCHEME:PATH?OPTION=VALUE&OPTION=VALUE`, parsed to an object whose `str()` is a URI again.

A path ends at the first `?`, an option at the next `&`. `%` followed by two hexadecimal digits is the byte of that number, as
in `%3F` for `?`; every other character means itself, among them the plus sign, the space, and a `%` that is not followed by two
such digits. `str()` encodes each character that has a meaning in a URI or in a text around one (the `;` between sources, the
`@` before numbers of images, the ` + `, ` -> `, `*`, `<=` and ` for ` of mixtures), and each that cannot be printed, such as
line breaks and the bytes of a name that is not UTF-8. What `str()` returns can be pasted into `--sources`, `--mixture`, and
`--task`.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

# Characters with a meaning in texts around a URI, and in the URI itself.
_AROUND = "%;@*+<>"
_IN_PATH = _AROUND + "?"
_IN_NAME = _AROUND + "&="
_IN_VALUE = _AROUND + "&"


@dataclasses.dataclass(frozen=True)
class Uri:
    """The parts of a URI, decoded; `str()` is the URI.

    Attributes:
      scheme: what kind of source it is.
      path: the path or name after the scheme.
      options: values by option, in their order.
    """

    scheme: str
    path: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        options = "&".join(f"{_encoded(key, _IN_NAME)}={_encoded(value, _IN_VALUE)}" for key, value in self.options.items())
        return f"{self.scheme}:{_encoded(self.path, _IN_PATH)}" + (f"?{options}" if options else "")

    def with_options(self, **options: str) -> "Uri":
        """Returns the URI with further options, or with other values of those it has."""
        return dataclasses.replace(self, options={**self.options, **options})


def parse_uri(text: str) -> Uri:
    """Returns the parts of a URI.

    Example:
      >>> parse_uri("folder:/data/C++ code?labels=folder")
      Uri(scheme='folder', path='/data/C++ code', options={'labels': 'folder'})
      >>> str(Uri("folder", "/data/why?/a b", {"licence": "R&D"}))
      'folder:/data/why%3F/a b?licence=R%26D'

    Raises:
      ValueError: there is no scheme, an option has no value or is given twice, or the text holds a null character.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is no URI: it has no scheme, as in folder:/data/parts.")
    path, _, query = rest.partition("?")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        name = _decoded(name)
        if not equals:
            raise ValueError(
                f"{spelled(text)}: the option {name!r} has no value. An option is written NAME=VALUE after the first '?'; "
                "within a path '?' is written %3F, and within a value '&' is written %26."
            )
        if name in options:
            raise ValueError(f"{spelled(text)}: the option {name} is given twice; give it once.")
        options[name] = _decoded(value)
    uri = Uri(scheme, _decoded(path), options)
    if "\0" in uri.path + "".join(options.values()):
        raise ValueError(f"{spelled(text)}: a URI cannot hold a null character (%00).")
    return uri


def spelled(text: str) -> str:
    """Returns a URI as it was typed if all of it can be printed, else with what cannot be printed encoded.

    Tables, records and file names call a source by this.
    """
    return "".join(each if each.isprintable() else _bytes(each) for each in text)


def require_options(uri: Uri, known: Iterable[str], name: str) -> None:
    """Raises ValueError where a URI has other options than these; it names the nearest.

    Args:
      uri: the URI.
      known: options of its scheme.
      name: the URI as it was typed, for the error.
    """
    known = tuple(known)
    for option in uri.options:
        if option not in known:
            near = difflib.get_close_matches(option.lower(), known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name}: unknown option {option}; expected one of {', '.join(known)}.{meant}")


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _encoded(text: str, meaning: str) -> str:
    text = "".join(_bytes(each) if each in meaning or not each.isprintable() else each for each in text)
    # Texts around a URI cut off spaces at its ends, and read the length of a stage after ' for '.
    return re.sub(r"^ +| +$| +(?=for\s)", lambda spaces: "%20" * len(spaces[0]), text)


def _bytes(character: str) -> str:
    return quote(character, safe="", errors="surrogateescape")
