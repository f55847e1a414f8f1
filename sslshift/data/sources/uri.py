"""The grammar of URIs, `SCHEME:PATH?OPTION=VALUE&OPTION=VALUE`, and an object for a parsed URI, whose `str()` is the URI.

A path ends at the first `?`, and an option ends at the next `&`. `%` and two hexadecimal digits mean the byte of that number,
as in `%3F` for `?`. Every other character means itself, including the plus sign, the space, and a `%` without two such digits.
`str()` encodes each character that has a meaning in a URI or in the text around a URI (the `;` between sources, the `@` before
numbers of images, and the ` + `, ` -> `, `*`, `<=` and ` for ` of mixtures), and each character that cannot be printed, such as
a line break or a byte of a name that is not UTF-8. The result can be pasted into `--sources`, `--mixture` and `--task`.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

# Characters that have a meaning in texts around a URI, and in the parts of the URI itself.
_AROUND = "%;@*+<>"
_IN_PATH = _AROUND + "?"
_IN_NAME = _AROUND + "&="
_IN_VALUE = _AROUND + "&"


@dataclasses.dataclass(frozen=True)
class Uri:
    """The parts of a URI, decoded; `str()` is the URI.

    Attributes:
      scheme: the kind of source, as in `SCHEMES` of `opening.py`.
      path: the path or name after the scheme.
      options: values by option, in the order of the URI.
    """

    scheme: str
    path: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        options = "&".join(f"{_encoded(key, _IN_NAME)}={_encoded(value, _IN_VALUE)}" for key, value in self.options.items())
        return f"{self.scheme}:{_encoded(self.path, _IN_PATH)}" + (f"?{options}" if options else "")

    def with_options(self, **options: str) -> "Uri":
        """Returns the URI with these options added or replaced."""
        return dataclasses.replace(self, options={**self.options, **options})


def parse_uri(text: str) -> Uri:
    """Returns the parts of a URI.

    Example:
      >>> parse_uri("folder:/data/C++ code?labels=folder")
      Uri(scheme='folder', path='/data/C++ code', options={'labels': 'folder'})
      >>> str(Uri("folder", "/data/why?/a b", {"licence": "R&D"}))
      'folder:/data/why%3F/a b?licence=R%26D'

    Raises:
      ValueError: the scheme is missing, an option has no value or is given twice, or the text holds a null character.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"Expected a URI with a scheme, such as folder:/data/parts, got {text!r}.")
    path, _, query = rest.partition("?")
    options: dict[str, str] = {}
    # Empty parts are ignored, as in "a=1&": browsers and scripts add them.
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        name = _decoded(name)
        if not equals:
            raise ValueError(
                f"{spelled(text)}: the option {name!r} has no value. Write an option as NAME=VALUE after the first '?'; "
                "write '?' in a path as %3F, and '&' in a value as %26."
            )
        # Choosing one of the two values silently could be wrong.
        if name in options:
            raise ValueError(f"{spelled(text)}: the option {name} is given twice; give it once.")
        options[name] = _decoded(value)
    uri = Uri(scheme, _decoded(path), options)
    if "\0" in uri.path + "".join(options.values()):
        raise ValueError(f"{spelled(text)}: a URI cannot hold a null character (%00).")
    return uri


def spelled(text: str) -> str:
    """Returns a URI as it was typed, except that characters that cannot be printed are encoded.

    This is the name of a source in tables, records and file names.
    """
    return "".join(each if each.isprintable() else _bytes(each) for each in text)


def require_options(uri: Uri, known: Iterable[str], name: str) -> None:
    """Raises ValueError if a URI has an unknown option; the message names the most similar known option.

    Args:
      uri: the URI.
      known: the options of its scheme.
      name: the URI as it was typed, for the error.
    """
    known = tuple(known)
    for option in uri.options:
        if option not in known:
            near = difflib.get_close_matches(option.lower(), known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name}: unknown option {option}; expected one of {', '.join(known)}.{meant}")


def _decoded(text: str) -> str:
    # Names of files need not be UTF-8; surrogates keep their bytes.
    return unquote(text, errors="surrogateescape")


def _encoded(text: str, meaning: str) -> str:
    text = "".join(_bytes(each) if each in meaning or not each.isprintable() else each for each in text)
    # Texts around a URI strip spaces at its ends, and read the length of a stage after ' for '.
    return re.sub(r"^ +| +$| +(?=for\s)", lambda spaces: "%20" * len(spaces[0]), text)


def _bytes(character: str) -> str:
    return quote(character, safe="", errors="surrogateescape")
